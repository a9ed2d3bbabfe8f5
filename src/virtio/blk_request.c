/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk's requests (virtio 1.2 section 5.2.6): a chain becomes a request of src/block, its end
 * a status byte and a used entry. Main, or the vCPU thread that resets the device; the device lock
 * is held.
 *
 * A request without room for its status byte or its header breaks the device; all other nonsense
 * gets a status. Guest memory is pinned from pop to completion.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <string.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "virtio/blk_internal.h"

#define BATCH 256u     /* chains taken before others get their turn on main */
#define SOON_NS 50000u /* when a batch is done and more is waiting */
#define HEADER 16u
#define RANGE 16u

static struct vreq *vreq_get(struct vblk *d, unsigned int queue)
{
	struct vreq *q = &d->reqs[d->free_reqs[--d->nr_free]];

	q->d = d;
	q->queue = (uint16_t)queue;
	q->pins = 0;
	q->into_guest = false;
	return q;
}

static void vreq_put(struct vblk *d, struct vreq *q)
{
	for (unsigned int i = 0; i < q->pins; i++)
		gmem_unpin(d->v.dev.m->mem, q->pin[i].gpa, q->pin[i].len, q->into_guest);
	q->pins = 0;
	d->free_reqs[d->nr_free++] = (uint8_t)(q - d->reqs);
}

/* Status byte, used ring, and q is free again. */
static void complete(struct vblk *d, struct vreq *q, uint8_t status)
{
	vq_write(&d->v, &q->chain, q->chain.in_bytes - 1, &status, 1);
	vq_push(&d->v, q->queue, q->chain.head, q->chain.in_bytes);
	d->touched |= 1ull << q->queue;
	vreq_put(d, q);
}

/* Is what completes durable (section 5.2.6.2)? */
static bool writethrough(const struct vblk *d)
{
	if (d->cfg.writes == BLK_OVERLAY)
		return false; /* it never is */
	if (!virtio_has(&d->v, VIRTIO_BLK_F_FLUSH))
		return true;
	return virtio_has(&d->v, VIRTIO_BLK_F_CONFIG_WCE) && !d->state.writeback;
}

static void tell_owner(struct vblk *d, const struct blk_req *r, int result)
{
	static const char *const op[] = { [BLK_READ] = "read",
					  [BLK_WRITE] = "write",
					  [BLK_FLUSH] = "flush",
					  [BLK_DISCARD] = "discard",
					  [BLK_ZERO] = "write of zeroes" };
	const char *kind = result == -ENOSPC   ? "disk-full"
			   : result == -EDQUOT ? "disk-quota"
					       : "disk-error";
	char what[160];

	snprintf(what, sizeof(what), "%s of %llu bytes at %llu: %s", op[r->op],
		 (unsigned long long)r->len, (unsigned long long)r->offset_bytes,
		 strerrordesc_np(-result));
	d->v.dev.m->notice(d->v.dev.m, kind, d->v.dev.id, what);
}

static void on_done(struct blk_req *r, int result)
{
	struct vreq *q = container_of(r, struct vreq, r);
	struct vblk *d = q->d;

	if (d->dropping) {
		vreq_put(d, q);
		return;
	}
	if (!result && r->op != BLK_READ && r->op != BLK_FLUSH && writethrough(d)) {
		q->r.op = BLK_FLUSH;
		q->r.offset_bytes = 0;
		q->r.len = 0;
		BUG_ON(blk_submit(d->blk, &q->r)); /* in the place of the one that ended */
		return;
	}
	if (result && result != -EOPNOTSUPP)
		tell_owner(d, r, result);
	complete(d, q,
		 result == -EOPNOTSUPP ? VIRTIO_BLK_S_UNSUPP
		 : result	       ? VIRTIO_BLK_S_IOERR
				       : VIRTIO_BLK_S_OK);
}

/* Pins n bytes of the out (or in) half from byte skip on, as the request's iovec. */
static int pin_data(struct vblk *d, struct vreq *q, bool in, uint64_t skip, uint64_t n)
{
	const struct vq_seg *s = q->chain.seg + (in ? q->chain.nr_out : 0);

	q->into_guest = in;
	for (; n; s++) {
		uint32_t len;
		gpa_t gpa;
		void *p;

		if (skip >= s->len) {
			skip -= s->len;
			continue;
		}
		len = (uint32_t)MIN(n, s->len - skip);
		gpa = s->gpa + skip;
		skip = 0;
		p = gmem_pin(d->v.dev.m->mem, gpa, len, in);
		if (!p)
			return -EFAULT;
		q->iov[q->pins] = (struct iovec){ p, len };
		q->pin[q->pins++] = (struct vq_seg){ .gpa = gpa, .len = len };
		n -= len;
	}
	return 0;
}

static uint8_t submit(struct vblk *d, struct vreq *q, enum blk_op op, uint64_t sector, uint64_t len)
{
	uint64_t off = 0;

	if (!d->blk)
		return VIRTIO_BLK_S_IOERR;
	if (op != BLK_FLUSH && (len % BLK_SECTOR || !mul_u64(sector, BLK_SECTOR, &off) ||
				!range_ok(off, len, d->cfg.size_bytes)))
		return VIRTIO_BLK_S_IOERR;
	if (d->cfg.read_only && op != BLK_READ && op != BLK_FLUSH)
		return VIRTIO_BLK_S_IOERR;
	rate_take(&d->state.ops, 1);
	if (op == BLK_READ || op == BLK_WRITE)
		rate_take(&d->state.bytes, len);
	q->r = (struct blk_req){
		.op = op, .offset_bytes = op == BLK_FLUSH ? 0 : off, .len = len, .done = on_done
	};
	if (op == BLK_READ && pin_data(d, q, true, 0, len))
		return VIRTIO_BLK_S_IOERR;
	if (op == BLK_WRITE && pin_data(d, q, false, HEADER, len))
		return VIRTIO_BLK_S_IOERR;
	q->r.iov = q->iov;
	q->r.niov = q->pins;
	/* There are as many vreqs as blk takes. */
	BUG_ON(blk_submit(d->blk, &q->r));
	return VIRTIO_BLK_S_OK;
}

/* DISCARD and WRITE_ZEROES: one range, as max_*_seg says (section 5.2.6). */
static uint8_t submit_range(struct vblk *d, struct vreq *q, enum blk_op op)
{
	struct {
		le64 sector;
		le32 sectors, flags;
	} range;
	uint32_t n, flags;

	if (q->chain.out_bytes != HEADER + RANGE ||
	    vq_read(&d->v, &q->chain, HEADER, &range, RANGE) != RANGE)
		return VIRTIO_BLK_S_IOERR;
	n = le32_get(range.sectors);
	flags = le32_get(range.flags);
	if (flags & ~(op == BLK_ZERO ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
		return VIRTIO_BLK_S_UNSUPP;
	if (n > VBLK_ZERO_SECTORS)
		return VIRTIO_BLK_S_IOERR;
	return submit(d, q, op, le64_get(range.sector), (uint64_t)n * BLK_SECTOR);
}

/* Starts the request, which then completes by itself, or says what is wrong with it. */
static bool dispatch(struct vblk *d, struct vreq *q, uint32_t type, uint64_t sector,
		     uint8_t *status)
{
	struct vq_chain *c = &q->chain;
	char id[VIRTIO_BLK_ID_BYTES];

	switch (type) {
	case VIRTIO_BLK_T_IN:
		*status = submit(d, q, BLK_READ, sector, c->in_bytes - 1);
		break;
	case VIRTIO_BLK_T_OUT:
		*status = submit(d, q, BLK_WRITE, sector, c->out_bytes - HEADER);
		break;
	case VIRTIO_BLK_T_FLUSH:
		*status = submit(d, q, BLK_FLUSH, 0, 0);
		break;
	case VIRTIO_BLK_T_DISCARD:
		*status = submit_range(d, q, BLK_DISCARD);
		break;
	case VIRTIO_BLK_T_WRITE_ZEROES:
		*status = submit_range(d, q, BLK_ZERO);
		break;
	case VIRTIO_BLK_T_GET_ID:
		memcpy(id, d->cfg.serial, sizeof(id));
		vq_write(&d->v, c, 0, id, MIN(sizeof(id), c->in_bytes - 1));
		*status = VIRTIO_BLK_S_OK;
		return false;
	default:
		*status = VIRTIO_BLK_S_UNSUPP;
		break;
	}
	return *status == VIRTIO_BLK_S_OK;
}

static void handle(struct vblk *d, struct vreq *q)
{
	struct {
		le32 type, reserved;
		le64 sector;
	} head;
	uint8_t status;

	if (!q->chain.in_bytes || q->chain.out_bytes < HEADER ||
	    vq_read(&d->v, &q->chain, 0, &head, HEADER) != HEADER) {
		virtio_broken(&d->v, "request of %u readable, %u writable bytes",
			      q->chain.out_bytes, q->chain.in_bytes);
		vq_push(&d->v, q->queue, q->chain.head, 0);
		vreq_put(d, q);
		return;
	}
	if (!dispatch(d, q, le32_get(head.type), le64_get(head.sector), &status))
		complete(d, q, status);
}

uint64_t vblk_rate_wait_ns(struct vblk *d)
{
	struct vblk_state *st = &d->state;
	uint64_t now, bytes, ops;

	if (!st->bytes.size && !st->ops.size)
		return 0;
	now = time_mono_ns();
	rate_pass(&st->bytes, now - d->rated_ns);
	rate_pass(&st->ops, now - d->rated_ns);
	d->rated_ns = now;
	bytes = rate_wait_ns(&st->bytes);
	ops = rate_wait_ns(&st->ops);
	return MAX(bytes, ops);
}

static void tell_driver(struct vblk *d)
{
	for (unsigned int qn = 0; qn < d->v.st->nr_queues; qn++)
		if (d->touched >> qn & 1)
			vq_notify(&d->v, qn);
	d->touched = 0;
}

void vblk_kick(struct virtio_dev *v, unsigned int qn)
{
	struct vblk *d = (struct vblk *)v;
	uint64_t wait = 0;
	struct vreq *q;

	if (d->kicking) {
		d->stalled |= 1ull << qn;
		return;
	}
	d->kicking = true;
	d->stalled &= ~(1ull << qn);
	for (unsigned int i = 0;; i++) {
		wait = vblk_rate_wait_ns(d);
		if (i == BATCH || !d->nr_free || wait) {
			d->stalled |= 1ull << qn;
			break;
		}
		q = vreq_get(d, qn);
		if (vq_pop(v, qn, &q->chain) <= 0) {
			vreq_put(d, q);
			break;
		}
		handle(d, q);
	}
	if (d->blk)
		blk_kick(d->blk);
	tell_driver(d);
	d->kicking = false;
	/* With none free, on_batch goes on when one is. */
	if (d->stalled && d->nr_free)
		loop_set_timer(d->timer, MAX(wait, (uint64_t)SOON_NS));
}

void vblk_go_on(void *arg)
{
	struct vblk *d = arg;
	unsigned int n = d->v.st->nr_queues, first = d->next;

	for (unsigned int i = 0; i < n && d->stalled && d->nr_free; i++) {
		unsigned int qn = (first + i) % n;

		if (!(d->stalled >> qn & 1) || d->kicking || !d->v.resumed || !virtio_live(&d->v))
			continue;
		d->next = qn + 1;
		vblk_kick(&d->v, qn);
	}
}

void vblk_on_batch(void *arg)
{
	struct vblk *d = arg;

	if (d->dropping)
		return;
	tell_driver(d);
	vblk_go_on(d);
}
