/* SPDX-License-Identifier: MIT */
/*
 * The only KVM ioctls. A struct kvm is one VM's kernel objects; it belongs to the process that
 * created it (KVM ties it to the mm): a fork's child abandons its parent's and creates its own.
 * API references are to Linux Documentation/virt/kvm/api.rst.
 *
 * Threads: set-up and routing on main; kvm_vcpu_run on the vCPU's own thread, and so are
 * settle and save while it parks; kvm_irq_line by any thread with the device lock held.
 */
#ifndef CLONE_KVM_KVM_H
#define CLONE_KVM_KVM_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define KVM_MAX_VCPUS_OURS 64
#define KVM_GSI_PINS 24 /* IOAPIC pins; MSI routes use GSIs from here up */
#define KVM_GSI_MAX 1024

struct kvm;
struct kvm_vcpu;
struct cpuid_table; /* kvm/state.h */
struct vcpu_state;  /* kvm/state.h */
struct chip_state;  /* kvm/state.h: PIC x2, IOAPIC, PIT2 */

/* Every ioctl that this module makes, for the seccomp filter: by number, with the reason. */
struct kvm_ioctl {
	unsigned int nr;
	const char *name, *why;
};
extern const struct kvm_ioctl kvm_ioctls[];
extern const unsigned int kvm_ioctls_count;

/* Is this /dev/kvm usable by us (API version 12, every capability we need, by name)? */
int kvm_check_system(int sys_fd, struct err *e);

/*
 * KVM_CREATE_VM with TSS and identity-map addresses set inside the MMIO hole. sys_fd (/dev/kvm)
 * is borrowed and must stay open. Spurious EINTR/EAGAIN/ENOMEM are retried once.
 */
int kvm_create(int sys_fd, struct kvm **out, struct err *e);
/* Closes the VM and its vCPUs. Slow for a VM that has run (about 20 ms): off the critical path. */
void kvm_destroy(struct kvm *k);
/* In a fork's child: unmaps the vCPUs' run pages and frees the struct without closing
 * descriptors (the fd table did that). */
void kvm_abandon(struct kvm *k);

/* What this host can give a guest (KVM_GET_SUPPORTED_CPUID): slow, 100 us and more. */
int kvm_supported_cpuid(struct kvm *k, struct cpuid_table *out, struct err *e);
/* Is this MSR one that this host's KVM saves and restores? For checking a hostile state. */
bool kvm_msr_known(struct kvm *k, uint32_t index);

/*
 * Memslots. They must be there before a vCPU's state is loaded: registering kvmclock's page looks
 * them up. size_bytes 0 removes the slot.
 */
int kvm_set_memory(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size_bytes, void *hva,
		   bool log_dirty, struct err *e);
/* Dirty log of a slot into bitmap (one bit a page, caller sized). */
int kvm_get_dirty(struct kvm *k, unsigned int slot, void *bitmap, struct err *e);
/* In-kernel PIC, IOAPIC and LAPICs, and the PIT if asked for (it costs a kernel thread). Before any
 * vCPU. */
int kvm_create_irqchip(struct kvm *k, bool pit, struct err *e);
int kvm_irq_line(struct kvm *k, unsigned int gsi, bool level);

/* Kicks: fd (an eventfd, the caller's) is signalled by a guest write of len bytes (0: any) at addr;
 * with match, only of that value. */
int kvm_ioeventfd(struct kvm *k, uint64_t addr, unsigned int len, bool pio, bool match,
		  uint64_t value, int fd, bool assign, struct err *e);
/* Interrupts: writing fd injects gsi. */
int kvm_irqfd(struct kvm *k, int fd, unsigned int gsi, bool assign, struct err *e);
/*
 * Delivers one message-signalled interrupt, now: for devices in this process, which then need
 * neither descriptor nor route. Any thread. -errno when the message is none that KVM knows.
 */
int kvm_signal_msi(struct kvm *k, uint64_t addr, uint32_t data);
/*
 * MSI routes: a table kept here and given to the kernel whole. kvm_msi_alloc reserves a GSI
 * (-ENOSPC), kvm_msi_set changes the table, kvm_routes_commit makes changes take effect (cheap
 * when nothing changed). The IOAPIC/PIC default routes are always included.
 */
int kvm_msi_alloc(struct kvm *k, struct err *e);
void kvm_msi_free(struct kvm *k, int gsi);
void kvm_msi_set(struct kvm *k, int gsi, uint64_t addr, uint32_t data, bool active);
int kvm_routes_commit(struct kvm *k, struct err *e);

/* PIC, IOAPIC, PIT. The LAPIC belongs to its vCPU. */
int kvm_chip_save(struct kvm *k, struct chip_state *out, struct err *e);
int kvm_chip_load(struct kvm *k, const struct chip_state *s, struct err *e);

/* ---- time (time.c) ---- */

/* One instant of a VM's life, as several clocks saw it. */
struct kvm_time {
	uint64_t clock_ns;    /* the VM's kvmclock */
	uint64_t host_tsc;    /* what names the instant, on this host */
	uint64_t boot_ns;     /* the host's CLOCK_BOOTTIME */
	uint64_t realtime_ns; /* its CLOCK_REALTIME, 0 when KVM did not say */
	bool stable;	      /* kvmclock runs on the host's TSC, and the vCPUs' TSCs are in step */
};
int kvm_time_get(struct kvm *k, struct kvm_time *out, struct err *e);
/*
 * kvmclock goes on from t->clock_ns. passed: as if it had run since t, which was on this host and
 * boot; *exact is then whether it does so to the nanosecond, so that TSCs may go on from the same
 * t. Otherwise they are to be set by a new kvm_time_get.
 */
int kvm_time_set(struct kvm *k, const struct kvm_time *t, bool passed, bool *exact, struct err *e);
/* What a TSC of that rate is at now_ns (of kvmclock) that was tsc at then_ns. */
uint64_t kvm_tsc_at(uint64_t tsc, uint32_t khz, uint64_t then_ns, uint64_t now_ns);

/* ---- vCPUs ---- */

/*
 * index is also the APIC id. The kvm keeps a list of its vCPUs: kvm_destroy and kvm_abandon free
 * those that were not destroyed one by one before.
 */
int kvm_vcpu_create(struct kvm *k, unsigned int index, struct kvm_vcpu **out, struct err *e);
void kvm_vcpu_destroy(struct kvm_vcpu *v);
struct kvm_run *kvm_vcpu_runpage(struct kvm_vcpu *v);
/* KVM_RUN; 0 when run page says why it exited, -EINTR when kicked, other -errno. */
int kvm_vcpu_run(struct kvm_vcpu *v);
/*
 * Completes a pending exit (KVM_RUN with immediate_exit set) so that registers are consistent to
 * save. 0: done. 1: completing it led to another exit, which is on the run page: handle it as after
 * kvm_vcpu_run and settle again. immediate_exit is 0 afterwards.
 */
int kvm_vcpu_settle(struct kvm_vcpu *v, struct err *e);
/* Everything, phase VCPU_SAVED: regs, sregs, xsave, xcrs, debugregs, lapic, MSRs, mp_state, events,
 * TSC rate. CPUID is not asked of the kernel: what was loaded stays in out->cpuid. */
int kvm_vcpu_save(struct kvm_vcpu *v, struct vcpu_state *out, struct err *e);
/*
 * Into a fresh vCPU, in the order KVM needs; what VCPU_COLD and VCPU_NONE set, state.h says.
 * An MSR that cannot be written is passed over when it reads back as the saved value already, or
 * when it does not exist here and was zero; otherwise -EOPNOTSUPP naming it. A TSC rate more than
 * 1% from this host's, which the host cannot scale to, is -EOPNOTSUPP.
 */
int kvm_vcpu_load(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e);
/* Its TSC at the instant `at`. */
int kvm_vcpu_tsc_get(struct kvm_vcpu *v, const struct kvm_time *at, uint64_t *tsc, struct err *e);
/* Makes it so that it was tsc at that instant. The deadline timer is to be armed again. */
int kvm_vcpu_tsc_set(struct kvm_vcpu *v, const struct kvm_time *at, uint64_t tsc, struct err *e);
/* The deadline timer as saved, if it was running: it counts from the TSC as it is set now. */
int kvm_vcpu_arm_deadline(struct kvm_vcpu *v, const struct vcpu_state *s, struct err *e);
/* The TSC in a saved state; NULL: it has none. */
uint64_t *vcpu_state_tsc(struct vcpu_state *s);
/* KVM_KVMCLOCK_CTRL: tells the guest's watchdog that it was paused; errors are ignored. */
void kvm_vcpu_was_paused(struct kvm_vcpu *v);

#endif
