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
	bool file_backed;	/* some of it is a template's file */
	struct gmem_huge *huge; /* a seed's plan of huge pages (gmem_huge.c), or NULL */
	uint64_t *dirty;	/* a bit a page of RAM, or NULL while nobody asks */
};

/* Pointer by RAM offset; NULL when [offset, offset+n) is not inside one region. */
char *gmem_offset_ptr(const struct gmem *gm, uint64_t offset, uint64_t n);
void gmem_mark_dirty(struct gmem *gm, uint64_t offset, uint64_t n);

#endif
