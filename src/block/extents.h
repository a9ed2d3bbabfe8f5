/* SPDX-License-Identifier: MIT */
/*
 * Runs of blocks of a file that are free to be used again: a stack, looked through near its top
 * only. One thread at a time.
 */
#ifndef CLONE_BLOCK_EXTENTS_H
#define CLONE_BLOCK_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct extent {
	uint64_t start, n;
};

struct extents {
	struct extent *x;
	size_t nr, cap;
};

void extents_fini(struct extents *e);
/* Forgets all. */
void extents_clear(struct extents *e);
/* Adds a run. Without memory the blocks are lost to further use, nothing else. */
void extents_put(struct extents *e, uint64_t start, uint64_t n);
/* Takes n blocks that follow each other; false: none found soon. */
bool extents_take(struct extents *e, uint64_t n, uint64_t *start);

#endif
