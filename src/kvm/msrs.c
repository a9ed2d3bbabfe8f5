/* SPDX-License-Identifier: MIT */
/*
 * Model-specific registers: which ones are a vCPU's state here, and getting them in and out in as
 * few calls as the kernel allows. vCPU threads (save), main (load).
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "kvm/internal.h"
#include "kvm/msrs.h"

#define MSR_IA32_TSC_DEADLINE 0x6e0
#define MSR_KVM_WALL_CLOCK_OLD 0x11
#define MSR_KVM_SYSTEM_TIME_OLD 0x12
#define MSR_KVM_WALL_CLOCK 0x4b564d00

/*
 * Not stored while zero. Memory types are state, yet most kernels leave them out of their index
 * list; all are zero at power-on and most stay so. The deadline timer is armed with the last
 * register written, after the TSC that it compares with; written as zero, some hosts take it for
 * "expired".
 */
/* clang-format off */
static const uint32_t extra[] = {
	0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, /* variable ranges 0 to 3 */
	0x208, 0x209, 0x20a, 0x20b, 0x20c, 0x20d, 0x20e, 0x20f, /* 4 to 7 */
	0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f, /* fixed */
	0x2ff, /* default type */
	MSR_IA32_TSC_DEADLINE,
};
/* clang-format on */

static bool is_extra(uint32_t index)
{
	for (size_t i = 0; i < ARRAY_SIZE(extra); i++)
		if (extra[i] == index)
			return true;
	return false;
}

/*
 * Not state: the wall clock MSRs are a request (KVM writes the time into guest RAM at that
 * moment; a guest asks anew each time), 0x12 is an alias of the kvmclock MSR, for guests that
 * found the old feature bit, which we hide.
 */
static bool is_skipped(uint32_t index)
{
	return index == MSR_KVM_WALL_CLOCK_OLD || index == MSR_KVM_SYSTEM_TIME_OLD ||
	       index == MSR_KVM_WALL_CLOCK;
}

static int fetch_list(struct kvm *k, struct err *e)
{
	struct {
		uint32_t n;
		uint32_t indices[VCPU_MAX_MSRS];
	} l = { .n = VCPU_MAX_MSRS };
	uint32_t n = 0;

	_Static_assert(offsetof(__typeof__(l), indices) == offsetof(struct kvm_msr_list, indices),
		       "laid out as the ioctl wants it");
	if (kvm_callp(k->sys_fd, KVM_GET_MSR_INDEX_LIST, &l) < 0)
		return err_sys(e, errno, "KVM_GET_MSR_INDEX_LIST (%u registers, room for %d)", l.n,
			       VCPU_MAX_MSRS);
	for (uint32_t i = 0; i < l.n; i++)
		if (!is_skipped(l.indices[i]) && !is_extra(l.indices[i]))
			k->msrs[n++] = l.indices[i];
	if (n + ARRAY_SIZE(extra) > VCPU_MAX_MSRS)
		return err_set(e, E2BIG, "KVM has %u registers to save, more than %d", n,
			       VCPU_MAX_MSRS);
	for (size_t i = 0; i < ARRAY_SIZE(extra); i++)
		k->msrs[n++] = extra[i];
	k->nr_msrs = n;
	k->msr_ready = true;
	return 0;
}

static int need_list(struct kvm *k, struct err *e)
{
	int r = 0;

	pthread_mutex_lock(&k->msr_lock);
	if (!k->msr_ready)
		r = fetch_list(k, e);
	pthread_mutex_unlock(&k->msr_lock);
	return r;
}

bool kvm_msr_known(struct kvm *k, uint32_t index)
{
	if (need_list(k, NULL))
		return false;
	for (uint32_t i = 0; i < k->nr_msrs; i++)
		if (k->msrs[i] == index)
			return true;
	return false;
}

int msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *value)
{
	struct {
		uint32_t n, pad;
		struct kvm_msr_entry e;
	} one = { .n = 1, .e.index = index };

	if (kvm_callp(v->fd, KVM_GET_MSRS, &one) != 1)
		return -ENOENT;
	*value = one.e.data;
	return 0;
}

int msrs_save(struct kvm_vcpu *v, struct msr_table *out, struct err *e)
{
	struct msr_table t;
	uint32_t at = 0, kept = 0;
	int r = need_list(v->k, e);

	if (r)
		return r;
	_Static_assert(offsetof(struct msr_table, e) == offsetof(struct kvm_msrs, entries),
		       "laid out as the ioctl wants it");
	/* The call reads up to the first register that this vCPU does not have: go on behind it,
	 * moving what was read to the front of out. */
	while (at < v->k->nr_msrs) {
		int got;

		t.n = v->k->nr_msrs - at;
		t.pad = 0;
		for (uint32_t i = 0; i < t.n; i++)
			t.e[i] = (struct kvm_msr_entry){ .index = v->k->msrs[at + i] };
		got = kvm_callp(v->fd, KVM_GET_MSRS, &t);
		if (got < 0)
			return err_sys(e, errno, "KVM_GET_MSRS of %u registers", t.n);
		for (uint32_t i = 0; i < (uint32_t)got; i++)
			if (t.e[i].data || !is_extra(t.e[i].index))
				out->e[kept++] = t.e[i];
		at += (uint32_t)got + 1;
	}
	out->n = kept;
	out->pad = 0;
	return 0;
}

/* The kernel would not write this one: may we go on without? See kvm_vcpu_load. */
static int refused(struct kvm_vcpu *v, const struct kvm_msr_entry *m, struct err *e)
{
	uint64_t here;

	if (msr_get(v, m->index, &here)) {
		if (!m->data)
			return 0;
		return err_set(e, EOPNOTSUPP,
			       "MSR %#x is %#llx, but this host's KVM does not have it", m->index,
			       (unsigned long long)m->data);
	}
	if (here == m->data)
		return 0;
	return err_set(e, EOPNOTSUPP, "MSR %#x is %#llx here and cannot be set to %#llx", m->index,
		       (unsigned long long)here, (unsigned long long)m->data);
}

int msrs_load(struct kvm_vcpu *v, const struct msr_table *t, struct err *e)
{
	struct msr_table rest;
	uint32_t at;
	int r, done;

	if (!t->n)
		return 0;
	done = kvm_callp(v->fd, KVM_SET_MSRS, t);
	if (done < 0)
		return err_sys(e, errno, "KVM_SET_MSRS of %u registers", t->n);
	/* All at once is the rule; what follows is for a host that refuses some. */
	for (at = (uint32_t)done; at < t->n; at += (uint32_t)done) {
		r = refused(v, &t->e[at++], e);
		if (r)
			return r;
		if (at == t->n)
			break;
		rest.n = t->n - at;
		rest.pad = 0;
		memcpy(rest.e, &t->e[at], rest.n * sizeof(rest.e[0]));
		done = kvm_callp(v->fd, KVM_SET_MSRS, &rest);
		if (done < 0)
			return err_sys(e, errno, "KVM_SET_MSRS of %u registers", rest.n);
	}
	return 0;
}

int kvm_vcpu_arm_deadline(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e)
{
	struct msr_table t = { 0 };

	for (uint32_t i = 0; i < s->msrs.n; i++)
		if (s->msrs.e[i].index == MSR_IA32_TSC_DEADLINE)
			t.e[t.n++] = s->msrs.e[i];
	return msrs_load(v, &t, e);
}

uint64_t *vcpu_state_tsc(struct vcpu_state *s)
{
	for (uint32_t i = 0; i < s->msrs.n; i++)
		if (s->msrs.e[i].index == MSR_IA32_TSC)
			return (uint64_t *)&s->msrs.e[i].data;
	return NULL;
}
