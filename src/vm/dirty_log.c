/* SPDX-License-Identifier: MIT */
/*
 * See dirty_log.h. Regions begin and end at 2 MiB of RAM: each slot's bits are whole words of the
 * one bitmap, and KVM writes them there. Main thread, device lock held.
 */
#include "vm/dirty_log.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/util.h"
#include "kvm/kvm.h"
#include "mem/gmem.h"
#include "vm/vm_private.h"

#define BITS 64u

/* Who moves their packets depends on gmem's tracking. */
static void update_nics(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->cls == &virtio_net_class)
			virtio_net_update(d);
}

int dirty_log_start(struct vm *vm, struct err *e)
{
	int ret;

	if (gmem_dirty_tracked(vm->m.mem))
		return err_set(e, EBUSY,
			       "what VM %s writes to is being recorded (the working set, or a "
			       "round of hinting): try again in a few seconds",
			       vm->id.name);
	ret = gmem_dirty_start(vm->m.mem, e);
	if (!ret)
		ret = vm_set_slots(vm, VM_SLOTS_LOGGED, e);
	if (ret)
		dirty_log_stop(vm);
	else
		update_nics(vm);
	return ret;
}

uint64_t *dirty_log_bits(struct vm *vm)
{
	return calloc(gmem_size(vm->m.mem) / GMEM_PAGE / BITS, sizeof(uint64_t));
}

int dirty_log_read(struct vm *vm, uint64_t *pages, struct err *e)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(vm->m.mem, r);
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++) {
		BUG_ON(r[i].offset % (GMEM_PAGE * BITS) || r[i].size_bytes % (GMEM_PAGE * BITS));
		ret = kvm_get_dirty(vm->m.kvm, (unsigned int)i,
				    pages + r[i].offset / GMEM_PAGE / BITS, e);
	}
	if (!ret)
		gmem_dirty_add(vm->m.mem, pages);
	return ret;
}

void dirty_log_stop(struct vm *vm)
{
	struct err e;

	gmem_dirty_stop(vm->m.mem);
	if (vm_set_slots(vm, VM_SLOTS, &e))
		log_warn("dirty log: %s", e.msg);
	update_nics(vm);
}
