/* SPDX-License-Identifier: MIT */
/*
 * MSRs of one vCPU, for vcpu.c alone.
 */
#ifndef CLONE_KVM_MSRS_H
#define CLONE_KVM_MSRS_H

#include <stdint.h>

#include "base/err.h"
#include "kvm/kvm.h"
#include "kvm/state.h"

/* Every register that this host saves and this vCPU has. */
int msrs_save(struct kvm_vcpu *v, struct msr_table *out, uint64_t *deadline, struct err *e);
/* One call when the host takes them all; the rule for those it refuses is kvm_vcpu_load's. */
int msrs_load(struct kvm_vcpu *v, const struct msr_table *t, struct err *e);
/* After the LAPIC and the TSC were loaded. */
int msrs_arm_deadline(struct kvm_vcpu *v, uint64_t deadline, struct err *e);

#endif
