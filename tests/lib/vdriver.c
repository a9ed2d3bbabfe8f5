/* SPDX-License-Identifier: MIT */
/*
 * The driver's side of virtio over PCI, scripted. See vdriver.h.
 */
#include "tests/lib/vdriver.h"

#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"

static uint32_t cfg_read(struct vdriver *d, unsigned int reg, unsigned int len)
{
	return (uint32_t)fm_read(d->fm, fm_ecam(d->slot, reg), len);
}

static void cfg_write(struct vdriver *d, unsigned int reg, unsigned int len, uint32_t v)
{
	fm_write(d->fm, fm_ecam(d->slot, reg), len, v);
}

static void take_cap(struct vdriver *d, unsigned int cap)
{
	uint64_t at = d->bar + cfg_read(d, cap + VIRTIO_PCI_CAP_OFFSET, 4);

	switch (cfg_read(d, cap + VIRTIO_PCI_CAP_CFG_TYPE, 1)) {
	case VIRTIO_PCI_CAP_COMMON_CFG:
		d->common = at;
		break;
	case VIRTIO_PCI_CAP_NOTIFY_CFG:
		d->notify = at;
		d->notify_mult = cfg_read(d, cap + VIRTIO_PCI_NOTIFY_CAP_MULT, 4);
		break;
	case VIRTIO_PCI_CAP_ISR_CFG:
		d->isr = at;
		break;
	case VIRTIO_PCI_CAP_DEVICE_CFG:
		d->config = at;
		break;
	default:
		break;
	}
}

void vd_probe(struct vdriver *d, struct fake_machine *fm, uint16_t virtio_id)
{
	unsigned int cap;

	memset(d, 0, sizeof(*d));
	d->fm = fm;
	for (d->slot = 1; d->slot < PCI_SLOTS; d->slot++)
		if (cfg_read(d, PCI_VENDOR_ID, 4) ==
		    (0x10400000u + ((uint32_t)virtio_id << 16) + 0x1af4u))
			break;
	BUG_ON(d->slot == PCI_SLOTS);
	d->bar = cfg_read(d, PCI_BASE_ADDRESS_0, 4) & ~0xfu;
	cfg_write(d, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	for (cap = cfg_read(d, PCI_CAPABILITY_LIST, 1); cap;
	     cap = cfg_read(d, cap + PCI_CAP_LIST_NEXT, 1)) {
		uint32_t id = cfg_read(d, cap, 1);

		if (id == PCI_CAP_ID_VNDR)
			take_cap(d, cap);
		else if (id == PCI_CAP_ID_MSIX)
			d->msix = cap;
	}
	BUG_ON(!d->common || !d->notify || !d->isr || !d->config || !d->msix);
}

uint64_t vd_get(struct vdriver *d, unsigned int reg, unsigned int len)
{
	return fm_read(d->fm, d->common + reg, len);
}

void vd_set(struct vdriver *d, unsigned int reg, unsigned int len, uint64_t v)
{
	fm_write(d->fm, d->common + reg, len, v);
}

uint8_t vd_status(struct vdriver *d)
{
	return (uint8_t)vd_get(d, VIRTIO_PCI_COMMON_STATUS, 1);
}

void vd_set_status(struct vdriver *d, uint8_t s)
{
	vd_set(d, VIRTIO_PCI_COMMON_STATUS, 1, s);
}

uint64_t vd_offered(struct vdriver *d)
{
	uint64_t f;

	vd_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 0);
	f = vd_get(d, VIRTIO_PCI_COMMON_DF, 4);
	vd_set(d, VIRTIO_PCI_COMMON_DFSELECT, 4, 1);
	return f | vd_get(d, VIRTIO_PCI_COMMON_DF, 4) << 32;
}

void vd_negotiate(struct vdriver *d, uint64_t want)
{
	vd_set_status(d, 0);
	BUG_ON(vd_status(d));
	vd_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE);
	vd_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	d->features = vd_offered(d) & (want | 1ull << VIRTIO_F_VERSION_1);
	vd_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	vd_set(d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)d->features);
	vd_set(d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	vd_set(d, VIRTIO_PCI_COMMON_GF, 4, d->features >> 32);
	vd_set_status(d, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER |
				 VIRTIO_CONFIG_S_FEATURES_OK);
	BUG_ON(!(vd_status(d) & VIRTIO_CONFIG_S_FEATURES_OK));
	d->nr_queues = (unsigned int)vd_get(d, VIRTIO_PCI_COMMON_NUMQ, 2);
	BUG_ON(d->nr_queues > VD_MAX_QUEUES);
}

void vd_msix(struct vdriver *d)
{
	unsigned int cap = (unsigned int)d->msix;
	uint32_t flags = cfg_read(d, cap + PCI_MSIX_FLAGS, 2);
	uint64_t table = d->bar + (cfg_read(d, cap + PCI_MSIX_TABLE, 4) & ~7u);

	cfg_write(d, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned int i = 0; i <= (flags & PCI_MSIX_FLAGS_QSIZE); i++, table += 16) {
		fm_write(d->fm, table, 4, VD_MSI_ADDR);
		fm_write(d->fm, table + 4, 4, 0);
		fm_write(d->fm, table + 8, 4, VD_MSI_DATA + i);
		fm_write(d->fm, table + 12, 4, 0);
	}
	cfg_write(d, cap + PCI_MSIX_FLAGS, 2, PCI_MSIX_FLAGS_ENABLE);
}

void vd_queue_setup(struct vdriver *d, unsigned int q, uint16_t size, bool enable)
{
	static const uint8_t zero[16 * VIRTIO_MAX_QUEUE_SIZE];
	struct vd_queue *vq = &d->q[q];
	struct gmem *gm = d->fm->m.mem;
	uint16_t max;

	vd_set(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	max = (uint16_t)vd_get(d, VIRTIO_PCI_COMMON_Q_SIZE, 2);
	memset(vq, 0, sizeof(*vq));
	vq->size = size && size < max ? size : max;
	vq->desc = fm_alloc(d->fm, 16ull * vq->size, 16);
	vq->avail = fm_alloc(d->fm, 6 + 2ull * vq->size, 2);
	vq->used = fm_alloc(d->fm, 6 + 8ull * vq->size, 4);
	BUG_ON(gmem_write(gm, vq->desc, zero, 16ull * vq->size) ||
	       gmem_write(gm, vq->avail, zero, 6 + 2ull * vq->size) ||
	       gmem_write(gm, vq->used, zero, 6 + 8ull * vq->size));
	vd_set(d, VIRTIO_PCI_COMMON_Q_SIZE, 2, vq->size);
	vd_set(d, VIRTIO_PCI_COMMON_Q_MSIX, 2, q + 1);
	vd_set(d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)vq->desc);
	vd_set(d, VIRTIO_PCI_COMMON_Q_DESCHI, 4, vq->desc >> 32);
	vd_set(d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)vq->avail);
	vd_set(d, VIRTIO_PCI_COMMON_Q_AVAILHI, 4, vq->avail >> 32);
	vd_set(d, VIRTIO_PCI_COMMON_Q_USEDLO, 4, (uint32_t)vq->used);
	vd_set(d, VIRTIO_PCI_COMMON_Q_USEDHI, 4, vq->used >> 32);
	if (enable)
		vd_set(d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
}

void vd_start(struct vdriver *d, uint64_t want, uint16_t size)
{
	vd_negotiate(d, want);
	vd_msix(d);
	vd_set(d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	for (unsigned int q = 0; q < d->nr_queues; q++)
		vd_queue_setup(d, q, size, true);
	vd_set_status(d, vd_status(d) | VIRTIO_CONFIG_S_DRIVER_OK);
}

static uint16_t load16(struct vdriver *d, gpa_t at)
{
	uint16_t v;

	BUG_ON(gmem_load16(d->fm->m.mem, at, &v));
	return v;
}

static void store16(struct vdriver *d, gpa_t at, uint16_t v)
{
	BUG_ON(gmem_store16(d->fm->m.mem, at, v));
}

void vd_desc(struct vdriver *d, gpa_t table, unsigned int i, gpa_t addr, uint32_t len,
	     uint16_t flags, uint16_t next)
{
	struct {
		le64 addr;
		le32 len;
		le16 flags, next;
	} raw = { le64_put(addr), le32_put(len), le16_put(flags), le16_put(next) };

	BUG_ON(gmem_write(d->fm->m.mem, table + 16ull * i, &raw, sizeof(raw)));
}

void vd_set_avail_idx(struct vdriver *d, unsigned int q, uint16_t idx)
{
	d->q[q].avail_idx = idx;
	store16(d, d->q[q].avail + 2, idx);
}

void vd_avail(struct vdriver *d, unsigned int q, uint16_t head)
{
	struct vd_queue *vq = &d->q[q];

	store16(d, vq->avail + 4 + 2ull * (vq->avail_idx % vq->size), head);
	vd_set_avail_idx(d, q, (uint16_t)(vq->avail_idx + 1));
}

uint16_t vd_add(struct vdriver *d, unsigned int q, const struct vd_buf *b, unsigned int n,
		bool indirect)
{
	struct vd_queue *vq = &d->q[q];
	uint16_t head = vq->next_desc, at = head;
	gpa_t table = indirect ? fm_alloc(d->fm, 16ull * n, 16) : vq->desc;

	BUG_ON(!n || (!indirect && n > vq->size));
	for (unsigned int i = 0; i < n; i++) {
		uint16_t here = indirect ? (uint16_t)i : at;
		uint16_t next = (uint16_t)(indirect ? i + 1 : (at + 1u) % vq->size);
		uint16_t flags = b[i].in ? VRING_DESC_F_WRITE : 0;

		if (i + 1 < n)
			flags |= VRING_DESC_F_NEXT;
		vd_desc(d, table, here, b[i].gpa, b[i].len, flags, next);
		if (!indirect)
			at = next;
	}
	if (indirect) {
		vd_desc(d, vq->desc, head, table, 16 * n, VRING_DESC_F_INDIRECT, 0);
		at = (uint16_t)((head + 1u) % vq->size);
	}
	vq->next_desc = at;
	vd_avail(d, q, head);
	return head;
}

void vd_kick(struct vdriver *d, unsigned int q)
{
	uint32_t off;

	vd_set(d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
	off = (uint32_t)vd_get(d, VIRTIO_PCI_COMMON_Q_NOFF, 2);
	fm_write(d->fm, d->notify + (uint64_t)off * d->notify_mult, 2, q);
}

bool vd_kick_if_wanted(struct vdriver *d, unsigned int q, uint16_t old_idx)
{
	struct vd_queue *vq = &d->q[q];
	uint16_t event = load16(d, vq->used + 4 + 8ull * vq->size);
	bool want;

	if (d->features & (1ull << VIRTIO_RING_F_EVENT_IDX))
		want = vring_need_event(event, vq->avail_idx, old_idx);
	else
		want = !(load16(d, vq->used) & VRING_USED_F_NO_NOTIFY);
	if (want)
		vd_kick(d, q);
	return want;
}

uint16_t vd_used_idx(struct vdriver *d, unsigned int q)
{
	return load16(d, d->q[q].used + 2);
}

bool vd_used(struct vdriver *d, unsigned int q, uint32_t *id, uint32_t *len)
{
	struct vd_queue *vq = &d->q[q];
	struct {
		le32 id, len;
	} raw;

	if (vd_used_idx(d, q) == vq->last_used)
		return false;
	BUG_ON(gmem_read(d->fm->m.mem, vq->used + 4 + 8ull * (vq->last_used % vq->size), &raw,
			 sizeof(raw)));
	vq->last_used++;
	if (d->features & (1ull << VIRTIO_RING_F_EVENT_IDX))
		store16(d, vq->avail + 4 + 2ull * vq->size, vq->last_used);
	if (id)
		*id = le32_get(raw.id);
	if (len)
		*len = le32_get(raw.len);
	return true;
}

struct wait {
	struct vdriver *d;
	unsigned int q;
};

static bool woken(void *arg)
{
	struct wait *w = arg;
	struct fake_machine *fm = w->d->fm;

	if (fm->interrupted)
		return fm->interrupted(fm, VD_MSI_DATA + w->q + 1);
	return vd_used_idx(w->d, w->q) != w->d->q[w->q].last_used;
}

bool vd_wait_used(struct vdriver *d, unsigned int q, uint32_t *id, uint32_t *len)
{
	struct vd_queue *vq = &d->q[q];
	struct wait w = { d, q };

	for (;;) {
		if (vq->awake && vd_used(d, q, id, len))
			return true;
		vq->awake = fm_until(d->fm, woken, &w);
		if (!vq->awake)
			return false;
	}
}

void vd_submit(struct vdriver *d, unsigned int q, const struct vd_buf *b, unsigned int n,
	       bool indirect)
{
	uint16_t old = d->q[q].avail_idx;

	if (vd_used_idx(d, q) == d->q[q].last_used)
		d->q[q].awake = false;
	vd_add(d, q, b, n, indirect);
	vd_kick_if_wanted(d, q, old);
}
