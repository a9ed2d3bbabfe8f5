/* SPDX-License-Identifier: MIT */
/*
 * A snapshot's layer: all that an overlay holds over its base, as one file. Written by a fork's
 * child at leisure, taken up again by a restore; on main, with plain reads and writes.
 *
 *   0        header, LAYER_HEADER bytes, zero-padded to 4096:
 *            magic "CLNLAYER", u32 version, u32 block size, u64 disk size, u64 base size (bytes the
 *            base reaches into the disk), u64 extents, u64 data blocks, u32 CRC-32C of the table,
 *            u32 CRC-32C of the header up to here
 *   4096     table: extents of 20 bytes, ascending, apart from each other:
 *            u64 first block, u64 number of blocks, u32 kind (0 zero, 1 data)
 *   data     at the next multiple of 4096: the blocks of the data extents in order, whole
 *
 * Integers are little-endian. Zero extents lie within the base: beyond it all is zero anyway. The
 * file ends with the last block: a cut file is refused. The blocks themselves are covered by the
 * digest in a template's manifest, not here: a load that read them all would not be O(table).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"

#define LAYER_MAGIC "CLNLAYER"
#define LAYER_VERSION 1u
#define LAYER_HEADER 56u
#define LAYER_EXTENT 20u
#define LAYER_CHUNK 3276u /* extents read or written at once: 64 KiB */

enum { KIND_ZERO, KIND_DATA };

struct layer_head {
	uint64_t extents, blocks;
	uint32_t table_crc;
};

struct layer_extent {
	uint64_t first, n;
	uint32_t kind;
};

static uint64_t data_start(uint64_t extents)
{
	return ROUND_UP(BLK_BLOCK + extents * LAYER_EXTENT, (uint64_t)BLK_BLOCK);
}

/* The next extent of the overlay at or after *block. */
static bool next_extent(const struct blk *b, uint64_t *block, struct layer_extent *x)
{
	uint64_t ent = ENT_BASE;

	x->first = overlay_next(&b->ov, *block);
	x->n = 0;
	x->kind = KIND_ZERO;
	while (x->first + x->n < b->ov.nr_blocks) {
		ent = overlay_get(&b->ov, x->first + x->n);
		if (ent == ENT_BASE || (x->n && ent_is_data(ent) != (x->kind == KIND_DATA)))
			break;
		x->kind = ent_is_data(ent) ? KIND_DATA : KIND_ZERO;
		x->n++;
	}
	*block = x->first + x->n;
	return x->n;
}

static int put_table(struct blk *b, int fd, struct layer_head *h, struct err *e)
{
	struct layer_extent x;
	uint64_t block = 0, off = BLK_BLOCK;
	struct wbuf w;
	int r = 0;

	wbuf_init(&w, LAYER_CHUNK * LAYER_EXTENT);
	while (!r) {
		bool more = next_extent(b, &block, &x);

		if (w.len == LAYER_CHUNK * LAYER_EXTENT || (!more && w.len)) {
			h->table_crc = crc32c(h->table_crc, w.data, w.len);
			r = fd_pwrite_full(fd, w.data, w.len, off);
			off += w.len;
			w.len = 0;
		}
		if (!more)
			break;
		wbuf_u64(&w, x.first);
		wbuf_u64(&w, x.n);
		wbuf_u32(&w, x.kind);
		h->extents++;
		h->blocks += x.kind == KIND_DATA ? x.n : 0;
		if (w.bad)
			r = -ENOMEM;
	}
	wbuf_fini(&w);
	return r ? err_sys(e, -r, "write the layer's table") : 0;
}

static int put_data(struct blk *b, int fd, uint64_t off, struct err *e)
{
	const uint64_t most = 256;
	cleanup_free uint8_t *buf = malloc(most * BLK_BLOCK);
	uint64_t block = 0, ent, n, bytes, have;
	int r = 0;

	if (!buf)
		return err_set(e, ENOMEM, "no memory to copy a layer");
	while ((block = overlay_next(&b->ov, block)) < b->ov.nr_blocks) {
		n = overlay_run(&b->ov, block, MIN(most, b->ov.nr_blocks - block), &ent);
		if (!ent_is_data(ent)) {
			block += n;
			continue;
		}
		bytes = n * BLK_BLOCK;
		have = MIN(bytes, b->size - block * BLK_BLOCK);
		memset(buf + have, 0, bytes - have);
		r = fd_pread_full(b->ov.layers[ent_layer(ent)].fd, buf, (size_t)have,
				  blk_file_off(b, ent));
		if (r)
			return err_sys(e, -r, "read block %llu of the overlay",
				       (unsigned long long)block);
		r = fd_pwrite_full(fd, buf, (size_t)bytes, off);
		if (r)
			return err_sys(e, -r, "write the layer's data");
		off += bytes;
		block += n;
	}
	return 0;
}

/* Is the current data file, when anything is in it, ours to read? Not in a fork's child. */
static bool all_open(const struct blk *b)
{
	const struct layer *l = b->ov.cur == NO_LAYER ? NULL : &b->ov.layers[b->ov.cur];
	struct stat st;

	if (!l || !l->live)
		return true;
	return !fstat(l->fd, &st) && st.st_dev == b->data_dev && st.st_ino == b->data_ino;
}

int blk_save_layer(struct blk *b, int fd, struct err *e)
{
	uint8_t pad[BLK_BLOCK] = { 0 };
	struct layer_head h = { 0 };
	struct wbuf w;
	int r;

	BUG_ON(b->nr);
	if (b->unit != BLK_BLOCK || b->writes != BLK_OVERLAY)
		return err_set(e, ENOTSUP, "a disk on a file that is written to cannot be saved");
	if (!all_open(b))
		return err_set(e, EINVAL,
			       "the parent's data file is not open here: it did not "
			       "rotate before the fork");
	r = put_table(b, fd, &h, e);
	if (!r)
		r = put_data(b, fd, data_start(h.extents), e);
	if (r)
		return r;
	wbuf_init(&w, LAYER_HEADER);
	wbuf_bytes(&w, LAYER_MAGIC, 8);
	wbuf_u32(&w, LAYER_VERSION);
	wbuf_u32(&w, BLK_BLOCK);
	wbuf_u64(&w, b->size);
	wbuf_u64(&w, b->base_end);
	wbuf_u64(&w, h.extents);
	wbuf_u64(&w, h.blocks);
	wbuf_u32(&w, h.table_crc);
	if (!w.bad)
		wbuf_u32(&w, crc32c(0, w.data, w.len));
	if (w.bad) {
		wbuf_fini(&w);
		return err_set(e, ENOMEM, "no memory for a layer's header");
	}
	memcpy(pad, w.data, w.len);
	wbuf_fini(&w);
	r = fd_pwrite_full(fd, pad, sizeof(pad), 0);
	/* Without data blocks the table's padding is all that follows. */
	if (!r && ftruncate(fd, (off_t)(data_start(h.extents) + h.blocks * BLK_BLOCK)))
		r = -errno;
	return r ? err_sys(e, -r, "write the layer's header") : 0;
}

static int get_head(struct blk *b, int fd, struct layer_head *h, struct err *e)
{
	uint8_t raw[BLK_BLOCK], magic[8];
	uint64_t size, base, want;
	uint32_t version, block, crc;
	struct stat st;
	struct rbuf rb;
	int r;

	if (fstat(fd, &st))
		return err_sys(e, errno, "layer");
	r = fd_pread_full(fd, raw, sizeof(raw), 0);
	if (r)
		return r == -EPIPE ? err_set(e, EINVAL, "layer is cut short at %lld bytes",
					     (long long)st.st_size)
				   : err_sys(e, -r, "read the layer's header");
	rbuf_init(&rb, raw, LAYER_HEADER);
	rbuf_bytes(&rb, magic, sizeof(magic));
	version = rbuf_u32(&rb);
	block = rbuf_u32(&rb);
	size = rbuf_u64(&rb);
	base = rbuf_u64(&rb);
	h->extents = rbuf_u64(&rb);
	h->blocks = rbuf_u64(&rb);
	h->table_crc = rbuf_u32(&rb);
	crc = rbuf_u32(&rb);
	BUG_ON(!rbuf_done(&rb));
	if (memcmp(magic, LAYER_MAGIC, sizeof(magic)))
		return err_set(e, EINVAL, "not a disk layer");
	if (version != LAYER_VERSION)
		return err_set(e, EINVAL, "layer version %u, this program reads %u", version,
			       LAYER_VERSION);
	if (crc != crc32c(0, raw, LAYER_HEADER - 4))
		return err_set(e, EINVAL, "layer header's checksum is wrong");
	for (size_t i = LAYER_HEADER; i < sizeof(raw); i++)
		if (raw[i])
			return err_set(e, EINVAL, "layer header's padding is not zero");
	if (block != BLK_BLOCK || size != b->size || base != b->base_end)
		return err_set(e, EINVAL,
			       "layer is for a disk of %llu bytes over a base of %llu in blocks of "
			       "%u, this one has %llu over %llu in blocks of %u",
			       (unsigned long long)size, (unsigned long long)base, block,
			       (unsigned long long)b->size, (unsigned long long)b->base_end,
			       BLK_BLOCK);
	if (h->extents > b->ov.nr_blocks || h->blocks > b->ov.nr_blocks)
		return err_set(e, EINVAL, "layer of %llu extents, %llu blocks on a disk of %llu",
			       (unsigned long long)h->extents, (unsigned long long)h->blocks,
			       (unsigned long long)b->ov.nr_blocks);
	want = data_start(h->extents) + h->blocks * BLK_BLOCK;
	if (st.st_size < 0 || (uint64_t)st.st_size != want)
		return err_set(e, EINVAL, "layer has %lld bytes, not %llu", (long long)st.st_size,
			       (unsigned long long)want);
	return 0;
}

/* One extent of a hostile table, after those up to block *from with *used data blocks. */
static int take_extent(struct blk *b, const struct layer_head *h, const struct layer_extent *x,
		       unsigned int layer, uint64_t *from, uint64_t *used, struct err *e)
{
	bool data = x->kind == KIND_DATA;

	if (x->kind > KIND_DATA || !x->n || x->first < *from ||
	    !range_ok(x->first, x->n, data ? b->ov.nr_blocks : b->ov.base_blocks) ||
	    (data && x->n > h->blocks - *used))
		return err_set(e, EINVAL, "layer extent %llu+%llu of kind %u is out of place",
			       (unsigned long long)x->first, (unsigned long long)x->n, x->kind);
	if (data ? overlay_prepare(&b->ov, x->first, x->n)
		 : overlay_prepare_zero(&b->ov, x->first, x->n))
		return err_set(e, ENOMEM, "no memory for the block map");
	for (uint64_t k = 0; data && k < x->n; k++)
		overlay_set(&b->ov, x->first + k, ent_make(layer, *used + k));
	if (!data)
		overlay_zero(&b->ov, x->first, x->n);
	*from = x->first + x->n;
	*used += data ? x->n : 0;
	return 0;
}

static int get_table(struct blk *b, int fd, const struct layer_head *h, unsigned int layer,
		     struct err *e)
{
	cleanup_free uint8_t *raw = malloc(LAYER_CHUNK * LAYER_EXTENT);
	uint64_t from = 0, used = 0;
	uint32_t crc = 0;
	int r;

	if (!raw)
		return err_set(e, ENOMEM, "no memory to read a layer's table");
	for (uint64_t i = 0; i < h->extents; i += LAYER_CHUNK) {
		size_t n = (size_t)MIN((uint64_t)LAYER_CHUNK, h->extents - i) * LAYER_EXTENT;
		struct rbuf rb;

		r = fd_pread_full(fd, raw, n, BLK_BLOCK + i * LAYER_EXTENT);
		if (r)
			return err_sys(e, -r, "read the layer's table");
		crc = crc32c(crc, raw, n);
		rbuf_init(&rb, raw, n);
		while (rbuf_left(&rb)) {
			struct layer_extent x;

			x.first = rbuf_u64(&rb);
			x.n = rbuf_u64(&rb);
			x.kind = rbuf_u32(&rb);
			r = take_extent(b, h, &x, layer, &from, &used, e);
			if (r)
				return r;
		}
	}
	if (crc != h->table_crc)
		return err_set(e, EINVAL, "layer table's checksum is wrong");
	if (used != h->blocks)
		return err_set(e, EINVAL, "layer holds %llu blocks, its table names %llu",
			       (unsigned long long)h->blocks, (unsigned long long)used);
	return 0;
}

int blk_load_layer(struct blk *b, int fd, struct err *e)
{
	cleanup_close int own = fd;
	struct layer_head h;
	unsigned int layer;
	int r;

	BUG_ON(b->nr);
	if (b->read_only)
		return err_set(e, EINVAL, "a read-only disk takes no layer");
	if (b->adopted || b->ov.mapped || b->ov.nr_layers > 1)
		return err_set(e, EBUSY, "the disk is in use already");
	r = blk_check_mode(own, O_RDONLY, "layer", e);
	if (!r)
		r = get_head(b, own, &h, e);
	if (!r)
		r = overlay_add_layer(&b->ov, own, data_start(h.extents), &layer, e);
	if (r)
		return r;
	take_fd(&own);
	r = get_table(b, fd, &h, layer, e);
	if (r)
		overlay_clear(&b->ov);
	else if (!h.blocks)
		overlay_drop_layer(&b->ov, layer);
	return r;
}
