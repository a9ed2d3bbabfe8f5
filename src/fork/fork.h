/* SPDX-License-Identifier: MIT */
/*
 * Forking a VM: the one idea. The parent's side is fork.c, the child's child.c. Main thread, with
 * the device lock held.
 */
#ifndef CLONE_FORK_FORK_H
#define CLONE_FORK_FORK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vm/vm.h"

#define VM_FORK_MAX 256 /* children in one request */

struct vm_child_result {
	char name[VM_NAME_MAX + 1];
	int pid;
	int error; /* 0 or -errno; msg says why; the child is gone then */
	char msg[256];
	/* CLOCK_MONOTONIC: fork(2) returned in the child (a spare: it learnt who it is), devices
	 * adopted, first KVM_RUN entered, first exit from it, agent acknowledged (0: did not
	 * happen) */
	uint64_t forked_ns, adopted_ns, entered_ns, first_exit_ns, ready_ns;
};

struct vm_fork_request {
	const struct vm_child_spec *specs; /* copied */
	size_t n;
	bool wait; /* for the agent's acknowledgement in each child (if the template had an agent)
		    */
	bool all;  /* or none: when one child fails, the others are ended, and have failed too */
	uint32_t timeout_ms;
	/* Called once on main in the parent, when every child is ready or failed. Pidfds of the
	 * living are in vm_grants as "pidfd/NAME" for the caller to claim. */
	void (*done)(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns);
	void *arg;
};
/* Each child's descriptors were granted as "child/NAME/<what>" (see doc/control.md). Returns after
 * the fork(2)s; done comes later. In the child this function does not return to its caller: the
 * child goes on in its own main loop. */
int vm_fork(struct vm *vm, const struct vm_fork_request *rq, struct err *e);

#endif
