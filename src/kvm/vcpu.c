/* SPDX-License-Identifier: MIT */
/*
 * One vCPU: create, run, settle, save, load. See kvm.h for threads.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "kvm/internal.h"
#include "kvm/msrs.h"

/* TSC rates closer than this are the same rate measured twice; NTP absorbs it. As KVM's own. */
#define TSC_SAME_PPM 250u
/* Beyond this the guest's timers would be off by more than a coarse timer is anyway. */
#define TSC_BEARABLE_PPM 10000u

int kvm_vcpu_create(struct kvm *k, unsigned int index, struct kvm_vcpu **out, struct err *e)
{
	struct kvm_vcpu *v = calloc(1, sizeof(*v));
	void *run;
	int r;

	if (!v)
		return err_set(e, ENOMEM, "no memory for vCPU %u", index);
	v->k = k;
	v->index = index;
	v->fd = kvm_call(k->fd, KVM_CREATE_VCPU, index);
	if (v->fd < 0) {
		r = err_sys(e, errno, "KVM_CREATE_VCPU %u", index);
		free(v);
		return r;
	}
	run = mmap(NULL, k->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED) {
		r = err_sys(e, errno, "map the run page of vCPU %u", index);
		close(v->fd);
		free(v);
		return r;
	}
	v->run = run;
	v->next = k->vcpus;
	k->vcpus = v;
	*out = v;
	return 0;
}

void kvm_vcpu_destroy(struct kvm_vcpu *v)
{
	if (!v)
		return;
	for (struct kvm_vcpu **p = &v->k->vcpus; *p; p = &(*p)->next) {
		if (*p == v) {
			*p = v->next;
			break;
		}
	}
	munmap(v->run, v->k->run_bytes);
	close(v->fd);
	free(v);
}

struct kvm_run *kvm_vcpu_runpage(struct kvm_vcpu *v)
{
	return v->run;
}

int kvm_vcpu_run(struct kvm_vcpu *v)
{
	int r = ioctl(v->fd, KVM_RUN, 0);

	if (r < 0 && !v->entered && errno == ENOMEM)
		r = ioctl(v->fd, KVM_RUN, 0);
	/* EAGAIN: an AP woke from waiting for its SIPI, and is to be entered again. A kick in
	 * between is not lost: immediate_exit or the signal makes the second call return. */
	while (r < 0 && errno == EAGAIN)
		r = ioctl(v->fd, KVM_RUN, 0);
	if (r < 0)
		return -errno;
	v->entered = true;
	return 0;
}

int kvm_vcpu_settle(struct kvm_vcpu *v, struct err *e)
{
	int r, err;

	/* whoever kicks us meanwhile sets it too */
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELAXED);
	r = ioctl(v->fd, KVM_RUN, 0);
	err = errno;
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELAXED);
	if (r == 0)
		return 1;
	if (err == EINTR || err == EAGAIN)
		return 0;
	return err_sys(e, err, "vCPU %u does not settle", v->index);
}

/* One step of save or load: an ioctl and the struct it moves. */
struct step {
	unsigned long nr;
	const char *name;
	const void *arg;
};

static int do_steps(struct kvm_vcpu *v, const struct step *s, size_t n, struct err *e)
{
	for (size_t i = 0; i < n; i++)
		if (kvm_callp(v->fd, s[i].nr, s[i].arg) < 0)
			return err_sys(e, errno, "%s", s[i].name);
	return 0;
}
#define STEP(nr_, arg_)                                                                            \
	{                                                                                          \
		.nr = (nr_), .name = #nr_, .arg = (arg_)                                           \
	}

int kvm_vcpu_save(struct kvm_vcpu *v, struct vcpu_state *out, struct err *e)
{
	struct kvm_mp_state mp;
	const struct step steps[] = {
		/* The MP state first: reading it makes KVM take pending INIT and SIPI, which
		 * change the registers. */
		STEP(KVM_GET_MP_STATE, &mp),	  STEP(KVM_GET_REGS, &out->regs),
		STEP(KVM_GET_SREGS, &out->sregs), STEP(KVM_GET_XSAVE, out->xsave),
		STEP(KVM_GET_XCRS, &out->xcrs),	  STEP(KVM_GET_DEBUGREGS, &out->debugregs),
		STEP(KVM_GET_LAPIC, out->lapic),  STEP(KVM_GET_VCPU_EVENTS, &out->events),
	};
	int r, khz;

	_Static_assert(VCPU_XSAVE_BYTES == sizeof(struct kvm_xsave), "what KVM_GET_XSAVE writes");
	out->phase = VCPU_NONE; /* half a state is none, should a step fail */
	r = do_steps(v, steps, ARRAY_SIZE(steps), e);
	if (!r)
		r = msrs_save(v, &out->msrs, e);
	if (r)
		return err_wrap(e, r, "vCPU %u", v->index);
	khz = kvm_call(v->fd, KVM_GET_TSC_KHZ, 0);
	out->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
	out->mp_state = mp.mp_state;
	out->has_regs = 0;
	out->phase = VCPU_SAVED;
	return 0;
}

static int load_tsc_khz(struct kvm_vcpu *v, uint32_t khz, struct err *e)
{
	int64_t here, off;
	int r;

	if (!khz)
		return 0;
	r = kvm_call(v->fd, KVM_GET_TSC_KHZ, 0);
	if (r <= 0)
		return 0; /* the host does not know its rate: nothing to compare */
	here = r;
	off = (here > khz ? here - khz : khz - here) * 1000000 / khz;
	if (off <= TSC_SAME_PPM)
		return 0;
	v->scaled = kvm_call(v->fd, KVM_SET_TSC_KHZ, khz) == 0;
	if (v->scaled || off <= TSC_BEARABLE_PPM)
		return 0;
	return err_set(e, EOPNOTSUPP,
		       "the saved guest's TSC runs at %u kHz, this host's at %lld kHz, and it "
		       "cannot be scaled",
		       khz, (long long)here);
}

static int load_cold(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e)
{
	const struct step steps[] = {
		STEP(KVM_SET_SREGS, &s->sregs),
		STEP(KVM_SET_REGS, &s->regs),
	};
	int r = s->has_regs ? do_steps(v, steps, ARRAY_SIZE(steps), e) : 0;

	return r ? r : msrs_load(v, &s->msrs, e);
}

/*
 * What a fresh vCPU has already need not be set: a vCPU ioctl costs 1 to 10 us each, and a fork
 * waits for them. Debug registers are rarely in use, and mostly nothing is about to be injected.
 */
static bool has_debugregs(const struct vcpu_state *s)
{
	static const struct kvm_debugregs fresh = { .dr6 = 0xffff0ff0, .dr7 = 0x400 };

	return memcmp(&s->debugregs, &fresh, sizeof(fresh)) != 0;
}

static bool has_events(const struct vcpu_state *s)
{
	struct kvm_vcpu_events ev = s->events;
	static const struct kvm_vcpu_events none;

	/* flags say which members are valid, not that anything is pending; the vectors of events
	 * that are not pending say nothing. */
	ev.flags = 0;
	ev.exception.nr = 0;
	ev.interrupt.nr = 0;
	return memcmp(&ev, &none, sizeof(none)) != 0;
}

static bool has_mp_state(const struct kvm_vcpu *v, const struct vcpu_state *s)
{
	return s->mp_state != (v->index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE);
}

static int load_saved(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e)
{
	struct kvm_mp_state mp = { .mp_state = s->mp_state };
	/* CPUID, before all this, decides which bits the others may have. XCR0 before XSAVE. SREGS
	 * hold the APIC base, so the mode that the LAPIC's registers are read in. */
	const struct step steps[] = {
		STEP(KVM_SET_SREGS, &s->sregs), STEP(KVM_SET_XCRS, &s->xcrs),
		STEP(KVM_SET_XSAVE, s->xsave),	STEP(KVM_SET_REGS, &s->regs),
		STEP(KVM_SET_LAPIC, s->lapic),
	};
	/* Setting the MP state drops a pending SIPI, so events come last. */
	const struct step mp_state = STEP(KVM_SET_MP_STATE, &mp);
	const struct step debugregs = STEP(KVM_SET_DEBUGREGS, &s->debugregs);
	const struct step events = STEP(KVM_SET_VCPU_EVENTS, &s->events);
	int r = load_tsc_khz(v, s->tsc_khz, e);

	if (!r)
		r = do_steps(v, steps, ARRAY_SIZE(steps), e);
	if (!r)
		r = msrs_load(v, &s->msrs, e);
	if (!r && has_mp_state(v, s))
		r = do_steps(v, &mp_state, 1, e);
	if (!r && has_debugregs(s))
		r = do_steps(v, &debugregs, 1, e);
	if (!r && has_events(s))
		r = do_steps(v, &events, 1, e);
	return r;
}

int kvm_vcpu_load(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e)
{
	const struct step cpuid = STEP(KVM_SET_CPUID2, &s->cpuid);
	int r = 0;

	BUG_ON(s->cpuid.n > VCPU_MAX_CPUID || s->msrs.n > VCPU_MAX_MSRS);
	if (s->phase != VCPU_NONE)
		r = do_steps(v, &cpuid, 1, e);
	if (r)
		return err_wrap(e, r, "vCPU %u", v->index);
	if (s->phase == VCPU_COLD)
		r = load_cold(v, s, e);
	else if (s->phase == VCPU_SAVED)
		r = load_saved(v, s, e);
	return r ? err_wrap(e, r, "vCPU %u", v->index) : 0;
}

void kvm_vcpu_was_paused(struct kvm_vcpu *v)
{
	(void)ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0);
}
