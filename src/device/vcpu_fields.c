/* SPDX-License-Identifier: MIT */
/*
 * The wire form of a vCPU's state: every member of the kernel's structs but padding, once. See
 * kvm/state.h and field.h.
 */
#include "device/kernel_devices.h"

#define R(m) F_U64(struct kvm_regs, m)
static const struct field regs_fields[] = {
	R(rax), R(rbx), R(rcx), R(rdx), R(rsi), R(rdi), R(rsp), R(rbp), R(r8),
	R(r9),	R(r10), R(r11), R(r12), R(r13), R(r14), R(r15), R(rip), R(rflags),
};

static const struct field segment_fields[] = {
	F_U64(struct kvm_segment, base),     F_U32(struct kvm_segment, limit),
	F_U16(struct kvm_segment, selector), F_U8(struct kvm_segment, type),
	F_U8(struct kvm_segment, present),   F_U8(struct kvm_segment, dpl),
	F_U8(struct kvm_segment, db),	     F_U8(struct kvm_segment, s),
	F_U8(struct kvm_segment, l),	     F_U8(struct kvm_segment, g),
	F_U8(struct kvm_segment, avl),	     F_U8(struct kvm_segment, unusable),
};

static const struct field dtable_fields[] = {
	F_U64(struct kvm_dtable, base),
	F_U16(struct kvm_dtable, limit),
};

#define SEG(m) F_STRUCT(struct kvm_sregs, m, segment_fields)
static const struct field sregs_fields[] = {
	SEG(cs),
	SEG(ds),
	SEG(es),
	SEG(fs),
	SEG(gs),
	SEG(ss),
	SEG(tr),
	SEG(ldt),
	F_STRUCT(struct kvm_sregs, gdt, dtable_fields),
	F_STRUCT(struct kvm_sregs, idt, dtable_fields),
	F_U64(struct kvm_sregs, cr0),
	F_U64(struct kvm_sregs, cr2),
	F_U64(struct kvm_sregs, cr3),
	F_U64(struct kvm_sregs, cr4),
	F_U64(struct kvm_sregs, cr8),
	F_U64(struct kvm_sregs, efer),
	F_U64(struct kvm_sregs, apic_base),
	F_ARRAY(struct kvm_sregs, interrupt_bitmap, FK_U64),
};

static const struct field debugregs_fields[] = {
	F_ARRAY(struct kvm_debugregs, db, FK_U64),
	F_U64(struct kvm_debugregs, dr6),
	F_U64(struct kvm_debugregs, dr7),
	F_U64(struct kvm_debugregs, flags),
};

static const struct field xcr_fields[] = {
	F_U32(struct kvm_xcr, xcr),
	F_U64(struct kvm_xcr, value),
};

static const struct field xcrs_fields[] = {
	F_U32(struct kvm_xcrs, flags),
	F_STRUCTS_N(struct kvm_xcrs, xcrs, nr_xcrs, xcr_fields),
};

#define EV8(m) F_U8(struct kvm_vcpu_events, m)
static const struct field events_fields[] = {
	EV8(exception.injected),
	EV8(exception.nr),
	EV8(exception.has_error_code),
	EV8(exception.pending),
	F_U32(struct kvm_vcpu_events, exception.error_code),
	EV8(interrupt.injected),
	EV8(interrupt.nr),
	EV8(interrupt.soft),
	EV8(interrupt.shadow),
	EV8(nmi.injected),
	EV8(nmi.pending),
	EV8(nmi.masked),
	F_U32(struct kvm_vcpu_events, sipi_vector),
	F_U32(struct kvm_vcpu_events, flags),
	EV8(smi.smm),
	EV8(smi.pending),
	EV8(smi.smm_inside_nmi),
	EV8(smi.latched_init),
	EV8(triple_fault.pending),
	EV8(exception_has_payload),
	F_U64(struct kvm_vcpu_events, exception_payload),
};

static const struct field cpuid_entry_fields[] = {
	F_U32(struct kvm_cpuid_entry2, function), F_U32(struct kvm_cpuid_entry2, index),
	F_U32(struct kvm_cpuid_entry2, flags),	  F_U32(struct kvm_cpuid_entry2, eax),
	F_U32(struct kvm_cpuid_entry2, ebx),	  F_U32(struct kvm_cpuid_entry2, ecx),
	F_U32(struct kvm_cpuid_entry2, edx),
};

static const struct field cpuid_fields[] = {
	F_STRUCTS_N(struct cpuid_table, e, n, cpuid_entry_fields),
};

static const struct field msr_entry_fields[] = {
	F_U32(struct kvm_msr_entry, index),
	F_U64(struct kvm_msr_entry, data),
};

static const struct field msr_fields[] = {
	F_STRUCTS_N(struct msr_table, e, n, msr_entry_fields),
};

const struct field vcpu_state_fields[VCPU_STATE_NFIELDS] = {
	F_U32(struct vcpu_state, phase),
	F_U32(struct vcpu_state, has_regs),
	F_U32(struct vcpu_state, tsc_khz),
	F_U32(struct vcpu_state, mp_state),
	F_STRUCT(struct vcpu_state, regs, regs_fields),
	F_STRUCT(struct vcpu_state, sregs, sregs_fields),
	F_STRUCT(struct vcpu_state, debugregs, debugregs_fields),
	F_STRUCT(struct vcpu_state, xcrs, xcrs_fields),
	F_STRUCT(struct vcpu_state, events, events_fields),
	F_BYTES(struct vcpu_state, lapic),
	F_BYTES(struct vcpu_state, xsave),
	F_STRUCT(struct vcpu_state, cpuid, cpuid_fields),
	F_STRUCT(struct vcpu_state, msrs, msr_fields),
};
