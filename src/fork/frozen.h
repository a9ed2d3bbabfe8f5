/* SPDX-License-Identifier: MIT */
/*
 * Live snapshots: fork(2), and the child, which never runs, is the frozen machine and writes itself
 * out. The VM stands still for the fork only, whatever its RAM. Main thread, device lock held.
 */
#ifndef CLONE_FORK_FROZEN_H
#define CLONE_FORK_FROZEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "snapshot/snapshot.h"
#include "vm/vm.h"

struct vm_snapshot_request {
	struct vm_files to;
	const struct vm_files *base; /* as in struct vm_save */
	size_t nr_base;
	bool compress;
	uint64_t max_growth_bytes; /* the snapshot is given up beyond it; 0: no limit */
	/* on main; may be NULL */
	void (*done)(void *arg, const struct vm_snapshot_result *res);
	void *arg;
};

/*
 * Starts a snapshot of a running or paused VM, which goes on. Descriptors were granted: the files
 * named in the request and, in the folder of the state file's name, "layer/ID" of each disk that is
 * written to, and "parent/disk/ID/data" as for a fork. Returns after the fork(2); done comes later,
 * once. -EBUSY: one is being written.
 */
int vm_snapshot(struct vm *vm, const struct vm_snapshot_request *rq, struct err *e);

struct vm_snapshot_state {
	bool writing, done;		  /* done: `last` is how the last one ended */
	uint64_t done_bytes, total_bytes; /* of RAM, of the one being written */
	uint64_t growth_bytes;
	uint64_t number; /* which one of this process all this is about, from 1; 0: none */
	struct vm_snapshot_result last;
};
void vm_snapshot_state(const struct vm *vm, struct vm_snapshot_state *out);

#endif
