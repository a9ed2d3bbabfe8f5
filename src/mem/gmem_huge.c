/* SPDX-License-Identifier: MIT */
/*
 * RAM in huge pages where that costs no sharing. A machine that boots has them where the host gives
 * them unasked. A child says no for what it will touch first: its share of its parent's stays, and
 * is split page by page where it writes.
 *
 * Of a seed's RAM some is moved into them: a guest that runs on 2 MiB mappings of its kernel and
 * its page cache takes one fault where it took hundreds. Private mappings of files have small pages
 * only, so a block of 2 MiB that the template's file mostly fills is copied into anonymous memory:
 * fork(2) shares it as a whole, and a child's first write to it splits the child's mapping and
 * copies one small page. All other RAM of a seed says no to huge pages: a first touch of a hole
 * would cost each child 2 MiB. Main thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/fd.h"
#include "base/util.h"
#include "mem/gmem.h"
#include "mem/gmem_private.h"

#define BLOCK MIB(2)
#define BLOCKS_MAX 256u /* 512 MiB: these pages, unlike the file's, the host cannot drop */

struct gmem_huge {
	int fd;
	uint64_t at; /* the next block, by RAM offset */
	unsigned int made;
	size_t n, first; /* extents; those before first end before `at` */
	struct gmem_extent ext[];
};

static void advise(struct gmem *gm, int advice)
{
	for (size_t k = 0; k < gm->n; k++)
		/* fails where the kernel has no huge pages: then nothing is lost */
		(void)madvise(gm->r[k].pub.hva, gm->r[k].pub.size_bytes, advice);
}

void gmem_huge_child(struct gmem *gm)
{
	gmem_huge_end(gm);
	if (!gm->file_backed)
		advise(gm, MADV_NOHUGEPAGE);
}

int gmem_huge_begin(struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n, struct err *e)
{
	struct gmem_huge *h = malloc(sizeof(*h) + n * sizeof(*ext));

	if (!h)
		return err_set(e, ENOMEM, "huge pages: out of memory");
	*h = (struct gmem_huge){ .fd = fd, .n = n };
	memcpy(h->ext, ext, n * sizeof(*ext));
	free(gm->huge);
	gm->huge = h;
	advise(gm, MADV_NOHUGEPAGE);
	return 0;
}

void gmem_huge_end(struct gmem *gm)
{
	free(gm->huge);
	gm->huge = NULL;
}

/* Bytes of [at, at + BLOCK) that the file holds; moves over extents that are behind us. */
static uint64_t data_in(struct gmem_huge *h, uint64_t at)
{
	uint64_t bytes = 0;

	while (h->first < h->n && h->ext[h->first].offset + h->ext[h->first].len <= at)
		h->first++;
	for (size_t i = h->first; i < h->n && h->ext[i].offset < at + BLOCK; i++)
		bytes += MIN(at + BLOCK, h->ext[i].offset + h->ext[i].len) -
			 MAX(at, h->ext[i].offset);
	return bytes;
}

static int fill(const struct gmem_huge *h, uint64_t at, char *to)
{
	int r = 0;

	for (size_t i = h->first; !r && i < h->n && h->ext[i].offset < at + BLOCK; i++) {
		uint64_t from = MAX(at, h->ext[i].offset);
		uint64_t end = MIN(at + BLOCK, h->ext[i].offset + h->ext[i].len);

		r = fd_pread_full(h->fd, to + (from - at), end - from, from);
	}
	return r;
}

/* Made beside and moved into place whole: on failure the file's pages are still there. */
static int make_block(const struct gmem_huge *h, uint64_t at, char *hva, struct err *e)
{
	char *map = mmap(NULL, 2 * BLOCK, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *p;
	int r;

	if (map == MAP_FAILED)
		return err_sys(e, errno, "huge pages: mmap");
	p = (char *)ROUND_UP((uintptr_t)map, BLOCK);
	r = madvise(p, BLOCK, MADV_HUGEPAGE) ? -errno : fill(h, at, p);
	/* what is huge stays so; nobody is to make other pages so again */
	if (!r)
		(void)madvise(p, BLOCK, MADV_NOHUGEPAGE);
	if (!r && mremap(p, BLOCK, BLOCK, MREMAP_MAYMOVE | MREMAP_FIXED, hva) == MAP_FAILED)
		r = -errno;
	munmap(map, (size_t)(p - map));
	munmap(p + BLOCK, (size_t)(map + BLOCK - p));
	if (r) {
		munmap(p, BLOCK);
		return r == -EPIPE ? err_set(e, EPIPE, "huge pages: the RAM file is truncated")
				   : err_sys(e, -r, "huge pages");
	}
	return 0;
}

int gmem_huge_step(struct gmem *gm, struct err *e)
{
	struct gmem_huge *h = gm->huge;

	if (!h)
		return 0;
	for (; h->made < BLOCKS_MAX && h->at + BLOCK <= gm->size; h->at += BLOCK) {
		char *hva = gmem_offset_ptr(gm, h->at, BLOCK);
		int r;

		if (!hva || data_in(h, h->at) < BLOCK / 2)
			continue;
		r = make_block(h, h->at, hva, e);
		if (r) {
			gmem_huge_end(gm);
			return r;
		}
		gmem_mark_anonymous(gm, h->at, BLOCK);
		/* once is enough: the page cache need not have it too */
		(void)posix_fadvise(h->fd, (off_t)h->at, BLOCK, POSIX_FADV_DONTNEED);
		h->at += BLOCK;
		h->made++;
		return 1;
	}
	gmem_huge_end(gm);
	return 0;
}
