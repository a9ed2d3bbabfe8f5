/* SPDX-License-Identifier: MIT */
/*
 * From a machine_cfg to devices: the same for a cold boot, a restore and a seed. Main thread,
 * device lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "agent/agent.h"
#include "device/bus.h"
#include "device/kernel_devices.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/vmgenid.h"
#include "kvm/kvm.h"
#include "mem/gmem.h"
#include "pci/pci.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "vm/hint.h"
#include "vm/vm_private.h"

static int add(struct vm *vm, const struct device_class *cls, const char *id, const void *cfg,
	       struct device **out, struct err *e)
{
	struct device *d = NULL;
	int ret = cls->create(&vm->m, id, cfg, &d, e);

	if (ret)
		return err_wrap(e, ret, "%s", id);
	d->next = NULL;
	*vm->devices_tail = d;
	vm->devices_tail = &d->next;
	if (out)
		*out = d;
	return 0;
}

static int add_kernel_devices(struct vm *vm, struct err *e)
{
	struct irqchip_cfg chip = { .pit = 0 };
	int ret = add(vm, &dev_irqchip_class, "irqchip", &chip, NULL, e);

	for (uint32_t i = 0; i < vm->cfg.vcpus && !ret; i++) {
		struct vcpu_cfg cfg = { .index = i, .nr_vcpus = vm->cfg.vcpus };
		char id[DEVICE_ID_MAX];

		snprintf(id, sizeof(id), "vcpu%u", i);
		ret = add(vm, &dev_vcpu_class, id, &cfg, NULL, e);
	}
	if (!ret)
		ret = add(vm, &dev_clock_class, "clock", NULL, NULL, e);
	return ret;
}

static int add_platform(struct vm *vm, struct err *e)
{
	int ret = add(vm, &power_class, "power", NULL, &vm->power_dev, e);

	if (!ret)
		ret = add(vm, &serial_class, "serial", NULL, NULL, e);
	if (!ret)
		ret = add(vm, &rtc_class, "rtc", NULL, NULL, e);
	if (!ret)
		ret = add(vm, &vmgenid_class, "vmgenid", NULL, NULL, e);
	if (!ret)
		ret = add(vm, &pci_host_class, "pci-host", NULL, NULL, e);
	return ret;
}

static int add_disks(struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		struct disk_cfg *d = &vm->cfg.disks[i];
		struct virtio_blk_cfg cfg = vm_blk_cfg(vm, d);
		struct device *dev = NULL;
		int ret;

		ret = add(vm, &virtio_blk_class, d->id, &cfg, &dev, e);
		if (!ret)
			ret = virtio_blk_set_rate(dev, &vm->rate[i], e);
		if (ret)
			return ret;
	}
	return 0;
}

static int add_nics(struct vm *vm, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_nics; i++) {
		struct nic_cfg *n = &vm->cfg.nics[i];
		struct virtio_net_cfg cfg = { .queue_pairs = n->queue_pairs, .mtu = n->mtu };
		struct device *dev = NULL;
		int ret = add(vm, &virtio_net_class, n->id, &cfg, &dev, e);

		if (!ret)
			ret = virtio_net_set_rate(dev, &vm->nic_rate[i], e);
		if (ret)
			return ret;
	}
	return 0;
}

static int add_virtio(struct vm *vm, struct err *e)
{
	int ret = add_disks(vm, e);

	if (!ret)
		ret = add_nics(vm, e);
	if (!ret && vm->cfg.has_entropy) {
		struct virtio_rng_cfg rng = { 0 };

		ret = add(vm, &virtio_rng_class, "rng", &rng, NULL, e);
	}
	if (!ret && vm->cfg.has_vsock) {
		struct virtio_vsock_cfg vsock = { .guest_cid = vm->cfg.guest_cid };

		ret = add(vm, &virtio_vsock_class, "vsock", &vsock, &vm->vsock_dev, e);
		if (!ret)
			ret = agent_create(&vm->m, vm->vsock_dev, &vm->agent, e);
		if (!ret)
			agent_on_reconciled(vm->agent, vm_connect_nics, vm);
	}
	/* the last: a machine without one has the same numbers and addresses for the others */
	if (!ret && vm->cfg.has_balloon) {
		struct virtio_balloon_cfg balloon = { .deflate_on_oom = vm->cfg.balloon_oom,
						      .stats = 1,
						      .reporting = 1,
						      .hinting = 1 };

		ret = add(vm, &virtio_balloon_class, VM_BALLOON_ID, &balloon, NULL, e);
	}
	return ret;
}

int vm_build(struct vm *vm, struct err *e)
{
	int ret;

	vm->m.nr_vcpus = vm->cfg.vcpus;
	ret = gmem_create(vm->cfg.mem_bytes, &vm->m.mem, e);
	if (!ret)
		ret = bus_create("PIO", &vm->m.pio, e);
	if (!ret)
		ret = bus_create("MMIO", &vm->m.mmio, e);
	if (!ret)
		ret = pci_bus_create(&vm->m, &vm->m.pci, e);
	if (!ret)
		ret = add_kernel_devices(vm, e);
	if (!ret)
		ret = add_platform(vm, e);
	if (!ret)
		ret = add_virtio(vm, e);
	if (ret)
		vm_unbuild(vm);
	return ret;
}

void vm_unbuild(struct vm *vm)
{
	hint_break_off(vm, "the VM has ended");
	squeeze_run_fini(vm);
	if (vm->agent)
		agent_destroy(vm->agent);
	vm->agent = NULL;
	while (vm->devices) {
		struct device *d = vm->devices, *prev = NULL;

		/* last made, first gone */
		for (; d->next; d = d->next)
			prev = d;
		if (prev)
			prev->next = NULL;
		else
			vm->devices = NULL;
		d->cls->destroy(d);
	}
	vm->devices_tail = &vm->devices;
	vm->vsock_dev = vm->power_dev = NULL;
	pci_bus_destroy(vm->m.pci);
	bus_destroy(vm->m.pio);
	bus_destroy(vm->m.mmio);
	if (vm->m.kvm)
		kvm_destroy(vm->m.kvm);
	gmem_destroy(vm->m.mem);
	vm->m.pci = NULL;
	vm->m.pio = vm->m.mmio = NULL;
	vm->m.kvm = NULL;
	vm->m.mem = NULL;
}

int vm_open_kvm(struct vm *vm, struct err *e)
{
	int ret = kvm_create(vm->kvm_fd, &vm->m.kvm, e);

	return ret ? ret : vm_set_slots(vm, VM_SLOTS, e);
}

int vm_set_slots(struct vm *vm, enum vm_slots how, struct err *e)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(vm->m.mem, r);
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++)
		ret = kvm_set_memory(vm->m.kvm, (unsigned int)i, r[i].gpa,
				     how == VM_SLOTS_NONE ? 0 : r[i].size_bytes, r[i].hva,
				     how == VM_SLOTS_LOGGED, e);
	return ret;
}

int vm_prepare_all(struct vm *vm, struct err *e)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		int ret = d->cls->prepare(d, e);

		if (ret)
			return err_wrap(e, ret, "%s", d->id);
	}
	return 0;
}

int vm_adopt_all(struct vm *vm, const struct identity *id, struct err *e)
{
	for (struct device *d = vm->devices; d; d = d->next) {
		int ret = d->cls->adopt(d, id, e);

		if (ret)
			return err_wrap(e, ret, "%s", d->id);
	}
	if (vm->agent) {
		int ret = agent_adopt(vm->agent, e);

		if (ret)
			return ret;
	}
	if (vm->cfg.has_balloon) {
		int ret = squeeze_run_adopt(vm, e);

		if (ret)
			return ret;
	}
	return kvm_routes_commit(vm->m.kvm, e);
}

struct device *vm_find_device(struct vm *vm, const char *class_name, const char *id)
{
	for (struct device *d = vm->devices; d; d = d->next)
		if (!strcmp(d->cls->name, class_name) && !strcmp(d->id, id))
			return d;
	return NULL;
}
