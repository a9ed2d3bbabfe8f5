/* SPDX-License-Identifier: MIT */
/*
 * Parked: a VM that stands still, and what is its memory's alone is in a file (mem/gmem_out.h). It
 * wakes by itself when the host has something for its guest: a connection over vsock, what somebody
 * types, a frame for its network; and for what needs it running: a fork, a snapshot, the power
 * button. For its guest it is a pause (vm_pause).
 *
 * Writing out takes as long as the disk does; what wakes the VM meanwhile finds all RAM still
 * there. Main, device lock held.
 */
#ifndef CLONE_VM_PARK_H
#define CLONE_VM_PARK_H

#include <stdint.h>

#include "base/err.h"

struct vm;

struct vm_park_result {
	int error; /* 0, or -errno; then msg says why, and the VM runs or has ended */
	char msg[256];
	uint64_t pushed_bytes; /* in the file */
	uint64_t zero_bytes;   /* pages of zeroes, given back without it */
	uint64_t ns;	       /* from the request on until the memory was gone */
};

typedef void (*vm_park_fn)(void *arg, const struct vm_park_result *res);

/*
 * Parks a running VM. Takes the granted descriptors by these names, as gmem_out_begin wants them,
 * in any case. done is called exactly once if this returns 0, not from within: for a VM that is
 * parked already, too. -EINVAL: it does not run; -EBUSY: it is being parked, or a snapshot of it
 * is being written; -EAGAIN: its guest is just learning who it is; -ENOENT; and what stopping it
 * may fail with.
 */
int vm_park(struct vm *vm, const char *file, const char *pagemap, vm_park_fn done, void *arg,
	    struct err *e);
/*
 * Reads memory back and goes on; no-op for a VM that is not parked. why: a word for its owner, a
 * literal. On error the VM stays parked, and it may be tried again.
 */
int vm_unpark(struct vm *vm, const char *why, struct err *e);
/* In the file now; 0 of a VM that is not parked. */
uint64_t vm_parked_bytes(const struct vm *vm);

#endif
