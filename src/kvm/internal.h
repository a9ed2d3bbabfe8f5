/* SPDX-License-Identifier: MIT */
/*
 * What kvm.c, routes.c and vcpu.c share. Nobody outside this folder includes it.
 */
#ifndef CLONE_KVM_INTERNAL_H
#define CLONE_KVM_INTERNAL_H

#include <pthread.h>

#include "kvm/kvm.h"
#include "kvm/state.h"

#define KVM_NR_MSI (KVM_GSI_MAX - KVM_GSI_PINS)

struct msi_route {
	uint64_t addr;
	uint32_t data;
	bool taken, active;
};

struct kvm {
	int sys_fd; /* borrowed */
	int fd;
	size_t run_bytes;
	bool has_pit;
	struct kvm_vcpu *vcpus;

	/* MSRs that this host saves; vCPU threads fill it on first use. */
	pthread_mutex_t msr_lock;
	bool msr_ready;
	uint32_t nr_msrs;
	uint32_t msrs[VCPU_MAX_MSRS];

	bool routes_dirty;
	unsigned int msi_high; /* no entry from here up was ever taken */
	struct msi_route msi[KVM_NR_MSI];
};

struct kvm_vcpu {
	struct kvm *k;
	struct kvm_vcpu *next;
	unsigned int index;
	int fd;
	bool entered;
	bool scaled; /* its TSC runs at another rate than the host's */
	struct kvm_run *run;
};

/* ioctl, with EINTR, EAGAIN and ENOMEM (a fork-heavy host's spurious answers) tried once more;
 * -1 and errno. arg is a number or a pointer as the call wants it. */
int kvm_call(int fd, unsigned long nr, unsigned long arg);
static inline int kvm_callp(int fd, unsigned long nr, const void *arg)
{
	return kvm_call(fd, nr, (unsigned long)arg);
}

#endif
