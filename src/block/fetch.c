/* SPDX-License-Identifier: MIT */
/*
 * Requests that wait for what a disk's source (source.h) does not have in memory: parts of the map
 * of a qcow2 file, or a cluster decompressed. One fetch brings it, read by read on the ring, for
 * all requests that wait for the same. Main, or a vCPU thread with the device lock; called by
 * issue.c and request.c.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/util.h"
#include "block/blk_int.h"

static void read_next(struct blk *b, struct blk_io *io, const struct source_read *rd)
{
	io->fd = io->cached_fd = rd->fd;
	io->off = rd->off;
	io->left = rd->len;
	io->iov[0] = (struct iovec){ rd->buf, rd->len };
	io->first = 0;
	io->n = 1;
	blk_io_push(b, io);
}

static void join(struct blk_fetch *f, struct blk_req *r)
{
	r->p.fnext = f->waiting;
	f->waiting = r;
	r->p.pending++;
}

static bool io_end(struct blk *b, struct blk_io *io, int res)
{
	struct blk_fetch *f = io->fetch, **link = &b->fetches;
	struct source_read rd;
	struct blk_req *r;

	if (!res)
		res = source_fetch_next(f->f, &rd);
	if (res == 1) {
		read_next(b, io, &rd);
		return false;
	}
	while (*link != f)
		link = &(*link)->next;
	*link = f->next;
	while ((r = f->waiting)) {
		f->waiting = r->p.fnext;
		if (!r->p.result)
			r->p.result = res;
		blk_io_ended(b, r);
	}
	source_fetch_end(f->f);
	free(f);
	return true;
}

enum issue blk_fetch_wait(struct blk *b, struct blk_req *r, uint64_t at)
{
	struct source_fetch *sf = NULL;
	struct source_read rd;
	struct blk_fetch *f;
	struct blk_io *io;
	int res;

	for (f = b->fetches; f; f = f->next) {
		if (source_fetch_brings(f->f, at)) {
			join(f, r);
			return WAITS;
		}
	}
	if (b->nr_free_ios <= BLK_IO_FLUSH)
		return NO_SLOT;
	res = source_fetch_begin(b->base, at, &sf);
	if (!res)
		res = source_fetch_next(sf, &rd);
	f = res == 1 ? calloc(1, sizeof(*f)) : NULL;
	if (!f) {
		/* Nothing had to be read, or it failed. */
		source_fetch_end(sf);
		r->p.result = res == 1 ? -ENOMEM : res;
		return ISSUED;
	}
	f->f = sf;
	f->next = b->fetches;
	b->fetches = f;
	join(f, r);
	io = &b->ios[b->free_ios[--b->nr_free_ios]];
	io->end = io_end;
	io->r = NULL;
	io->fetch = f;
	io->op = URING_READ;
	read_next(b, io, &rd);
	return WAITS;
}
