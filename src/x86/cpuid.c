/* SPDX-License-Identifier: MIT */
/*
 * Builds a guest's CPUID from what the host's KVM supports. See cpuid.h. Leaf numbers and bits are
 * those of the Intel SDM volume 2A (CPUID), the AMD APM volume 3 appendix E, and Linux
 * Documentation/virt/kvm/x86/cpuid.rst for the leaves from 0x40000000.
 */
#include "x86/cpuid.h"

#include <string.h>

#include "base/util.h"

#define BIT(n) (1u << (n))
#define KVM_LEAF 0x40000000u
#define KVM_FEATURES 0x40000001u

/* x87, SSE, AVX, AVX-512 (three parts), PKRU: what the 4096 bytes of KVM_GET_XSAVE hold. No MPX
 * (gone from kernels), no AMX (needs a bigger area and a permission by arch_prctl). */
#define XCR0_OURS 0x2e7u

/* Smallest n with 1 << n >= v. */
static uint32_t bits_for(uint32_t v)
{
	uint32_t n = 0;

	while ((1u << n) < v)
		n++;
	return n;
}

bool cpuid_leaf_known(uint32_t f)
{
	/* 0xE to 0x1E hold nothing that we offer: cache allocation, SGX, processor trace, PCONFIG,
	 * AMX tiles; TSC and bus frequencies would tell the host's. */
	return f <= 0x7 || f == 0xb || f == 0xd || f == 0x1f || f == KVM_LEAF ||
	       f == KVM_FEATURES || (f >= 0x80000000 && f <= 0x80000008) ||
	       (f >= 0x80000019 && f <= 0x8000001a) || f == 0x8000001d || f == 0x8000001e ||
	       f == 0x80000021;
}

static void leaf1(struct kvm_cpuid_entry2 *c, uint32_t index, uint32_t nr)
{
	c->ebx = (c->ebx & 0xffff) | (index << 24);
	if (nr > 1)
		c->ebx |= BIT(bits_for(nr)) << 16;
	/* DTES64, MONITOR, DS-CPL, VMX, SMX, EST, TM2, SDBG, xTPR, PDCM, DCA; OSXSAVE is KVM's to
	 * set. Nesting has state that we do not save. */
	c->ecx &= ~(BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) |
		    BIT(14) | BIT(15) | BIT(18) | BIT(27));
	/* x2APIC, TSC deadline (the in-kernel LAPIC has both), "there is a hypervisor" */
	c->ecx |= BIT(21) | BIT(24) | BIT(31);
	/* MCE and MCA: their banks are not among the MSRs that KVM saves. DS, ACPI thermal, TM. */
	c->edx &= ~(BIT(7) | BIT(14) | BIT(21) | BIT(22) | BIT(28) | BIT(29));
	c->edx |= BIT(9);
	if (nr > 1)
		c->edx |= BIT(28);
}

/* Intel's caches: the first two levels belong to a core, others to the package. */
static void leaf4(struct kvm_cpuid_entry2 *c, uint32_t nr)
{
	uint32_t level = (c->eax >> 5) & 7, pow2 = BIT(bits_for(nr));

	if (!(c->eax & 0x1f))
		return;
	c->eax &= 0x3fff;
	c->eax |= (pow2 - 1) << 26;
	if (level >= 3)
		c->eax |= (pow2 - 1) << 14;
}

static void leaf7(struct kvm_cpuid_entry2 *c)
{
	if (c->index == 0) {
		/* SGX, cache monitoring, MPX, cache allocation, processor trace */
		c->ebx &= ~(BIT(2) | BIT(12) | BIT(14) | BIT(15) | BIT(25));
		/* shadow stacks (supervisor XSAVE state), SGX launch, ENQCMD */
		c->ecx &= ~(BIT(7) | BIT(29) | BIT(30));
		/* AMX, IBT, arch LBR, hybrid */
		c->edx &= ~(BIT(15) | BIT(19) | BIT(20) | BIT(22) | BIT(24) | BIT(25));
	} else if (c->index == 1) {
		/* AMX-FP16, FRED and LKGS, arch perfmon extension; AMX-COMPLEX */
		c->eax &= ~(BIT(8) | BIT(17) | BIT(18) | BIT(21));
		c->edx &= ~(BIT(8) | BIT(18));
	}
}

/* Topology, Intel's way and on AMD too: level 0 has one thread a core, level 1 is the package. */
static void leaf_b(struct cpuid_table *t, uint32_t leaf, uint32_t index, uint32_t nr)
{
	for (uint32_t level = 0; level < 3 && t->n < VCPU_MAX_CPUID; level++) {
		struct kvm_cpuid_entry2 *c = &t->e[t->n++];

		*c = (struct kvm_cpuid_entry2){
			.function = leaf,
			.index = level,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.ecx = level,
			.edx = index,
		};
		if (level < 2) {
			c->eax = level ? bits_for(nr) : 0;
			c->ebx = level ? nr : 1;
			c->ecx |= (level + 1) << 8;
		}
	}
}

static void leaf_d(struct kvm_cpuid_entry2 *c)
{
	if (c->index == 0) {
		c->eax &= XCR0_OURS;
		c->edx = 0;
	} else if (c->index == 1) {
		c->ecx = 0; /* no supervisor state: it is not in KVM_GET_XSAVE */
		c->edx = 0;
		c->eax &= ~BIT(4); /* XFD is for AMX */
	} else if (c->index >= 32 || !(XCR0_OURS & BIT(c->index))) {
		c->eax = c->ebx = c->ecx = c->edx = 0;
	}
}

/* The size of all components that are left, where the host's said that of all it has. */
static void xsave_size(struct cpuid_table *t)
{
	uint32_t size = 576;

	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].function == 0xd && t->e[i].index >= 2 && t->e[i].eax)
			size = MAX(size, t->e[i].ebx + t->e[i].eax);
	for (uint32_t i = 0; i < t->n; i++)
		if (t->e[i].function == 0xd && t->e[i].index == 0)
			t->e[i].ecx = size;
}

static void leaf_extended(struct kvm_cpuid_entry2 *c, uint32_t index, uint32_t nr)
{
	switch (c->function) {
	case 0x80000000:
		c->eax = MIN(c->eax, 0x80000021u);
		break;
	case 0x80000001:
		/* SVM, IBS, SKINIT, WDT, LWP, node id, perf counters (three kinds), MONITORX */
		c->ecx &= ~(BIT(2) | BIT(10) | BIT(12) | BIT(13) | BIT(15) | BIT(19) | BIT(23) |
			    BIT(24) | BIT(27) | BIT(28) | BIT(29));
		c->edx &= ~(BIT(7) | BIT(14));
		break;
	case 0x80000007:
		/* Invariant TSC: it would make a guest trust the TSC over kvmclock, which alone
		 * stays right when a snapshot moves to a host of another rate. */
		c->eax = c->ebx = c->ecx = c->edx = 0;
		break;
	case 0x80000008:
		c->ecx = nr > 1 ? (bits_for(nr) << 12) | (nr - 1) : 0;
		break;
	case 0x8000001d:
		if (c->eax & 0x1f) {
			c->eax &= 0x3fff;
			if (((c->eax >> 5) & 7) >= 3)
				c->eax |= (nr - 1) << 14;
		}
		break;
	case 0x8000001e:
		c->eax = index;
		c->ebx = index & 0xff;
		c->ecx = 0;
		c->edx = 0;
		break;
	default:
		break;
	}
}

static void leaf_kvm(struct kvm_cpuid_entry2 *c)
{
	if (c->function == KVM_LEAF) {
		c->eax = KVM_FEATURES;
		return;
	}
	/* Old kvmclock MSRs (an alias that we do not save), MMU_OP; asynchronous page faults:
	 * their tokens do not survive a fork; hypercalls that want an answer from us. */
	c->eax &= ~(BIT(0) | BIT(2) | BIT(4) | BIT(10) | BIT(14) | BIT(16) | BIT(17));
	c->edx = 0;
}

static void change(struct kvm_cpuid_entry2 *c, uint32_t index, uint32_t nr)
{
	if (c->function == 0)
		c->eax = MIN(c->eax, 0x1fu);
	else if (c->function == 1)
		leaf1(c, index, nr);
	else if (c->function == 4)
		leaf4(c, nr);
	else if (c->function == 6)
		*c = (struct kvm_cpuid_entry2){ .function = 6, .eax = c->eax & BIT(2) }; /* ARAT */
	else if (c->function == 7)
		leaf7(c);
	else if (c->function == 0xd)
		leaf_d(c);
	else if (c->function >= 0x80000000)
		leaf_extended(c, index, nr);
	else if (c->function >= KVM_LEAF)
		leaf_kvm(c);
}

void cpuid_build(const struct cpuid_table *host, unsigned int index, unsigned int nr_vcpus,
		 struct cpuid_table *out)
{
	uint32_t max = host->n && host->e[0].function == 0 ? host->e[0].eax : 0;

	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < host->n && out->n < VCPU_MAX_CPUID; i++) {
		struct kvm_cpuid_entry2 c = host->e[i];

		if (!cpuid_leaf_known(c.function) || c.function == 0xb || c.function == 0x1f)
			continue;
		change(&c, index, nr_vcpus);
		/* KVM answers zeroes for a leaf that is not there. */
		if (c.function && !(c.eax | c.ebx | c.ecx | c.edx))
			continue;
		out->e[out->n++] = c;
	}
	xsave_size(out);
	if (max >= 0xb)
		leaf_b(out, 0xb, index, nr_vcpus);
	if (max >= 0x1f)
		leaf_b(out, 0x1f, index, nr_vcpus);
}
