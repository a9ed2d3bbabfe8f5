/* SPDX-License-Identifier: MIT */
/*
 * fork(2) of a VM process and the reaping of what came of it: shared by forks and spares. Main
 * thread of the parent, its world stopped.
 */
#ifndef CLONE_FORK_SPAWN_H
#define CLONE_FORK_SPAWN_H

#include "vm/vm_private.h"

/*
 * fork(2)s. In the parent: 0 with the child's pid and our end of its report socket (recorded in the
 * fd table as FD_CLOSE, the caller's), or -errno. The child comes out in vm_run with a copy of
 * *start.
 */
int child_spawn(struct vm *vm, const struct child_start *start, int *pid, int *report_fd,
		struct err *e);
/*
 * Before fork(2)s, the world stopped: what the VM wrote to its disks becomes a shared, read-only
 * layer, and it goes on in the files granted as "parent/disk/ID/data" (and -ro). No-op in a seed.
 */
int fork_rotate_disks(struct vm *vm, struct err *e);
/* Reaps the child when it ends, whatever becomes of its fork; name (NULL: nobody yet) also grants
 * its pidfd as "pidfd/NAME" until then. -errno: neither can be, and the child has been killed and
 * reaped. */
int child_reap(struct vm *vm, int pid, const char *name, struct err *e);
/* Ends a child that child_reap watches, unless it has been reaped: its number may be another's. */
void child_kill(struct vm *vm, int pid);

#endif
