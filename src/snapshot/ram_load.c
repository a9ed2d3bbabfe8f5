/* SPDX-License-Identifier: MIT */
/*
 * RAM files into RAM. Of a layer, what is long enough is mapped, so that all machines that stand on
 * the file share its pages; the rest is copied, because each mapping costs every later fork(2). A
 * seed's children share what it copied. See ram.h. Main thread, nothing runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"

#define MAPS_MAX 512u	      /* of one layer: so few that fork(2) does not notice */
#define MAP_BYTES (64u << 10) /* shorter extents are copied */

/* From which length on extents are worth a mapping: all of these are at most MAPS_MAX. */
static uint64_t map_from(const struct ram_index *ix)
{
	uint64_t least = MAP_BYTES;
	size_t n;

	do {
		n = 0;
		for (size_t i = 0; i < ix->n; i++)
			n += ix->ext[i].len >= least;
		if (n > MAPS_MAX)
			least *= 2;
	} while (n > MAPS_MAX);
	return least;
}

/* An extent that may span windows and the hole in the address space, piece by piece. */
static int copy_extent(struct ram_layer *l, const struct ram_extent *x, struct gmem *gm,
		       struct err *e)
{
	for (uint64_t at = x->offset; at < x->offset + x->len;) {
		uint64_t n = MIN(RAM_WINDOW - at % RAM_WINDOW, x->offset + x->len - at);
		void *p = gmem_fill(gm, at, n);
		int ret;

		BUG_ON(!p);
		if (x->zero) {
			memset(p, 0, n);
		} else {
			ret = fd_pread_full(l->fd, p, n, at);
			if (ret)
				return err_sys(e, -ret, "RAM file: reading %llu bytes at %llu",
					       (unsigned long long)n, (unsigned long long)at);
		}
		at += n;
	}
	return 0;
}

/* Swallows gaps shorter than `merge` in place; returns how many extents are left. */
static size_t coalesce(struct gmem_extent *v, size_t n, uint64_t merge)
{
	size_t w = 0;

	for (size_t i = 1; i < n; i++) {
		if (v[i].offset - (v[w].offset + v[w].len) < merge)
			v[w].len = v[i].offset + v[i].len - v[w].offset;
		else
			v[++w] = v[i];
	}
	return n ? w + 1 : 0;
}

/* The lowest layer: between its extents are zeroes, which holes of the file are too. So all of it
 * is mapped, with the shortest gaps swallowed until the mappings are few. */
static int load_lowest(struct ram_layer *l, struct gmem *gm, struct err *e)
{
	cleanup_free struct gmem_extent *m = calloc(l->ix.n + 1, sizeof(*m));
	size_t n = 0;

	if (!m)
		return err_set(e, ENOMEM, "RAM file: out of memory");
	for (size_t i = 0; i < l->ix.n; i++)
		if (!l->ix.ext[i].zero)
			m[n++] = (struct gmem_extent){ l->ix.ext[i].offset, l->ix.ext[i].len };
	for (uint64_t merge = MAP_BYTES; n > MAPS_MAX; merge *= 2)
		n = coalesce(m, n, merge);
	return gmem_map_file(gm, l->fd, m, n, e);
}

static int load_raw(struct ram_layer *l, struct gmem *gm, struct err *e)
{
	uint64_t least = map_from(&l->ix);
	int ret = 0;

	for (size_t i = 0; i < l->ix.n && !ret; i++) {
		const struct ram_extent *x = &l->ix.ext[i];
		struct gmem_extent m = { x->offset, x->len };

		if (x->len < least)
			ret = copy_extent(l, x, gm, e);
		else if (x->zero)
			ret = gmem_map_zero(gm, &m, e);
		else
			ret = gmem_map_file(gm, l->fd, &m, 1, e);
	}
	return ret;
}

static int load_zstd(struct ram_layer *l, struct gmem *gm, struct err *e)
{
	uint64_t least = map_from(&l->ix);
	int ret = 0;

	for (size_t i = 0; i < l->ix.n && !ret; i++) {
		const struct ram_extent *x = &l->ix.ext[i];
		struct gmem_extent m = { x->offset, x->len };

		if (x->zero && x->len >= least)
			ret = gmem_map_zero(gm, &m, e);
		else if (x->zero)
			ret = copy_extent(l, x, gm, e);
	}
	for (size_t i = 0; i < l->ix.nr_frames && !ret; i++) {
		uint64_t window = l->window[i] * RAM_WINDOW;
		uint8_t *p = gmem_fill(gm, window, MIN(RAM_WINDOW, l->ix.size_bytes - window));

		BUG_ON(!p);
		ret = ram_layer_apply(l, window, p, e);
	}
	return ret;
}

int ram_chain_load(struct ram_layer *l, size_t n, struct gmem *gm, struct err *e)
{
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++) {
		if (l[i].ix.size_bytes != gmem_size(gm))
			return err_set(e, EINVAL, "RAM of %llu bytes in a machine of %llu",
				       (unsigned long long)l[i].ix.size_bytes,
				       (unsigned long long)gmem_size(gm));
		if (l[i].ix.encoding == RAM_ZSTD)
			ret = load_zstd(&l[i], gm, e);
		else
			ret = i ? load_raw(&l[i], gm, e) : load_lowest(&l[i], gm, e);
	}
	return ret;
}
