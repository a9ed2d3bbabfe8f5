/* SPDX-License-Identifier: MIT */
/*
 * What a VM process does about its memory quota: it is in its group before it touches memory, and
 * tells its owner when the kernel slows it down there. The group itself is the privileged caller's
 * (cgroup/cgroup.h). Main thread, device lock held.
 */
#ifndef CLONE_VM_QUOTA_H
#define CLONE_VM_QUOTA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct vm;
struct loop_io;
struct loop_timer;

struct vm_quota {
	uint64_t bytes;	 /* 0: none */
	bool must_leave; /* a child whose parent has one: it is in the parent's group */
	int events, watch;
	uint64_t high;
	struct loop_io *io;
	struct loop_timer *timer;
};

/* Watches the group granted as "cgroup/events" for a VM with this quota, in place of what there
 * was; 0: none. -ENOENT: not granted; -EINVAL. */
int vm_set_quota(struct vm *vm, uint64_t bytes, struct err *e);
uint64_t vm_quota_bytes(const struct vm *vm);
/* In a fork's child: what was its parent's is gone with the descriptors. */
void vm_quota_forget(struct vm *vm);
/* In a fork's child: waits until whoever holds the other end of the socket granted as "cgroup/gate"
 * has put it into its group (cli/gate.h); -EPIPE: nobody will any more. Without one it stays where
 * its parent is, -EINVAL when that has a quota: nobody is to pay for another. */
int vm_quota_join(struct vm *vm, struct err *e);
/* The end: nothing is watched. */
void vm_quota_end(struct vm *vm);

#endif
