/* SPDX-License-Identifier: MIT */
/*
 * Config space and BARs of the functions on bus 0. A function's config space is plain bytes in its
 * device's state; beside it stand the power-on bytes (`home`) and a mask of what a guest may
 * change, so that a write, a reset and the check of a hostile snapshot all follow the same two
 * arrays.
 *
 * A BAR is visible while memory decoding is on, its address lies inside the window the guest was
 * told of, and nothing else is there. Callers: host.c, the devices; device lock held.
 */
#include "pci/pci.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "pci/internal.h"

static const struct field msix_entry_fields[] = {
	F_U32(struct pci_msix_entry, addr_lo),
	F_U32(struct pci_msix_entry, addr_hi),
	F_U32(struct pci_msix_entry, data),
	F_U32(struct pci_msix_entry, ctrl),
};

const struct field pci_state_fields[PCI_STATE_NFIELDS] = {
	F_BYTES(struct pci_state, config),
	F_STRUCTS_N(struct pci_state, msix, msix_used, msix_entry_fields),
	F_BYTES(struct pci_state, msix_pending),
};

/* ---- power-on contents ---- */

static void home_set(struct pci_dev *p, unsigned int off, const void *src, unsigned int len)
{
	BUG_ON(!range_ok(off, len, sizeof(p->home)));
	memcpy(p->home + off, src, len);
	memcpy(p->st->config + off, src, len);
}

static void home_put(struct pci_dev *p, unsigned int off, unsigned int len, uint32_t v)
{
	uint8_t raw[4];

	bus_put(raw, len, v);
	home_set(p, off, raw, len);
}

static uint32_t config_get(const struct pci_dev *p, unsigned int off, unsigned int len)
{
	return (uint32_t)bus_get(p->st->config + off, len);
}

/* ---- BARs ---- */

static bool touches(unsigned int off, unsigned int len, unsigned int at, unsigned int n)
{
	return off < at + n && at < off + len;
}

bool pci_bar_access(struct pci_dev *p, unsigned int bar, uint64_t off, void *data, unsigned int len,
		    bool write)
{
	if (bar >= PCI_BARS || !p->bar_size[bar] || !range_ok(off, len, p->bar_size[bar]))
		return false;
	if (msix_owns(p, bar, off, len)) {
		if (write)
			msix_write(p, off, data, len);
		else
			msix_read(p, off, data, len);
	} else if (write) {
		p->bar_ops[bar]->bus.write(p, off, data, len);
	} else {
		p->bar_ops[bar]->bus.read(p, off, data, len);
	}
	return true;
}

static void bar_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct pci_bar_ref *r = arg;

	pci_bar_access(r->p, r->bar, off, data, len, false);
}

static void bar_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct pci_bar_ref *r = arg;
	uint8_t copy[8];

	memcpy(copy, data, len);
	pci_bar_access(r->p, r->bar, off, copy, len, true);
}

static const struct bus_ops bar_bus_ops = { .read = bar_read, .write = bar_write };

/* Where the guest wants BAR i to be; false when it has none there or decoding is off. */
static bool bar_claimed(const struct pci_dev *p, unsigned int i, uint64_t *base)
{
	*base = config_get(p, PCI_BASE_ADDRESS_0 + 4 * i, 4) & ~(p->bar_size[i] - 1);
	return p->bar_size[i] && (config_get(p, PCI_COMMAND, 2) & PCI_COMMAND_MEMORY);
}

static bool in_window(uint64_t base, uint64_t size)
{
	return base >= PCI_MMIO32_BASE && range_ok(base - PCI_MMIO32_BASE, size, PCI_MMIO32_SIZE);
}

static bool bars_unmap(struct pci_dev *p, bool all)
{
	bool any = false;

	for (unsigned int i = 0; i < PCI_BARS; i++) {
		uint64_t base = p->bar_base[i], want;

		if (!base || (!all && bar_claimed(p, i, &want) && want == base))
			continue;
		p->bar_ops[i]->mapped(p, i, base, false);
		bus_del(p->dev->m->mmio, base);
		p->bar_base[i] = 0;
		any = true;
	}
	return any;
}

static void bars_map(struct pci_dev *p)
{
	struct err e;

	for (unsigned int i = 0; i < PCI_BARS; i++) {
		uint64_t base;

		if (p->bar_base[i] || !bar_claimed(p, i, &base))
			continue;
		if (!in_window(base, p->bar_size[i])) {
			/* sizing with decoding on writes all ones: no reason to speak */
			if (base + p->bar_size[i] != 1ull << 32)
				log_guest(&p->log,
					  "%s: BAR %u at %#" PRIx64 " is outside the window",
					  p->dev->id, i, base);
			continue;
		}
		if (bus_add(p->dev->m->mmio, p->dev->id, base, p->bar_size[i], &bar_bus_ops,
			    &p->bar_ref[i], &e)) {
			log_guest(&p->log, "%s: BAR %u stays hidden: %s", p->dev->id, i, e.msg);
			continue;
		}
		p->bar_base[i] = base;
		p->bar_ops[i]->mapped(p, i, base, true);
	}
}

/* Makes what is visible follow config space. What one BAR leaves, another may have waited for. */
static void bars_update(struct pci_dev *p)
{
	bool freed = bars_unmap(p, false);

	bars_map(p);
	for (unsigned int s = 0; freed && s < PCI_SLOTS; s++)
		if (p->bus->dev[s])
			bars_map(p->bus->dev[s]);
}

/* ---- config space as the guest reaches it ---- */

void pci_config_read(struct pci_dev *p, unsigned int off, uint8_t *data, unsigned int len)
{
	if (p->cfg_ops && touches(off, len, p->cfg_off, p->cfg_len))
		p->cfg_ops->read(p, off, len);
	for (unsigned int i = 0; i < len; i++)
		data[i] = off + i < sizeof(p->st->config) ? p->st->config[off + i] : 0;
}

void pci_config_write(struct pci_dev *p, unsigned int off, const uint8_t *data, unsigned int len)
{
	for (unsigned int i = 0; i < len && off + i < sizeof(p->st->config); i++) {
		uint8_t *c = &p->st->config[off + i], mask = p->wmask[off + i];

		*c = (uint8_t)((*c & ~mask) | (data[i] & mask));
	}
	if (touches(off, len, PCI_COMMAND, 2) ||
	    touches(off, len, PCI_BASE_ADDRESS_0, 4 * PCI_BARS))
		bars_update(p);
	if (p->nr_vectors && touches(off, len, p->msix_cap + PCI_MSIX_FLAGS, 2))
		msix_ctrl_written(p);
	if (p->cfg_ops && touches(off, len, p->cfg_off, p->cfg_len))
		p->cfg_ops->wrote(p, off, len);
}

/* ---- building a function ---- */

static int slot_find(const struct pci_bus *b, int slot, struct err *e)
{
	if (slot >= 0) {
		if (slot >= PCI_SLOTS || b->dev[slot])
			return err_set(e, EEXIST, "PCI slot %d is taken", slot);
		return slot;
	}
	/* slot 0 is the host bridge's by custom: drivers look for it there */
	for (slot = 1; slot < PCI_SLOTS; slot++)
		if (!b->dev[slot])
			return slot;
	return err_set(e, ENOSPC, "all %d PCI slots are taken", PCI_SLOTS);
}

int pci_add(struct pci_bus *b, struct pci_dev *p, const struct pci_ids *ids, int slot,
	    struct err *e)
{
	slot = slot_find(b, slot, e);
	if (slot < 0)
		return slot;
	p->slot = (unsigned int)slot;
	p->bus = b;
	p->cap_end = PCI_STD_HEADER_SIZEOF;
	home_put(p, PCI_VENDOR_ID, 2, ids->vendor);
	home_put(p, PCI_DEVICE_ID, 2, ids->device);
	home_put(p, PCI_REVISION_ID, 1, ids->revision);
	home_put(p, PCI_CLASS_PROG, 1, ids->class_code[2]);
	home_put(p, PCI_CLASS_DEVICE, 1, ids->class_code[1]);
	home_put(p, PCI_CLASS_DEVICE + 1, 1, ids->class_code[0]);
	home_put(p, PCI_SUBSYSTEM_VENDOR_ID, 2, ids->subvendor);
	home_put(p, PCI_SUBSYSTEM_ID, 2, ids->subdevice);
	bus_put(p->wmask + PCI_COMMAND, 2,
		PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
			PCI_COMMAND_INTX_DISABLE);
	pci_cfg_writable(p, PCI_CACHE_LINE_SIZE, 1);
	pci_cfg_writable(p, PCI_INTERRUPT_LINE, 1);
	b->dev[slot] = p;
	return 0;
}

int pci_add_bar(struct pci_dev *p, unsigned int bar, uint64_t size, const struct pci_bar_ops *ops,
		struct err *e)
{
	uint64_t base = ROUND_UP(p->bus->next_bar, size);

	BUG_ON(bar >= PCI_BARS || p->bar_size[bar] || size < 4096 || (size & (size - 1)));
	if (!range_ok(base - PCI_MMIO32_BASE, size, PCI_MMIO32_SIZE))
		return err_set(e, ENOSPC, "no room for a BAR of %" PRIu64 " bytes", size);
	p->bus->next_bar = base + size;
	p->bar_size[bar] = size;
	p->bar_ops[bar] = ops;
	p->bar_ref[bar] = (struct pci_bar_ref){ .p = p, .bar = bar };
	home_put(p, PCI_BASE_ADDRESS_0 + 4 * bar, 4, (uint32_t)base);
	bus_put(p->wmask + PCI_BASE_ADDRESS_0 + 4 * bar, 4, (uint32_t) ~(size - 1));
	return 0;
}

int pci_add_cap(struct pci_dev *p, uint8_t id, const void *body, unsigned int len, struct err *e)
{
	unsigned int at = ROUND_UP(p->cap_end, 4u);

	if (!range_ok(at, len + 2, sizeof(p->home)))
		return err_set(e, ENOSPC, "no room for a capability of %u bytes", len + 2);
	home_put(p, at, 1, id);
	home_put(p, at + 1, 1, 0);
	home_set(p, at + 2, body, len);
	home_put(p, p->cap_last ? p->cap_last + 1 : PCI_CAPABILITY_LIST, 1, at);
	home_put(p, PCI_STATUS, 2, PCI_STATUS_CAP_LIST);
	p->cap_last = at;
	p->cap_end = at + 2 + len;
	return (int)at;
}

void pci_cfg_writable(struct pci_dev *p, unsigned int off, unsigned int len)
{
	BUG_ON(!range_ok(off, len, sizeof(p->wmask)));
	memset(p->wmask + off, 0xff, len);
}

void pci_cfg_window(struct pci_dev *p, unsigned int off, unsigned int len,
		    const struct pci_cfg_ops *ops)
{
	BUG_ON(!range_ok(off, len, sizeof(p->home)) || p->cfg_ops);
	p->cfg_off = off;
	p->cfg_len = len;
	p->cfg_ops = ops;
}

/* ---- contract helpers ---- */

void pci_reset(struct pci_dev *p)
{
	memcpy(p->st->config, p->home, sizeof(p->home));
	msix_reset(p);
	bars_update(p);
}

int pci_check(const struct pci_dev *p, const struct pci_state *st, struct err *e)
{
	for (unsigned int i = 0; i < sizeof(p->home); i++)
		if ((st->config[i] ^ p->home[i]) & ~p->wmask[i])
			return err_set(e, EINVAL, "config byte %#x: saved %#x, here %#x", i,
				       st->config[i], p->home[i]);
	return msix_check(p, st, e);
}

void pci_commit(struct pci_dev *p)
{
	bars_update(p);
}

void pci_adopt(struct pci_dev *p)
{
	irqfd_forget(p);
	for (unsigned int i = 0; i < PCI_BARS; i++)
		if (p->bar_base[i])
			p->bar_ops[i]->mapped(p, i, p->bar_base[i], true);
}

void pci_fini(struct pci_dev *p)
{
	if (!p->bus)
		return;
	bars_unmap(p, true);
	irqfd_fini(p);
	p->bus->dev[p->slot] = NULL;
	p->bus = NULL;
}
