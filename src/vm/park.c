/* SPDX-License-Identifier: MIT */
/*
 * Parking a VM and waking it. See park.h. One timer does the work, a step each time the loop comes
 * round, so that whatever wakes the VM is heard in between. Main thread, device lock held.
 */
#include "vm/park.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "device/serial.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "mem/gmem.h"
#include "mem/gmem_out.h"
#include "virtio/vsock.h"
#include "vm/vm_private.h"

#define SOON_NS 1000u
#define DEAF_NS (5 * NS_PER_SEC) /* after it could not be woken */

struct park {
	struct vm *vm;
	int file, pagemap; /* -1: none */
	struct gmem_out *out;
	struct loop_timer *timer;
	const char *wake; /* something wants the VM to run; NULL: nothing does */
	bool pushed;	  /* its memory is out */
	bool deaf;	  /* nobody watches its network */
	bool no_slots;	  /* KVM knows nothing of its memory */
	uint64_t began_ns;
	struct vm_park_result res;
	vm_park_fn done; /* NULL when nobody waits */
	void *arg;
};

static void park_free(struct park *p)
{
	loop_del_timer(p->timer);
	gmem_out_end(p->out);
	fdtab_close(p->vm->m.fds, &p->file);
	fdtab_close(p->vm->m.fds, &p->pagemap);
	free(p);
}

/* Whoever asked for the parking hears what came of it. */
static void tell(struct park *p)
{
	vm_park_fn done = p->done;

	p->done = NULL;
	if (done)
		done(p->arg, &p->res);
}

/* The end of it: first all is closed. error 0: it was parked. */
static void finish(struct park *p, int error, const char *msg)
{
	struct park last = *p;

	park_free(p);
	last.res.error = error;
	if (error)
		snprintf(last.res.msg, sizeof(last.res.msg), "%.255s", msg);
	tell(&last);
}

/* A frame that comes meanwhile wakes the VM. */
static void watch_nics(struct vm *vm, bool on)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (d->cls == &virtio_net_class)
			virtio_net_watch(d, on);
}

/*
 * No vCPU runs: what KVM keeps beside the memory (page tables, two bytes for each page and more)
 * is not needed either.
 */
static void drop_slots(struct park *p)
{
	struct vm *vm = p->vm;
	struct err e;

	if (gmem_dirty_tracked(vm->m.mem))
		return; /* a recording will end soon, and asks KVM then */
	p->no_slots = true;
	if (vm_set_slots(vm, VM_SLOTS_NONE, &e))
		log_warn("park: %s", e.msg);
}

static int slots_back(struct park *p, struct err *e)
{
	int ret = p->no_slots ? vm_set_slots(p->vm, VM_SLOTS, e) : 0;

	p->no_slots = p->no_slots && ret;
	return ret;
}

static void on_pushed(struct park *p)
{
	char what[96];

	gmem_out_discard(p->out);
	drop_slots(p);
	p->pushed = true;
	fdtab_close(p->vm->m.fds, &p->pagemap);
	p->res.pushed_bytes = gmem_out_bytes(p->out);
	p->res.zero_bytes = gmem_out_zero_bytes(p->out);
	p->res.ns = time_mono_ns() - p->began_ns;
	snprintf(what, sizeof(what), "%" PRIu64 " MiB of memory are in a file",
		 p->res.pushed_bytes >> 20);
	p->vm->m.notice(&p->vm->m, "parked", "request", what);
	tell(p);
}

/* Not all could be written: as if nobody had asked. */
static void give_up(struct park *p, int error, const char *why)
{
	struct vm *vm = p->vm;

	watch_nics(vm, false);
	vm->park = NULL;
	vm->state = VM_RUNNING;
	finish(p, error, why);
	vm_start_world(vm);
}

static void on_timer(void *arg)
{
	struct park *p = arg;
	struct vm *vm = p->vm;
	const char *why = p->wake;
	struct err e;
	int ret;

	if (p->deaf)
		watch_nics(vm, true);
	p->deaf = false;
	if (why) {
		ret = vm_unpark(vm, why, &e);
		if (!ret)
			return;
		log_warn("%s", e.msg);
		/* What it was woken for may be there still and not say so again: so once more, but
		 * not at once. Until then a frame is no longer watched for. */
		p->deaf = true;
		loop_set_timer(p->timer, DEAF_NS);
		if (p->pushed)
			tell(p);
		return;
	}
	if (p->pushed) {
		tell(p);
		return;
	}
	ret = gmem_out_step(p->out, &e);
	if (ret > 0) {
		loop_set_timer(p->timer, SOON_NS);
		return;
	}
	if (!ret) {
		on_pushed(p);
		return;
	}
	err_wrap(&e, ret, "park");
	give_up(p, ret, e.msg);
}

void park_wake(struct machine *m, const char *why)
{
	struct vm *vm = container_of(m, struct vm, m);

	if (!vm->park || vm->park->wake)
		return;
	vm->park->wake = why;
	loop_set_timer(vm->park->timer, SOON_NS);
}

static int take(struct vm *vm, const char *file, const char *pagemap, struct park *p, struct err *e)
{
	p->file = grants_take(vm->m.grants, file, e);
	if (p->file < 0)
		return take_fd(&p->file);
	p->pagemap = grants_take(vm->m.grants, pagemap, e);
	return p->pagemap < 0 ? take_fd(&p->pagemap) : 0;
}

static int check(const struct vm *vm, struct err *e)
{
	const struct agent *a = vm->agent;

	if (vm->state != VM_RUNNING)
		return err_set(e, EINVAL, "the VM is not running");
	if (vm->frozen)
		return err_set(e, EBUSY, "a snapshot of the VM is being written: wait for its end");
	/* its time for that would run out */
	if (a && agent_present(a) && !agent_reconciled(a) && !*agent_identity_error(a))
		return err_set(e, EAGAIN, "the guest has not acknowledged who it is yet");
	return 0;
}

/* It is parked: whoever asks now is told so. */
static int again(struct vm *vm, vm_park_fn done, void *arg, struct err *e)
{
	struct park *p = vm->park;

	if (!p->pushed || p->done)
		return err_set(e, EBUSY, "the VM is being parked");
	p->done = done;
	p->arg = arg;
	loop_set_timer(p->timer, SOON_NS);
	return 0;
}

/* What came while it ran, and would wake it if it came now. */
static void wake_if_awaited(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		if (d->cls == &virtio_vsock_class && virtio_vsock_waits(d))
			park_wake(&vm->m, "vsock");
		if (d->cls == &serial_class && serial_waits(d))
			park_wake(&vm->m, "console");
	}
}

static int begin(struct park *p, struct err *e)
{
	struct vm *vm = p->vm;
	int ret = vm_stop_world(vm, e);

	if (ret)
		return ret;
	ret = gmem_out_begin(vm->m.mem, p->file, p->pagemap, &p->out, e);
	if (ret)
		vm_start_world(vm);
	return ret;
}

int vm_park(struct vm *vm, const char *file, const char *pagemap, vm_park_fn done, void *arg,
	    struct err *e)
{
	struct park *p = calloc(1, sizeof(*p));
	int ret;

	if (!p)
		return err_set(e, ENOMEM, "park: out of memory");
	*p = (struct park){ .vm = vm,
			    .file = -1,
			    .pagemap = -1,
			    .began_ns = time_mono_ns(),
			    .done = done,
			    .arg = arg };
	ret = take(vm, file, pagemap, p, e);
	if (!ret && vm->park) {
		ret = again(vm, done, arg, e);
		park_free(p);
		return ret ? err_wrap(e, ret, "park") : 0;
	}
	if (!ret)
		ret = check(vm, e);
	p->timer = ret ? NULL : loop_add_timer(vm->m.loop, on_timer, p);
	if (!ret && !p->timer)
		ret = err_set(e, ENOMEM, "out of memory");
	if (!ret)
		ret = begin(p, e);
	if (ret) {
		park_free(p);
		return err_wrap(e, ret, "park");
	}
	vm->park = p;
	vm->state = VM_PARKED;
	squeeze_run_parked(vm);
	watch_nics(vm, true);
	loop_set_timer(p->timer, SOON_NS);
	wake_if_awaited(vm);
	return 0;
}

int park_back(struct vm *vm, const char *why, struct err *e)
{
	struct park *p = vm->park;
	uint64_t t0 = time_mono_ns();
	char what[128];
	int ret;

	if (!p)
		return 0;
	ret = slots_back(p, e);
	if (!ret)
		ret = gmem_out_back(p->out, e);
	if (ret) {
		err_wrap(e, ret, "unpark: the VM cannot go on and stays parked");
		vm->m.notice(&vm->m, "unpark-failed", why, e->msg);
		return ret;
	}
	watch_nics(vm, false);
	vm->park = NULL;
	vm->state = VM_PAUSED;
	snprintf(what, sizeof(what), "%" PRIu64 " MiB read back in %" PRIu64 " ms",
		 p->res.pushed_bytes >> 20, (uint64_t)((time_mono_ns() - t0) / NS_PER_MS));
	vm->m.notice(&vm->m, "unparked", why, what);
	snprintf(what, sizeof(what), "park: woken meanwhile (%s)", why);
	finish(p, p->pushed ? 0 : -ECANCELED, what);
	return 0;
}

int vm_unpark(struct vm *vm, const char *why, struct err *e)
{
	bool parked = vm->park != NULL;
	int ret = park_back(vm, why, e);

	if (ret || !parked)
		return ret;
	vm_start_world(vm);
	vm->state = VM_RUNNING;
	return 0;
}

void park_end(struct vm *vm)
{
	struct park *p = vm->park;

	if (!p)
		return;
	vm->park = NULL;
	finish(p, -ECANCELED, "park: the VM ended");
}

uint64_t vm_parked_bytes(const struct vm *vm)
{
	return vm->park && vm->park->pushed ? vm->park->res.pushed_bytes : 0;
}
