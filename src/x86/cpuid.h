/* SPDX-License-Identifier: MIT */
/*
 * The CPU that a guest sees: what the host's KVM supports, less what does not survive a fork or a
 * restore or is unsafe, with the topology of our own: one package, one thread a core, APIC id =
 * vCPU index. Pure functions, any thread.
 */
#ifndef CLONE_X86_CPUID_H
#define CLONE_X86_CPUID_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "kvm/state.h"

/* The CPUID of vCPU `index` of nr_vcpus from the host's table (kvm_supported_cpuid). */
void cpuid_build(const struct cpuid_table *host, unsigned int index, unsigned int nr_vcpus,
		 struct cpuid_table *out);
/*
 * Can this host run a guest that was given `saved`, a hostile table of at most VCPU_MAX_CPUID
 * entries? -EOPNOTSUPP names what it lacks: "the saved guest needs avx2, bmi2 and 3 more CPU
 * features, which this host lacks". -EINVAL for a table that cpuid_build could not have made.
 */
int cpuid_check(const struct cpuid_table *saved, const struct cpuid_table *host, unsigned int index,
		unsigned int nr_vcpus, struct err *e);
/* Is this a leaf that cpuid_build gives out? */
bool cpuid_leaf_known(uint32_t function);

#endif
