/* SPDX-License-Identifier: MIT */
/*
 * A VM's two clocks, kvmclock and its vCPUs' TSCs, read and set as one: a guest compares them, and
 * gives up the TSC when they drift apart by a fraction of a millisecond. So both are told for the
 * same instant, and the instant is named by the host's TSC, which no scheduler can delay. See
 * Linux Documentation/virt/kvm/devices/vcpu.rst, KVM_VCPU_TSC_CTRL. Main thread, vCPUs parked.
 */
#include <errno.h>
#include <time.h>
#include <x86intrin.h>

#include "base/time.h"
#include "base/util.h"
#include "kvm/internal.h"
#include "kvm/msrs.h"

#define TRIES 5
/* More than this between two of the host's clocks, and one of them was set meanwhile. */
#define STEP_NS (1 * NS_PER_MS)

/* ns of a TSC of that rate; either may be negative. */
static int64_t ns_to_tsc(int64_t ns, uint32_t khz)
{
	return (int64_t)((__int128)ns * khz / 1000000);
}

uint64_t kvm_tsc_at(uint64_t tsc, uint32_t khz, uint64_t then_ns, uint64_t now_ns)
{
	return tsc + (uint64_t)ns_to_tsc((int64_t)(now_ns - then_ns), khz);
}

static uint64_t clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

int kvm_time_get(struct kvm *k, struct kvm_time *out, struct err *e)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < TRIES; i++) {
		struct kvm_clock_data c = { 0 };
		uint64_t before = __rdtsc(), after;

		uint64_t boot;

		if (kvm_callp(k->fd, KVM_GET_CLOCK, &c) < 0)
			return err_sys(e, errno, "KVM_GET_CLOCK");
		boot = clock_ns(CLOCK_BOOTTIME);
		after = __rdtsc();
		if (after - before >= best && !(c.flags & KVM_CLOCK_HOST_TSC))
			continue;
		best = after - before;
		*out = (struct kvm_time){ .clock_ns = c.clock,
					  .host_tsc = before + best / 2,
					  .boot_ns = boot };
		if (!(c.flags & KVM_CLOCK_HOST_TSC))
			continue;
		/* the kernel's own pair, exact: then the TSCs of the VM are in step, too */
		out->host_tsc = c.host_tsc;
		out->stable = true;
		out->realtime_ns = c.flags & KVM_CLOCK_REALTIME ? c.realtime : 0;
		break;
	}
	return 0;
}

/* Was the host's time of day left alone since then? */
static bool same_day(const struct kvm_time *t)
{
	int64_t real = (int64_t)(clock_ns(CLOCK_REALTIME) - t->realtime_ns);
	int64_t boot = (int64_t)(clock_ns(CLOCK_BOOTTIME) - t->boot_ns);

	return real - boot < (int64_t)STEP_NS && boot - real < (int64_t)STEP_NS;
}

int kvm_time_set(struct kvm *k, const struct kvm_time *t, bool passed, bool *exact, struct err *e)
{
	struct kvm_clock_data c = { .clock = t->clock_ns };

	*exact = passed && t->realtime_ns && same_day(t);
	if (*exact) {
		c.flags = KVM_CLOCK_REALTIME;
		c.realtime = t->realtime_ns;
	} else if (passed) {
		c.clock += clock_ns(CLOCK_BOOTTIME) - t->boot_ns;
	}
	if (kvm_callp(k->fd, KVM_SET_CLOCK, &c) < 0)
		return err_sys(e, errno, "KVM_SET_CLOCK");
	return 0;
}

/* 1: there is no such thing here. */
static int offset_attr(struct kvm_vcpu *v, unsigned long nr, uint64_t *offset, struct err *e)
{
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL,
				     .attr = KVM_VCPU_TSC_OFFSET,
				     .addr = (uint64_t)(uintptr_t)offset };

	/* a scaled TSC is no sum of the host's and an offset */
	if (v->scaled)
		return 1;
	if (kvm_callp(v->fd, nr, &a) == 0)
		return 0;
	/* before Linux 5.16 */
	if (errno == ENXIO || errno == ENOTTY || errno == EINVAL)
		return 1;
	return err_sys(e, errno, "vCPU %u: its TSC's offset", v->index);
}

int kvm_vcpu_tsc_get(struct kvm_vcpu *v, const struct kvm_time *at, uint64_t *tsc, struct err *e)
{
	uint64_t offset = 0;
	int r = offset_attr(v, KVM_GET_DEVICE_ATTR, &offset, e);

	if (!r)
		*tsc = at->host_tsc + offset;
	if (r <= 0)
		return r;
	/* as near as can be: nothing else runs */
	if (msr_get(v, MSR_IA32_TSC, tsc))
		return err_set(e, EIO, "vCPU %u: its TSC cannot be read", v->index);
	return 0;
}

int kvm_vcpu_tsc_set(struct kvm_vcpu *v, const struct kvm_time *at, uint64_t tsc, struct err *e)
{
	uint64_t offset = tsc - at->host_tsc;
	struct msr_table t = { .n = 1, .e[0].index = MSR_IA32_TSC };
	int r = offset_attr(v, KVM_SET_DEVICE_ATTR, &offset, e), khz;

	if (r <= 0)
		return r;
	khz = MAX(kvm_call(v->fd, KVM_GET_TSC_KHZ, 0), 0);
	t.e[0].data = kvm_tsc_at(tsc, (uint32_t)khz, at->boot_ns, clock_ns(CLOCK_BOOTTIME));
	return msrs_load(v, &t, e);
}
