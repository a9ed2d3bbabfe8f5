/* SPDX-License-Identifier: MIT */
/*
 * Every ioctl this module makes, for the seccomp filter (by number, with the reason). A call that
 * is added in another file and not here dies in a jailed VM, which the tests run in.
 */
#include <sys/ioctl.h>

#include "base/util.h"
#include "kvm/kvm.h"

#define IOCTL(nr_, why_)                                                                           \
	{                                                                                          \
		.nr = (unsigned int)(nr_), .name = #nr_, .why = (why_)                             \
	}

const struct kvm_ioctl kvm_ioctls[] = {
	IOCTL(KVM_GET_API_VERSION, "is this KVM the one we know"),
	IOCTL(KVM_CHECK_EXTENSION, "name what a host lacks before it fails"),
	IOCTL(KVM_GET_VCPU_MMAP_SIZE, "size of a vCPU's run page"),
	IOCTL(KVM_CREATE_VM, "a fork's child makes its own VM after it was jailed"),
	IOCTL(KVM_GET_SUPPORTED_CPUID,
	      "features of a new guest, or whether this host has a saved one's"),
	IOCTL(KVM_GET_MSR_INDEX_LIST, "which registers a save must read"),
	IOCTL(KVM_SET_TSS_ADDR, "part of making a VM (Intel)"),
	IOCTL(KVM_SET_IDENTITY_MAP_ADDR, "part of making a VM (Intel)"),
	IOCTL(KVM_SET_USER_MEMORY_REGION, "guest RAM"),
	IOCTL(KVM_GET_DIRTY_LOG, "incremental snapshots, migration"),
	IOCTL(KVM_CREATE_IRQCHIP, "part of making a VM"),
	IOCTL(KVM_CREATE_PIT2, "part of making a VM with a PIT"),
	IOCTL(KVM_IRQ_LINE, "interrupts of the serial port and of the event device"),
	IOCTL(KVM_IOEVENTFD, "kicks; a guest that moves a BAR moves them"),
	IOCTL(KVM_SIGNAL_MSI, "message-signalled interrupts of our own devices"),
	IOCTL(KVM_IRQFD, "message-signalled interrupts of devices in the kernel"),
	IOCTL(KVM_SET_GSI_ROUTING, "where those go, as the guest programs it"),
	IOCTL(KVM_GET_IRQCHIP, "save"),
	IOCTL(KVM_SET_IRQCHIP, "restore, fork"),
	IOCTL(KVM_GET_PIT2, "save"),
	IOCTL(KVM_SET_PIT2, "restore, fork"),
	IOCTL(KVM_GET_CLOCK, "save"),
	IOCTL(KVM_SET_CLOCK, "restore, fork"),
	IOCTL(KVM_GET_DEVICE_ATTR, "save: a vCPU's TSC by its offset"),
	IOCTL(KVM_SET_DEVICE_ATTR, "restore, fork: as KVM_GET_DEVICE_ATTR"),
	IOCTL(KVM_CREATE_VCPU, "part of making a VM"),
	IOCTL(KVM_RUN, "run the guest"),
	IOCTL(KVM_SET_CPUID2, "part of making a vCPU"),
	IOCTL(KVM_GET_TSC_KHZ, "save; restore asks whether rates differ"),
	IOCTL(KVM_SET_TSC_KHZ, "restore on a host of another TSC rate"),
	IOCTL(KVM_GET_REGS, "save"),
	IOCTL(KVM_SET_REGS, "boot, restore, fork"),
	IOCTL(KVM_GET_SREGS, "save"),
	IOCTL(KVM_SET_SREGS, "boot, restore, fork"),
	IOCTL(KVM_GET_MSRS, "save"),
	IOCTL(KVM_SET_MSRS, "boot, restore, fork"),
	IOCTL(KVM_GET_XSAVE, "save"),
	IOCTL(KVM_SET_XSAVE, "restore, fork"),
	IOCTL(KVM_GET_XCRS, "save"),
	IOCTL(KVM_SET_XCRS, "restore, fork"),
	IOCTL(KVM_GET_DEBUGREGS, "save"),
	IOCTL(KVM_SET_DEBUGREGS, "restore, fork"),
	IOCTL(KVM_GET_LAPIC, "save"),
	IOCTL(KVM_SET_LAPIC, "restore, fork"),
	IOCTL(KVM_GET_MP_STATE, "save"),
	IOCTL(KVM_SET_MP_STATE, "restore, fork"),
	IOCTL(KVM_GET_VCPU_EVENTS, "save"),
	IOCTL(KVM_SET_VCPU_EVENTS, "restore, fork"),
	IOCTL(KVM_KVMCLOCK_CTRL, "tell the guest's watchdog that it was paused"),
};
const unsigned int kvm_ioctls_count = ARRAY_SIZE(kvm_ioctls);
