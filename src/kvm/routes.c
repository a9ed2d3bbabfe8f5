/* SPDX-License-Identifier: MIT */
/*
 * Interrupt routes: which GSI ends where. Devices allocate GSIs above the IOAPIC's pins and change
 * the table here; the kernel takes it whole in kvm_routes_commit. Main thread, or any with the
 * device lock held.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/util.h"
#include "kvm/internal.h"

#define NR_PIC 16

int kvm_msi_alloc(struct kvm *k, struct err *e)
{
	for (unsigned int i = 0; i < KVM_NR_MSI; i++) {
		if (k->msi[i].taken)
			continue;
		k->msi[i] = (struct msi_route){ .taken = true };
		k->msi_high = MAX(k->msi_high, i + 1);
		return (int)(i + KVM_GSI_PINS);
	}
	return err_set(e, ENOSPC, "all %d interrupt routes are taken", KVM_NR_MSI);
}

static struct msi_route *msi_of(struct kvm *k, int gsi)
{
	BUG_ON(gsi < KVM_GSI_PINS || gsi >= KVM_GSI_MAX);
	BUG_ON(!k->msi[gsi - KVM_GSI_PINS].taken);
	return &k->msi[gsi - KVM_GSI_PINS];
}

void kvm_msi_free(struct kvm *k, int gsi)
{
	struct msi_route *m = msi_of(k, gsi);

	if (m->active)
		k->routes_dirty = true;
	*m = (struct msi_route){ 0 };
}

void kvm_msi_set(struct kvm *k, int gsi, uint64_t addr, uint32_t data, bool active)
{
	struct msi_route *m = msi_of(k, gsi);

	if (m->active == active && (!active || (m->addr == addr && m->data == data)))
		return;
	m->addr = addr;
	m->data = data;
	m->active = active;
	k->routes_dirty = true;
}

static void put_pin(struct kvm_irq_routing *t, uint32_t gsi, uint32_t chip, uint32_t pin)
{
	t->entries[t->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

int kvm_routes_commit(struct kvm *k, struct err *e)
{
	cleanup_free struct kvm_irq_routing *t = NULL;
	unsigned int max = NR_PIC + KVM_GSI_PINS + k->msi_high;

	if (!k->routes_dirty)
		return 0;
	t = calloc(1, sizeof(*t) + max * sizeof(t->entries[0]));
	if (!t)
		return err_set(e, ENOMEM, "no memory for %u interrupt routes", max);
	/* What KVM_CREATE_IRQCHIP set up, which this call would take away. */
	for (uint32_t i = 0; i < KVM_GSI_PINS; i++) {
		if (i < NR_PIC)
			put_pin(t, i, i < 8 ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
				i % 8);
		put_pin(t, i, KVM_IRQCHIP_IOAPIC, i);
	}
	for (uint32_t i = 0; i < k->msi_high; i++) {
		const struct msi_route *m = &k->msi[i];

		if (!m->active)
			continue;
		t->entries[t->nr++] = (struct kvm_irq_routing_entry){
			.gsi = i + KVM_GSI_PINS,
			.type = KVM_IRQ_ROUTING_MSI,
			.u.msi = { .address_lo = (uint32_t)m->addr,
				   .address_hi = (uint32_t)(m->addr >> 32),
				   .data = m->data },
		};
	}
	if (kvm_callp(k->fd, KVM_SET_GSI_ROUTING, t) < 0)
		return err_sys(e, errno, "KVM_SET_GSI_ROUTING of %u routes", t->nr);
	k->routes_dirty = false;
	return 0;
}
