/* SPDX-License-Identifier: MIT */
/*
 * A VM's balloon: how it is configured, and what can be asked of it while the VM runs. See vm.h and
 * virtio/balloon.h. Main thread, device lock held.
 */
#include <errno.h>

#include "virtio/balloon.h"
#include "vm/hint.h"
#include "vm/vm_private.h"

static struct device *balloon_device(struct vm *vm)
{
	return vm_find_device(vm, virtio_balloon_class.name, VM_BALLOON_ID);
}

static int has_one(const struct vm *vm, struct err *e)
{
	if (vm->cfg.has_balloon)
		return 0;
	return err_set(e, ENOENT,
		       "VM %s has no balloon: it, or the template or snapshot that it came out of, "
		       "was made without one; make that anew, with a balloon",
		       vm->id.name);
}

/* For what only a driver at work does. */
static int at_work(struct vm *vm, struct device **d, struct err *e)
{
	struct virtio_balloon_view v;
	int ret = has_one(vm, e);

	if (ret)
		return ret;
	if (vm->state == VM_PAUSED)
		return err_set(e, EAGAIN,
			       "VM %s is paused: its guest does nothing until it is "
			       "resumed",
			       vm->id.name);
	*d = balloon_device(vm);
	if (vm->state != VM_RUNNING || !*d)
		return err_set(e, EAGAIN, "VM %s does not run", vm->id.name);
	virtio_balloon_view(*d, &v);
	if (v.driver)
		return 0;
	return err_set(
		e, ENOTCONN,
		"the guest of VM %s has no driver for its balloon, or has not started it yet",
		vm->id.name);
}

int vm_set_balloon(struct vm *vm, const struct vm_balloon *b, struct err *e)
{
	int ret = vm_configuring(vm, "the balloon", e);

	if (ret)
		return ret;
	vm->cfg.has_balloon = 1;
	vm->cfg.balloon_oom = b->deflate_on_oom;
	vm->balloon = *b;
	return 0;
}

int vm_get_balloon(struct vm *vm, struct vm_balloon *out, struct err *e)
{
	struct device *d = balloon_device(vm);
	struct virtio_balloon_view v;
	int ret = has_one(vm, e);

	if (ret)
		return ret;
	*out = vm->balloon;
	out->deflate_on_oom = vm->cfg.balloon_oom;
	if (d) {
		virtio_balloon_view(d, &v);
		out->target_bytes = v.target_bytes;
		out->stats_ms = v.stats_period_ms;
	}
	return 0;
}

int vm_balloon_view(struct vm *vm, struct virtio_balloon_view *out, bool *hinting, struct err *e)
{
	struct device *d = balloon_device(vm);
	int ret = has_one(vm, e);

	if (ret)
		return ret;
	*out = (struct virtio_balloon_view){ .target_bytes = vm->balloon.target_bytes };
	*hinting = d && virtio_balloon_hinting(d);
	if (d)
		virtio_balloon_view(d, out);
	return 0;
}

int vm_balloon_set_target(struct vm *vm, uint64_t bytes, struct err *e)
{
	struct device *d;
	int ret = at_work(vm, &d, e);

	return ret ? ret : virtio_balloon_set_target(d, bytes, e);
}

int vm_balloon_poll_stats(struct vm *vm, uint32_t period_ms, struct err *e)
{
	struct device *d;
	int ret = at_work(vm, &d, e);

	return ret ? ret : virtio_balloon_poll_stats(d, period_ms, e);
}

int vm_balloon_hint(struct vm *vm, struct err *e)
{
	struct device *d;
	int ret = at_work(vm, &d, e);

	return ret ? ret : hint_begin(vm, d, e);
}

int vm_balloon_begin(struct vm *vm, struct err *e)
{
	struct device *d = balloon_device(vm);
	int ret = 0;

	if (d && vm->balloon.target_bytes)
		ret = virtio_balloon_set_target(d, vm->balloon.target_bytes, e);
	if (!ret && d && vm->balloon.stats_ms)
		ret = virtio_balloon_poll_stats(d, vm->balloon.stats_ms, e);
	return ret ? err_wrap(e, ret, "balloon") : 0;
}
