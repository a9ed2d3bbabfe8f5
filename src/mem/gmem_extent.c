/* SPDX-License-Identifier: MIT */
/*
 * RAM as extents: which pages may hold anything (for the snapshot writer), and mapping a template's
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

static void mark_filed(struct gmem *gm, uint64_t offset, uint64_t n, bool filed)
{
	for (uint64_t page = offset / GMEM_PAGE; page < (offset + n) / GMEM_PAGE; page++) {
		uint64_t bit = 1ull << (page % 64);

		if (filed)
			gm->filed[page / 64] |= bit;
		else
			gm->filed[page / 64] &= ~bit;
	}
}

void gmem_mark_anonymous(struct gmem *gm, uint64_t offset, uint64_t n)
{
	if (gm->filed)
		mark_filed(gm, offset, n, false);
}

int gmem_map_file(struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n, struct err *e)
{
	int ret = check_extents(gm, fd, ext, n, e);

	if (ret)
		return ret;
	if (n && !gm->filed)
		gm->filed = calloc(gm->size / GMEM_PAGE / 64 + 1, sizeof(*gm->filed));
	if (n && !gm->filed)
		return err_set(e, ENOMEM, "RAM extents: out of memory");
	gm->file_backed |= n > 0;
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
			mark_filed(gm, off, len, true);
			off += len;
			left -= len;
		}
	}
	return 0;
}

int gmem_map_zero(struct gmem *gm, const struct gmem_extent *x, struct err *e)
{
	for (size_t k = 0; k < gm->n; k++) {
		const struct gmem_region *r = &gm->r[k].pub;
		uint64_t from = MAX(x->offset, r->offset);
		uint64_t to = MIN(x->offset + x->len, r->offset + r->size_bytes);

		if (from < to &&
		    mmap((char *)r->hva + (from - r->offset), to - from, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
			 0) == MAP_FAILED)
			return err_sys(e, errno, "zero extent at %#" PRIx64 ": mmap", from);
		if (from < to)
			gmem_mark_anonymous(gm, from, to - from);
	}
	return 0;
}

bool gmem_page_is_zero(const void *page)
{
	const uint64_t *w = page;

	for (size_t i = 0; i < GMEM_PAGE / sizeof(*w); i += 8)
		if (w[i] | w[i + 1] | w[i + 2] | w[i + 3] | w[i + 4] | w[i + 5] | w[i + 6] |
		    w[i + 7])
			return false;
	return true;
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

bool gmem_resident(struct gmem *gm, uint64_t offset, uint64_t len, unsigned char *vec)
{
	void *p = gmem_offset_ptr(gm, offset, len);
	uint64_t pages = len / GMEM_PAGE;
	unsigned char any = 0;

	BUG_ON(!p);
	/* asked again: the first page to be swapped out may have gone in between */
	if (!absent_is_zero(gm) || mincore(p, len, vec) < 0 || !absent_is_zero(gm)) {
		memset(vec, 1, pages);
		return true;
	}
	for (uint64_t i = 0; i < pages; i++)
		any |= vec[i] &= 1;
	return any;
}

void gmem_populate(struct gmem *gm, uint64_t offset, uint64_t len)
{
	void *p = gmem_offset_ptr(gm, offset, len);

	if (p) /* a run of pages may cross the hole */
		(void)madvise(p, len, MADV_POPULATE_WRITE);
}

void gmem_forget(struct gmem *gm, uint64_t offset, uint64_t len)
{
	void *p = gmem_offset_ptr(gm, offset, len);

	BUG_ON(!p);
	(void)madvise(p, len, MADV_DONTNEED); /* what stays costs memory, no more */
}
