/* SPDX-License-Identifier: MIT */
/*
 * A vCPU as a device. Its state is read by its own thread when it parks, and put into a fresh vCPU
 * by adopt. Main thread.
 *
 * Identity: all kept. A child's CPUs are the parent's at the instant of the fork; what makes it
 * another machine is elsewhere (VMGENID, agent).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "base/util.h"
#include "device/kernel_devices.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define LONG_PAUSE_NS NS_PER_SEC /* half of what a guest's watchdog bears, at its strictest */

#define MSR_MISC_ENABLE 0x1a0
#define MSR_MTRR_DEFAULT 0x2ff

static const struct field cfg_fields[] = {
	F_U32(struct vcpu_cfg, index),
	F_U32(struct vcpu_cfg, nr_vcpus),
};

static struct dev_vcpu *dev_of(const struct device *d)
{
	return container_of(d, struct dev_vcpu, d);
}

static int vcpu_dev_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			   struct err *e)
{
	const struct vcpu_cfg *c = cfg;
	struct dev_vcpu *v;

	if (c->nr_vcpus < 1 || c->nr_vcpus > KVM_MAX_VCPUS_OURS || c->index >= c->nr_vcpus)
		return err_set(e, EINVAL, "vCPU %u of %u: there may be 1 to %d", c->index,
			       c->nr_vcpus, KVM_MAX_VCPUS_OURS);
	v = calloc(1, sizeof(*v));
	if (!v)
		return err_set(e, ENOMEM, "no memory for vCPU %u", c->index);
	v->cfg = *c;
	v->d = (struct device){
		.cls = &dev_vcpu_class, .m = m, .cfg = &v->cfg, .state = &v->state
	};
	snprintf(v->d.id, sizeof(v->d.id), "%s", id);
	v->next = m->vcpus;
	m->vcpus = v;
	*out = &v->d;
	return 0;
}

static void vcpu_dev_destroy(struct device *d)
{
	struct dev_vcpu **pp;

	if (!d)
		return;
	for (pp = &d->m->vcpus; *pp != dev_of(d);)
		pp = &(*pp)->next;
	*pp = (*pp)->next;
	kvm_vcpu_destroy(dev_of(d)->kv);
	free(dev_of(d));
}

static void vcpu_dev_reset(struct device *d)
{
	memset(&dev_of(d)->state, 0, sizeof(struct vcpu_state));
}

static int check_msrs(const struct device *d, const struct msr_table *t, struct err *e)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].data && !kvm_msr_known(d->m->kvm, t->e[i].index))
			return err_set(e, EOPNOTSUPP,
				       "MSR %#x is %#llx, but this host's KVM does not have it",
				       t->e[i].index, (unsigned long long)t->e[i].data);
	return 0;
}

static int vcpu_dev_check(const struct device *d, const void *state, struct err *e)
{
	const struct vcpu_state *s = state;
	const struct dev_vcpu *v = dev_of(d);
	cleanup_free struct cpuid_table *host = NULL;
	int r;

	/* A snapshot is taken of a VM that ran: half-booted states are not ours. */
	if (s->phase != VCPU_SAVED || s->has_regs)
		return err_set(e, EINVAL, "vCPU %u was not saved whole (phase %u)", v->cfg.index,
			       s->phase);
	if (s->xcrs.nr_xcrs > KVM_MAX_XCRS || s->msrs.n > VCPU_MAX_MSRS)
		return err_set(e, EINVAL, "vCPU %u has %u XCRs and %u MSRs", v->cfg.index,
			       s->xcrs.nr_xcrs, s->msrs.n);
	if (s->mp_state > KVM_MP_STATE_SIPI_RECEIVED)
		return err_set(e, EINVAL, "vCPU %u has MP state %u", v->cfg.index, s->mp_state);
	host = malloc(sizeof(*host));
	if (!host)
		return err_set(e, ENOMEM, "no memory for a CPUID table");
	r = kvm_supported_cpuid(d->m->kvm, host, e);
	if (!r)
		r = cpuid_check(&s->cpuid, host, v->cfg.index, v->cfg.nr_vcpus, e);
	return r ? r : check_msrs(d, &s->msrs, e);
}

static int vcpu_dev_prepare(struct device *d, struct err *e)
{
	struct dev_vcpu *v = dev_of(d);
	int r;

	/* In a fork's child, what kv points to went with kvm_abandon. */
	v->kv = NULL;
	v->paused_ns = 0;
	r = kvm_vcpu_create(d->m->kvm, v->cfg.index, &v->kv, e);
	return r ? r : kvm_vcpu_load(v->kv, &v->state, e);
}

int dev_vcpu_save_tsc(struct dev_vcpu *v, const struct kvm_time *now, uint64_t start_ns,
		      struct err *e)
{
	uint64_t *saved = vcpu_state_tsc(&v->state), tsc;
	int r;

	if (!v->kv || v->state.phase != VCPU_SAVED || !saved)
		return 0;
	r = kvm_vcpu_tsc_get(v->kv, now, &tsc, e);
	if (r)
		return r;
	/* On a host whose own TSC is not to be trusted, KVM stops a vCPU's while it does not run,
	 * and moves it to where it ought to be when it is entered. */
	if (!now->stable)
		tsc = MAX(tsc, kvm_tsc_at(v->start_tsc, v->state.tsc_khz, start_ns, now->clock_ns));
	*saved = tsc;
	return 0;
}

int dev_vcpu_load_tsc(struct dev_vcpu *v, const struct kvm_time *at, uint64_t saved_ns,
		      struct err *e)
{
	uint64_t *saved = vcpu_state_tsc(&v->state);
	int r;

	if (v->state.phase == VCPU_COLD) {
		v->start_tsc = 0;
		return kvm_vcpu_tsc_set(v->kv, at, 0, e);
	}
	if (v->state.phase != VCPU_SAVED || !saved)
		return 0;
	v->start_tsc = *saved;
	r = kvm_vcpu_tsc_set(v->kv, at,
			     kvm_tsc_at(*saved, v->state.tsc_khz, saved_ns, at->clock_ns), e);
	return r ? r : kvm_vcpu_arm_deadline(v->kv, &v->state, e);
}

static int vcpu_dev_quiesce(struct device *d, struct err *e)
{
	(void)e;
	dev_of(d)->paused_ns = time_mono_ns();
	return 0;
}

/* The guest's clock went on meanwhile: its watchdogs are told why nothing moved. */
static void vcpu_dev_resume(struct device *d)
{
	struct dev_vcpu *v = dev_of(d);

	if (v->paused_ns && time_mono_ns() - v->paused_ns > LONG_PAUSE_NS)
		kvm_vcpu_was_paused(v->kv);
	v->paused_ns = 0;
}

void dev_vcpu_boot(struct device *d, const struct cpuid_table *host, const struct boot_entry *entry)
{
	struct dev_vcpu *v = dev_of(d);
	struct vcpu_state *s = &v->state;

	memset(s, 0, sizeof(*s));
	s->phase = VCPU_COLD;
	cpuid_build(host, v->cfg.index, v->cfg.nr_vcpus, &s->cpuid);
	/* As firmware leaves them: all memory write-back unless a range says otherwise; fast
	 * string operations on, no precise event sampling and no branch trace store. */
	s->msrs.e[s->msrs.n++] = (struct kvm_msr_entry){ .index = MSR_MTRR_DEFAULT, .data = 0x806 };
	s->msrs.e[s->msrs.n++] = (struct kvm_msr_entry){ .index = MSR_MISC_ENABLE, .data = 0x1801 };
	if (entry) {
		s->has_regs = 1;
		boot_regs(entry, &s->regs, &s->sregs);
	}
}

const struct device_class dev_vcpu_class = {
	.name = "vcpu",
	.version = 1,
	.cfg = FIELD_TABLE(struct vcpu_cfg, cfg_fields),
	.state = { .fields = vcpu_state_fields,
		   .n = VCPU_STATE_NFIELDS,
		   .struct_size = sizeof(struct vcpu_state) },
	.create = vcpu_dev_create,
	.destroy = vcpu_dev_destroy,
	.reset = vcpu_dev_reset,
	.quiesce = vcpu_dev_quiesce,
	.resume = vcpu_dev_resume,
	.check = vcpu_dev_check,
	.commit = device_commit_copy,
	.prepare = vcpu_dev_prepare,
	.adopt = device_adopt_nothing,
};
