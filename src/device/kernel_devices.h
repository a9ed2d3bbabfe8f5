/* SPDX-License-Identifier: MIT */
/*
 * Devices that the kernel emulates: vCPUs, the interrupt chips with the PIT, kvmclock. They go
 * through the same contract as all others. Registry order: irqchip, vcpu 0..n-1, clock. Guest RAM
 * must be in m->kvm's memslots before any of them is adopted.
 *
 * A machine without a VM (m->kvm is NULL: a seed, which only forks) keeps what was committed: their
 * quiesce leaves the state as it is, and their check and adopt must not be called.
 */
#ifndef CLONE_DEVICE_KERNEL_DEVICES_H
#define CLONE_DEVICE_KERNEL_DEVICES_H

#include <stdint.h>

#include "device/device.h"
#include "kvm/kvm.h"
#include "kvm/state.h"

struct boot_entry;

struct vcpu_cfg {
	uint32_t index; /* and APIC id */
	uint32_t nr_vcpus;
};

/*
 * state is saved by the vCPU's own thread when it parks (kvm_vcpu_settle, kvm_vcpu_save into
 * &state), so quiesce finds it there.
 */
struct dev_vcpu {
	struct device d;
	struct vcpu_cfg cfg;
	struct dev_vcpu *next; /* the machine's */
	struct kvm_vcpu *kv;   /* prepare makes it; NULL before */
	uint64_t start_tsc;    /* what its TSC was when this process set its time */
	uint64_t paused_ns;    /* when this process paused it last; 0: it was not */
	struct vcpu_state state;
};
extern const struct device_class dev_vcpu_class;
/*
 * The clock's share of a vCPU, whose TSC is saved and set at the same instant as kvmclock. start_ns
 * is kvmclock when this process set its time.
 */
int dev_vcpu_save_tsc(struct dev_vcpu *v, const struct kvm_time *now, uint64_t start_ns,
		      struct err *e);
/* Its TSC at the instant `at`, when kvmclock was at->clock_ns, from what it was at saved_ns. */
int dev_vcpu_load_tsc(struct dev_vcpu *v, const struct kvm_time *at, uint64_t saved_ns,
		      struct err *e);
/*
 * Cold boot, between create and adopt: CPUID out of the host's table (kvm_supported_cpuid) and, for
 * the boot CPU, registers. entry is NULL for all other vCPUs: they wait for INIT and SIPI.
 */
void dev_vcpu_boot(struct device *d, const struct cpuid_table *host,
		   const struct boot_entry *entry);

struct irqchip_cfg {
	uint32_t pit; /* 0 or 1: a guest with kvmclock and TSC deadline timers needs none */
};

struct dev_irqchip {
	struct device d;
	struct irqchip_cfg cfg;
	struct chip_state state;
};
extern const struct device_class dev_irqchip_class;

struct clock_state {
	uint32_t valid; /* 0: kvmclock starts at 0 with the VM */
	uint64_t ns;
};

struct dev_clock {
	struct device d;
	struct clock_state state;
	struct kvm_time at; /* the instant of state */
	bool ours;	    /* which was on this host, in this process or its parent */
	uint64_t start_ns;  /* kvmclock when this process set its time */
};
extern const struct device_class dev_clock_class;

/* The wire form of struct vcpu_state (vcpu_fields.c). */
#define VCPU_STATE_NFIELDS 13
extern const struct field vcpu_state_fields[VCPU_STATE_NFIELDS];

#endif
