/* SPDX-License-Identifier: MIT */
/*
 * See squeeze_run.h. Main thread, device lock held: by the loop's timer, and by the agent's client
 * with its answers.
 */
#include "vm/squeeze_run.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "agent/agent.h"
#include "event/loop.h"
#include "virtio/balloon.h"
#include "vm/vm_private.h"

#define ANSWER_MS 5000u
/* A guest may speak unasked as often as it likes: the policy need not look each time. */
#define PUSH_NS (100 * NS_PER_MS)

static struct device *balloon_of(struct vm *vm)
{
	struct device *d = vm->devices;

	while (d && d->cls != &virtio_balloon_class)
		d = d->next;
	return d;
}

static void arm(struct vm *vm)
{
	struct squeeze_run *q = &vm->squeeze;

	if (q->timer)
		loop_set_timer(q->timer, q->on ? squeeze_next_ms(&q->s, &q->cfg) * NS_PER_MS : 0);
}

static void notice(struct vm *vm, const struct squeeze_decision *d)
{
	char text[160];

	if (d->to_bytes >= d->from_bytes || d->why == SQUEEZE_WHY_ACTIVE ||
	    d->why == SQUEEZE_WHY_STUCK) /* nothing was taken that could come back */
		return;
	snprintf(text, sizeof(text), "%s: the guest has %" PRIu64 " of %" PRIu64 " MiB back",
		 squeeze_why_word(d->why), (d->from_bytes - d->to_bytes) >> 20,
		 d->from_bytes >> 20);
	notices_add(&vm->notices, "balloon-gave-back", "balloon", text);
}

static void decide(struct vm *vm, const struct proto_report *report, bool urgent)
{
	struct squeeze_run *q = &vm->squeeze;
	struct device *d = balloon_of(vm);
	struct virtio_balloon_view v = { 0 };
	struct squeeze_in in = { .now_ns = time_mono_ns(),
				 .report = report,
				 .urgent = urgent,
				 .ram_bytes = vm->cfg.mem_bytes };
	uint64_t target;
	struct err e;

	if (d)
		virtio_balloon_view(d, &v);
	in.driver = v.driver;
	in.target_bytes = v.target_bytes;
	in.actual_bytes = v.actual_bytes;
	target = squeeze_tick(&q->s, &q->cfg, &in);
	if (target != v.target_bytes) {
		if (virtio_balloon_set_target(d, target, &e))
			log_warn("balloon: %s", e.msg);
		notice(vm, &q->s.last);
	}
	arm(vm);
}

static void answered(void *arg, const struct agent_reply *r)
{
	struct vm *vm = arg;

	vm->squeeze.asking = false;
	if (vm->squeeze.on && vm->state == VM_RUNNING)
		decide(vm, !r->ret && r->type == PROTO_REPORT ? &r->report : NULL, false);
}

static void ask(struct vm *vm)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	size_t n = proto_put_empty(frame, sizeof(frame), PROTO_ACTIVITY);

	if (vm->agent && agent_reconciled(vm->agent) &&
	    !agent_request(vm->agent, frame, n, ANSWER_MS, answered, vm, NULL)) {
		vm->squeeze.asking = true;
		arm(vm);
	} else {
		decide(vm, NULL, false);
	}
}

void squeeze_run_parked(struct vm *vm)
{
	if (vm->squeeze.asking)
		agent_request_drop(vm->agent, answered, vm);
	vm->squeeze.asking = false;
	arm(vm);
}

static void on_timer(void *arg)
{
	struct vm *vm = arg;
	struct squeeze_run *q = &vm->squeeze;

	if (vm->state == VM_RUNNING && !q->asking) {
		ask(vm);
		return;
	}
	if (vm->state != VM_RUNNING)
		squeeze_init(&q->s, time_mono_ns()); /* time that it did not have is not idle */
	if (vm->state != VM_SEED)
		arm(vm);
}

static void on_pressure(void *arg, const struct proto_report *p)
{
	struct vm *vm = arg;
	struct squeeze_run *q = &vm->squeeze;
	uint64_t now = time_mono_ns();

	if (!q->on || vm->state != VM_RUNNING || now - q->pushed_ns < PUSH_NS)
		return;
	q->pushed_ns = now;
	decide(vm, p, true);
}

int squeeze_run_adopt(struct vm *vm, struct err *e)
{
	struct squeeze_run *q = &vm->squeeze;

	q->asking = false;
	squeeze_init(&q->s, time_mono_ns());
	q->timer = loop_add_timer(vm->m.loop, on_timer, vm);
	if (!q->timer)
		return err_set(e, ENOMEM, "no memory for the balloon's policy");
	if (vm->agent)
		agent_on_pressure(vm->agent, on_pressure, vm);
	arm(vm);
	return 0;
}

void squeeze_run_forget(struct vm *vm)
{
	vm->squeeze.timer = NULL;
}

void squeeze_run_fini(struct vm *vm)
{
	if (vm->squeeze.timer)
		loop_del_timer(vm->squeeze.timer);
	vm->squeeze.timer = NULL;
}

int vm_set_policy(struct vm *vm, bool on, const struct squeeze_cfg *cfg, struct err *e)
{
	struct squeeze_run *q = &vm->squeeze;

	if (on && !vm->cfg.has_balloon)
		return err_set(e, ENOENT,
			       "VM %s has no balloon: it, or what it came out of, was made without",
			       vm->id.name);
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		const struct squeeze_limit *l = &squeeze_limits[i];
		uint32_t v;

		memcpy(&v, (const char *)cfg + l->offset, sizeof(v));
		if (v < l->min || v > l->max)
			return err_set(e, EINVAL, "%s: %u is not in %u..%u", l->name, v, l->min,
				       l->max);
	}
	q->on = on;
	q->cfg = *cfg;
	squeeze_init(&q->s, time_mono_ns());
	arm(vm);
	return 0;
}

bool vm_policy(const struct vm *vm, struct squeeze_cfg *cfg, struct squeeze *s)
{
	*cfg = vm->squeeze.cfg;
	*s = vm->squeeze.s;
	return vm->squeeze.on;
}
