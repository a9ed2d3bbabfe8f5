/* SPDX-License-Identifier: MIT */
/*
 * The index of a RAM file. See ram.h.
 *
 *   u64 size of RAM, u32 encoding, u32 extents, u32 frames; extents of u64 offset, u64 length,
 *   u8 kind (0 zero, 1 data); frames of u32 bytes
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "mem/gmem.h"
#include "snapshot/ram.h"

#define EXTENT_BYTES 17u
#define FRAME_BYTES 4u

void ram_index_fini(struct ram_index *ix)
{
	free(ix->ext);
	free(ix->frames);
	*ix = (struct ram_index){ 0 };
}

/* Room for one more element of `size` bytes. */
static int grow(void **v, size_t n, size_t *cap, size_t size)
{
	size_t more = MAX(*cap * 2, (size_t)64);
	void *p;

	if (n < *cap)
		return 0;
	p = reallocarray(*v, more, size);
	if (!p)
		return -ENOMEM;
	*v = p;
	*cap = more;
	return 0;
}

int ram_index_add(struct ram_index *ix, uint64_t offset, uint64_t len, bool zero)
{
	struct ram_extent *last = ix->n ? &ix->ext[ix->n - 1] : NULL;

	if (last && last->zero == zero && last->offset + last->len == offset) {
		last->len += len;
		return 0;
	}
	if (grow((void **)&ix->ext, ix->n, &ix->cap, sizeof(*ix->ext)))
		return -ENOMEM;
	ix->ext[ix->n++] = (struct ram_extent){ offset, len, zero };
	return 0;
}

int ram_index_add_frame(struct ram_index *ix, uint32_t bytes)
{
	if (grow((void **)&ix->frames, ix->nr_frames, &ix->cap_frames, sizeof(*ix->frames)))
		return -ENOMEM;
	ix->frames[ix->nr_frames++] = bytes;
	return 0;
}

void ram_index_encode(const struct ram_index *ix, struct wbuf *w)
{
	wbuf_u64(w, ix->size_bytes);
	wbuf_u32(w, ix->encoding);
	wbuf_u32(w, (uint32_t)ix->n);
	wbuf_u32(w, (uint32_t)ix->nr_frames);
	for (size_t i = 0; i < ix->n; i++) {
		wbuf_u64(w, ix->ext[i].offset);
		wbuf_u64(w, ix->ext[i].len);
		wbuf_u8(w, !ix->ext[i].zero);
	}
	for (size_t i = 0; i < ix->nr_frames; i++)
		wbuf_u32(w, ix->frames[i]);
}

/* Windows that any data extent touches: a frame each. */
static size_t windows_with_data(const struct ram_index *ix)
{
	uint64_t next = 0; /* first window not counted */
	size_t n = 0;

	for (size_t i = 0; i < ix->n; i++) {
		const struct ram_extent *x = &ix->ext[i];
		uint64_t first = MAX(next, x->offset / RAM_WINDOW);
		uint64_t end = (x->offset + x->len - 1) / RAM_WINDOW + 1;

		if (x->zero || end <= first)
			continue;
		n += (size_t)(end - first);
		next = end;
	}
	return n;
}

static int decode_extents(struct rbuf *r, size_t n, struct ram_index *ix, struct err *e)
{
	uint64_t at = 0;

	for (size_t i = 0; i < n; i++) {
		uint64_t off = rbuf_u64(r), len = rbuf_u64(r);
		uint8_t kind = rbuf_u8(r);

		if (kind > 1 || off % GMEM_PAGE || len % GMEM_PAGE || !len || off < at ||
		    !range_ok(off, len, ix->size_bytes))
			return err_set(e, EINVAL,
				       "RAM extent %zu: %#" PRIx64 "+%#" PRIx64
				       " of kind %u is unaligned, out of order or beyond RAM",
				       i, off, len, kind);
		if (ix->n && ix->ext[ix->n - 1].zero == !kind && off == at)
			return err_set(e, EINVAL, "RAM extent %zu continues the one before it", i);
		if (ram_index_add(ix, off, len, !kind))
			return err_set(e, ENOMEM, "RAM index: out of memory");
		at = off + len;
	}
	return 0;
}

static int decode_frames(struct rbuf *r, size_t n, struct ram_index *ix, struct err *e)
{
	size_t want = ix->encoding == RAM_ZSTD ? windows_with_data(ix) : 0;

	if (n != want)
		return err_set(e, EINVAL, "RAM index: %zu frames for %zu windows", n, want);
	for (size_t i = 0; i < n; i++) {
		uint32_t bytes = rbuf_u32(r);

		if (!bytes || bytes > ZSTD_COMPRESSBOUND(RAM_WINDOW))
			return err_set(e, EINVAL, "RAM frame %zu has %u bytes", i, bytes);
		if (ram_index_add_frame(ix, bytes))
			return err_set(e, ENOMEM, "RAM index: out of memory");
	}
	return 0;
}

int ram_index_decode(struct rbuf *r, struct ram_index *out, struct err *e)
{
	struct ram_index ix = { .size_bytes = rbuf_u64(r) };
	uint32_t encoding = rbuf_u32(r), n = rbuf_u32(r), frames = rbuf_u32(r);
	int ret = 0;

	if (r->bad || encoding > RAM_ZSTD || !ix.size_bytes || ix.size_bytes > GMEM_MAX_BYTES ||
	    ix.size_bytes % MIB(2))
		ret = err_set(e, EINVAL, "damaged RAM index");
	else if (rbuf_left(r) != (uint64_t)n * EXTENT_BYTES + (uint64_t)frames * FRAME_BYTES)
		ret = err_set(e, EINVAL, "RAM index: %zu bytes for %u extents and %u frames",
			      rbuf_left(r), n, frames);
	ix.encoding = (enum ram_encoding)encoding;
	if (!ret)
		ret = decode_extents(r, n, &ix, e);
	if (!ret)
		ret = decode_frames(r, frames, &ix, e);
	if (ret)
		ram_index_fini(&ix);
	else
		*out = ix;
	return ret;
}

size_t ram_index_find(const struct ram_index *ix, uint64_t offset)
{
	size_t lo = 0, hi = ix->n;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (ix->ext[mid].offset + ix->ext[mid].len > offset)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

uint64_t ram_index_data(const struct ram_index *ix)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < ix->n; i++)
		if (!ix->ext[i].zero)
			sum += ix->ext[i].len;
	return sum;
}
