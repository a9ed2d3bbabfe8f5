/* SPDX-License-Identifier: MIT */
/*
 * The memory group of a VM that has a quota (cgroup/cgroup.h), by its run directory: a symbolic
 * link "group" there names it, made before the group and removed after it, so that whoever finds
 * the directory of a dead VM can remove both. What the kernel says of the VM's end is kept in
 * "killed.json". One thread.
 */
#ifndef CLONE_CLI_GROUP_H
#define CLONE_CLI_GROUP_H

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/state.h"

/* Can there be groups? Then the one that they are made in is there. -ENOTSUP and what to do. */
int group_ready(struct err *e);
/* For the VM of d, nobody in it; quota_bytes 0: without limits. *events is what it watches, to be
 * read only (-1 without a quota): the caller's. On failure nothing is left. */
int group_make(const struct vmdir *d, uint64_t quota_bytes, uint64_t guest_bytes, int *events,
	       struct err *e);
/* The path of the VM's group. False: it has none. */
bool group_path(const struct vmdir *d, char path[PATH_MAX]);
/* Of a VM that has ended, or is to be ended by it: keeps what the kernel says, removes the group
 * with what is in it. 0 when there is none. -EBUSY as cgroup_remove. */
int group_settle(const struct vmdir *d, struct err *e);
/* d has no group any more. What is in it is not ended: without it the group is removed, with it it
 * stays, which stderr is told. */
void group_forget(const struct vmdir *d);
/* "killed by its memory quota (web, 512M)", if it was, or by the host's lack of memory. */
bool group_end_text(const struct vmdir *d, char *buf, size_t n);
/* A seed's process: where quotas are in use, what it loads is to be charged to no VM and to none of
 * those who start seeds. Best effort. */
void group_add_seed(pid_t pid);
/* Limits, use and events, as clone inspect shows them; NULL: it has none. */
json_t *group_view(const struct vmdir *d);

#endif
