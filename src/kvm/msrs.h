/* SPDX-License-Identifier: MIT */
/*
 * MSRs of one vCPU, for vcpu.c alone.
 */
#ifndef CLONE_KVM_MSRS_H
#define CLONE_KVM_MSRS_H

#include <stdint.h>

#define MSR_IA32_TSC 0x10

#include "base/err.h"
#include "kvm/kvm.h"
#include "kvm/state.h"

/* Every register that this host saves and this vCPU has; the deadline timer's last. */
int msrs_save(struct kvm_vcpu *v, struct msr_table *out, struct err *e);
/* After the LAPIC, whose mode decides whether the deadline timer can be armed. One call when the
 * host takes them all; the rule for those it refuses is kvm_vcpu_load's. */
int msrs_load(struct kvm_vcpu *v, const struct msr_table *t, struct err *e);
/* -ENOENT: this vCPU has no such register. */
int msr_get(struct kvm_vcpu *v, uint32_t index, uint64_t *value);

#endif
