/* SPDX-License-Identifier: MIT */
/*
 * RAM as extents: which pages hold anything (for the snapshot writer), and mapping a template's
 * RAM file over them (for restore). Everything else stays anonymous zeroes, because reading a hole
 * of a file through MAP_PRIVATE would allocate page cache.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "mem/gmem_private.h"

static int check_extents(const struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n,
			 struct err *e)
{
	uint64_t at = 0;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "RAM file");
	for (size_t i = 0; i < n; i++) {
		uint64_t off = ext[i].offset, len = ext[i].len;

		if (off % GMEM_PAGE || len % GMEM_PAGE || !len || off < at ||
		    !range_ok(off, len, gm->size))
			return err_set(e, EINVAL,
				       "RAM extent %zu: %#" PRIx64 "+%#" PRIx64
				       " is unaligned, out of order or beyond RAM",
				       i, off, len);
		if (!range_ok(off, len, (uint64_t)st.st_size))
			return err_set(e, EINVAL,
				       "RAM file is truncated: %" PRId64 " bytes, needs %" PRIu64,
				       (int64_t)st.st_size, off + len);
		at = off + len;
	}
	return 0;
}

int gmem_map_file(struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n, struct err *e)
{
	int ret = check_extents(gm, fd, ext, n, e);

	if (ret)
		return ret;
	gm->file_backed = n > 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t off = ext[i].offset, left = ext[i].len;

		/* an extent may span the hole: it is mapped region by region */
		for (size_t k = 0; k < gm->n && left; k++) {
			const struct gmem_region *r = &gm->r[k].pub;
			uint64_t len;

			if (off < r->offset || off >= r->offset + r->size_bytes)
				continue;
			len = MIN(left, r->offset + r->size_bytes - off);
			if (mmap((char *)r->hva + (off - r->offset), len, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd,
				 (off_t)off) == MAP_FAILED)
				return err_sys(e, errno, "RAM extent %zu: mmap", i);
			off += len;
			left -= len;
		}
	}
	return 0;
}

static bool page_is_zero(const char *p)
{
	const uint64_t *w = (const uint64_t *)(const void *)p;

	for (size_t i = 0; i < GMEM_PAGE / sizeof(*w); i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
		    w[i + 7])
			return false;
	return true;
}

struct list {
	struct gmem_extent *v;
	size_t n, cap;
};

/* Appends one page, growing the last extent when the gap to it is shorter than merge. */
static bool list_add(struct list *l, uint64_t off, uint64_t merge)
{
	struct gmem_extent *last = l->n ? &l->v[l->n - 1] : NULL;

	if (last && off - (last->offset + last->len) < MAX(merge, (uint64_t)1)) {
		last->len = off + GMEM_PAGE - last->offset;
		return true;
	}
	if (l->n == l->cap) {
		size_t cap = MAX(l->cap * 2, (size_t)64);
		struct gmem_extent *v = realloc(l->v, cap * sizeof(*v));

		if (!v)
			return false;
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = (struct gmem_extent){ .offset = off, .len = GMEM_PAGE };
	return true;
}

/* Swallows gaps of up to `merge` bytes in place; returns how many extents are left. */
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

/*
 * Anonymous pages that were never touched are zero and need not be faulted in to know it: mincore
 * reports them absent. It reports swapped pages and unread file pages absent too, so the
 * shortcut holds only without either.
 */
static bool absent_is_zero(const struct gmem *gm)
{
	struct sysinfo si;

	return !gm->file_backed && sysinfo(&si) == 0 && si.totalswap == si.freeswap;
}

int gmem_find_data(struct gmem *gm, uint64_t merge_bytes, size_t max, struct gmem_extent **out,
		   size_t *n, struct err *e)
{
	unsigned char resident[1024];
	bool skip = absent_is_zero(gm);
	struct list l = { 0 };

	for (size_t k = 0; k < gm->n; k++) {
		const struct gmem_region *r = &gm->r[k].pub;
		uint64_t chunk = sizeof(resident) * (uint64_t)GMEM_PAGE;

		for (uint64_t at = 0; at < r->size_bytes; at += chunk) {
			uint64_t len = MIN(chunk, r->size_bytes - at);
			char *p = (char *)r->hva + at;

			memset(resident, 1, sizeof(resident));
			if (skip && mincore(p, len, resident) < 0)
				memset(resident, 1, sizeof(resident));
			for (uint64_t o = 0; o < len; o += GMEM_PAGE) {
				if (!(resident[o / GMEM_PAGE] & 1) || page_is_zero(p + o))
					continue;
				if (!list_add(&l, r->offset + at + o, merge_bytes)) {
					free(l.v);
					return err_set(e, ENOMEM, "RAM extents: out of memory");
				}
			}
		}
	}
	for (uint64_t merge = MAX(merge_bytes, (uint64_t)GMEM_PAGE); l.n > max; merge *= 2)
		l.n = coalesce(l.v, l.n, merge);
	*out = l.v;
	*n = l.n;
	return 0;
}
