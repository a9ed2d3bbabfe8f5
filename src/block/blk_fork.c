/* SPDX-License-Identifier: MIT */
/*
 * A disk's forks, on both sides: the parent's blk_rotate, and what blk_adopt does about the data
 * file in a child. See blk.h; who has which file is said in blk.c. Main, with nothing in flight.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "event/fdtab.h"

#define SMALL_LAYER_BYTES MIB(1)

/* The file behind a layer that nobody writes any more. */
static void use_reader(struct blk *b, unsigned int layer)
{
	if (layer == NO_LAYER || b->reader_fd < 0)
		return;
	if (b->fds)
		fdtab_del(b->fds, b->ov.layers[layer].fd);
	close(b->ov.layers[layer].fd);
	b->ov.layers[layer].fd = take_fd(&b->reader_fd);
}

int blk_child_file(struct blk *b, int data_fd, struct err *e)
{
	cleanup_close int data = data_fd;
	int r;

	if (b->read_only)
		return data < 0 ? 0 : err_set(e, EINVAL, "a read-only disk takes no data file");
	if (b->ov.cur != NO_LAYER && b->ov.layers[b->ov.cur].live)
		return err_set(e, EINVAL,
			       "%llu blocks are in the parent's data file: it did not rotate "
			       "before the fork",
			       (unsigned long long)b->ov.layers[b->ov.cur].live);
	overlay_forget_current(&b->ov);
	b->reader_fd = -1;
	r = blk_set_data(b, data, e);
	if (!r)
		take_fd(&data);
	return r;
}

/* Copies what is live in a layer into the current file, which closes the layer. */
static int absorb(struct blk *b, unsigned int layer)
{
	uint64_t left = b->ov.layers[layer].live, block = 0, to;
	cleanup_free uint8_t *buf = malloc(b->unit);

	if (!buf)
		return -ENOMEM;
	while (left) {
		uint64_t ent, n;
		int fd, r;

		block = overlay_next(&b->ov, block);
		BUG_ON(block >= b->ov.nr_blocks);
		ent = overlay_get(&b->ov, block);
		if (!ent_is_data(ent) || ent_layer(ent) != layer) {
			block++;
			continue;
		}
		n = blk_block_bytes(b, block);
		fd = b->ov.layers[layer].fd;
		r = overlay_alloc(&b->ov, 1, &to);
		if (r)
			return r;
		r = fd_pread_full(fd, buf, (size_t)n, blk_file_off(b, ent));
		if (!r)
			r = fd_pwrite_full(b->ov.layers[b->ov.cur].fd, buf, (size_t)n,
					   to * b->unit);
		if (r) {
			overlay_free(&b->ov, to, 1);
			return r;
		}
		overlay_set(&b->ov, block, ent_make(b->ov.cur, to));
		block++;
		left--;
	}
	return 0;
}

int blk_rotate(struct blk *b, int data_fd, struct err *e)
{
	cleanup_close int data = data_fd;
	unsigned int old = b->ov.cur, small;
	int r;

	BUG_ON(b->nr);
	if (b->read_only)
		return data < 0 ? 0 : err_set(e, EINVAL, "a read-only disk takes no data file");
	if (b->writes == BLK_IN_RAW)
		return err_set(e, ENOTSUP, "a raw disk that is written in place cannot be forked");
	if (b->w) {
		r = blk_qtop_rotate(b, e);
		if (!r && b->fds)
			blk_record_files(b);
		return r;
	}
	r = blk_check_data(b, data, e);
	if (r)
		return r;
	if (old != NO_LAYER && !b->ov.layers[old].live)
		return 0;
	/* Best effort: without it the disk only stands on one layer more. */
	while (old != NO_LAYER && b->ov.nr_layers > BLK_SMALL_LAYERS) {
		small = overlay_smallest(&b->ov);
		if (b->ov.layers[small].live * b->unit > SMALL_LAYER_BYTES || absorb(b, small))
			break;
	}
	r = blk_set_data(b, data, e);
	if (r)
		return r;
	take_fd(&data);
	use_reader(b, old);
	if (b->fds)
		blk_record_files(b);
	return 0;
}
