/* SPDX-License-Identifier: MIT */
/*
 * How a phase of a request (request.c) becomes operations on the ring: one for each run of blocks
 * that lie next to each other in one file, cut where a run of guest memory has more pieces than an
 * operation can carry. Main, or a vCPU thread with the device lock.
 *
 * Each function issues what it can and says whether it ran out of free operations; the request then
 * goes on from p.pos when one has ended.
 */
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

static void guest_zero(struct blk_req *r, uint64_t n)
{
	struct iovec v;

	while (n) {
		size_t got = next_piece(r, n, &v);

		BUG_ON(!got);
		memset(v.iov_base, 0, got);
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

static struct blk_io *io_get(struct blk *b, struct blk_req *r, enum uring_op op, int fd,
			     uint64_t off)
{
	struct blk_io *io;

	if (!b->nr_free_ios)
		return NULL;
	io = &b->ios[b->free_ios[--b->nr_free_ios]];
	io->r = r;
	io->op = op;
	io->fd = fd;
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

/* One operation between a file and at most max bytes of guest memory; advances pos. */
static enum issue issue_guest(struct blk *b, struct blk_req *r, enum uring_op op, int fd,
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
	r->p.pos += io->left;
	blk_io_push(b, io);
	return ISSUED;
}

static enum issue issue_buf(struct blk *b, struct blk_req *r, enum uring_op op, int fd,
			    uint64_t off, void *buf, uint64_t n)
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

/* READ: one run of blocks with the same source at a time. */
static enum issue read_some(struct blk *b, struct blk_req *r)
{
	uint64_t pos = r->p.pos, block = pos / BLK_BLOCK, ent, n, to;

	n = overlay_run(&b->ov, block, (r->p.end - 1) / BLK_BLOCK - block + 1, &ent);
	to = MIN(r->p.end, (block + n) * BLK_BLOCK);
	if (ent_is_data(ent))
		return issue_guest(b, r, URING_READ, b->ov.layers[ent_layer(ent)].fd,
				   blk_file_off(b, ent) + pos % BLK_BLOCK, to - pos);
	if (ent == ENT_BASE && pos < b->base_end)
		return issue_guest(b, r, URING_READ, b->base_fd, pos, MIN(to, b->base_end) - pos);
	guest_zero(r, to - pos);
	r->p.pos = to;
	return ISSUED;
}

/* EDGES: the old content of an edge block. */
static enum issue read_edge(struct blk *b, struct blk_req *r, uint64_t block, uint8_t *buf)
{
	uint64_t ent = overlay_get(&b->ov, block), at = block * BLK_BLOCK, n = 0;
	enum issue is = ISSUED;

	if (ent_is_data(ent)) {
		n = blk_block_bytes(b, block);
		is = issue_buf(b, r, URING_READ, b->ov.layers[ent_layer(ent)].fd,
			       blk_file_off(b, ent), buf, n);
	} else if (ent == ENT_BASE && at < b->base_end) {
		n = MIN((uint64_t)BLK_BLOCK, b->base_end - at);
		is = issue_buf(b, r, URING_READ, b->base_fd, at, buf, n);
	}
	if (is == ISSUED)
		memset(buf + n, 0, BLK_BLOCK - n);
	return is;
}

/* Where a block of a WRITE or an edge of a ZERO goes in the current file. */
static uint64_t target_off(const struct blk *b, const struct blk_req *r, uint64_t ent)
{
	if (blk_in_current(b, ent))
		return blk_file_off(b, ent);
	return (r->p.alloc + r->p.fresh) * BLK_BLOCK;
}

static enum issue write_edge(struct blk *b, struct blk_req *r, unsigned int i)
{
	uint64_t block = r->p.edge[i].block, at = block * BLK_BLOCK;
	uint64_t from = MAX(r->p.start, at), to = MIN(r->p.end, at + BLK_BLOCK);
	uint64_t ent = overlay_get(&b->ov, block);
	uint8_t *buf = r->p.edge[i].buf;

	if (!b->nr_free_ios)
		return NO_SLOT;
	if (r->op == BLK_WRITE)
		guest_copy(r, buf + (from - at), to - from);
	else
		memset(buf + (from - at), 0, to - from);
	issue_buf(b, r, URING_WRITE, b->ov.layers[b->ov.cur].fd, target_off(b, r, ent), buf,
		  blk_block_bytes(b, block));
	r->p.fresh += !blk_in_current(b, ent);
	r->p.pos = to;
	return ISSUED;
}

/* WRITE: a run of blocks that lie, or will lie, next to each other in the current file. */
static enum issue write_some(struct blk *b, struct blk_req *r)
{
	uint64_t pos = r->p.pos, block = pos / BLK_BLOCK, last = (r->p.end - 1) / BLK_BLOCK;
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
	to = MIN(r->p.end, (block + n) * BLK_BLOCK);
	is = issue_guest(b, r, URING_WRITE, b->ov.layers[b->ov.cur].fd,
			 target_off(b, r, ent) + pos % BLK_BLOCK, to - pos);
	if (is == ISSUED && !blk_in_current(b, ent))
		r->p.fresh += r->p.pos == to ? n : r->p.pos / BLK_BLOCK - block;
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
		io->left = n * BLK_BLOCK;
		blk_io_push(b, io);
	}
	r->p.pos += n;
	return ISSUED;
}

enum issue blk_issue_phase(struct blk *b, struct blk_req *r)
{
	enum issue is = ISSUED;

	switch ((enum phase)r->p.phase) {
	case PH_EDGES:
		for (; r->p.pos < 2 && is == ISSUED; r->p.pos += is == ISSUED)
			if (r->p.edge[r->p.pos].buf)
				is = read_edge(b, r, r->p.edge[r->p.pos].block,
					       r->p.edge[r->p.pos].buf);
		break;
	case PH_IO:
		if (r->op == BLK_ZERO) {
			/* Edge by edge: what lies between them is not written. */
			for (unsigned int i = 0; i < 2 && is == ISSUED; i++)
				if (r->p.edge[i].buf &&
				    r->p.pos <= MAX(r->p.start, r->p.edge[i].block * BLK_BLOCK))
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
	case PH_END:
		break;
	}
	return is;
}
