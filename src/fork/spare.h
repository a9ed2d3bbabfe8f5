/* SPDX-License-Identifier: MIT */
/*
 * A seed's spare children: forked ahead of time, with their KVM VM and vCPUs made, waiting to learn
 * who they are. A fork that finds one does not wait for fork(2) or KVM. A spare is nobody yet: no
 * name, no directory, none of a machine's descriptors, and it ends with its seed. Main thread.
 */
#ifndef CLONE_FORK_SPARE_H
#define CLONE_FORK_SPARE_H

#include <stdbool.h>

#include "fork/fork.h"
#include "vm/vm.h"

/*
 * Parent: makes a spare into the child that spec describes, with the descriptors granted under
 * "child/NAME/". False when there is none, or none that could be told: fork(2) then. On success the
 * pid and the socket that the child reports on are the caller's.
 */
bool spare_use(struct vm *vm, const struct vm_child_spec *spec, const struct vm_fork_request *rq,
	       int *pid, int *report_fd);
/* Parent: a fork is done. When nothing is asked for a moment, a seed makes its huge pages and the
 * spares that are missing (struct vm_seed). */
void spares_later(struct vm *vm);
/* Parent: new spares in the place of those that there are. */
void spares_renew(struct vm *vm);
/* Child: the parent's spares are not ours. */
void spares_forget(struct vm *vm);
/* Child: waits until it is somebody, which is then in vm->child and in the grants. Does not return
 * when the seed ends. */
int spare_wait(struct vm *vm, struct err *e);

#endif
