/* SPDX-License-Identifier: MIT */
/*
 * A VM's NICs: how they are configured, what of them can be changed and asked while it runs, and
 * when they are connected. See vm.h. Main thread, device lock held.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "vm/vm_private.h"

static struct device *nic_device(struct vm *vm, uint32_t i)
{
	return vm_find_device(vm, "virtio-net", vm->cfg.nics[i].id);
}

static int find_nic(const struct vm *vm, const char *id)
{
	for (uint32_t i = 0; i < vm->cfg.nr_nics; i++)
		if (!strcmp(vm->cfg.nics[i].id, id))
			return (int)i;
	return -1;
}

static int add_address(struct vm *vm, const struct nic_identity *n, struct err *e)
{
	if (vm->id.nr_nics == NICS_MAX)
		return err_set(e, EINVAL, "a VM has at most %d NICs", NICS_MAX);
	for (uint32_t i = 0; i < vm->id.nr_nics; i++)
		if (!strcmp(vm->id.nics[i].id, n->id))
			return err_set(e, EEXIST, "NIC '%s' has an address already", n->id);
	vm->id.nics[vm->id.nr_nics++] = *n;
	return 0;
}

int vm_add_nic(struct vm *vm, const struct vm_nic *k, struct err *e)
{
	struct nic_identity n = { 0 };
	struct nic_cfg *c = &vm->cfg.nics[vm->cfg.nr_nics];
	int ret = vm_configuring(vm, "a NIC", e);

	if (ret)
		return ret;
	if (find_nic(vm, k->id) >= 0)
		return err_set(e, EEXIST, "there is a NIC '%s' already", k->id);
	if (vm->cfg.nr_nics == NICS_MAX)
		return err_set(e, EINVAL, "a VM has at most %d NICs", NICS_MAX);
	if (k->addr) {
		snprintf(n.id, sizeof(n.id), "%s", k->id);
		n.addr = *k->addr;
		ret = add_address(vm, &n, e);
		if (ret)
			return ret;
	}
	*c = (struct nic_cfg){ .queue_pairs = k->queue_pairs, .mtu = k->mtu };
	snprintf(c->id, sizeof(c->id), "%s", k->id);
	vm->nic_rate[vm->cfg.nr_nics++] = k->rate ? *k->rate : (struct virtio_net_rate){ 0 };
	return 0;
}

int vm_set_nics(struct vm *vm, const struct nic_identity *nics, size_t n, struct err *e)
{
	int ret = vm_configuring(vm, "the NICs' addresses", e);

	if (ret)
		return ret;
	vm->id.nr_nics = 0;
	for (size_t i = 0; i < n && !ret; i++)
		ret = add_address(vm, &nics[i], e);
	return ret;
}

int vm_set_nic_rate(struct vm *vm, const char *id, const struct virtio_net_rate *rate,
		    struct err *e)
{
	int i = find_nic(vm, id);
	struct device *d;
	int ret;

	if (i < 0)
		return err_set(e, ENOENT, "there is no NIC '%s'", id);
	d = nic_device(vm, (uint32_t)i);
	ret = d ? virtio_net_set_rate(d, rate, e) : 0;
	if (!ret)
		vm->nic_rate[i] = *rate;
	return ret;
}

bool vm_nic_view(struct vm *vm, unsigned int i, const char **id, struct virtio_net_view *out)
{
	struct device *d;

	if (i >= vm->cfg.nr_nics)
		return false;
	*id = vm->cfg.nics[i].id;
	d = nic_device(vm, i);
	*out = (struct virtio_net_view){ .backend = "none" };
	if (d)
		virtio_net_view(d, out);
	return true;
}

void vm_name_nics(struct vm *vm)
{
	for (uint32_t i = 0; i < vm->id.nr_nics; i++) {
		struct nic_identity *n = &vm->id.nics[i];
		struct device *d = vm_find_device(vm, "virtio-net", n->id);

		if (!d)
			continue;
		memcpy(n->driver_mac, virtio_net_driver_mac(d), NIC_MAC);
		/* a driver that has not started yet will read the new one */
		if (!n->driver_mac[0] && !memcmp(n->driver_mac, n->driver_mac + 1, NIC_MAC - 1))
			memcpy(n->driver_mac, n->addr.mac, NIC_MAC);
	}
}

void vm_connect_nics(void *arg)
{
	struct vm *vm = arg;

	for (uint32_t i = 0; i < vm->cfg.nr_nics; i++) {
		struct device *d = nic_device(vm, i);

		if (d)
			virtio_net_connect(d);
	}
}

void vm_connect_if_alone(struct vm *vm)
{
	if (!vm->agent || !agent_present(vm->agent))
		vm_connect_nics(vm);
}
