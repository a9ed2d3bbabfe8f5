/* SPDX-License-Identifier: MIT */
/*
 * How a phase of a request (request.c) becomes operations on the ring: one for each run of blocks
 * that lie next to each other in one file, cut where a run of guest memory has more pieces than an
 * operation can carry. What the base has in memory is copied at once. Main, or a vCPU thread with
 * the device lock.
 *
 * Each function issues what it can and says whether it ran out of free operations; the request then
 * goes on from p.pos when one has ended.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "block/blk_int.h"

/* Next piece of the request's guest memory, at most max bytes; 0 at its end. */
static size_t next_piece(struct blk_req *r, uint64_t max, struct iovec *out)
{
	while (r->p.iov_idx < r->niov) {
		const struct iovec *v = &r->iov[r->p.iov_idx];
		size_t n = (size_t)MIN((uint64_t)(v->iov_len - r->p.iov_off), max);

		if (v->iov_len == r->p.iov_off) {
			r->p.iov_idx++;
			r->p.iov_off = 0;
			continue;
		}
		*out = (struct iovec){ (char *)v->iov_base + r->p.iov_off, n };
		r->p.iov_off += n;
		return n;
	}
	return 0;
}

/* n bytes into guest memory: from src, or zeroes when that is NULL. */
static void guest_fill(struct blk_req *r, const uint8_t *src, uint64_t n)
{
	struct iovec v;

	while (n) {
		size_t got = next_piece(r, n, &v);

		BUG_ON(!got);
		if (src)
			memcpy(v.iov_base, src, got);
		else
			memset(v.iov_base, 0, got);
		src = src ? src + got : NULL;
		n -= got;
	}
}

static void guest_copy(struct blk_req *r, uint8_t *dst, uint64_t n)
{
	struct iovec v;

	while (n) {
		size_t got = next_piece(r, n, &v);

		BUG_ON(!got);
		memcpy(dst, v.iov_base, got);
		dst += got;
		n -= got;
	}
}

static bool io_end(struct blk *b, struct blk_io *io, int res)
{
	struct blk_req *r = io->r;

	/* A hole that cannot be punched is no matter where blocks are written whole when they are
	 * used again. Elsewhere zeroes must be there. */
	if (io->op == URING_PUNCH && !(res && b->ov.identity && r->op == BLK_ZERO))
		res = 0;
	if (res && !r->p.result)
		r->p.result = io->op == URING_PUNCH ? -EOPNOTSUPP : res;
	blk_io_ended(b, r);
	return true;
}

static struct blk_io *io_get(struct blk *b, struct blk_req *r, enum uring_op op, int fd,
			     uint64_t off)
{
	struct blk_io *io;

	if (b->nr_free_ios <= BLK_IO_FLUSH)
		return NULL;
	io = &b->ios[b->free_ios[--b->nr_free_ios]];
	io->end = io_end;
	io->r = r;
	io->fetch = NULL;
	io->op = op;
	io->fd = io->cached_fd = fd;
	io->off = off;
	io->left = 0;
	io->first = 0;
	io->n = 0;
	r->p.pending++;
	return io;
}

void blk_io_push(struct blk *b, struct blk_io *io)
{
	uring_push(b->ring, io->op, io->fd, io->off, io->iov + io->first, io->n - io->first,
		   io->left, (uint32_t)(io - b->ios));
}

/* What is not so aligned goes by the cache, and so does what the file wants more of (request.c). */
static bool fits_direct(const struct blk_io *io)
{
	bool fits = io->off % BLK_SECTOR == 0;

	for (unsigned int i = 0; i < io->n; i++)
		fits &= (uintptr_t)io->iov[i].iov_base % BLK_SECTOR == 0 &&
			io->iov[i].iov_len % BLK_SECTOR == 0;
	return fits;
}

/* One operation between a file and at most max bytes of guest memory; advances pos. own: it is the
 * file that the disk is. */
static enum issue issue_guest(struct blk *b, struct blk_req *r, enum uring_op op, int fd, bool own,
			      uint64_t off, uint64_t max)
{
	struct blk_io *io = io_get(b, r, op, fd, off);

	if (!io)
		return NO_SLOT;
	while (io->n < BLK_IO_SEGS && io->left < max) {
		size_t got = next_piece(r, max - io->left, &io->iov[io->n]);

		BUG_ON(!got);
		io->left += got;
		io->n++;
	}
	if (own && b->direct_fd >= 0 && fits_direct(io))
		io->fd = b->direct_fd;
	r->p.pos += io->left;
	blk_io_push(b, io);
	return ISSUED;
}

enum issue blk_issue_buf(struct blk *b, struct blk_req *r, enum uring_op op, int fd, uint64_t off,
			 void *buf, uint64_t n)
{
	struct blk_io *io = io_get(b, r, op, fd, off);

	if (!io)
		return NO_SLOT;
	io->iov[0] = (struct iovec){ buf, (size_t)n };
	io->n = 1;
	io->left = n;
	blk_io_push(b, io);
	return ISSUED;
}

/* What the base has at `at`, at most max bytes, or where to wait for it. */
static enum issue base_piece(struct blk *b, struct blk_req *r, uint64_t at, uint64_t max,
			     struct source_piece *p)
{
	enum issue is = ISSUED;
	int found;

	*p = (struct source_piece){ .kind = SOURCE_ZERO, .len = max };
	if (at >= b->base_end)
		return ISSUED;
	max = MIN(max, b->base_end - at);
	while (!(found = source_find(b->base, at, max, p)) && is == ISSUED && !r->p.result)
		is = blk_fetch_wait(b, r, at);
	if (found < 0)
		r->p.result = found;
	return is;
}

/* READ: one run of blocks with the same source at a time. */
static enum issue read_some(struct blk *b, struct blk_req *r)
{
	uint64_t pos = r->p.pos, block = pos / b->unit, ent, n, to;
	struct source_piece p = { .kind = SOURCE_ZERO };
	enum issue is;

	n = overlay_run(&b->ov, block, (r->p.end - 1) / b->unit - block + 1, &ent);
	to = MIN(r->p.end, (block + n) * b->unit);
	p.len = to - pos;
	if (ent_is_data(ent))
		return issue_guest(b, r, URING_READ, b->ov.layers[ent_layer(ent)].fd, true,
				   blk_file_off(b, ent) + pos % b->unit, p.len);
	is = ent == ENT_BASE ? base_piece(b, r, pos, p.len, &p) : ISSUED;
	if (is != ISSUED || r->p.result)
		return is;
	if (p.kind == SOURCE_FILE)
		return issue_guest(b, r, URING_READ, p.fd, p.top, p.off, p.len);
	guest_fill(r, p.kind == SOURCE_MEMORY ? p.at : NULL, p.len);
	r->p.pos += p.len;
	return ISSUED;
}

/*
 * EDGES: the old content of an edge block, from pos on, which counts the bytes of both edges: the
 * second one's begin at the unit.
 */
static enum issue read_edge(struct blk *b, struct blk_req *r)
{
	uint64_t in = r->p.pos % b->unit, block = r->p.edge[r->p.pos / b->unit].block;
	uint64_t have = blk_block_bytes(b, block), ent = overlay_get(&b->ov, block);
	uint8_t *buf = r->p.edge[r->p.pos / b->unit].buf + in;
	struct source_piece p = { .kind = SOURCE_ZERO, .len = b->unit - in };
	enum issue is = ISSUED;

	if (ent_is_data(ent) && in < have)
		p = (struct source_piece){ .kind = SOURCE_FILE,
					   .fd = b->ov.layers[ent_layer(ent)].fd,
					   .off = blk_file_off(b, ent) + in,
					   .len = have - in };
	else if (ent == ENT_BASE)
		is = base_piece(b, r, block * b->unit + in, b->unit - in, &p);
	if (is != ISSUED || r->p.result)
		return is;
	if (p.kind == SOURCE_FILE)
		is = blk_issue_buf(b, r, URING_READ, p.fd, p.off, buf, p.len);
	else if (p.kind == SOURCE_MEMORY)
		memcpy(buf, p.at, (size_t)p.len);
	else
		memset(buf, 0, (size_t)p.len);
	if (is == ISSUED)
		r->p.pos += p.len;
	return is;
}

/* Where a block of a WRITE or an edge of a ZERO goes in the current file. */
static uint64_t target_off(const struct blk *b, const struct blk_req *r, uint64_t ent)
{
	if (blk_in_current(b, ent))
		return blk_file_off(b, ent);
	return (r->p.alloc + r->p.fresh) * b->unit;
}

static enum issue write_edge(struct blk *b, struct blk_req *r, unsigned int i)
{
	uint64_t block = r->p.edge[i].block, at = block * b->unit;
	uint64_t from = MAX(r->p.start, at), to = MIN(r->p.end, at + b->unit);
	uint64_t ent = overlay_get(&b->ov, block);
	uint8_t *buf = r->p.edge[i].buf;

	if (b->nr_free_ios <= BLK_IO_FLUSH)
		return NO_SLOT;
	if (r->op == BLK_WRITE)
		guest_copy(r, buf + (from - at), to - from);
	else
		memset(buf + (from - at), 0, to - from);
	blk_issue_buf(b, r, URING_WRITE, b->ov.layers[b->ov.cur].fd, target_off(b, r, ent), buf,
		      blk_block_bytes(b, block));
	r->p.fresh += !blk_in_current(b, ent);
	r->p.pos = to;
	return ISSUED;
}

/* WRITE: a run of blocks that lie, or will lie, next to each other in the current file. */
static enum issue write_some(struct blk *b, struct blk_req *r)
{
	uint64_t pos = r->p.pos, block = pos / b->unit, last = (r->p.end - 1) / b->unit;
	uint64_t ent, n, to;
	enum issue is;

	for (unsigned int i = 0; i < 2; i++)
		if (r->p.edge[i].buf && r->p.edge[i].block == block)
			return write_edge(b, r, i);
	if (r->p.edge[1].buf)
		last = r->p.edge[1].block - 1;
	ent = overlay_get(&b->ov, block);
	if (blk_in_current(b, ent)) {
		n = overlay_run(&b->ov, block, last - block + 1, &ent);
	} else {
		n = 1;
		while (block + n <= last && !blk_in_current(b, overlay_get(&b->ov, block + n)))
			n++;
	}
	to = MIN(r->p.end, (block + n) * b->unit);
	is = issue_guest(b, r, URING_WRITE, b->ov.layers[b->ov.cur].fd, true,
			 target_off(b, r, ent) + pos % b->unit, to - pos);
	if (is == ISSUED && !blk_in_current(b, ent))
		r->p.fresh += r->p.pos == to ? n : r->p.pos / b->unit - block;
	return is;
}

/* PUNCH: pos counts blocks here. */
static enum issue punch_some(struct blk *b, struct blk_req *r)
{
	uint64_t block = r->p.pos, ent, n;
	struct blk_io *io;

	n = overlay_run(&b->ov, block, r->p.zero_end - block, &ent);
	if (blk_in_current(b, ent)) {
		io = io_get(b, r, URING_PUNCH, b->ov.layers[b->ov.cur].fd, blk_file_off(b, ent));
		if (!io)
			return NO_SLOT;
		io->left = n * b->unit;
		blk_io_push(b, io);
	}
	r->p.pos += n;
	return ISSUED;
}

enum issue blk_issue_phase(struct blk *b, struct blk_req *r)
{
	enum issue is = ISSUED;

	switch ((enum phase)r->p.phase) {
	case PH_MAP:
		return blk_qtop_map(b, r);
	case PH_EDGES:
		while (r->p.pos < 2 * b->unit && is == ISSUED && !r->p.result) {
			if (r->p.edge[r->p.pos / b->unit].buf)
				is = read_edge(b, r);
			else
				r->p.pos += b->unit;
		}
		break;
	case PH_IO:
		if (r->op == BLK_ZERO) {
			/* Edge by edge: what lies between them is not written. */
			for (unsigned int i = 0; i < 2 && is == ISSUED; i++)
				if (r->p.edge[i].buf &&
				    r->p.pos <= MAX(r->p.start, r->p.edge[i].block * b->unit))
					is = write_edge(b, r, i);
			break;
		}
		while (r->p.pos < r->p.end && is == ISSUED && !r->p.result)
			is = r->op == BLK_READ ? read_some(b, r) : write_some(b, r);
		break;
	case PH_PUNCH:
		while (r->p.pos < r->p.zero_end && is == ISSUED)
			is = punch_some(b, r);
		break;
	case PH_FLUSH:
		if (!r->p.pos++)
			blk_flush_add(b, r);
		break;
	case PH_END:
		break;
	}
	return is;
}
