/* SPDX-License-Identifier: MIT */
/*
 * Reads /etc/passwd and /etc/group line by line. Lines longer than the buffer are skipped as a
 * whole, lines that do not parse likewise. Called by exec.c on the agent's thread.
 */
#include "users.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct lines {
	int fd;
	size_t len, at;
	bool skipping, last;
	char buf[4096];
};

static int lines_open(struct lines *l, const char *path)
{
	l->len = l->at = 0;
	l->skipping = l->last = false;
	l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	return l->fd < 0 ? -errno : 0;
}

/* The next whole line, NUL-terminated, valid until the next call; NULL at the end. */
static char *lines_next(struct lines *l)
{
	for (;;) {
		char *start = l->buf + l->at, *nl = memchr(start, '\n', l->len - l->at);
		bool skip = l->skipping;
		ssize_t n;

		if (nl) {
			*nl = '\0';
			l->at = (size_t)(nl - l->buf) + 1;
			l->skipping = false;
			if (!skip)
				return start;
			continue;
		}
		if (l->last) {
			l->at = l->len;
			return NULL;
		}
		l->len -= l->at;
		memmove(l->buf, start, l->len);
		l->at = 0;
		if (l->len == sizeof(l->buf)) {
			l->skipping = true;
			l->len = 0;
		}
		n = read(l->fd, l->buf + l->len, sizeof(l->buf) - l->len);
		if (n > 0) {
			l->len += (size_t)n;
			continue;
		}
		l->last = true; /* a last line without its newline still counts */
		if (l->len)
			l->buf[l->len++] = '\n';
	}
}

/* Cuts `line` at its colons; true if there are at least `n` fields. */
static bool split(char *line, char **field, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (!line)
			return false;
		field[i] = line;
		line = strchr(line, ':');
		if (line)
			*line++ = '\0';
	}
	return true;
}

static bool number(const char *s, uint32_t *v)
{
	uint64_t x = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return false;
		x = x * 10 + (uint64_t)(*s - '0');
		if (x >= UINT32_MAX) /* the largest means "no id" to the kernel */
			return false;
	}
	*v = (uint32_t)x;
	return true;
}

static void copy(char to[USER_FIELD], const char *from)
{
	snprintf(to, USER_FIELD, "%s", from);
}

static int passwd_find(const char *who, struct user *u)
{
	uint32_t want = 0, uid, gid;
	bool by_number = number(who, &want);
	char *line, *f[7];
	struct lines l;
	int r = lines_open(&l, "/etc/passwd");

	if (r)
		return r;
	r = -ENOENT;
	while (r && (line = lines_next(&l))) {
		if (!split(line, f, 7) || !number(f[2], &uid) || !number(f[3], &gid))
			continue;
		if (strcmp(f[0], who) && !(by_number && uid == want))
			continue;
		copy(u->name, f[0]);
		copy(u->home, *f[5] ? f[5] : "/");
		copy(u->shell, *f[6] ? f[6] : "/bin/sh");
		u->uid = uid;
		u->gid = gid;
		r = 0;
	}
	close(l.fd);
	return r;
}

static bool member(char *list, const char *name)
{
	char *next;

	for (; list; list = next) {
		next = strchr(list, ',');
		if (next)
			*next++ = '\0';
		if (!strcmp(list, name))
			return true;
	}
	return false;
}

static void group_add(struct user *u, gid_t gid)
{
	for (size_t i = 0; i < u->ngroups; i++)
		if (u->groups[i] == gid)
			return;
	if (u->ngroups < USER_MAX_GROUPS)
		u->groups[u->ngroups++] = gid;
}

/* The groups that list the user's name; a guest without /etc/group has none. */
static void groups_of(struct user *u)
{
	uint32_t gid;
	char *line, *f[4];
	struct lines l;

	group_add(u, u->gid);
	if (!u->name[0] || lines_open(&l, "/etc/group"))
		return;
	while ((line = lines_next(&l)))
		if (split(line, f, 4) && number(f[2], &gid) && member(f[3], u->name))
			group_add(u, gid);
	close(l.fd);
}

static int group_find(const char *who, gid_t *gid)
{
	uint32_t v;
	char *line, *f[3];
	struct lines l;
	int r = lines_open(&l, "/etc/group");

	while (!r && (line = lines_next(&l))) {
		if (!split(line, f, 3) || !number(f[2], &v) || strcmp(f[0], who))
			continue;
		*gid = v;
		close(l.fd);
		return 0;
	}
	if (!r)
		close(l.fd);
	if (!number(who, &v))
		return r ? r : -ENOENT;
	*gid = v;
	return 0;
}

int user_find(const char *spec, size_t len, struct user *u)
{
	char who[USER_FIELD], *group;
	uint32_t uid;
	int r;

	if (len >= sizeof(who))
		return -ENOENT;
	memcpy(who, spec, len);
	who[len] = '\0';
	group = strchr(who, ':');
	if (group)
		*group++ = '\0';
	*u = (struct user){ .home = "/", .shell = "/bin/sh" };
	r = passwd_find(*who ? who : "root", u);
	if (r && (!*who || !strcmp(who, "root"))) {
		copy(u->name, "root");
		copy(u->home, "/root");
	} else if (r && number(who, &uid)) {
		u->uid = uid;
		u->gid = uid;
	} else if (r) {
		return r;
	}
	if (!group) {
		groups_of(u);
		return 0;
	}
	r = group_find(group, &u->gid); /* a group that was asked for is the only one */
	group_add(u, u->gid);
	return r;
}
