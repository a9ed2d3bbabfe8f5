/* SPDX-License-Identifier: MIT */
/*
 * Memory groups of cgroup v2: where ours are made, one with its limits, its events. A group is the
 * backstop behind a VM's quota: the kernel slows what is in it down, then ends it, and nobody else.
 * Making and removing is the privileged caller's; a VM process has an open file of its group, its
 * events, and can write to none. See the kernel's Documentation/admin-guide/cgroup-v2.rst. Any one
 * thread.
 */
#ifndef CLONE_CGROUP_CGROUP_H
#define CLONE_CGROUP_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"

/* Where the kernel says what is mounted, and which group we are in. */
struct cgroup_files {
	const char *mounts, *self;
};
extern const struct cgroup_files cgroup_host_files;

/* Where cgroup v2 is mounted. -ENOTSUP: nowhere; e says what to do. */
int cgroup_mount(const struct cgroup_files *files, char mount[PATH_MAX], struct err *e);
/* The group that a /proc/PID/cgroup names. False: the root, or none that is below our own root;
 * NULL has none. */
bool cgroup_of(FILE *self, const char *mount, char path[PATH_MAX]);

#define CGROUP_QUOTA_MIN (16ull << 20) /* less would be the VMM's own and no guest's */

/*
 * The group that ours are made in, which need not exist: $CLONE_CGROUP (a path below the mount),
 * else "clone" at the mount, else, where we may not make that, "clone" beside our own group.
 * -ENOTSUP: no cgroup v2 with a memory controller, or no place in it for us; e says what to do.
 */
int cgroup_find(const struct cgroup_files *files, char base[PATH_MAX], struct err *e);
/* Makes it, with memory given to its children. A group with children that count has no processes of
 * its own, so it is neither ours nor anybody's. -ENOTSUP when the one above it cannot give that; on
 * failure nothing is left of what it made. */
int cgroup_prepare(const char *base, struct err *e);
/* Would it succeed, as far as can be seen without changing anything? 0, or as it would say. */
int cgroup_can_prepare(const char *base, struct err *e);
/* Is it there, with memory given to its children? */
bool cgroup_prepared(const char *base);

/* What a VM's group may hold: the quota, and room for what is charged with the guest's memory but
 * is not the guest's. */
uint64_t cgroup_max_bytes(uint64_t quota_bytes, uint64_t guest_bytes);
/* From there on it is slowed down. */
uint64_t cgroup_high_bytes(uint64_t max_bytes);

/* A group at path, limited before anybody is in it; quota_bytes 0: without limits. -EEXIST; on
 * failure nothing is left. */
int cgroup_create(const char *path, uint64_t quota_bytes, uint64_t guest_bytes, struct err *e);
/* Ends what is in it, then removes it. 0 when it is not there (any more); -EBUSY when something in
 * it did not end in time. */
int cgroup_remove(const char *path, struct err *e);
/* A file of it. One for writing is never passed on: the kernel asks who opened "cgroup.procs", not
 * who writes to it, and any pid may be written. The fd, or -errno. */
int cgroup_open(const char *path, const char *file, int flags, struct err *e);
int cgroup_add(const char *path, pid_t pid, struct err *e);
/* A number in a file of it; UINT64_MAX for "max". False: it cannot be read. */
bool cgroup_number(const char *path, const char *file, uint64_t *out);

/* How often: memory.events. */
struct cgroup_events {
	uint64_t high;	   /* it was slowed down */
	uint64_t max;	   /* it was at its limit */
	uint64_t oom;	   /* ... and nothing could be reclaimed */
	uint64_t oom_kill; /* a process of it was ended, by whose shortage ever */
};
/* From the descriptor's beginning, which also says that they were seen. -errno. */
int cgroup_events_read(int fd, struct cgroup_events *out);
/* A descriptor that is readable when the file behind fd has changed since it was read: libevent
 * knows no EPOLLPRI. The fd, or -errno. */
int cgroup_watch(int fd, struct err *e);

#endif
