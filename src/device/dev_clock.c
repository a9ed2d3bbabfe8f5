/* SPDX-License-Identifier: MIT */
/*
 * The machine's time as a device: kvmclock, the nanoseconds since boot that a guest's paravirtual
 * clock counts, and with it the TSCs of all vCPUs. The state of a vCPU holds its TSC at the instant
 * of this device's state. Quiesced and adopted after the vCPUs. Main thread.
 *
 * Identity: kept. A child's time goes on from the parent's, as if both were one machine; time that
 * a template spent on disk did not pass for it. Real time is the agent's to set.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/kernel_devices.h"

static const struct field state_fields[] = {
	F_U32(struct clock_state, valid),
	F_U64(struct clock_state, ns),
};

/* 200 years: a guest's arithmetic on nanoseconds overflows at 292. */
#define CLOCK_MAX_NS (200ull * 366 * 86400 * 1000000000)

static struct dev_clock *dev_of(const struct device *d)
{
	return container_of(d, struct dev_clock, d);
}

static int clock_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			struct err *e)
{
	struct dev_clock *dev = calloc(1, sizeof(*dev));

	(void)cfg;
	if (!dev)
		return err_set(e, ENOMEM, "no memory for the clock");
	dev->d = (struct device){ .cls = &dev_clock_class, .m = m, .state = &dev->state };
	snprintf(dev->d.id, sizeof(dev->d.id), "%s", id);
	*out = &dev->d;
	return 0;
}

static void clock_destroy(struct device *d)
{
	if (d)
		free(dev_of(d));
}

static void clock_reset(struct device *d)
{
	dev_of(d)->state = (struct clock_state){ 0 };
}

static int clock_quiesce(struct device *d, struct err *e)
{
	struct dev_clock *dev = dev_of(d);
	int r;

	if (!d->m->kvm)
		return 0;
	r = kvm_time_get(d->m->kvm, &dev->at, e);
	for (struct dev_vcpu *v = d->m->vcpus; v && !r; v = v->next)
		r = dev_vcpu_save_tsc(v, &dev->at, dev->start_ns, e);
	if (r)
		return r;
	dev->state = (struct clock_state){ .valid = 1, .ns = dev->at.clock_ns };
	dev->ours = true;
	return 0;
}

static int clock_check(const struct device *d, const void *state, struct err *e)
{
	const struct clock_state *s = state;

	(void)d;
	if (s->valid != 1)
		return err_set(e, EINVAL, "the clock was not saved");
	if (s->ns > CLOCK_MAX_NS)
		return err_set(e, EINVAL, "the guest has been up for %llu ns, which is absurd",
			       (unsigned long long)s->ns);
	return 0;
}

static void clock_commit(struct device *d, const void *state)
{
	device_commit_copy(d, state);
	dev_of(d)->ours = false;
}

static int clock_adopt(struct device *d, const struct identity *id, struct err *e)
{
	struct dev_clock *dev = dev_of(d);
	struct kvm_time t = { .clock_ns = dev->state.ns };
	bool exact = false;
	int r = 0;

	(void)id;
	if (dev->state.valid)
		r = kvm_time_set(d->m->kvm, dev->ours ? &dev->at : &t, dev->ours, &exact, e);
	if (!r && exact)
		t = dev->at;
	else if (!r)
		r = kvm_time_get(d->m->kvm, &t, e);
	dev->start_ns = dev->state.valid ? dev->state.ns : t.clock_ns;
	for (struct dev_vcpu *v = d->m->vcpus; v && !r; v = v->next)
		r = dev_vcpu_load_tsc(v, &t, dev->start_ns, e);
	return r;
}

const struct device_class dev_clock_class = {
	.name = "clock",
	.version = 1,
	.state = FIELD_TABLE(struct clock_state, state_fields),
	.create = clock_create,
	.destroy = clock_destroy,
	.reset = clock_reset,
	.quiesce = clock_quiesce,
	.resume = device_resume_nothing,
	.check = clock_check,
	.commit = clock_commit,
	.prepare = device_prepare_nothing,
	.adopt = clock_adopt,
};
