/* SPDX-License-Identifier: MIT */
/*
 * Who owns which cluster of a qcow2 file that is written: its refcounts, in memory, and how they
 * get back into the file. No I/O but qrefs_load's and qbatch_write's: what is to be written is
 * added to a batch. Private to src/block; one thread.
 *
 * Lives of a cluster: qrefs_alloc gives it (count 1); nobody on disk refers to it until a flush
 * has written its reference. qrefs_unalloc takes back one that was never referred to: free at once.
 * qrefs_release takes back one that the file may refer to: free after a flush has made that untrue
 * durably (qrefs_flushing at its begin, qrefs_flushed at its end). A crash leaks clusters at worst.
 */
#ifndef CLONE_BLOCK_QCOW2_REFS_H
#define CLONE_BLOCK_QCOW2_REFS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "block/extents.h"
#include "block/qcow2.h"

#define QREFS_CLUSTERS_MAX (1ull << 26) /* of a file that is written: 4 TiB of 64 KiB */

/* Writes to be done, in any order, and then made durable together. */
struct qwrite {
	uint64_t off;
	void *buf; /* owned by the batch */
	uint32_t len;
};
struct qbatch {
	struct qwrite *w;
	size_t n, cap;
	bool bad; /* out of memory: something is missing */
};
/* A zeroed buffer of len bytes to be written at off; NULL (and bad) without memory. */
void *qbatch_add(struct qbatch *b, uint64_t off, uint32_t len);
/* Writes it, waiting, not synced. -ENOMEM also when something is missing. */
int qbatch_write(const struct qbatch *b, int fd);
void qbatch_clear(struct qbatch *b);

struct qrefs_block {
	uint64_t off;	 /* in the file; 0: none yet */
	uint32_t lo, hi; /* entries [lo, hi) are not in the file yet */
};

struct qrefs {
	unsigned int cluster_bits, ref_bits;
	uint16_t *count; /* per cluster */
	uint64_t nr;	 /* clusters of the file */
	uint64_t cap;
	struct qrefs_block *block; /* as many as the table in the file has entries */
	uint64_t nr_blocks, per_block;
	uint64_t table_off;
	uint32_t table_clusters;
	bool table_moved;	     /* the header does not know table_off yet */
	uint64_t table_lo, table_hi; /* entries of the table that are not in the file yet */
	uint64_t beyond;     /* counts that the file had for clusters behind its end: lost ones */
	uint64_t beyond_end; /* blocks up to this one have such */
	struct extents free, released, flushing, held;
	uint64_t nr_released; /* clusters in released */
	uint64_t opened;      /* clusters of the file when it was opened */
	uint64_t reuse_from;  /* none before this one is given out */
};

static inline uint64_t qrefs_cluster_bytes(const struct qrefs *q)
{
	return 1ull << q->cluster_bits;
}

/* Reads the refcounts of a file. -EINVAL: damaged; -EFBIG: too many clusters. */
int qrefs_load(struct qrefs *q, int fd, uint64_t file_bytes, const struct qcow2_head *h,
	       struct err *e);
void qrefs_fini(struct qrefs *q);

/* n clusters that follow each other. -ENOMEM, -EFBIG: nothing changed. */
int qrefs_alloc(struct qrefs *q, uint64_t n, uint64_t *start);
void qrefs_unalloc(struct qrefs *q, uint64_t start, uint64_t n);
/* Only clusters of the file whose count is not 0 are taken back: others are a damaged file's. */
void qrefs_release(struct qrefs *q, uint64_t start, uint64_t n);
/* The same, but only when qrefs_release_held is called: somebody reads them until then. */
void qrefs_hold(struct qrefs *q, uint64_t start, uint64_t n);
/* From now on clusters that the file had when it was opened are not given out, even when nobody
 * counts them: in a damaged file somebody may read them all the same. */
void qrefs_reuse_only_new(struct qrefs *q);
void qrefs_release_held(struct qrefs *q);
/* Is it ours alone, to be overwritten in place? */
bool qrefs_exclusive(const struct qrefs *q, uint64_t cluster);
/* For repairs: makes every cluster of the file one that can be counted. -ENOMEM, -EFBIG. */
int qrefs_cover(struct qrefs *q);
/* Sets a count as it must be; for repairs. */
void qrefs_set(struct qrefs *q, uint64_t cluster, uint16_t count);

/* Adds what the file's refcount blocks lack: to be durable before anything refers to what was
 * allocated. */
void qrefs_write_blocks(struct qrefs *q, struct qbatch *b);
/* Then: what the refcount table and the header lack. Nothing, as a rule. */
void qrefs_write_table(struct qrefs *q, struct qbatch *b);

/* Both batches are complete, and will be written before all later ones. */
void qrefs_written(struct qrefs *q);

/* Between qcow2_refs.c and qcow2_refs_file.c. Room for the counts of n clusters in all: -ENOMEM,
 * -EFBIG. */
int qrefs_room(struct qrefs *q, uint64_t n);
/* The file is to get this cluster's count; beyond the file's end that is 0. */
void qrefs_mark(struct qrefs *q, uint64_t cluster);

void qrefs_flushing(struct qrefs *q);
void qrefs_flushed(struct qrefs *q);

#endif
