/* SPDX-License-Identifier: MIT */
/*
 * A VM's kernel objects but for its vCPUs (vcpu.c) and interrupt routes (routes.c): the VM itself,
 * memslots, the in-kernel chips, the clock, kicks and interrupts by eventfd. See kvm.h. Main
 * thread.
 */
#include "kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "kvm/internal.h"

/* Three pages for Intel's real-mode emulation and one for its identity map, which KVM wants in
 * addresses where no RAM is: below the 4 GiB line, above the local APIC. */
#define KVM_TSS_ADDR 0xfffbd000ul
#define KVM_IDENTITY_ADDR 0xfffbc000ull

int kvm_call(int fd, unsigned long nr, unsigned long arg)
{
	int r = ioctl(fd, nr, arg);

	if (r < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOMEM))
		r = ioctl(fd, nr, arg);
	return r;
}

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP" },
	{ KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY" },
	{ KVM_CAP_SET_TSS_ADDR, "KVM_CAP_SET_TSS_ADDR" },
	{ KVM_CAP_SET_IDENTITY_MAP_ADDR, "KVM_CAP_SET_IDENTITY_MAP_ADDR" },
	{ KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID" },
	{ KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE" },
	{ KVM_CAP_PIT2, "KVM_CAP_PIT2" },
	{ KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2" },
	{ KVM_CAP_IRQFD, "KVM_CAP_IRQFD" },
	{ KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI" },
	{ KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD" },
	{ KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH" },
	{ KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING" },
	{ KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS" },
	{ KVM_CAP_XSAVE, "KVM_CAP_XSAVE" },
	{ KVM_CAP_XCRS, "KVM_CAP_XCRS" },
	{ KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
	{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
	{ KVM_CAP_TSC_DEADLINE_TIMER, "KVM_CAP_TSC_DEADLINE_TIMER" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
};

int kvm_check_system(int sys_fd, struct err *e)
{
	int v = ioctl(sys_fd, KVM_GET_API_VERSION, 0);

	if (v < 0)
		return err_sys(e, errno, "/dev/kvm does not answer");
	if (v != KVM_API_VERSION)
		return err_set(e, EOPNOTSUPP, "/dev/kvm has API version %d, not %d", v,
			       KVM_API_VERSION);
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (ioctl(sys_fd, KVM_CHECK_EXTENSION, (unsigned long)needed[i].cap) <= 0)
			return err_set(e, EOPNOTSUPP, "this host's KVM lacks %s", needed[i].name);
	return 0;
}

static int vm_addresses(struct kvm *k, struct err *e)
{
	uint64_t identity = KVM_IDENTITY_ADDR;

	if (kvm_call(k->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR) < 0)
		return err_sys(e, errno, "KVM_SET_TSS_ADDR");
	if (kvm_callp(k->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return err_sys(e, errno, "KVM_SET_IDENTITY_MAP_ADDR");
	return 0;
}

int kvm_create(int sys_fd, struct kvm **out, struct err *e)
{
	struct kvm *k = calloc(1, sizeof(*k));
	int r, bytes;

	if (!k)
		return err_set(e, ENOMEM, "no memory for a VM");
	k->sys_fd = sys_fd;
	k->fd = -1;
	pthread_mutex_init(&k->msr_lock, NULL);
	bytes = ioctl(sys_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (bytes < (int)sizeof(struct kvm_run)) {
		r = bytes < 0 ? err_sys(e, errno, "KVM_GET_VCPU_MMAP_SIZE")
			      : err_set(e, EPROTO, "KVM's run page has only %d bytes", bytes);
		goto fail;
	}
	k->run_bytes = (size_t)bytes;
	k->fd = kvm_call(sys_fd, KVM_CREATE_VM, 0);
	if (k->fd < 0) {
		r = err_sys(e, errno, "KVM_CREATE_VM");
		goto fail;
	}
	r = vm_addresses(k, e);
	if (r)
		goto fail;
	*out = k;
	return 0;
fail:
	kvm_destroy(k);
	return r;
}

void kvm_destroy(struct kvm *k)
{
	if (!k)
		return;
	while (k->vcpus)
		kvm_vcpu_destroy(k->vcpus);
	if (k->fd >= 0)
		close(k->fd);
	pthread_mutex_destroy(&k->msr_lock);
	free(k);
}

void kvm_abandon(struct kvm *k)
{
	if (!k)
		return;
	while (k->vcpus) {
		struct kvm_vcpu *v = k->vcpus;

		k->vcpus = v->next;
		if (v->run)
			munmap(v->run, k->run_bytes);
		free(v);
	}
	/* The lock is not destroyed: a thread of the parent may have held it at fork(2). */
	free(k);
}

int kvm_supported_cpuid(struct kvm *k, struct cpuid_table *out, struct err *e)
{
	cleanup_free struct cpuid_table *t = calloc(1, sizeof(*t));

	_Static_assert(offsetof(struct cpuid_table, e) == offsetof(struct kvm_cpuid2, entries),
		       "laid out as the ioctl wants it");
	if (!t)
		return err_set(e, ENOMEM, "no memory for a CPUID table");
	t->n = VCPU_MAX_CPUID;
	if (kvm_callp(k->sys_fd, KVM_GET_SUPPORTED_CPUID, t) < 0)
		return err_sys(e, errno, "KVM_GET_SUPPORTED_CPUID (up to %d leaves)",
			       VCPU_MAX_CPUID);
	*out = *t;
	return 0;
}

int kvm_set_memory(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size_bytes, void *hva,
		   bool log_dirty, struct err *e)
{
	struct kvm_userspace_memory_region r = {
		.slot = slot,
		.flags = log_dirty ? KVM_MEM_LOG_DIRTY_PAGES : 0,
		.guest_phys_addr = gpa,
		.memory_size = size_bytes,
		.userspace_addr = (uint64_t)(uintptr_t)hva,
	};

	if (kvm_callp(k->fd, KVM_SET_USER_MEMORY_REGION, &r) < 0)
		return err_sys(e, errno, "memslot %u of %llu MiB at %#llx", slot,
			       (unsigned long long)(size_bytes >> 20), (unsigned long long)gpa);
	return 0;
}

int kvm_get_dirty(struct kvm *k, unsigned int slot, void *bitmap, struct err *e)
{
	struct kvm_dirty_log d = { .slot = slot, .dirty_bitmap = bitmap };

	if (kvm_callp(k->fd, KVM_GET_DIRTY_LOG, &d) < 0)
		return err_sys(e, errno, "KVM_GET_DIRTY_LOG of slot %u", slot);
	return 0;
}

int kvm_create_irqchip(struct kvm *k, bool pit, struct err *e)
{
	/* The speaker bit of port 0x61 is emulated too: guests calibrate with it. */
	struct kvm_pit_config cfg = { .flags = KVM_PIT_SPEAKER_DUMMY };

	if (kvm_call(k->fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return err_sys(e, errno, "KVM_CREATE_IRQCHIP");
	if (pit && kvm_callp(k->fd, KVM_CREATE_PIT2, &cfg) < 0)
		return err_sys(e, errno, "KVM_CREATE_PIT2");
	k->has_pit = pit;
	return 0;
}

int kvm_irq_line(struct kvm *k, unsigned int gsi, bool level)
{
	struct kvm_irq_level l = { .irq = gsi, .level = level };

	return kvm_callp(k->fd, KVM_IRQ_LINE, &l) < 0 ? -errno : 0;
}

int kvm_ioeventfd(struct kvm *k, uint64_t addr, unsigned int len, bool pio, bool match,
		  uint64_t value, int fd, bool assign, struct err *e)
{
	struct kvm_ioeventfd io = {
		.datamatch = value,
		.addr = addr,
		.len = len,
		.fd = fd,
	};

	if (pio)
		io.flags |= KVM_IOEVENTFD_FLAG_PIO;
	if (match)
		io.flags |= KVM_IOEVENTFD_FLAG_DATAMATCH;
	if (!assign)
		io.flags |= KVM_IOEVENTFD_FLAG_DEASSIGN;
	if (kvm_callp(k->fd, KVM_IOEVENTFD, &io) < 0)
		return err_sys(e, errno, "ioeventfd at %s %#llx", pio ? "port" : "address",
			       (unsigned long long)addr);
	return 0;
}

int kvm_irqfd(struct kvm *k, int fd, unsigned int gsi, bool assign, struct err *e)
{
	struct kvm_irqfd irq = { .fd = (uint32_t)fd, .gsi = gsi };

	if (!assign)
		irq.flags = KVM_IRQFD_FLAG_DEASSIGN;
	if (kvm_callp(k->fd, KVM_IRQFD, &irq) < 0)
		return err_sys(e, errno, "irqfd for GSI %u", gsi);
	return 0;
}

int kvm_signal_msi(struct kvm *k, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = (uint32_t)addr,
			       .address_hi = (uint32_t)(addr >> 32),
			       .data = data };

	/*
	 * EPERM is KVM's bare -1: no CPU has that APIC id. That, and 0 (it is there and takes
	 * none), is between the guest and its APICs.
	 */
	if (kvm_callp(k->fd, KVM_SIGNAL_MSI, &msi) < 0 && errno != EPERM)
		return -errno;
	return 0;
}

static int chip_get(struct kvm *k, struct kvm_irqchip *c, uint32_t id, struct err *e)
{
	*c = (struct kvm_irqchip){ .chip_id = id };
	if (kvm_callp(k->fd, KVM_GET_IRQCHIP, c) < 0)
		return err_sys(e, errno, "KVM_GET_IRQCHIP %u", id);
	return 0;
}

static int chip_set(struct kvm *k, const struct kvm_irqchip *c, struct err *e)
{
	if (kvm_callp(k->fd, KVM_SET_IRQCHIP, c) < 0)
		return err_sys(e, errno, "KVM_SET_IRQCHIP %u", c->chip_id);
	return 0;
}

int kvm_chip_save(struct kvm *k, struct chip_state *out, struct err *e)
{
	struct chip_state s = { .valid = 1, .has_pit = k->has_pit };
	struct kvm_irqchip c;
	int r;

	for (uint32_t i = 0; i < 2; i++) {
		r = chip_get(k, &c, i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER, e);
		if (r)
			return r;
		s.pic[i] = c.chip.pic;
	}
	r = chip_get(k, &c, KVM_IRQCHIP_IOAPIC, e);
	if (r)
		return r;
	s.ioapic = c.chip.ioapic;
	if (k->has_pit && kvm_callp(k->fd, KVM_GET_PIT2, &s.pit) < 0)
		return err_sys(e, errno, "KVM_GET_PIT2");
	*out = s;
	return 0;
}

int kvm_chip_load(struct kvm *k, const struct chip_state *s, struct err *e)
{
	struct kvm_irqchip c;
	int r;

	for (uint32_t i = 0; i < 2; i++) {
		c = (struct kvm_irqchip){
			.chip_id = i ? KVM_IRQCHIP_PIC_SLAVE : KVM_IRQCHIP_PIC_MASTER,
			.chip.pic = s->pic[i],
		};
		r = chip_set(k, &c, e);
		if (r)
			return r;
	}
	c = (struct kvm_irqchip){ .chip_id = KVM_IRQCHIP_IOAPIC, .chip.ioapic = s->ioapic };
	r = chip_set(k, &c, e);
	if (r)
		return r;
	if (s->has_pit && kvm_callp(k->fd, KVM_SET_PIT2, &s->pit) < 0)
		return err_sys(e, errno, "KVM_SET_PIT2");
	return 0;
}
