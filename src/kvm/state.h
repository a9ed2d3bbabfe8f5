/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU and the in-kernel chips are made of, in memory. The parts are the kernel's own ABI
 * structs, so that a fork's child hands them back without copying; MSRs and CPUID entries are laid
 * out as the ioctls want them (count, pad, array). None of them holds a pointer. Their wire form
 * is the field tables in device/kernel_devices.h, which name every member but padding.
 */
#ifndef CLONE_KVM_STATE_H
#define CLONE_KVM_STATE_H

#include <linux/kvm.h>
#include <stdint.h>

#define VCPU_MAX_CPUID 256 /* KVM_MAX_CPUID_ENTRIES */
#define VCPU_MAX_MSRS 512
#define VCPU_XSAVE_BYTES 4096 /* KVM_GET_XSAVE; enough for everything but AMX, which we hide */

/* Same layout as struct kvm_cpuid2. */
struct cpuid_table {
	uint32_t n;
	uint32_t pad;
	struct kvm_cpuid_entry2 e[VCPU_MAX_CPUID];
};

/* Same layout as struct kvm_msrs. */
struct msr_table {
	uint32_t n;
	uint32_t pad;
	struct kvm_msr_entry e[VCPU_MAX_MSRS];
};

enum vcpu_phase {
	VCPU_NONE,  /* nothing known: power-on defaults of KVM, no CPUID */
	VCPU_COLD,  /* cpuid and msrs are to be set; regs and sregs too if has_regs */
	VCPU_SAVED, /* everything below is meaningful */
};

struct vcpu_state {
	uint32_t phase;	   /* enum vcpu_phase */
	uint32_t has_regs; /* VCPU_COLD: this is the boot CPU */
	uint32_t tsc_khz;
	uint32_t mp_state;
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_debugregs debugregs;
	struct kvm_xcrs xcrs;
	struct kvm_vcpu_events events;
	uint8_t lapic[KVM_APIC_REG_SIZE];
	uint8_t xsave[VCPU_XSAVE_BYTES];
	struct cpuid_table cpuid;
	struct msr_table msrs;
};

struct chip_state {
	uint32_t valid; /* 0: never saved, the chips' power-on state holds */
	uint32_t has_pit;
	struct kvm_pic_state pic[2];
	struct kvm_ioapic_state ioapic;
	struct kvm_pit_state2 pit;
};

#endif
