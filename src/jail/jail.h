/* SPDX-License-Identifier: MIT */
/*
 * What a VM process gives up before it looks at anything a stranger wrote: capabilities, uid, the
 * file system, and every system call it has no use for. A fork's child is born with its parent's
 * filters and gives up the rest.
 */
#ifndef CLONE_JAIL_JAIL_H
#define CLONE_JAIL_JAIL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct jail_cfg {
	uint32_t uid, gid; /* 0: stay who we are (an unprivileged caller) */
	int dir_fd;	   /* becomes the root (with chroot) and the working directory */
	bool chroot;
	/* A seed keeps CAP_SETUID, CAP_SETGID, CAP_SYS_CHROOT and CAP_KILL: it gives each child a
	 * uid and a directory of its own and ends children that fail. It never runs a guest. */
	bool seed;
};

/* Directory, uid, capabilities, no_new_privs. Main, before any other thread. -EPERM and the like.
 */
int jail_privileges(const struct jail_cfg *cfg, struct err *e);
/* In a fork's child, after the fd sweep: its own directory and (of a seed) uid, then no capability.
 */
int jail_child(const struct jail_cfg *cfg, struct err *e);
/* On each other thread that the child had by then: uid and capabilities are a thread's own. */
int jail_child_thread(const struct jail_cfg *cfg, struct err *e);

/*
 * The system call filter of the whole process (main), and the narrower one that each vCPU thread
 * adds to it. Both are compiled once by jail_prepare, because a child installs the vCPU filter on
 * its critical path. -ENOMEM, or the kernel's answer.
 */
struct jail_filters;
int jail_prepare(struct jail_filters **out, struct err *e);
int jail_enter_main(const struct jail_filters *f, struct err *e);
int jail_enter_vcpu(const struct jail_filters *f, struct err *e);

#endif
