/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: the table and pending bits that the guest sees, and the eventfd, GSI, irqfd and route that
 * carry a vector into the kernel.
 *
 * Masking is decided here, in software, at pci_msix_notify: a masked vector costs no system call
 * and its route stays as it is. A vector's host side is made on main when the guest has unmasked it
 * for the first time, or with another message than before; the table writes only post that work, so
 * that a driver setting up ten vectors causes one routing update, and descriptors and routes are
 * main's alone. What is signalled in between waits in the pending bits.
 *
 * PCI Local Bus 3.0 section 6.8.2. Device lock held.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "kvm/kvm.h"
#include "pci/internal.h"

#define ENTRY_BYTES 16u
#define PBA_BYTES ROUND_UP((PCI_MSIX_MAX + 7u) / 8u, 8u)

static uint16_t msix_flags(const struct pci_dev *p)
{
	return (uint16_t)bus_get(p->st->config + p->msix_cap + PCI_MSIX_FLAGS, 2);
}

bool pci_msix_enabled(const struct pci_dev *p)
{
	return p->nr_vectors && (msix_flags(p) & PCI_MSIX_FLAGS_ENABLE);
}

/* May the vector interrupt the guest now? */
static bool vec_open(const struct pci_dev *p, unsigned int v)
{
	return pci_msix_enabled(p) && !(msix_flags(p) & PCI_MSIX_FLAGS_MASKALL) &&
	       !(p->st->msix[v].ctrl & PCI_MSIX_ENTRY_CTRL_MASKBIT);
}

/*
 * Only messages to the local APICs' window. On metal any other address is a plain memory write by
 * the device; and one that KVM refuses would make it refuse the routes of every device.
 */
static bool vec_is_interrupt(const struct pci_msix_entry *t)
{
	return !t->addr_hi && t->addr_lo >> 20 == 0xfee;
}

static bool pending(const struct pci_dev *p, unsigned int v)
{
	return p->st->msix_pending[v / 8] & (1u << (v % 8));
}

static void set_pending(struct pci_dev *p, unsigned int v, bool on)
{
	uint8_t bit = (uint8_t)(1u << (v % 8));

	if (on)
		p->st->msix_pending[v / 8] |= bit;
	else
		p->st->msix_pending[v / 8] &= (uint8_t)~bit;
}

static void fire(struct pci_dev *p, unsigned int v)
{
	uint64_t one = 1;
	ssize_t r = write(p->vec[v].fd, &one, sizeof(one));

	(void)r; /* EAGAIN: already signalled */
	set_pending(p, v, false);
}

static void fire_pending(struct pci_dev *p)
{
	for (unsigned int v = 0; v < p->nr_vectors; v++)
		if (pending(p, v) && p->vec[v].live && vec_open(p, v))
			fire(p, v);
}

void pci_msix_notify(struct pci_dev *p, unsigned int vec)
{
	if (vec >= p->nr_vectors || !pci_msix_enabled(p))
		return;
	if (vec_open(p, vec) && p->vec[vec].live)
		fire(p, vec);
	else
		set_pending(p, vec, true);
}

/* ---- host side (main) ---- */

static int vec_make(struct pci_dev *p, unsigned int v, struct err *e)
{
	struct machine *m = p->dev->m;
	struct pci_vector *h = &p->vec[v];
	int fd, gsi, ret;

	if (h->fd >= 0)
		return 0;
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "MSI-X vector %u: eventfd", v);
	gsi = kvm_msi_alloc(m->kvm, e);
	if (gsi < 0) {
		close(fd);
		return err_wrap(e, gsi, "MSI-X vector %u", v);
	}
	ret = kvm_irqfd(m->kvm, fd, (unsigned int)gsi, true, e);
	if (ret) {
		kvm_msi_free(m->kvm, gsi);
		close(fd);
		return err_wrap(e, ret, "MSI-X vector %u", v);
	}
	fdtab_add(m->fds, fd, FD_CLOSE, "msix vector");
	h->fd = fd;
	h->gsi = gsi;
	return 0;
}

/* Binds every open vector whose route is not what the table says. Routes are not committed. */
static int bind_open(struct pci_dev *p, bool *changed, struct err *e)
{
	int ret;

	if (!p->dev->m->kvm)
		return 0; /* a seed: it has no VM, its children do */
	for (unsigned int v = 0; v < p->nr_vectors; v++) {
		const struct pci_msix_entry *t = &p->st->msix[v];
		struct pci_vector *h = &p->vec[v];

		if (h->live || !vec_open(p, v) || !vec_is_interrupt(t))
			continue;
		ret = vec_make(p, v, e);
		if (ret)
			return ret;
		kvm_msi_set(p->dev->m->kvm, h->gsi, t->addr_lo, t->data, true);
		h->addr = t->addr_lo;
		h->data = t->data;
		h->live = true;
		*changed = true;
	}
	return 0;
}

static void sync_on_main(void *arg)
{
	struct pci_dev *p = arg;
	bool changed = false;
	struct err e;
	int ret;

	p->sync_posted = false;
	ret = bind_open(p, &changed, &e);
	if (ret)
		log_guest(&p->log, "%s: %s", p->dev->id, e.msg);
	if (changed) {
		ret = kvm_routes_commit(p->dev->m->kvm, &e);
		if (ret)
			log_guest(&p->log, "%s: MSI-X routes: %s", p->dev->id, e.msg);
	}
	fire_pending(p);
}

/* The guest changed vector v, or masks above it. */
static void vec_changed(struct pci_dev *p, unsigned int v)
{
	const struct pci_msix_entry *t = &p->st->msix[v];
	struct pci_vector *h = &p->vec[v];

	if (!vec_open(p, v))
		return;
	h->live = h->fd >= 0 && !t->addr_hi && h->addr == t->addr_lo && h->data == t->data;
	if (h->live) {
		if (pending(p, v))
			fire(p, v);
		return;
	}
	if (!vec_is_interrupt(t)) {
		log_guest(&p->log, "%s: MSI-X vector %u has address 0x%08x%08x", p->dev->id, v,
			  t->addr_hi, t->addr_lo);
		return;
	}
	if (!p->sync_posted) {
		p->sync_posted = true;
		loop_post(p->dev->m->loop, sync_on_main, p);
	}
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
		unsigned int shift = 8 * (unsigned int)(at % 4), v = (unsigned int)(at / ENTRY_BYTES);
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
	for (unsigned int v = p->nr_vectors; v < 8 * sizeof(st->msix_pending); v++)
		if (st->msix_pending[v / 8] & (1u << (v % 8)))
			return err_set(e, EINVAL, "MSI-X vector %u is pending but not there", v);
	return 0;
}

int msix_adopt(struct pci_dev *p, struct err *e)
{
	bool changed = false;

	p->sync_posted = false;
	for (unsigned int v = 0; v < p->nr_vectors; v++)
		p->vec[v] = (struct pci_vector){ .fd = -1, .gsi = -1 };
	return bind_open(p, &changed, e);
}

void pci_resume(struct pci_dev *p)
{
	fire_pending(p);
}

void msix_fini(struct pci_dev *p)
{
	struct machine *m = p->dev->m;

	if (m->loop)
		loop_unpost(m->loop, p);
	for (unsigned int v = 0; v < p->nr_vectors; v++) {
		struct pci_vector *h = &p->vec[v];

		if (h->fd < 0)
			continue;
		/* KVM drops the irqfd when its eventfd closes */
		fdtab_del(m->fds, h->fd);
		close(h->fd);
		kvm_msi_free(m->kvm, h->gsi);
		h->fd = -1;
		h->live = false;
	}
}
