/* SPDX-License-Identifier: MIT */
/*
 * A fork as its caller sees it: directories, sockets and data files for each child, their
 * descriptors granted to the source (a seed or a running VM), one request, and the children's VMs
 * published or removed. One thread.
 */
#ifndef CLONE_CLI_FORKREQ_H
#define CLONE_CLI_FORKREQ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/state.h"

/* Children of a template in one request: their descriptors are in flight at once. Those of a
 * running VM are all in one, because they are of one instant. */
#define FORK_BATCH 32

struct fork_source {
	const struct vmdir *dir; /* of the seed or the VM */
	bool live;		 /* a running VM: its disks rotate, children share its uid */
	const json_t
		*info; /* what the children's vm.json begin with: memory, vcpus, disks, source */
};

struct nics; /* cli/nics.h */
struct nic_options;

struct fork_how {
	bool wait;   /* for each guest's acknowledgement */
	bool paused; /* the children run when they are resumed */
	bool all;    /* or none: when one fails, nothing is left of the others either */
	bool owned;  /* the children end with us: by fork_child_info_free or our death */
	const struct nics *nics;       /* the source's, planned for the children; NULL: none */
	const struct nic_options *net; /* for the first NIC of one child; NULL: nothing */
	int userdata_fd; /* what each guest is given (userdata.h), the caller's; -1: nothing */
	uint64_t timeout_ms;
};

struct fork_child_info {
	char name[65];
	bool ok;
	char why[ERR_MSG_MAX]; /* when not ok */
	json_t *clocks;	  /* the child's object of the reply, with its networks; ours to free */
	uint64_t sent_ns; /* CLOCK_MONOTONIC when the request was sent */
	int owner_fd;	  /* of an owned one: lets go of it when closed; else -1 */
};

/*
 * Forks n children named c[i].name (the rest of it zero). 0 when anything may have been made: each
 * c[i] says whether that child lives or why not; those that do not have left nothing. On failure
 * none was made: -EINVAL for more of a running VM than VM_FORK_MAX, -ECONNREFUSED and others of the
 * source's socket, -EINTR after cancel_fd, -ETIMEDOUT, -EPROTO, or the source's own refusal.
 * *pause_ns: how long a running source stood still. timeout_ms is each guest's.
 */
int fork_request(const struct fork_source *src, struct fork_child_info *c, size_t n,
		 const struct fork_how *how, int cancel_fd, uint64_t *pause_ns, struct err *e);
/* Ends one that lives (c->ok), and removes it. */
void fork_child_undo(struct fork_child_info *c);
void fork_child_info_free(struct fork_child_info *c, size_t n);

#endif
