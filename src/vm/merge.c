/* SPDX-License-Identifier: MIT */
/*
 * Whether KSM may merge a machine's pages with others': if the privileged caller passed a share of
 * the one trust domain that has KSM on this host (cli/ksm.h), and not otherwise, whatever a
 * snapshot or a parent had. Main thread.
 */
#include <errno.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "mem/gmem.h"
#include "vm/vm_private.h"

int vm_merge(struct vm *vm, struct err *e)
{
	int fd = grants_take(vm->m.grants, "ksm", NULL), r;

	if (fd >= 0) {
		fdtab_set(vm->m.fds, fd, FD_CLOSE); /* a child gets its own, or has none */
		fdtab_close(vm->m.fds, &vm->ksm_fd);
		vm->ksm_fd = fd; /* held for as long as its pages may be merged: for life */
	}
	if (vm->ksm_fd < 0 && !vm->cfg.mergeable)
		return 0;
	r = gmem_merge(vm->m.mem, vm->ksm_fd >= 0, e);
	if (!r)
		vm->cfg.mergeable = vm->ksm_fd >= 0;
	return r;
}

bool vm_mergeable(const struct vm *vm)
{
	return vm->cfg.mergeable;
}
