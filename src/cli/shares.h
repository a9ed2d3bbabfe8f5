/* SPDX-License-Identifier: MIT */
/*
 * What a VM may cost its host, and with whom it may share pages: --memory-quota and --ksm of the
 * commands that make VMs. vm.json has both ("memory_quota_bytes", "ksm"), and it is from there that
 * they are given to the VM, so that a fork of it has them too. One thread.
 */
#ifndef CLONE_CLI_SHARES_H
#define CLONE_CLI_SHARES_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"

/* What the command line said. */
struct shares {
	bool quota_said;
	uint64_t quota_bytes; /* 0: "none" */
	const char *ksm;      /* NULL: not said; "": "none" */
};

enum { O_SHARES_QUOTA = 2100, O_SHARES_KSM };
#define SHARES_OPTIONS                                                                             \
	{ "memory-quota", required_argument, NULL, O_SHARES_QUOTA },                               \
	{                                                                                          \
		"ksm", required_argument, NULL, O_SHARES_KSM                                       \
	}
/* -ENOSYS: it is none of them. */
int shares_option(struct shares *s, int opt, const char *arg, struct err *e);

/* Into info, over what it came with; then, before anything is made, whether this host can do what
 * info says: -ENOTSUP, -EOPNOTSUPP. */
int shares_note(const struct shares *s, json_t *info, struct err *e);

/* To a process that is no VM yet, what info says. Its group goes with its directory. */
int shares_apply(struct vmproc *p, const json_t *info, struct err *e);

/* What a fork's children are given. */
struct shares_child {
	bool group; /* it is to be put into one */
	int events; /* "cgroup/events"; -1: none */
};
uint64_t shares_quota(const json_t *info);
/* The domain's claim for as long as children are made, of which each gets a share (ksm_share): the
 * caller's; -1: info has none; -errno otherwise. Warns on stderr of what will have no effect. */
int shares_claim(const json_t *info, int *ksm, struct err *e);
/* d: the child's; source: NULL, or the running VM that it is forked from, whose group it must
 * leave.
 */
int shares_child_open(const struct vmdir *d, const struct vmdir *source, const json_t *info,
		      struct shares_child *c, struct err *e);
void shares_child_close(struct shares_child *c);

#endif
