/* SPDX-License-Identifier: MIT */
/*
 * What source.c (the chain and its cache) and source_fetch.c (how the cache is filled) share.
 */
#ifndef CLONE_BLOCK_SOURCE_INT_H
#define CLONE_BLOCK_SOURCE_INT_H

#include "base/endian.h"
#include "block/qcow2.h"
#include "block/source.h"

#define CHUNK_CLUSTERS 512u /* of the smallest clusters in the chain: what a chunk covers */
#define CHUNKS 1024u	    /* in memory at most: of 20 KiB when every cluster lies by itself */
#define UNPACKED 4u	    /* clusters kept decompressed */

enum extent_kind { X_UNKNOWN, X_ZERO, X_FILE, X_PACKED, X_BAD };

/* A run of a chunk with one origin. */
struct sextent {
	uint64_t start, len; /* bytes of the disk */
	uint64_t off;	     /* in the file: where it begins; of X_PACKED: the cluster's bytes */
	uint32_t packed;     /* X_PACKED: how many those are */
	uint32_t skip;	     /* X_PACKED: where in the cluster the extent begins */
	uint16_t file;
	uint8_t kind;
};

struct chunk {
	uint64_t start; /* bytes of the disk */
	struct sextent *x;
	uint32_t n; /* 0: the slot is empty */
};

struct unpacked {
	uint64_t off;
	uint16_t file;
	uint8_t *data; /* one cluster; NULL: the slot is empty */
};

struct sfile {
	int fd;
	bool qcow2;
	uint64_t file_bytes; /* of the file itself, when it was opened */
	uint64_t disk_bytes; /* of the disk that it describes */
	struct qcow2_head head;
	be64 *l1;
};

struct source {
	struct sfile *files;
	unsigned int nr;
	uint64_t chunk_bytes; /* 0: one raw file, which needs no map */
	struct chunk chunks[CHUNKS];
	struct unpacked unpacked[UNPACKED];
	unsigned int next_unpacked; /* the slot to use next */
};

/* The extent at off, when its chunk is in memory. */
const struct sextent *source_extent(const struct source *s, uint64_t off);
const uint8_t *source_unpacked(const struct source *s, const struct sextent *x);
/* Puts a chunk's extents (owned from now on) into its slot, or a decompressed cluster (owned). */
void source_put_chunk(struct source *s, uint64_t start, struct sextent *x, uint32_t n);
void source_put_unpacked(struct source *s, const struct sextent *x, uint8_t *data);

#endif
