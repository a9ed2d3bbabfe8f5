/* SPDX-License-Identifier: MIT */
/*
 * A disk's request engine: from blk_submit to done. Main, or a vCPU thread with the device lock.
 *
 * A request goes through phases, each of which issues operations to the ring and ends when all of
 * them have completed:
 *
 *   READ     IO
 *   WRITE    EDGES IO              then the map is pointed at the new blocks
 *   ZERO     EDGES IO PUNCH        then the map says zero
 *   DISCARD  PUNCH                 then the map says zero
 *   FLUSH    FLUSH                 nothing, in an overlay
 *
 * In a qcow2 file that is written, MAP comes before what changes anything: see qtop.c.
 *
 * EDGES reads the blocks that a request changes only in part and that are not in the current data
 * file; IO patches them in memory and writes them back whole. Blocks that are in the current file
 * are overwritten where they are: no other process has them. All others get new blocks of it,
 * and the map learns of them only after every byte was written, so that it never points at what an
 * earlier user of those blocks left there.
 *
 * Overlapping requests wait for each other (`blockers`), so a request has its blocks to itself and
 * may walk the map twice and find the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "block/blk_int.h"

static void queue_add(struct blk_queue *q, struct blk_req *r)
{
	BUG_ON(r->p.queued);
	r->p.queued = 1;
	r->p.qnext = NULL;
	if (q->tail)
		q->tail->p.qnext = r;
	else
		q->head = r;
	q->tail = r;
}

static struct blk_req *queue_take(struct blk_queue *q)
{
	struct blk_req *r = q->head;

	if (!r)
		return NULL;
	q->head = r->p.qnext;
	if (!q->head)
		q->tail = NULL;
	r->p.queued = 0;
	return r;
}

static bool mutates(const struct blk_req *r)
{
	return r->op == BLK_WRITE || r->op == BLK_DISCARD || r->op == BLK_ZERO;
}

static bool conflict(const struct blk_req *x, const struct blk_req *y)
{
	uint64_t unit = x->p.b->unit;

	if (x->p.start == x->p.end || y->p.start == y->p.end || (!mutates(x) && !mutates(y)))
		return false;
	return x->p.start / unit <= (y->p.end - 1) / unit &&
	       y->p.start / unit <= (x->p.end - 1) / unit;
}

static bool covers(const struct blk *b, const struct blk_req *r, uint64_t block)
{
	return r->p.start <= block * b->unit &&
	       r->p.end >= block * b->unit + blk_block_bytes(b, block);
}

static int add_edge(const struct blk *b, struct blk_req *r, unsigned int i, uint64_t block)
{
	uint64_t ent = overlay_get(&b->ov, block);

	if (r->op == BLK_WRITE && blk_in_current(b, ent))
		return 0; /* overwritten in place, sectors alone */
	if (r->op == BLK_ZERO &&
	    (ent == ENT_ZERO || (ent == ENT_BASE && block * b->unit >= b->base_end)))
		return 0; /* is zero */
	r->p.edge[i].buf = malloc(b->unit);
	if (!r->p.edge[i].buf)
		return -ENOMEM;
	r->p.edge[i].block = block;
	return 0;
}

static void add_block(const struct blk *b, struct blk_req *r, uint64_t block)
{
	uint64_t ent = overlay_get(&b->ov, block);

	r->p.nalloc += !blk_in_current(b, ent);
	r->p.grows += !ent_is_data(ent);
}

/* What a request that changes the disk will need, so that its commit cannot fail. */
static int start_mutation(struct blk *b, struct blk_req *r)
{
	uint64_t first = r->p.start / b->unit, last = (r->p.end - 1) / b->unit;
	bool whole_first = covers(b, r, first), whole_last = covers(b, r, last);
	int err;

	if (r->op != BLK_DISCARD && !whole_first && add_edge(b, r, 0, first))
		return -ENOMEM;
	if (r->op != BLK_DISCARD && last != first && !whole_last && add_edge(b, r, 1, last))
		return -ENOMEM;
	if (r->op == BLK_WRITE) {
		for (uint64_t k = first; k <= last; k++)
			add_block(b, r, k);
		err = overlay_prepare(&b->ov, first, last - first + 1);
	} else {
		for (unsigned int i = 0; i < 2; i++)
			if (r->p.edge[i].buf)
				add_block(b, r, r->p.edge[i].block);
		r->p.zero_block = first + !whole_first;
		r->p.zero_end = MAX(r->p.zero_block, last + whole_last);
		err = overlay_prepare_zero(&b->ov, r->p.zero_block,
					   r->p.zero_end - r->p.zero_block);
		for (unsigned int i = 0; i < 2 && !err; i++)
			if (r->p.edge[i].buf)
				err = overlay_prepare(&b->ov, r->p.edge[i].block, 1);
	}
	if (!err && b->quota && r->p.grows && b->ov.data + b->growing + r->p.grows > b->quota)
		err = -EDQUOT;
	if (!err && r->p.nalloc)
		err = blk_alloc(b, r->p.nalloc, &r->p.alloc);
	if (err) {
		r->p.nalloc = 0;
		r->p.grows = 0;
		return err;
	}
	b->growing += r->p.grows;
	return b->w ? blk_qtop_prepare(b, r) : 0;
}

/* Every byte is written: point the map at it. */
static void commit_blocks(struct blk *b, struct blk_req *r)
{
	uint64_t first = r->p.start / b->unit, last = (r->p.end - 1) / b->unit;
	uint64_t next = r->p.alloc, ent;

	for (uint64_t k = first; r->p.nalloc && k <= last; k++) {
		bool edge = (r->p.edge[0].buf && r->p.edge[0].block == k) ||
			    (r->p.edge[1].buf && r->p.edge[1].block == k);

		if (r->op != BLK_WRITE && !edge) {
			k = r->p.zero_end > k ? r->p.zero_end - 1 : k;
			continue;
		}
		ent = overlay_get(&b->ov, k);
		if (blk_in_current(b, ent))
			continue;
		if (b->w)
			blk_qtop_changed(b, k, ent);
		overlay_set(&b->ov, k, ent_make(b->ov.cur, next++));
	}
	BUG_ON(next != r->p.alloc + r->p.nalloc);
	r->p.nalloc = 0;
	b->growing -= r->p.grows;
	r->p.grows = 0;
	if (b->w)
		blk_qtop_committed(b);
}

/* The holes are punched (or could not be: no matter, the blocks are written whole when used again).
 */
static void commit_zero(struct blk *b, struct blk_req *r)
{
	uint64_t block = r->p.zero_block, ent, n;

	if (b->w) {
		blk_qtop_zeroed(b, block, r->p.zero_end - block);
		block = r->p.zero_end;
	}
	while (block < r->p.zero_end) {
		n = overlay_run(&b->ov, block, r->p.zero_end - block, &ent);
		if (blk_in_current(b, ent))
			overlay_free(&b->ov, ent_block(ent), n);
		block += n;
	}
	overlay_zero(&b->ov, r->p.zero_block, r->p.zero_end - r->p.zero_block);
	if (b->w)
		blk_qtop_committed(b);
}

/* What changes the disk begins: its blocks are its own, and it is known where they are. */
static void begin(struct blk *b, struct blk_req *r)
{
	r->p.phase = r->op == BLK_DISCARD ? PH_PUNCH : PH_EDGES;
	r->p.pos = 0;
	r->p.result = start_mutation(b, r);
	if (r->op == BLK_DISCARD)
		r->p.pos = r->p.zero_block;
	if (r->p.result)
		r->p.phase = PH_END;
}

static void next_phase(struct blk *b, struct blk_req *r)
{
	r->p.pos = r->p.start;
	if (r->p.result) {
		r->p.phase = PH_END;
		return;
	}
	switch ((enum phase)r->p.phase) {
	case PH_MAP:
		begin(b, r);
		break;
	case PH_EDGES:
		r->p.phase = PH_IO;
		break;
	case PH_IO:
		r->p.phase = PH_END;
		if (mutates(r))
			commit_blocks(b, r);
		if (r->op == BLK_ZERO) {
			r->p.phase = PH_PUNCH;
			r->p.pos = r->p.zero_block;
		}
		break;
	case PH_PUNCH:
		commit_zero(b, r);
		r->p.phase = PH_END;
		break;
	case PH_FLUSH:
		r->p.phase = PH_END;
		break;
	case PH_END:
		break;
	}
}

static void count(struct blk *b, const struct blk_req *r)
{
	if (r->p.result) {
		b->stats.errors++;
		b->stats.no_space += r->p.result == -ENOSPC || r->p.result == -EDQUOT;
	} else if (r->op == BLK_READ) {
		b->stats.reads++;
		b->stats.read_bytes += r->len;
	} else if (r->op == BLK_FLUSH) {
		b->stats.flushes++;
	} else {
		b->stats.writes++;
		b->stats.written_bytes += r->op == BLK_WRITE ? r->len : 0;
	}
}

static void finish(struct blk *b, struct blk_req *r)
{
	if (r->p.nalloc)
		blk_unalloc(b, r->p.alloc, r->p.nalloc);
	b->growing -= r->p.grows;
	free(r->p.edge[0].buf);
	free(r->p.edge[1].buf);
	free(r->p.table);
	if (r->p.prev)
		r->p.prev->p.next = r->p.next;
	else
		b->oldest = r->p.next;
	if (r->p.next)
		r->p.next->p.prev = r->p.prev;
	else
		b->newest = r->p.prev;
	b->nr--;
	for (struct blk_req *q = r->p.next; q; q = q->p.next)
		if (q->p.blockers && conflict(r, q) && --q->p.blockers == 0)
			queue_add(&b->runnable, q);
	count(b, r);
	b->completed = true;
	r->done(r, r->p.result);
}

/* First run of a request whose blocks are now its own. */
static void start(struct blk *b, struct blk_req *r)
{
	if (r->op == BLK_READ) {
		r->p.phase = PH_IO;
		r->p.pos = r->p.start;
	} else if (r->op == BLK_FLUSH) {
		r->p.phase = PH_FLUSH;
	} else if (b->w) {
		r->p.phase = PH_MAP;
		r->p.pos = r->p.start / b->unit;
	} else {
		begin(b, r);
	}
}

#define NOT_STARTED 0xff

static void advance(struct blk *b, struct blk_req *r)
{
	if (r->p.phase == NOT_STARTED)
		start(b, r);
	while (r->p.phase != PH_END) {
		/* WAITS is pending too. */
		if (!r->p.result && blk_issue_phase(b, r) == NO_SLOT) {
			queue_add(&b->starved, r);
			return;
		}
		/* its last completion makes it runnable again; it may have come already */
		if (r->p.pending || r->p.queued)
			return;
		next_phase(b, r);
	}
	finish(b, r);
}

/* Not re-entered: a done that submits only lengthens the queue that is being worked off. */
static void pump(struct blk *b)
{
	struct blk_req *r;

	if (b->pumping)
		return;
	b->pumping = true;
	while ((r = queue_take(&b->runnable)))
		advance(b, r);
	b->pumping = false;
}

static void io_advance(struct blk_io *io, uint64_t n)
{
	io->off += n;
	io->left -= n;
	while (n) {
		struct iovec *v = &io->iov[io->first];
		size_t step = (size_t)MIN(n, (uint64_t)v->iov_len);

		v->iov_base = (char *)v->iov_base + step;
		v->iov_len -= step;
		n -= step;
		if (!v->iov_len)
			io->first++;
	}
}

void blk_io_ended(struct blk *b, struct blk_req *r)
{
	if (--r->p.pending == 0 && !r->p.queued)
		queue_add(&b->runnable, r);
}

static void io_done(struct blk *b, struct blk_io *io, int res)
{
	struct blk_req *q;

	if (res == -EINVAL && io->fd != io->cached_fd) {
		io->fd = io->cached_fd; /* it wants more to be aligned than we know of */
		res = -EAGAIN;
	}
	if (res == -EINTR || res == -EAGAIN) {
		blk_io_push(b, io);
		return;
	}
	if (io->op == URING_READ || io->op == URING_WRITE) {
		/* Nothing moved: a file that is shorter than what we were given or wrote. */
		if (res >= 0 && (res == 0 || (uint64_t)res > io->left))
			res = -EIO;
		if (res > 0 && (uint64_t)res < io->left) {
			io_advance(io, (uint64_t)res);
			io->fd = io->cached_fd;
			blk_io_push(b, io);
			return;
		}
	}
	if (!io->end(b, io, MIN(res, 0)))
		return;
	b->free_ios[b->nr_free_ios++] = (uint16_t)(io - b->ios);
	q = queue_take(&b->starved);
	if (q)
		queue_add(&b->runnable, q);
	if (b->flush.ready)
		blk_flush_go(b);
}

static void batch_end(struct blk *b)
{
	if (!b->completed)
		return;
	b->completed = false;
	if (b->batch)
		b->batch(b->batch_arg);
}

void blk_poll(struct blk *b)
{
	uint32_t tag;
	bool fetched;
	int res;

	uring_drain_eventfd(b->ring);
	do {
		while (uring_reap(b->ring, &tag, &res)) {
			BUG_ON(tag >= BLK_IOS);
			fetched = b->ios[tag].fetch;
			io_done(b, &b->ios[tag], res);
			/* Before another fetch takes the place of what this one brought. */
			if (fetched)
				pump(b);
		}
		pump(b);
		batch_end(b);
		uring_submit(b->ring);
	} while (b->runnable.head);
}

void blk_kick(struct blk *b)
{
	pump(b);
	batch_end(b);
	uring_submit(b->ring);
}

static int validate(const struct blk *b, const struct blk_req *r)
{
	uint64_t sum = 0;

	if (r->op == BLK_FLUSH)
		return 0;
	if (b->read_only && mutates(r))
		return -EROFS;
	if (!range_ok(r->offset_bytes, r->len, b->size) || r->offset_bytes % BLK_SECTOR ||
	    r->len % BLK_SECTOR)
		return -EINVAL;
	if (r->op != BLK_READ && r->op != BLK_WRITE)
		return 0;
	for (unsigned int i = 0; i < r->niov; i++)
		if (!add_u64(sum, r->iov[i].iov_len, &sum))
			return -EINVAL;
	return sum == r->len ? 0 : -EINVAL;
}

int blk_submit(struct blk *b, struct blk_req *r)
{
	BUG_ON(!b->ring);
	if (b->nr == BLK_DEPTH)
		return -EAGAIN;
	memset(&r->p, 0, sizeof(r->p));
	r->p.b = b;
	r->p.result = validate(b, r);
	r->p.phase = PH_END;
	if (!r->p.result && r->op == BLK_FLUSH && b->writes != BLK_OVERLAY) {
		r->p.phase = NOT_STARTED;
	} else if (!r->p.result && r->op != BLK_FLUSH && r->len) {
		r->p.start = r->offset_bytes;
		r->p.end = r->offset_bytes + r->len;
		r->p.phase = NOT_STARTED;
	}
	for (struct blk_req *q = b->oldest; q; q = q->p.next)
		r->p.blockers += conflict(q, r);
	r->p.prev = b->newest;
	if (b->newest)
		b->newest->p.next = r;
	else
		b->oldest = r;
	b->newest = r;
	b->nr++;
	if (!r->p.blockers)
		queue_add(&b->runnable, r);
	pump(b);
	return 0;
}

void blk_quiesce(struct blk *b)
{
	BUG_ON(b->pumping);
	if (!b->ring)
		return;
	while (b->nr || b->flush.busy) {
		blk_poll(b);
		if (b->nr || b->flush.busy)
			uring_wait(b->ring);
	}
	batch_end(b);
}
