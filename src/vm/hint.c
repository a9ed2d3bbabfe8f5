/* SPDX-License-Identifier: MIT */
/*
 * See hint.h. The device says by a callback from the loop that its driver is through: from there
 * the world can be stopped. Main thread, device lock held.
 *
 * A page may be taken when it was hinted and not written to since its round began, or if nothing
 * of it is lost (balloon_hint.c). In a pause the
 * log is read, which is all that was written up to now; what is taken in this pause is taken before
 * the guest runs again. A guest with much free memory takes several pauses, and each begins with
 * what was written since the one before.
 */
#include "vm/hint.h"

#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "virtio/balloon.h"
#include "vm/dirty_log.h"
#include "vm/vm_private.h"

#define ROUND_NS (30 * NS_PER_SEC) /* what a driver has for naming its pages */
#define PAUSE_NS                                                                                   \
	(10 * NS_PER_MS) /* a turn of giving back; then the VM runs as long as that took           \
			  */
#define PAUSE_MAX_NS (50 * NS_PER_MS)
#define SOON_NS 1000u
#define STEP_BYTES MIB(8) /* between two looks at the clock */

struct hint {
	struct vm *vm;
	struct device *balloon;
	struct loop_timer *timer;
	uint64_t *written; /* a bit a page of RAM, as read last */
	bool taking;	   /* the driver is through */
	bool pausing;	   /* it is us who stop the world */
};

static void hint_free(struct hint *h)
{
	loop_del_timer(h->timer);
	free(h->written);
	free(h);
}

/* why: not as it should; NULL. */
static void finish(struct hint *h, const char *why)
{
	struct vm *vm = h->vm;

	vm->hint = NULL;
	virtio_balloon_on_change(h->balloon, NULL, NULL);
	virtio_balloon_hint_end(h->balloon);
	dirty_log_stop(vm);
	hint_free(h);
	if (why)
		vm->m.notice(&vm->m, "hinting-ended", VM_BALLOON_ID, why);
}

/* With the world stopped: 1 when there is more to take, 0, -errno. */
static int take(struct hint *h, struct err *e)
{
	uint64_t t0 = time_mono_ns(), now, end_ns;
	bool more;
	int ret;

	/* a vCPU on its way to its rest may have reset the device */
	if (!virtio_balloon_hint_through(h->balloon))
		return err_set(e, ECANCELED, "the guest has reset its balloon");
	ret = dirty_log_read(h->vm, h->written, e);
	if (ret)
		return ret;
	virtio_balloon_hint_written(h->balloon, h->written);
	/* Each turn reads the log, which of much RAM takes longer than a turn should: as long again
	 * is for giving back, or the VM would stand still and little come of it. */
	now = time_mono_ns();
	end_ns = now + MIN(MAX(now - t0, PAUSE_NS), PAUSE_MAX_NS);
	do
		more = virtio_balloon_take_hinted(h->balloon, STEP_BYTES);
	while (more && time_mono_ns() < end_ns);
	return more;
}

static void turn(struct hint *h)
{
	uint64_t t0 = time_mono_ns();
	struct err e;
	int ret;

	h->pausing = true;
	ret = vm_stop_world(h->vm, &e);
	h->pausing = false;
	if (!ret) {
		ret = take(h, &e);
		vm_start_world(h->vm);
	}
	if (ret > 0)
		loop_set_timer(h->timer, time_mono_ns() - t0);
	else
		finish(h, ret ? e.msg : NULL);
}

static void on_timer(void *arg)
{
	struct hint *h = arg;

	if (h->taking)
		turn(h);
	else
		finish(h, "the guest's driver did not name all of its free pages in 30 s");
}

static void on_change(void *arg)
{
	struct hint *h = arg;

	if (!virtio_balloon_hinting(h->balloon)) {
		finish(h, "the guest has reset its balloon");
	} else if (virtio_balloon_hint_through(h->balloon) && !h->taking) {
		h->taking = true;
		loop_set_timer(h->timer, SOON_NS);
	}
}

int hint_begin(struct vm *vm, struct device *balloon, struct err *e)
{
	struct hint *h;
	int ret;

	if (vm->hint)
		return err_set(e, EBUSY, "balloon: a round of hinting is at work");
	if (vm->frozen)
		return err_set(e, EBUSY,
			       "balloon: a snapshot of VM %s is being written: wait for its end",
			       vm->id.name);
	h = calloc(1, sizeof(*h));
	if (!h)
		return err_set(e, ENOMEM, "balloon: out of memory");
	*h = (struct hint){ .vm = vm, .balloon = balloon };
	h->written = dirty_log_bits(vm);
	h->timer = loop_add_timer(vm->m.loop, on_timer, h);
	ret = h->written && h->timer ? dirty_log_start(vm, e) : err_set(e, ENOMEM, "out of memory");
	if (ret) {
		hint_free(h);
		return err_wrap(e, ret, "balloon");
	}
	ret = virtio_balloon_hint(balloon, e);
	if (ret) {
		dirty_log_stop(vm);
		hint_free(h);
		return ret;
	}
	virtio_balloon_on_change(balloon, on_change, h);
	loop_set_timer(h->timer, ROUND_NS);
	vm->hint = h;
	return 0;
}

void hint_break_off(struct vm *vm, const char *why)
{
	if (vm->hint && !vm->hint->pausing)
		finish(vm->hint, why);
}
