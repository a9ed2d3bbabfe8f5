/* SPDX-License-Identifier: MIT */
/*
 * Split virtqueues (virtio 1.2 section 2.7), the device's side. Rings and descriptors are in guest
 * memory and change under us: each field is read once, checked, and only the copy is used. Whatever
 * is wrong breaks the device (DEVICE_NEEDS_RESET), never the VM.
 *
 * Callers: devices, on main with the device lock held.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/virtio_ring.h>
#include <stdatomic.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "virtio/internal.h"

#define DESC_BYTES 16u

struct desc {
	gpa_t addr;
	uint32_t len;
	uint16_t flags, next;
};

/* The table a chain is being walked in: the ring's own, or one indirect. */
struct table {
	gpa_t gpa;
	uint32_t count, steps;
	bool indirect;
};

/* Addresses of the rings' parts; s was checked by vq_ring_ok when the queue was enabled. */
static gpa_t avail_idx(const struct vq_state *s)
{
	return s->avail + 2;
}

static gpa_t avail_ring(const struct vq_state *s, uint16_t i)
{
	return s->avail + 4 + 2ull * (i & (s->size - 1u));
}

static gpa_t used_event(const struct vq_state *s)
{
	return s->avail + 4 + 2ull * s->size;
}

static gpa_t used_ring(const struct vq_state *s, uint16_t i)
{
	return s->used + 4 + 8ull * (i & (s->size - 1u));
}

static gpa_t avail_event(const struct vq_state *s)
{
	return s->used + 4 + 8ull * s->size;
}

static int part_ok(const struct virtio_dev *v, const char *what, gpa_t gpa, uint64_t len,
		   unsigned int align, struct err *e)
{
	if (gpa & (align - 1))
		return err_set(e, EINVAL, "%s at %#" PRIx64 " is not aligned to %u", what, gpa,
			       align);
	if (!gmem_valid(v->dev.m->mem, gpa, len))
		return err_set(e, EINVAL, "%s at %#" PRIx64 "+%" PRIu64 " is not RAM", what, gpa,
			       len);
	return 0;
}

int vq_ring_ok(const struct virtio_dev *v, const struct vq_state *s, struct err *e)
{
	int ret;

	if (!s->size || s->size > VIRTIO_MAX_QUEUE_SIZE || (s->size & (s->size - 1)))
		return err_set(e, EINVAL, "size %u", s->size);
	ret = part_ok(v, "descriptor table", s->desc, 16ull * s->size, 16, e);
	if (!ret)
		ret = part_ok(v, "available ring", s->avail, 6 + 2ull * s->size, 2, e);
	if (!ret)
		ret = part_ok(v, "used ring", s->used, 6 + 8ull * s->size, 4, e);
	return ret;
}

static gpa_t part(const struct vq_state *s, int i, size_t *len)
{
	*len = i == 0 ? 16u * s->size : i == 1 ? 6u + 2u * s->size : 6u + 8u * s->size;
	return i == 0 ? s->desc : i == 1 ? s->avail : s->used;
}

int vq_map(struct virtio_dev *v, unsigned int q, struct vq_mapped *out, struct err *e)
{
	const struct vq_state *s = &v->st->vq[q];
	void *at[3];
	size_t len;

	for (int i = 0; i < 3; i++) {
		gpa_t gpa = part(s, i, &len);

		at[i] = gmem_pin(v->dev.m->mem, gpa, len, i == 2);
		if (at[i])
			continue;
		while (i-- > 0) {
			gpa = part(s, i, &len);
			gmem_unpin(v->dev.m->mem, gpa, len, i == 2);
		}
		return err_set(e, EFAULT, "queue %u: a ring is not RAM", q);
	}
	*out = (struct vq_mapped){ .desc = at[0], .avail = at[1], .used = at[2] };
	return 0;
}

void vq_unmap(struct virtio_dev *v, unsigned int q)
{
	const struct vq_state *s = &v->st->vq[q];

	for (int i = 0; i < 3; i++) {
		size_t len;
		gpa_t gpa = part(s, i, &len);

		gmem_unpin(v->dev.m->mem, gpa, len, i == 2);
	}
}

/* ---- popping ---- */

static int broken(struct virtio_dev *v, unsigned int q, const char *what, uint64_t n)
{
	virtio_broken(v, "queue %u: %s (%#" PRIx64 ")", q, what, n);
	return -EPROTO;
}

static int read_desc(struct virtio_dev *v, const struct table *t, uint32_t i, struct desc *d)
{
	struct {
		le64 addr;
		le32 len;
		le16 flags, next;
	} raw;
	int ret = gmem_read(v->dev.m->mem, t->gpa + (uint64_t)DESC_BYTES * i, &raw, DESC_BYTES);

	if (ret)
		return ret;
	*d = (struct desc){ .addr = le64_get(raw.addr),
			    .len = le32_get(raw.len),
			    .flags = le16_get(raw.flags),
			    .next = le16_get(raw.next) };
	return 0;
}

static int enter_indirect(struct virtio_dev *v, unsigned int q, struct table *t,
			  const struct desc *d)
{
	if (!virtio_has(v, VIRTIO_RING_F_INDIRECT_DESC))
		return broken(v, q, "indirect descriptor, not negotiated", d->addr);
	if (t->indirect)
		return broken(v, q, "nested indirect table", d->addr);
	if (d->flags & VRING_DESC_F_NEXT)
		return broken(v, q, "indirect descriptor with a next one", d->next);
	if (!d->len || d->len % DESC_BYTES)
		return broken(v, q, "indirect table size", d->len);
	if (!gmem_valid(v->dev.m->mem, d->addr, d->len))
		return broken(v, q, "indirect table is not RAM", d->addr);
	*t = (struct table){ .gpa = d->addr, .count = d->len / DESC_BYTES, .indirect = true };
	return 0;
}

static int add_segment(struct virtio_dev *v, unsigned int q, struct vq_chain *c,
		       const struct desc *d)
{
	bool in = d->flags & VRING_DESC_F_WRITE;
	uint32_t *bytes = in ? &c->in_bytes : &c->out_bytes;
	unsigned int n = c->nr_out + c->nr_in;

	if (n == VIRTIO_MAX_SEGS)
		return broken(v, q, "chain is too long", n);
	if (!d->len)
		return broken(v, q, "empty descriptor", d->addr);
	if (!in && c->nr_in)
		return broken(v, q, "readable descriptor after a writable one", d->addr);
	if (!gmem_valid(v->dev.m->mem, d->addr, d->len))
		return broken(v, q, "descriptor is not RAM", d->addr);
	/* both halves together, as a device may add them up */
	if ((uint64_t)c->in_bytes + c->out_bytes + d->len > UINT32_MAX)
		return broken(v, q, "chain has too many bytes", d->len);
	*bytes += d->len;
	c->seg[n] = (struct vq_seg){ .gpa = d->addr, .len = d->len };
	if (in)
		c->nr_in++;
	else
		c->nr_out++;
	return 0;
}

static int walk(struct virtio_dev *v, unsigned int q, struct vq_chain *c)
{
	const struct vq_state *s = &v->st->vq[q];
	struct table t = { .gpa = s->desc, .count = s->size };
	uint32_t i = c->head;
	struct desc d;
	int ret;

	for (;;) {
		if (i >= t.count)
			return broken(v, q, "descriptor index", i);
		/* a chain that visits more descriptors than there are runs in a circle */
		if (t.steps++ == t.count)
			return broken(v, q, "descriptor cycle from head", c->head);
		if (read_desc(v, &t, i, &d))
			return broken(v, q, "descriptor table is not RAM", t.gpa);
		if (d.flags & VRING_DESC_F_INDIRECT) {
			ret = enter_indirect(v, q, &t, &d);
			if (ret)
				return ret;
			i = 0;
			continue;
		}
		ret = add_segment(v, q, c, &d);
		if (ret)
			return ret;
		if (!(d.flags & VRING_DESC_F_NEXT))
			return 0;
		i = d.next;
	}
}

/* Chains available now; broken when there are more than the ring can hold. */
static int available(struct virtio_dev *v, unsigned int q)
{
	const struct vq_state *s = &v->st->vq[q];
	uint16_t idx, n;

	if (gmem_load16(v->dev.m->mem, avail_idx(s), &idx))
		return broken(v, q, "available ring is not RAM", s->avail);
	n = (uint16_t)(idx - s->last_avail);
	if (n > s->size)
		return broken(v, q, "available index jumped", idx);
	return n;
}

/*
 * As available(), but before it says 0 it asks for kicks again: with EVENT_IDX by publishing where
 * we stopped and looking once more, or a chain added in between would wait for ever.
 */
static int available_or_armed(struct virtio_dev *v, unsigned int q)
{
	const struct vq_state *s = &v->st->vq[q];
	int n;

	if (q >= v->st->nr_queues || !virtio_live(v) || !s->enable)
		return 0;
	n = available(v, q);
	if (n || !virtio_has(v, VIRTIO_RING_F_EVENT_IDX))
		return n;
	if (gmem_store16(v->dev.m->mem, avail_event(s), s->last_avail))
		return broken(v, q, "used ring is not RAM", s->used);
	atomic_thread_fence(memory_order_seq_cst);
	return available(v, q);
}

int vq_pop(struct virtio_dev *v, unsigned int q, struct vq_chain *c)
{
	struct vq_state *s = &v->st->vq[q];
	uint16_t head;
	int n = available_or_armed(v, q);

	if (n <= 0)
		return n;
	if (v->q[q].in_flight == s->size)
		return broken(v, q, "more chains outstanding than the ring holds", s->size);
	if (gmem_load16(v->dev.m->mem, avail_ring(s, s->last_avail), &head))
		return broken(v, q, "available ring is not RAM", s->avail);
	if (head >= s->size)
		return broken(v, q, "head", head);
	c->head = head;
	c->nr_out = c->nr_in = 0;
	c->out_bytes = c->in_bytes = 0;
	n = walk(v, q, c);
	if (n)
		return n;
	s->last_avail++;
	v->q[q].in_flight++;
	return 1;
}

void vq_unpop(struct virtio_dev *v, unsigned int q)
{
	BUG_ON(!v->q[q].in_flight);
	v->q[q].in_flight--;
	v->st->vq[q].last_avail--;
}

bool vq_empty(struct virtio_dev *v, unsigned int q)
{
	return available_or_armed(v, q) <= 0;
}

/* ---- pushing ---- */

void vq_push(struct virtio_dev *v, unsigned int q, uint16_t head, uint32_t written)
{
	struct vq_state *s = &v->st->vq[q];
	struct gmem *gm = v->dev.m->mem;
	struct {
		le32 id, len;
	} elem = { le32_put(head), le32_put(written) };

	if (v->q[q].in_flight)
		v->q[q].in_flight--;
	if (!virtio_live(v) || !s->enable)
		return;
	if (gmem_write(gm, used_ring(s, s->used_idx), &elem, sizeof(elem)) ||
	    gmem_store16(gm, s->used + 2, (uint16_t)(s->used_idx + 1))) {
		broken(v, q, "used ring is not RAM", s->used);
		return;
	}
	s->used_idx++;
}

/* Has the driver asked to hear of used entries from `from` up to used_idx? */
static bool wants_interrupt(struct virtio_dev *v, unsigned int q, uint16_t from, bool from_valid)
{
	const struct vq_state *s = &v->st->vq[q];
	uint16_t x;

	if (!virtio_has(v, VIRTIO_RING_F_EVENT_IDX))
		return !gmem_load16(v->dev.m->mem, s->avail, &x) &&
		       !(x & VRING_AVAIL_F_NO_INTERRUPT);
	if (gmem_load16(v->dev.m->mem, used_event(s), &x))
		return false;
	return !from_valid || (uint16_t)(s->used_idx - x - 1) < (uint16_t)(s->used_idx - from);
}

void vq_notify(struct virtio_dev *v, unsigned int q)
{
	struct vq_state *s = &v->st->vq[q];
	uint16_t from = s->signalled_used;
	bool valid = s->signalled_valid;

	if (!virtio_live(v) || !s->enable || (valid && from == s->used_idx))
		return;
	/* our index must be out before the driver's wish is read, or both sides may sleep */
	atomic_thread_fence(memory_order_seq_cst);
	s->signalled_used = s->used_idx;
	s->signalled_valid = 1;
	if (!wants_interrupt(v, q, from, valid))
		return;
	v->st->isr |= 1;
	pci_msix_notify(&v->pci, s->vector);
}

bool vq_unseen(struct virtio_dev *v, unsigned int q)
{
	const struct vq_state *s = &v->st->vq[q];
	uint16_t event;

	if (!s->enable || (!s->used_idx && !s->signalled_valid))
		return false;
	/* a driver that has seen everything waits for the very next entry */
	if (virtio_has(v, VIRTIO_RING_F_EVENT_IDX))
		return !gmem_load16(v->dev.m->mem, used_event(s), &event) && event != s->used_idx;
	return wants_interrupt(v, q, 0, false);
}

/* ---- a chain's bytes ---- */

/* Copies between buf and the nr segments at seg, from byte off on. */
static size_t copy(struct virtio_dev *v, const struct vq_seg *seg, unsigned int nr, size_t off,
		   void *buf, size_t n, bool write)
{
	char *p = buf;
	size_t done = 0;

	for (unsigned int i = 0; i < nr && done < n; i++) {
		size_t k;
		int ret;

		if (off >= seg[i].len) {
			off -= seg[i].len;
			continue;
		}
		k = MIN(n - done, seg[i].len - off);
		if (write)
			ret = gmem_write(v->dev.m->mem, seg[i].gpa + off, p + done, k);
		else
			ret = gmem_read(v->dev.m->mem, seg[i].gpa + off, p + done, k);
		if (ret)
			break;
		done += k;
		off = 0;
	}
	return done;
}

size_t vq_read(struct virtio_dev *v, const struct vq_chain *c, size_t off, void *dst, size_t n)
{
	return copy(v, c->seg, c->nr_out, off, dst, n, false);
}

size_t vq_write(struct virtio_dev *v, const struct vq_chain *c, size_t off, const void *src,
		size_t n)
{
	/* copy() only reads the buffer when it writes to the guest */
	return copy(v, c->seg + c->nr_out, c->nr_in, off, (void *)(uintptr_t)src, n, true);
}
