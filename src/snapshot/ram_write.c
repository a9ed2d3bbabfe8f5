/* SPDX-License-Identifier: MIT */
/*
 * Writing RAM: one pass, window by window, so that a frozen child can give back what is behind it.
 * See ram.h. Whoever calls it holds RAM still: the frozen child of a live snapshot, or a test.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/fd.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"

#define PAGES (RAM_WINDOW / GMEM_PAGE)
#define ZSTD_LEVEL 1
/* Zeroes between data in a flat raw file: fewer extents are fewer mappings, a hole costs nothing.
 */
#define MERGE_BYTES (64u << 10)

struct writer {
	const struct ram_write *w;
	struct ram_index *ix;
	uint8_t *ref;	 /* the window as the base has it */
	uint8_t *packed; /* zstd: the window's data, and its frame behind it */
	size_t nr_packed;
	ZSTD_CCtx *zstd;
	uint64_t at; /* zstd: end of the file */
};

/* Whether the layers below say anything but "zero" of this window. */
static bool base_holds(const struct ram_write *w, uint64_t window, uint64_t len)
{
	for (size_t i = 0; i < w->nr_base; i++) {
		const struct ram_index *ix = &w->base[i].ix;

		for (size_t k = ram_index_find(ix, window);
		     k < ix->n && ix->ext[k].offset < window + len; k++)
			if (!ix->ext[k].zero)
				return true;
	}
	return false;
}

static int put_frame(struct writer *r, struct err *e)
{
	uint8_t *to = r->packed + RAM_WINDOW;
	size_t n;
	int ret;

	if (!r->nr_packed)
		return 0;
	n = ZSTD_compressCCtx(r->zstd, to, ZSTD_COMPRESSBOUND(RAM_WINDOW), r->packed, r->nr_packed,
			      ZSTD_LEVEL);
	if (ZSTD_isError(n))
		return err_set(e, ENOMEM, "RAM file: zstd: %s", ZSTD_getErrorName(n));
	ret = fd_pwrite_full(r->w->fd, to, n, r->at);
	if (ret)
		return err_sys(e, -ret, "RAM file: writing %zu bytes at %llu", n,
			       (unsigned long long)r->at);
	if (ram_index_add_frame(r->ix, (uint32_t)n))
		return err_set(e, ENOMEM, "RAM index: out of memory");
	r->at += n;
	r->nr_packed = 0;
	return 0;
}

static int put_data(struct writer *r, uint64_t offset, const uint8_t *p, size_t n, struct err *e)
{
	struct ram_extent *last = r->ix->n ? &r->ix->ext[r->ix->n - 1] : NULL;
	int ret;

	if (r->w->encoding == RAM_ZSTD) {
		memcpy(r->packed + r->nr_packed, p, n);
		r->nr_packed += n;
	} else {
		ret = fd_pwrite_full(r->w->fd, p, n, offset);
		if (ret)
			return err_sys(e, -ret, "RAM file: writing %zu bytes at %llu", n,
				       (unsigned long long)offset);
		if (!r->w->nr_base && last && offset - (last->offset + last->len) < MERGE_BYTES)
			last->len = offset - last->offset;
	}
	if (ram_index_add(r->ix, offset, n, false))
		return err_set(e, ENOMEM, "RAM index: out of memory");
	return 0;
}

enum page { SAME, ZERO, DATA };

static enum page classify(bool based, bool resident, const uint8_t *p, const uint8_t *ref)
{
	bool zero = !resident || gmem_page_is_zero(p);

	if (!based)
		return zero ? SAME : DATA;
	if (zero)
		return gmem_page_is_zero(ref) ? SAME : ZERO;
	return memcmp(p, ref, GMEM_PAGE) ? DATA : SAME;
}

static int put_run(struct writer *r, enum page kind, uint64_t offset, const uint8_t *p, size_t n,
		   struct err *e)
{
	if (kind == DATA)
		return put_data(r, offset, p, n, e);
	if (kind == ZERO && ram_index_add(r->ix, offset, n, true))
		return err_set(e, ENOMEM, "RAM index: out of memory");
	return 0;
}

/* As one extent, from the first page that is to be stored to the last: what lies between is what
 * it is. */
static int put_coarse(struct writer *r, uint64_t window, const uint8_t *p, const enum page *kind,
		      uint64_t pages, struct err *e)
{
	uint64_t first = 0, end = pages;

	while (first < pages && kind[first] == SAME)
		first++;
	if (first == pages)
		return 0;
	while (kind[end - 1] == SAME)
		end--;
	return put_data(r, window + first * GMEM_PAGE, p + first * GMEM_PAGE,
			(end - first) * GMEM_PAGE, e);
}

static int put_runs(struct writer *r, uint64_t window, const uint8_t *p, const enum page *kind,
		    uint64_t pages, struct err *e)
{
	uint64_t begin = 0;
	int ret = 0;

	for (uint64_t i = 1; i <= pages && !ret; i++) {
		if (i < pages && kind[i] == kind[begin])
			continue;
		ret = put_run(r, kind[begin], window + begin * GMEM_PAGE, p + begin * GMEM_PAGE,
			      (i - begin) * GMEM_PAGE, e);
		begin = i;
	}
	return ret;
}

static int put_window(struct writer *r, uint64_t window, uint64_t len, struct err *e)
{
	const struct ram_write *w = r->w;
	const uint8_t *p = gmem_at_offset(w->gm, window, len);
	bool based = base_holds(w, window, len);
	unsigned char resident[PAGES];
	enum page kind[PAGES];
	uint64_t pages = len / GMEM_PAGE;
	int ret = 0;

	BUG_ON(!p);
	if (!gmem_resident(w->gm, window, len, resident) && !based)
		return 0;
	if (based)
		ret = ram_chain_read(w->base, w->nr_base, window, r->ref, e);
	for (uint64_t i = 0; i < pages && !ret; i++)
		kind[i] = classify(based, resident[i], p + i * GMEM_PAGE, r->ref + i * GMEM_PAGE);
	if (!ret && r->ix->n < (w->fine ? w->fine : RAM_EXTENTS_FINE))
		ret = put_runs(r, window, p, kind, pages, e);
	else if (!ret)
		ret = put_coarse(r, window, p, kind, pages, e);
	return ret ? ret : put_frame(r, e);
}

static int write_all(struct writer *r, struct err *e)
{
	const struct ram_write *w = r->w;
	uint64_t size = gmem_size(w->gm);
	int ret = 0;

	/* between extents of a flat file its holes are believed to be zeroes */
	if (ftruncate(w->fd, 0) < 0)
		ret = err_sys(e, errno, "RAM file: emptying it");
	for (uint64_t at = 0; at < size && !ret; at += RAM_WINDOW) {
		uint64_t len = MIN(RAM_WINDOW, size - at);

		ret = put_window(r, at, len, e);
		if (w->give_back)
			gmem_forget(w->gm, at, len);
		if (w->progress)
			w->progress(w->arg, at + len);
	}
	/* the file's end is RAM's, so that every extent can be mapped */
	if (!ret && w->encoding == RAM_RAW && ftruncate(w->fd, (off_t)size) < 0)
		ret = err_sys(e, errno, "RAM file: setting its length");
	return ret;
}

int ram_write(const struct ram_write *w, struct ram_index *ix, struct err *e)
{
	struct writer r = { .w = w, .ix = ix };
	int ret;

	*ix = (struct ram_index){ .size_bytes = gmem_size(w->gm), .encoding = w->encoding };
	r.ref = malloc(RAM_WINDOW);
	if (w->encoding == RAM_ZSTD) {
		r.packed = malloc(RAM_WINDOW + ZSTD_COMPRESSBOUND(RAM_WINDOW));
		r.zstd = ZSTD_createCCtx();
	}
	if (!r.ref || (w->encoding == RAM_ZSTD && (!r.packed || !r.zstd)))
		ret = err_set(e, ENOMEM, "RAM file: out of memory");
	else
		ret = write_all(&r, e);
	ZSTD_freeCCtx(r.zstd);
	free(r.packed);
	free(r.ref);
	return ret;
}
