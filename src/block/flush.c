/* SPDX-License-Identifier: MIT */
/*
 * Making a disk's writes durable: an fdatasync(2) of a raw file; of a qcow2 file the batches of its
 * metadata in their order (qcow2_write.h), each followed by one. On the ring; main, or a vCPU
 * thread with the device lock.
 *
 * One flush runs at a time. Requests that come meanwhile wait for the next: data that was written
 * after this one began may not be in it. One that failed is gone on with by the next, which then
 * does its own: nothing that was promised in an earlier batch is skipped.
 */
#include <errno.h>

#include "base/util.h"
#include "block/blk_int.h"

static void end(struct blk *b)
{
	struct blk_flush *f = &b->flush;
	int owed = f->owed ? f->owed : f->result;
	struct blk_req *r;

	f->busy = false;
	f->owed = owed;
	while ((r = f->running)) {
		f->running = r->p.fnext;
		/* what only waits for tables to be clean may not be listened to when it fails */
		r->p.result = r->op == BLK_FLUSH ? owed : f->result;
		if (r->op == BLK_FLUSH)
			f->owed = 0;
		blk_io_ended(b, r);
	}
	if (f->waiting)
		blk_flush_start(b);
}

static bool io_end(struct blk *b, struct blk_io *io, int res)
{
	struct blk_flush *f = &b->flush;

	(void)io;
	if (res && !f->result)
		f->result = res;
	f->pending--;
	f->ready = true; /* for blk_flush_go, once io is free again */
	return true;
}

static struct blk_io *io_get(struct blk *b, enum uring_op op)
{
	struct blk_io *io;

	BUG_ON(!b->nr_free_ios);
	io = &b->ios[b->free_ios[--b->nr_free_ios]];
	io->end = io_end;
	io->r = NULL;
	io->fetch = NULL;
	io->op = op;
	io->fd = io->cached_fd = b->ov.layers[b->ov.cur].fd;
	io->off = 0;
	io->left = 0;
	io->first = 0;
	io->n = 0;
	b->flush.pending++;
	return io;
}

static void issue_writes(struct blk *b, const struct qbatch *q)
{
	struct blk_flush *f = &b->flush;

	while (q && f->at < q->n && f->pending < BLK_IO_FLUSH && b->nr_free_ios) {
		const struct qwrite *w = &q->w[f->at++];
		struct blk_io *io = io_get(b, URING_WRITE);

		io->off = w->off;
		io->left = w->len;
		io->iov[0] = (struct iovec){ w->buf, w->len };
		io->n = 1;
		blk_io_push(b, io);
	}
}

void blk_flush_go(struct blk *b)
{
	struct blk_flush *f = &b->flush;
	const struct qbatch *q = b->w ? qwriter_flush_batch(b->w) : NULL;

	f->ready = false;
	if (f->result) {
		if (!f->pending)
			end(b);
		return;
	}
	if (!f->syncing) {
		issue_writes(b, q);
		if (f->pending)
			return;
		f->syncing = true;
		blk_io_push(b, io_get(b, URING_SYNC));
		return;
	}
	if (f->pending)
		return;
	f->syncing = false;
	f->at = 0;
	if (b->w) {
		qwriter_flush_next(b->w);
		if (!qwriter_flush_batch(b->w) && f->again) {
			f->again = false;
			f->result = qwriter_flush_begin(b->w);
			blk_flush_go(b);
			return;
		}
		if (qwriter_flush_batch(b->w)) {
			blk_flush_go(b);
			return;
		}
	}
	end(b);
}

void blk_flush_start(struct blk *b)
{
	struct blk_flush *f = &b->flush;

	if (f->busy)
		return;
	*f = (struct blk_flush){ .running = f->waiting, .busy = true, .owed = f->owed };
	if (b->w) {
		f->again = qwriter_flush_batch(b->w);
		if (!f->again)
			f->result = qwriter_flush_begin(b->w);
	}
	blk_flush_go(b);
}

void blk_flush_add(struct blk *b, struct blk_req *r)
{
	r->p.pending++;
	r->p.fnext = b->flush.waiting;
	b->flush.waiting = r;
	blk_flush_start(b);
}
