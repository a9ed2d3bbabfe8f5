/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: the table and pending bits that the guest sees, and what a signalled vector comes to.
 *
 * Our devices live in this process, so a vector is delivered by one system call that carries its
 * message (KVM_SIGNAL_MSI), as cheap as writing an irqfd's eventfd. There is then nothing on the
 * host side: nothing to make at a fork, no route to update when a driver programs or moves an
 * interrupt, and the message that goes out is the one that the table holds at that instant. What
 * is raised in the kernel (vhost) needs an irqfd and a route: irqfd.c.
 *
 * PCI Local Bus 3.0 section 6.8.2. Device lock held.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/util.h"
#include "kvm/kvm.h"
#include "pci/internal.h"

#define ENTRY_BYTES 16u
#define PBA_BYTES ROUND_UP((PCI_MSIX_MAX + 7u) / 8u, 8u)

static uint16_t msix_flags(const struct pci_dev *p, const struct pci_state *st)
{
	return (uint16_t)bus_get(st->config + p->msix_cap + PCI_MSIX_FLAGS, 2);
}

bool pci_msix_enabled(const struct pci_dev *p)
{
	return p->nr_vectors && (msix_flags(p, p->st) & PCI_MSIX_FLAGS_ENABLE);
}

/* May the vector interrupt the guest in this state? */
static bool vec_open(const struct pci_dev *p, const struct pci_state *st, unsigned int v)
{
	return (msix_flags(p, st) & PCI_MSIX_FLAGS_ENABLE) &&
	       !(msix_flags(p, st) & PCI_MSIX_FLAGS_MASKALL) &&
	       !(st->msix[v].ctrl & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/* Only messages to the local APICs' window: any other address is, on metal, a write to memory. */
static bool vec_is_interrupt(const struct pci_msix_entry *t)
{
	return !t->addr_hi && t->addr_lo >> 20 == 0xfee;
}

bool msix_open(const struct pci_dev *p, unsigned int v)
{
	return vec_open(p, p->st, v) && vec_is_interrupt(&p->st->msix[v]);
}

static bool pending(const struct pci_state *st, unsigned int v)
{
	return st->msix_pending[v / 8] & (1u << (v % 8));
}

static void set_pending(struct pci_dev *p, unsigned int v, bool on)
{
	uint8_t bit = (uint8_t)(1u << (v % 8));

	if (on)
		p->st->msix_pending[v / 8] |= bit;
	else
		p->st->msix_pending[v / 8] &= (uint8_t)~bit;
}

static void deliver(struct pci_dev *p, unsigned int v)
{
	const struct pci_msix_entry *t = &p->st->msix[v];
	int ret = -EINVAL;

	set_pending(p, v, false);
	if (vec_is_interrupt(t))
		ret = kvm_signal_msi(p->dev->m->kvm, t->addr_lo, t->data);
	if (ret)
		log_guest(&p->log,
			  "%s: MSI-X vector %u: no interrupt has address 0x%08x%08x, data %#x",
			  p->dev->id, v, t->addr_hi, t->addr_lo, t->data);
}

void pci_msix_notify(struct pci_dev *p, unsigned int vec)
{
	if (vec >= p->nr_vectors || !pci_msix_enabled(p))
		return;
	if (vec_open(p, p->st, vec))
		deliver(p, vec);
	else
		set_pending(p, vec, true);
}

/* The guest changed vector v, or the masks above it. */
static void vec_changed(struct pci_dev *p, unsigned int v)
{
	bool lost = irqfd_changed(p, v);

	if ((lost || pending(p->st, v)) && vec_open(p, p->st, v))
		deliver(p, v);
}

void msix_ctrl_written(struct pci_dev *p)
{
	for (unsigned int v = 0; v < p->nr_vectors; v++)
		vec_changed(p, v);
}

/* ---- what the guest sees ---- */

bool msix_owns(const struct pci_dev *p, unsigned int bar, uint64_t off, unsigned int len)
{
	uint64_t end = off + len;

	if (!p->nr_vectors || bar != p->msix_bar)
		return false;
	return (off < p->msix_off + p->nr_vectors * ENTRY_BYTES && end > p->msix_off) ||
	       (off < p->pba_off + PBA_BYTES && end > p->pba_off);
}

static uint32_t *table_word(struct pci_dev *p, uint64_t off)
{
	struct pci_msix_entry *t = &p->st->msix[off / ENTRY_BYTES];

	switch (off % ENTRY_BYTES / 4) {
	case 0:
		return &t->addr_lo;
	case 1:
		return &t->addr_hi;
	case 2:
		return &t->data;
	default:
		return &t->ctrl;
	}
}

/* Byte by byte, so that any width at any place means something and none runs over an end. */
void msix_read(struct pci_dev *p, uint64_t off, uint8_t *data, unsigned int len)
{
	for (unsigned int i = 0; i < len; i++, off++) {
		data[i] = 0;
		if (off - p->msix_off < p->nr_vectors * ENTRY_BYTES)
			data[i] = (uint8_t)(*table_word(p, off - p->msix_off) >> 8 * (off % 4));
		else if (off - p->pba_off < sizeof(p->st->msix_pending))
			data[i] = p->st->msix_pending[off - p->pba_off];
	}
}

void msix_write(struct pci_dev *p, uint64_t off, const uint8_t *data, unsigned int len)
{
	unsigned int seen = ~0u;

	for (unsigned int i = 0; i < len; i++) {
		uint64_t at = off + i - p->msix_off;
		unsigned int shift = 8 * (unsigned int)(at % 4),
			     v = (unsigned int)(at / ENTRY_BYTES);
		uint32_t *w;

		if (at >= p->nr_vectors * ENTRY_BYTES)
			continue; /* the PBA is read-only */
		w = table_word(p, at);
		*w = (*w & ~(0xffu << shift)) | (uint32_t)data[i] << shift;
		p->st->msix[v].addr_lo &= ~3u;
		p->st->msix[v].ctrl &= PCI_MSIX_ENTRY_CTRL_MASKBIT;
	}
	for (unsigned int i = 0; i < len; i++) {
		uint64_t at = off + i - p->msix_off;
		unsigned int v = (unsigned int)(at / ENTRY_BYTES);

		if (at >= p->nr_vectors * ENTRY_BYTES || v == seen)
			continue;
		seen = v;
		vec_changed(p, v);
	}
}

int pci_add_msix(struct pci_dev *p, unsigned int nr, unsigned int bar, unsigned int table_off,
		 unsigned int pba_off, struct err *e)
{
	uint8_t body[10];
	int cap;

	BUG_ON(!nr || nr > PCI_MSIX_MAX || bar >= PCI_BARS || (table_off | pba_off) & 7);
	BUG_ON(!range_ok(table_off, nr * ENTRY_BYTES, p->bar_size[bar]) ||
	       !range_ok(pba_off, PBA_BYTES, p->bar_size[bar]));
	bus_put(body, 2, nr - 1);
	bus_put(body + 2, 4, table_off | bar);
	bus_put(body + 6, 4, pba_off | bar);
	cap = pci_add_cap(p, PCI_CAP_ID_MSIX, body, sizeof(body), e);
	if (cap < 0)
		return cap;
	p->msix_cap = (unsigned int)cap;
	p->msix_bar = bar;
	p->msix_off = table_off;
	p->pba_off = pba_off;
	p->nr_vectors = nr;
	p->st->msix_used = nr;
	bus_put(p->wmask + cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	msix_reset(p);
	return 0;
}

/* ---- contract parts ---- */

void msix_reset(struct pci_dev *p)
{
	memset(p->st->msix_pending, 0, sizeof(p->st->msix_pending));
	for (unsigned int v = 0; v < p->nr_vectors; v++)
		p->st->msix[v] = (struct pci_msix_entry){ .ctrl = PCI_MSIX_ENTRY_CTRL_MASKBIT };
}

int msix_check(const struct pci_dev *p, const struct pci_state *st, struct err *e)
{
	if (st->msix_used != p->nr_vectors)
		return err_set(e, EINVAL, "MSI-X: saved %u vectors, here %u", st->msix_used,
			       p->nr_vectors);
	for (unsigned int v = 0; v < p->nr_vectors; v++)
		if (st->msix[v].addr_lo & 3 || st->msix[v].ctrl > PCI_MSIX_ENTRY_CTRL_MASKBIT)
			return err_set(e, EINVAL, "MSI-X vector %u: reserved bits are set", v);
	for (unsigned int v = 0; v < 8 * sizeof(st->msix_pending); v++)
		if (pending(st, v) && (v >= p->nr_vectors || vec_open(p, st, v)))
			return err_set(e, EINVAL, "MSI-X vector %u is pending but %s", v,
				       v < p->nr_vectors ? "not masked" : "not there");
	return 0;
}
