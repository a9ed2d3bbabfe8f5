/* SPDX-License-Identifier: MIT */
/*
 * RAM pushed out, and read back. See gmem_out.h. The pages lie in the file one behind the other in
 * the order of RAM, so that two bits a page are all there is to know: 64 KiB a GiB of RAM, however
 * scattered they are. Main thread.
 */
#include "mem/gmem_out.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "mem/gmem_private.h"

#define WINDOW MIB(2) /* never crosses regions */
#define WINDOW_PAGES (WINDOW / GMEM_PAGE)
#define STEP MIB(32)

/* Documentation/admin-guide/mm/pagemap.rst of Linux */
#define PM_PRESENT (1ull << 63)
#define PM_FILE (1ull << 61)
#define PM_EXCLUSIVE (1ull << 56)

struct gmem_out {
	struct gmem *gm;
	int file, pagemap;
	uint64_t at;	 /* RAM before it was looked at */
	uint64_t bytes;	 /* in the file */
	uint64_t zeroes; /* pages */
	uint64_t *kept, *zero;
	bool gone; /* it was discarded */
};

static bool has(const uint64_t *bits, uint64_t page)
{
	return bits[page / 64] >> page % 64 & 1;
}

static void set(uint64_t *bits, uint64_t page)
{
	bits[page / 64] |= 1ull << page % 64;
}

/* The end of the run of pages that begins with this one, within its window. */
static uint64_t run_end(const uint64_t *bits, uint64_t page)
{
	uint64_t end = page / WINDOW_PAGES * WINDOW_PAGES + WINDOW_PAGES;

	while (page < end && has(bits, page))
		page++;
	return page;
}

/* The file's pages are not needed in memory: they are what is to become less. Advice, no more. */
static void drop_cache(const struct gmem_out *o)
{
	(void)posix_fadvise(o->file, 0, 0, POSIX_FADV_DONTNEED);
}

/* Present, anonymous, and nobody else's: neither a template's page nor one shared by fork(2), nor
 * the kernel's page of zeroes. What is swapped out costs no memory and stays there. */
static bool is_own(uint64_t entry)
{
	return (entry & PM_PRESENT) && (entry & PM_EXCLUSIVE) && !(entry & PM_FILE);
}

static int push_run(struct gmem_out *o, uint64_t page, uint64_t n, struct err *e)
{
	const char *p = gmem_offset_ptr(o->gm, page * GMEM_PAGE, n * GMEM_PAGE);
	int ret = fd_pwrite_full(o->file, p, n * GMEM_PAGE, o->bytes);

	if (ret)
		return err_sys(e, -ret, "writing RAM out, after %" PRIu64 " MiB", o->bytes >> 20);
	o->bytes += n * GMEM_PAGE;
	return 0;
}

static int push_window(struct gmem_out *o, struct err *e)
{
	const char *p = gmem_offset_ptr(o->gm, o->at, WINDOW);
	uint64_t first = o->at / GMEM_PAGE, entry[WINDOW_PAGES], end;
	int ret = fd_pread_full(o->pagemap, entry, sizeof(entry),
				(uintptr_t)p / GMEM_PAGE * sizeof(entry[0]));

	if (ret)
		return err_sys(e, -ret, "reading pagemap");
	for (uint64_t i = 0; i < WINDOW_PAGES; i++) {
		if (!is_own(entry[i]))
			continue;
		if (!gmem_page_is_zero(p + i * GMEM_PAGE)) {
			set(o->kept, first + i);
		} else {
			set(o->zero, first + i);
			o->zeroes++;
		}
	}
	for (uint64_t i = first; i < first + WINDOW_PAGES && !ret; i = end + 1) {
		end = run_end(o->kept, i);
		if (end > i)
			ret = push_run(o, i, end - i, e);
	}
	return ret;
}

/* All that was written is there: errors of a disk may come this late. */
static int settle(struct gmem_out *o, struct err *e)
{
	struct stat st;

	if (fdatasync(o->file) < 0 || fstat(o->file, &st) < 0)
		return err_sys(e, errno, "writing RAM out, after %" PRIu64 " MiB", o->bytes >> 20);
	if ((uint64_t)st.st_size != o->bytes)
		return err_set(e, EIO,
			       "writing RAM out: the file has %" PRId64 " bytes and not %" PRIu64,
			       (int64_t)st.st_size, o->bytes);
	drop_cache(o);
	return 0;
}

int gmem_out_begin(struct gmem *gm, int file, int pagemap, struct gmem_out **out, struct err *e)
{
	size_t words = gm->size / GMEM_PAGE / 64;
	struct gmem_out *o;
	struct stat st;

	BUG_ON(gm->out);
	if (fstat(file, &st) < 0)
		return err_sys(e, errno, "the file for RAM");
	if (!S_ISREG(st.st_mode) || st.st_size)
		return err_set(e, EINVAL, "the file for RAM is not a regular, empty one");
	o = calloc(1, sizeof(*o));
	if (o) {
		o->kept = calloc(words, sizeof(*o->kept));
		o->zero = calloc(words, sizeof(*o->zero));
	}
	if (!o || !o->kept || !o->zero) {
		gmem_out_end(o);
		return err_set(e, ENOMEM, "no memory to note which RAM is out");
	}
	o->gm = gm;
	o->file = file;
	o->pagemap = pagemap;
	gm->out = true;
	*out = o;
	return 0;
}

int gmem_out_step(struct gmem_out *o, struct err *e)
{
	uint64_t to = MIN(o->at + STEP, o->gm->size);
	int ret = 0;

	for (; o->at < to && !ret; o->at += WINDOW)
		ret = push_window(o, e);
	if (!ret)
		ret = settle(o, e);
	return ret ? ret : o->at < o->gm->size;
}

static void discard(struct gmem_out *o, const uint64_t *bits)
{
	uint64_t pages = o->gm->size / GMEM_PAGE, end;

	for (uint64_t i = 0; i < pages; i = end + (end == i)) {
		end = run_end(bits, i);
		if (end > i)
			gmem_forget(o->gm, i * GMEM_PAGE, (end - i) * GMEM_PAGE);
	}
}

void gmem_out_discard(struct gmem_out *o)
{
	BUG_ON(o->at != o->gm->size);
	discard(o, o->kept);
	discard(o, o->zero);
	o->gone = true;
}

/* Below a page of zeroes there may be a template's. */
static void zero_back(struct gmem_out *o)
{
	uint64_t pages = o->gm->size / GMEM_PAGE;

	for (uint64_t i = 0; i < pages; i++) {
		char *p;

		if (!has(o->zero, i) || !gmem_filed(o->gm, i * GMEM_PAGE))
			continue;
		p = gmem_offset_ptr(o->gm, i * GMEM_PAGE, GMEM_PAGE);
		if (!gmem_page_is_zero(p))
			memset(p, 0, GMEM_PAGE);
	}
}

static int read_back(struct gmem_out *o, struct err *e)
{
	uint64_t pages = o->gm->size / GMEM_PAGE, pos = 0, dropped = 0, end;

	for (uint64_t i = 0; i < pages; i = end + (end == i)) {
		uint64_t n;
		int ret;

		end = run_end(o->kept, i);
		if (end == i)
			continue;
		n = (end - i) * GMEM_PAGE;
		ret = fd_pread_full(o->file, gmem_offset_ptr(o->gm, i * GMEM_PAGE, n), n, pos);
		if (ret)
			return err_sys(e, -ret, "reading RAM back, after %" PRIu64 " MiB",
				       pos >> 20);
		pos += n;
		if (pos - dropped < STEP)
			continue;
		dropped = pos;
		drop_cache(o);
	}
	BUG_ON(pos != o->bytes);
	zero_back(o);
	return 0;
}

int gmem_out_back(struct gmem_out *o, struct err *e)
{
	struct stat st;
	int ret;

	if (!o->gone) {
		o->gm->out = false;
		return 0;
	}
	if (fstat(o->file, &st) < 0)
		return err_sys(e, errno, "the file of RAM");
	if ((uint64_t)st.st_size != o->bytes)
		return err_set(e, ENODATA,
			       "the file of RAM has %" PRId64 " of %" PRIu64
			       " bytes: somebody cut it",
			       (int64_t)st.st_size, o->bytes);
	ret = read_back(o, e);
	if (ret) {
		gmem_out_discard(o);
		return ret;
	}
	o->gone = o->gm->out = false;
	return 0;
}

void gmem_out_end(struct gmem_out *o)
{
	if (!o)
		return;
	if (o->gm && !o->gone)
		o->gm->out = false;
	free(o->kept);
	free(o->zero);
	free(o);
}

uint64_t gmem_out_bytes(const struct gmem_out *o)
{
	return o->bytes;
}

uint64_t gmem_out_zero_bytes(const struct gmem_out *o)
{
	return o->zeroes * GMEM_PAGE;
}
