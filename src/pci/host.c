/* SPDX-License-Identifier: MIT */
/*
 * The ways to config space (ECAM, ports CF8/CFC), the reset control port CF9, and the host bridge,
 * a function without BARs in slot 0. Handlers run on vCPU threads with the device lock held.
 *
 * In a fork's child and after a restore the host bridge keeps everything: nothing in it says who
 * the machine is.
 */
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "pci/internal.h"

#define CF8 0xcf8
#define CF9_RST_CPU 0x04

static struct pci_dev *function(const struct pci_bus *b, unsigned int devfn)
{
	return devfn & 7 ? NULL : b->dev[devfn >> 3];
}

/* ---- ECAM: address bits 15-19 slot, 12-14 function, 0-11 register ---- */

static void ecam_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct pci_dev *p = function(arg, (unsigned int)(off >> 12));
	unsigned int reg = off & 0xfff;

	if (p && range_ok(reg, len, 4096))
		pci_config_read(p, reg, data, len);
	else
		memset(data, 0xff, len);
}

static void ecam_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct pci_dev *p = function(arg, (unsigned int)(off >> 12));
	unsigned int reg = off & 0xfff;

	if (p && range_ok(reg, len, 4096))
		pci_config_write(p, reg, data, len);
}

static const struct bus_ops ecam_ops = { .read = ecam_read, .write = ecam_write };

/* ---- CF8/CFC ---- */

static void cf8_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct pci_bus *b = arg;

	memset(data, 0xff, len);
	if (off == 0 && len == 4)
		bus_put(data, len, *b->cf8);
	else if (off == 1 && len == 1)
		bus_put(data, len, 0);
}

static void cf8_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct pci_bus *b = arg;
	uint32_t v = (uint32_t)bus_get(data, len);

	if (off == 0 && len == 4)
		*b->cf8 = v;
	else if (off == 1 && len == 1 && (v & CF9_RST_CPU))
		b->m->event(b->m, VM_EVENT_RESET, "reset control port CF9");
}

/* The function and register that CFC+off reaches now; NULL when none. */
static struct pci_dev *cfc_target(const struct pci_bus *b, uint64_t off, unsigned int *reg)
{
	uint32_t a = *b->cf8;

	*reg = (a & 0xfc) + (unsigned int)off;
	if (!(a & 0x80000000u) || ((a >> 16) & 0xff))
		return NULL;
	return function(b, (a >> 8) & 0xff);
}

static void cfc_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	unsigned int reg;
	struct pci_dev *p = cfc_target(arg, off, &reg);

	if (p)
		pci_config_read(p, reg, data, len);
	else
		memset(data, 0xff, len);
}

static void cfc_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	unsigned int reg;
	struct pci_dev *p = cfc_target(arg, off, &reg);

	if (p)
		pci_config_write(p, reg, data, len);
}

static const struct bus_ops cf8_ops = { .read = cf8_read, .write = cf8_write };
static const struct bus_ops cfc_ops = { .read = cfc_read, .write = cfc_write };

int pci_bus_create(struct machine *m, struct pci_bus **out, struct err *e)
{
	struct pci_bus *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(e, ENOMEM, "PCI bus: out of memory");
	b->m = m;
	b->cf8 = &b->cf8_own;
	b->next_bar = PCI_MMIO32_BASE;
	ret = bus_add(m->mmio, "pci-ecam", PCI_ECAM_BASE, PCI_ECAM_SIZE, &ecam_ops, b, e);
	if (ret)
		goto fail;
	ret = bus_add(m->pio, "pci-cf8", CF8, 4, &cf8_ops, b, e);
	if (ret)
		goto fail_ecam;
	ret = bus_add(m->pio, "pci-cfc", CF8 + 4, 4, &cfc_ops, b, e);
	if (ret)
		goto fail_cf8;
	*out = b;
	return 0;
fail_cf8:
	bus_del(m->pio, CF8);
fail_ecam:
	bus_del(m->mmio, PCI_ECAM_BASE);
fail:
	free(b);
	return ret;
}

void pci_bus_destroy(struct pci_bus *b)
{
	if (!b)
		return;
	for (unsigned int i = 0; i < PCI_SLOTS; i++)
		BUG_ON(b->dev[i]);
	bus_del(b->m->pio, CF8 + 4);
	bus_del(b->m->pio, CF8);
	bus_del(b->m->mmio, PCI_ECAM_BASE);
	free(b);
}

/* ---- the host bridge ---- */

struct host_state {
	struct pci_state pci;
	uint32_t cf8;
};

struct host {
	struct device dev;
	struct pci_dev pci;
	struct host_state state;
};

static const struct field host_fields[] = {
	F_STRUCT(struct host_state, pci, pci_state_fields),
	F_U32(struct host_state, cf8),
};

static void host_destroy(struct device *d)
{
	struct host *h = (struct host *)d;

	if (!h)
		return;
	if (h->pci.bus)
		h->pci.bus->cf8 = &h->pci.bus->cf8_own;
	pci_fini(&h->pci);
	free(h);
}

static int host_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		       struct err *e)
{
	/* Intel's i440FX ids with Red Hat's subsystem: what drivers expect to do nothing about */
	static const struct pci_ids ids = {
		.vendor = 0x8086,
		.device = 0x1237,
		.subvendor = 0x1af4,
		.subdevice = 0x1100,
		.class_code = { 0x06, 0x00, 0x00 },
	};
	struct host *h = calloc(1, sizeof(*h));
	int ret;

	(void)cfg;
	if (!h)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	h->dev = (struct device){ .cls = &pci_host_class, .m = m, .state = &h->state };
	strncpy(h->dev.id, id, sizeof(h->dev.id) - 1);
	h->pci.dev = &h->dev;
	h->pci.st = &h->state.pci;
	ret = pci_add(m->pci, &h->pci, &ids, 0, e);
	if (ret) {
		host_destroy(&h->dev);
		return err_wrap(e, ret, "%s", id);
	}
	m->pci->cf8 = &h->state.cf8;
	*out = &h->dev;
	return 0;
}

static void host_reset(struct device *d)
{
	struct host *h = (struct host *)d;

	h->state.cf8 = 0;
	pci_reset(&h->pci);
}

static int host_check(const struct device *d, const void *state, struct err *e)
{
	const struct host_state *st = state;

	return pci_check(&((const struct host *)d)->pci, &st->pci, e);
}

static int host_adopt(struct device *d, const struct identity *id, struct err *e)
{
	(void)id;
	(void)e;
	pci_adopt(&((struct host *)d)->pci);
	return 0;
}

const struct device_class pci_host_class = {
	.name = "pci-host",
	.version = 1,
	.cfg = { 0 },
	.state = FIELD_TABLE(struct host_state, host_fields),
	.create = host_create,
	.destroy = host_destroy,
	.reset = host_reset,
	.quiesce = device_quiesce_nothing,
	.resume = device_resume_nothing,
	.check = host_check,
	.commit = device_commit_copy,
	.prepare = device_prepare_nothing,
	.adopt = host_adopt,
};
