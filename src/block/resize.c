/* SPDX-License-Identifier: MIT */
/*
 * A disk that grows while it is used: see blk_grow in blk.h. Main.
 *
 * What is new reads as zeroes: in an overlay because its base ends before, in a qcow2 file because
 * no table has it, in a raw one because the file is made longer. Only the disk's last block may
 * hold something behind the end, left there by an earlier user of its place: that block is written
 * anew first.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk_int.h"

struct request {
	struct blk_req r;
	int result;
};

static void done(struct blk_req *r, int result)
{
	container_of(r, struct request, r)->result = result;
}

static int do_request(struct blk *b, enum blk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct request q = {
		.r = { .op = op,
		       .offset_bytes = off,
		       .len = len,
		       .iov = &iov,
		       .niov = 1,
		       .done = done },
	};

	BUG_ON(blk_submit(b, &q.r));
	blk_quiesce(b);
	return q.result;
}

/* In two steps, one on each side of the change: what the disk's last block holds up to its end. */
static int read_tail(struct blk *b, uint8_t **tail)
{
	uint64_t from = ROUND_DOWN(b->size, b->unit);

	if (from == b->size || b->ov.identity)
		return 0;
	*tail = calloc(1, b->unit);
	return *tail ? do_request(b, BLK_READ, from, *tail, b->size - from) : -ENOMEM;
}

/* And the same whole, with zeroes behind. */
static int write_tail(struct blk *b, uint64_t old, uint8_t *tail)
{
	uint64_t from = ROUND_DOWN(old, b->unit);

	return tail ? do_request(b, BLK_WRITE, from, tail, MIN(b->unit, b->size - from)) : 0;
}

static int grow_raw(int fd, uint64_t bytes, struct err *e)
{
	struct stat st;
	off_t end;

	if (fstat(fd, &st))
		return err_sys(e, errno, "raw file");
	end = lseek(fd, 0, SEEK_END);
	if (end >= 0 && (uint64_t)end >= bytes)
		return 0;
	if (end >= 0 && !S_ISREG(st.st_mode))
		return err_set(e, ENOSPC, "the device has only %lld bytes", (long long)end);
	if (end < 0 || ftruncate(fd, (off_t)bytes))
		return err_sys(e, errno, "raw file: make it longer");
	return 0;
}

static int grow_file(struct blk *b, uint64_t bytes, struct err *e)
{
	int fd = b->ov.cur == NO_LAYER ? -1 : b->ov.layers[b->ov.cur].fd;

	if (b->writes == BLK_IN_RAW)
		return grow_raw(fd, bytes, e);
	return b->w ? qwriter_grow(b->w, fd, bytes, e) : 0;
}

int blk_grow(struct blk *b, uint64_t bytes, struct err *e)
{
	uint64_t old = b->size, blocks = b->ov.nr_blocks, base = b->ov.base_blocks;
	uint64_t want = (bytes + b->unit - 1) / b->unit;
	cleanup_free uint8_t *tail = NULL;
	int r;

	if (b->read_only)
		return err_set(e, EINVAL, "a read-only disk cannot grow");
	if (!b->ring)
		return err_set(e, EINVAL, "a disk that nobody uses yet cannot grow");
	if (bytes < old)
		return err_set(e, EINVAL,
			       "it has %llu bytes: a disk only grows, because what is behind a "
			       "new end would be lost",
			       (unsigned long long)old);
	if (bytes % BLK_SECTOR || bytes > BLK_MAX_BYTES)
		return err_set(e, EINVAL, "%llu bytes are not whole sectors up to 16 TiB",
			       (unsigned long long)bytes);
	if (b->w && source_behind_bytes(b->base) > old)
		return err_set(e, ENOTSUP,
			       "what it stands on is longer than it: that would come to light");
	if (bytes == old)
		return 0;
	blk_quiesce(b);
	r = read_tail(b, &tail);
	if (r)
		return err_sys(e, -r, "read the disk's last block");
	/* a qcow2 file's table must say of a zeroed cluster that it is one */
	r = overlay_grow(&b->ov, want, b->w ? want : base);
	if (r)
		return err_sys(e, -r, "a longer block map");
	b->size = bytes;
	r = write_tail(b, old, tail);
	if (r)
		err_sys(e, -r, "zeroes behind the disk's old end");
	else
		r = grow_file(b, bytes, e);
	if (r) {
		b->size = old;
		/* nothing in the rest of the map was used */
		b->ov.nr_blocks = blocks;
		b->ov.base_blocks = base;
	}
	return r;
}
