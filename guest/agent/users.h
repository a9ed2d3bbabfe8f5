/* SPDX-License-Identifier: MIT */
/*
 * Who a command runs as: /etc/passwd and /etc/group, read by ourselves, because a static program
 * has no name service switch and the files may be strange.
 */
#ifndef CLONE_AGENT_USERS_H
#define CLONE_AGENT_USERS_H

#include <stddef.h>
#include <sys/types.h>

#define USER_MAX_GROUPS 64
#define USER_FIELD 256

struct user {
	char name[USER_FIELD], home[USER_FIELD], shell[USER_FIELD];
	uid_t uid;
	gid_t gid;
	gid_t groups[USER_MAX_GROUPS];
	size_t ngroups;
};

/*
 * Finds `spec`: "" (root), a name or a number, optionally followed by ":" and a group's name or
 * number. A number needs no entry in /etc/passwd, and neither does root. Returns 0, -ENOENT for an
 * unknown name, or -errno of reading the files.
 */
int user_find(const char *spec, size_t len, struct user *u);

#endif
