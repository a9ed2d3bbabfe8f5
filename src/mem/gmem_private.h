/* SPDX-License-Identifier: MIT */
/*
 * What the files of src/mem share about a struct gmem. Nobody else includes this.
 */
#ifndef CLONE_MEM_GMEM_PRIVATE_H
#define CLONE_MEM_GMEM_PRIVATE_H

#include "mem/gmem.h"

struct gmem_map {
	struct gmem_region pub;
	void *map; /* guards included */
	uint64_t map_len;
};

struct gmem {
	uint64_t size;
	struct gmem_map r[GMEM_MAX_REGIONS];
	size_t n;
	unsigned int pins;
	bool file_backed; /* some of it is a template's file */
	uint64_t *filed;  /* a bit a page of RAM that is mapped from one, or NULL: none */
	bool out;	  /* nobody looks at it now: it is on its way to a file (gmem_out.h) */
	struct gmem_huge *huge; /* a seed's plan of huge pages (gmem_huge.c), or NULL */
	uint64_t *dirty;	/* a bit a page of RAM, or NULL while nobody asks */
};

/* Pointer by RAM offset; NULL when [offset, offset+n) is not inside one region. */
char *gmem_offset_ptr(const struct gmem *gm, uint64_t offset, uint64_t n);
void gmem_mark_dirty(struct gmem *gm, uint64_t offset, uint64_t n);
/* Is the page at this offset mapped from a template's file? */
static inline bool gmem_filed(const struct gmem *gm, uint64_t offset)
{
	uint64_t page = offset / GMEM_PAGE;

	return gm->filed && gm->filed[page / 64] >> (page % 64) & 1;
}
/* These pages are anonymous from now on. */
void gmem_mark_anonymous(struct gmem *gm, uint64_t offset, uint64_t n);

#endif
