/* SPDX-License-Identifier: MIT */
/*
 * The registers of virtio over PCI (virtio 1.2 section 4.1): one 32 KiB BAR with a page for each
 * structure, the capabilities that point to them, and the capability that reaches the BAR through
 * config space. Handlers run on vCPU threads with the device lock held.
 *
 * A register is accessed in its own width (64-bit ones also by halves), or nothing happens.
 */
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include "base/util.h"
#include "virtio/internal.h"

#define BAR 0
#define BAR_BYTES 0x8000u
#define COMMON_OFF 0x0000u
#define COMMON_BYTES 56u
#define ISR_OFF 0x1000u
#define DEVICE_OFF 0x2000u
#define NOTIFY_OFF 0x3000u
#define MSIX_OFF 0x4000u
#define PBA_OFF 0x5000u
#define PAGE_BYTES 0x1000u

/* Config-access capability, from its start. */
#define CFG_DATA 16u
#define CFG_BYTES 20u

static struct vq_state *selected(struct virtio_dev *v)
{
	return v->st->queue_select < v->st->nr_queues ? &v->st->vq[v->st->queue_select] : NULL;
}

/* ---- common configuration ---- */

/* Width of the register at off; 0: none begins there. The 64-bit ones are apart. */
static unsigned int common_width(unsigned int off)
{
	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
	case VIRTIO_PCI_COMMON_DF:
	case VIRTIO_PCI_COMMON_GFSELECT:
	case VIRTIO_PCI_COMMON_GF:
		return 4;
	case VIRTIO_PCI_COMMON_STATUS:
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return 1;
	case VIRTIO_PCI_COMMON_MSIX:
	case VIRTIO_PCI_COMMON_NUMQ:
	case VIRTIO_PCI_COMMON_Q_SELECT:
	case VIRTIO_PCI_COMMON_Q_SIZE:
	case VIRTIO_PCI_COMMON_Q_MSIX:
	case VIRTIO_PCI_COMMON_Q_ENABLE:
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return 2;
	default:
		return 0;
	}
}

static uint32_t half(uint64_t v, uint32_t select)
{
	return select > 1 ? 0 : (uint32_t)(v >> (32 * select));
}

static uint32_t common_get(struct virtio_dev *v, unsigned int off)
{
	const struct virtio_state *st = v->st;
	const struct vq_state *s = selected(v);

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		return st->device_feature_select;
	case VIRTIO_PCI_COMMON_DF:
		return half(virtio_offered(v), st->device_feature_select);
	case VIRTIO_PCI_COMMON_GFSELECT:
		return st->driver_feature_select;
	case VIRTIO_PCI_COMMON_GF:
		return half(st->driver_features, st->driver_feature_select);
	case VIRTIO_PCI_COMMON_MSIX:
		return st->config_vector;
	case VIRTIO_PCI_COMMON_NUMQ:
		return st->nr_queues;
	case VIRTIO_PCI_COMMON_STATUS:
		return st->status;
	case VIRTIO_PCI_COMMON_CFGGENERATION:
		return st->config_generation;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		return st->queue_select;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		return s ? s->size : 0;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		return s ? s->vector : NO_VECTOR;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		return s ? s->enable : 0;
	case VIRTIO_PCI_COMMON_Q_NOFF:
		return s ? st->queue_select : 0;
	default:
		return 0;
	}
}

static void set_features(struct virtio_dev *v, uint32_t val)
{
	struct virtio_state *st = v->st;
	unsigned int shift = 32 * st->driver_feature_select;

	if (st->driver_feature_select > 1 || (st->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return;
	st->driver_features &= ~(0xffffffffull << shift);
	st->driver_features |= (uint64_t)val << shift;
}

static void set_queue_size(struct virtio_dev *v, struct vq_state *s, uint32_t val)
{
	if (s->enable)
		return;
	if (!val || val > v->queue_max[v->st->queue_select] || (val & (val - 1))) {
		virtio_broken(v, "queue %u: size %u", v->st->queue_select, val);
		return;
	}
	s->size = (uint16_t)val;
}

static void common_set(struct virtio_dev *v, unsigned int off, uint32_t val)
{
	struct virtio_state *st = v->st;
	struct vq_state *s = selected(v);
	uint16_t vector = val < v->pci.nr_vectors ? (uint16_t)val : NO_VECTOR;

	switch (off) {
	case VIRTIO_PCI_COMMON_DFSELECT:
		st->device_feature_select = val;
		break;
	case VIRTIO_PCI_COMMON_GFSELECT:
		st->driver_feature_select = val;
		break;
	case VIRTIO_PCI_COMMON_GF:
		set_features(v, val);
		break;
	case VIRTIO_PCI_COMMON_MSIX:
		st->config_vector = vector;
		break;
	case VIRTIO_PCI_COMMON_STATUS:
		virtio_set_status(v, (uint8_t)val);
		break;
	case VIRTIO_PCI_COMMON_Q_SELECT:
		st->queue_select = (uint16_t)val;
		break;
	case VIRTIO_PCI_COMMON_Q_SIZE:
		if (s)
			set_queue_size(v, s, val);
		break;
	case VIRTIO_PCI_COMMON_Q_MSIX:
		if (s)
			s->vector = vector;
		break;
	case VIRTIO_PCI_COMMON_Q_ENABLE:
		if (s && val == 1)
			virtio_enable_queue(v, st->queue_select);
		break;
	default:
		break;
	}
}

/* The ring address that a 4- or 8-byte access at off concerns, and its shift; NULL when none. */
static uint64_t *ring_addr(struct virtio_dev *v, unsigned int off, unsigned int len,
			   unsigned int *shift)
{
	struct vq_state *s = selected(v);

	if (!s || off < VIRTIO_PCI_COMMON_Q_DESCLO || off >= COMMON_BYTES)
		return NULL;
	if (!(len == 4 && off % 4 == 0) && !(len == 8 && off % 8 == 0))
		return NULL;
	*shift = 8 * (off % 8);
	switch (off & ~7u) {
	case VIRTIO_PCI_COMMON_Q_DESCLO:
		return &s->desc;
	case VIRTIO_PCI_COMMON_Q_AVAILLO:
		return &s->avail;
	default:
		return &s->used;
	}
}

static void common_read(struct virtio_dev *v, unsigned int off, void *data, unsigned int len)
{
	unsigned int shift;
	uint64_t *addr = ring_addr(v, off, len, &shift);

	if (addr)
		bus_put(data, len, *addr >> shift);
	else
		bus_put(data, len, common_width(off) == len ? common_get(v, off) : 0);
}

static void common_write(struct virtio_dev *v, unsigned int off, const void *data, unsigned int len)
{
	unsigned int shift;
	uint64_t *addr = ring_addr(v, off, len, &shift), val = bus_get(data, len);

	if (addr && !selected(v)->enable) {
		uint64_t mask = len == 8 ? ~0ull : 0xffffffffull << shift;

		*addr = (*addr & ~mask) | (val << shift);
	} else if (common_width(off) == len) {
		common_set(v, off, (uint32_t)val);
	}
}

/* ---- the BAR ---- */

static struct virtio_dev *of_pci(struct pci_dev *p)
{
	return container_of(p, struct virtio_dev, pci);
}

static void bar_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct virtio_dev *v = of_pci(arg);
	unsigned int at = off % PAGE_BYTES;

	memset(data, 0, len);
	switch (off - at) {
	case COMMON_OFF:
		common_read(v, at, data, len);
		break;
	case ISR_OFF:
		if (at == 0 && len == 1) {
			bus_put(data, 1, v->st->isr);
			v->st->isr = 0;
		}
		break;
	case DEVICE_OFF:
		v->type->config_read(v, at, data, len);
		break;
	default:
		break;
	}
}

static void bar_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct virtio_dev *v = of_pci(arg);
	unsigned int at = off % PAGE_BYTES;

	switch (off - at) {
	case COMMON_OFF:
		common_write(v, at, data, len);
		break;
	case DEVICE_OFF:
		v->type->config_write(v, at, data, len);
		break;
	case NOTIFY_OFF:
		if (at % NOTIFY_STRIDE == 0 && at / NOTIFY_STRIDE < v->st->nr_queues)
			virtio_slow_kick(v, at / NOTIFY_STRIDE);
		break;
	default:
		break;
	}
}

static void bar_mapped(struct pci_dev *p, unsigned int bar, uint64_t base, bool mapped)
{
	(void)bar;
	virtio_notify_area(of_pci(p), mapped ? base + NOTIFY_OFF : 0);
}

static const struct pci_bar_ops virtio_bar_ops = {
	.bus = { .read = bar_read, .write = bar_write },
	.mapped = bar_mapped,
};

/* ---- the BAR through config space (4.1.4.9) ---- */

static void cfg_window(struct pci_dev *p, bool write)
{
	unsigned int cap = p->cfg_off - CFG_DATA;
	uint8_t *c = p->st->config + cap;
	uint32_t off = (uint32_t)bus_get(c + VIRTIO_PCI_CAP_OFFSET, 4);
	uint32_t len = (uint32_t)bus_get(c + VIRTIO_PCI_CAP_LENGTH, 4);
	uint8_t data[4] = { 0 };

	if ((len != 1 && len != 2 && len != 4) || off % len)
		return;
	memcpy(data, c + CFG_DATA, len);
	if (pci_bar_access(p, c[VIRTIO_PCI_CAP_BAR], off, data, len, write) && !write)
		memcpy(c + CFG_DATA, data, len);
}

static void cfg_read(struct pci_dev *p, unsigned int off, unsigned int len)
{
	(void)off;
	(void)len;
	cfg_window(p, false);
}

static void cfg_wrote(struct pci_dev *p, unsigned int off, unsigned int len)
{
	(void)off;
	(void)len;
	cfg_window(p, true);
}

static const struct pci_cfg_ops virtio_cfg_ops = { .read = cfg_read, .wrote = cfg_wrote };

/* ---- set-up ---- */

static int add_cap(struct virtio_dev *v, uint8_t type, uint32_t off, uint32_t len, uint32_t extra,
		   unsigned int extra_bytes, struct err *e)
{
	uint8_t body[CFG_BYTES - 2] = { 0 };

	body[VIRTIO_PCI_CAP_LEN - 2] = (uint8_t)(16 + extra_bytes);
	body[VIRTIO_PCI_CAP_CFG_TYPE - 2] = type;
	body[VIRTIO_PCI_CAP_BAR - 2] = BAR;
	bus_put(body + VIRTIO_PCI_CAP_OFFSET - 2, 4, off);
	bus_put(body + VIRTIO_PCI_CAP_LENGTH - 2, 4, len);
	bus_put(body + 16 - 2, 4, extra);
	return pci_add_cap(&v->pci, PCI_CAP_ID_VNDR, body, 14 + extra_bytes, e);
}

static int add_caps(struct virtio_dev *v, struct err *e)
{
	int cap;

	cap = add_cap(v, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFF, COMMON_BYTES, 0, 0, e);
	if (cap >= 0)
		cap = add_cap(v, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFF, 1, 0, 0, e);
	if (cap >= 0)
		cap = add_cap(v, VIRTIO_PCI_CAP_DEVICE_CFG, DEVICE_OFF, PAGE_BYTES, 0, 0, e);
	if (cap >= 0)
		cap = add_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFF,
			      NOTIFY_STRIDE * v->st->nr_queues, NOTIFY_STRIDE, 4, e);
	if (cap >= 0)
		cap = add_cap(v, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0, 4, e);
	if (cap < 0)
		return cap;
	pci_cfg_writable(&v->pci, (unsigned int)cap + VIRTIO_PCI_CAP_BAR, 1);
	pci_cfg_writable(&v->pci, (unsigned int)cap + VIRTIO_PCI_CAP_OFFSET, 4);
	pci_cfg_writable(&v->pci, (unsigned int)cap + VIRTIO_PCI_CAP_LENGTH, 4);
	pci_cfg_writable(&v->pci, (unsigned int)cap + CFG_DATA, 4);
	pci_cfg_window(&v->pci, (unsigned int)cap + CFG_DATA, 4, &virtio_cfg_ops);
	return 0;
}

int virtio_pci_init(struct virtio_dev *v, struct err *e)
{
	struct pci_ids ids = {
		.vendor = 0x1af4,
		.device = (uint16_t)(0x1040 + v->type->device_id),
		.subvendor = 0x1af4,
		.subdevice = 0x1100,
		.revision = 1,
		.class_code = { v->type->pci_class[0], v->type->pci_class[1],
				v->type->pci_class[2] },
	};
	int ret = pci_add(v->dev.m->pci, &v->pci, &ids, -1, e);

	if (!ret)
		ret = pci_add_bar(&v->pci, BAR, BAR_BYTES, &virtio_bar_ops, e);
	if (!ret)
		ret = add_caps(v, e);
	if (!ret)
		ret = pci_add_msix(&v->pci, v->st->nr_queues + 1, BAR, MSIX_OFF, PBA_OFF, e);
	return ret;
}
