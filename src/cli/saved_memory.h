/* SPDX-License-Identifier: MIT */
/*
 * What the memory of a template or snapshot is made of, and how much of it the host has in its page
 * cache. One thread; blocking.
 */
#ifndef CLONE_CLI_SAVED_MEMORY_H
#define CLONE_CLI_SAVED_MEMORY_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "snapshot/ram.h"
#include "template/template.h"

/* Bytes. stored, shared and zero add up to size. */
struct saved_memory {
	uint64_t size;
	uint64_t stored;     /* what its RAM file says of pages */
	uint64_t shared;     /* pages of what it stands on */
	uint64_t zero;	     /* pages that no file holds */
	uint64_t resident;   /* of its RAM file's data, in the page cache now */
	bool resident_known; /* the kernel says it to a file's owner only */
};

/* Of a chain of indices, the flat one first; all of one size. resident is not touched. */
void saved_memory_count(const struct ram_index *ix, size_t n, struct saved_memory *out);
/* Of the data that ix says a RAM file has. -errno of stat, mmap or mincore. */
int saved_memory_resident(const struct ram_index *ix, int fd, struct saved_memory *out,
			  struct err *e);
/* All of it. -EBADMSG and whatever opening its files fails with. */
int saved_memory(const struct template *t, struct saved_memory *out, struct err *e);
/* {"size_bytes", ...}; NULL: out of memory. */
json_t *saved_memory_json(const struct saved_memory *m);

#endif
