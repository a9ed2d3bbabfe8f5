/* SPDX-License-Identifier: MIT */
/*
 * Writing to a qcow2 file: its metadata. Where the disk's clusters are is known to the disk's
 * overlay map; the writer allocates, remembers which L2 entries changed and says, at a flush, what
 * must be written to the file and in which order, so that a crash at any moment leaves a file in
 * which every reference is to a cluster that is counted and written: leaked clusters at worst.
 *
 * It does no I/O of its own (but qwriter_sync): a flush is a sequence of batches, each to be
 * written and made durable before the next. Private to src/block; one thread.
 */
#ifndef CLONE_BLOCK_QCOW2_WRITE_H
#define CLONE_BLOCK_QCOW2_WRITE_H

#include "base/endian.h"
#include "block/qcow2_refs.h"

struct dirty_table;

enum qstep { Q_IDLE, Q_HEAD, Q_REFS, Q_TABLE, Q_LINKS };

struct qwriter {
	struct qcow2_head head;
	be64 *l1;
	struct qrefs refs;
	struct dirty_table **dirty; /* per L1 entry: the L2 entries that changed; NULL: none ever */
	uint32_t *dirty_list;	    /* those with something to write */
	uint32_t nr_dirty;
	/* What the L2 entry of a cluster is to be: of one that changed; after a fork of any in a
	 * table that did, also beyond the disk's end: 0 is as it was; QWRITER_ABSENT is none. */
	uint64_t (*entry)(void *arg, uint64_t cluster);
	void *arg;
	bool frozen; /* others read what the file has: qwriter_freeze */
	bool lost;   /* it is not known which L1 table the file has: nothing can be written */

	/* the flush under way */
	enum qstep step;
	struct qbatch batch[Q_LINKS + 1];
};

#define QWRITER_COPIED (1ull << 63)
#define QWRITER_ZERO 1ull
#define QWRITER_ABSENT 2ull /* no entry of a file's: 0 is to be written */

/*
 * Reads what a writer must know of fd (opened read-write, file_bytes long, head as read from it;
 * stays the caller's). -ENOTSUP: it has internal snapshots or bitmaps; -EUCLEAN: it was not closed
 * cleanly, and its refcounts must be made anew first; -EINVAL: damaged.
 */
int qwriter_open(struct qwriter *w, int fd, uint64_t file_bytes, const struct qcow2_head *head,
		 struct err *e);
/* Accepts a zeroed one. Forgets what was not flushed. */
void qwriter_fini(struct qwriter *w);

/* Makes qwriter_dirty of these clusters of the disk unable to fail. -ENOMEM, -EFBIG. */
int qwriter_prepare(struct qwriter *w, uint64_t cluster, uint64_t n);
/* From now on others read what the file has, by the L2 tables that it had when it was opened: both
 * stay as they are until the writer's end, but for entries that are dirty now, of which those
 * others know. */
void qwriter_freeze(struct qwriter *w);
/* Must the L2 table of this cluster be copied before qwriter_prepare? *off: where it is to be read,
 * whole. */
bool qwriter_wants_copy(const struct qwriter *w, uint64_t cluster, uint64_t *off);
/* It was read into old (from malloc, owned, also on failure). -ENOMEM, -EFBIG. */
int qwriter_copy(struct qwriter *w, uint64_t cluster, void *old);
/* Whether qwriter_prepare was called for it. */
bool qwriter_prepared(const struct qwriter *w, uint64_t cluster);
/* Their L2 entries changed; the clusters that they now refer to hold their data, or will when the
 * next batch is written. */
void qwriter_dirty(struct qwriter *w, uint64_t cluster, uint64_t n);

/* Begins a flush of all that is dirty: -ENOMEM; -EBUSY: one is under way (perhaps one that failed:
 * go on with it). */
int qwriter_flush_begin(struct qwriter *w);
/* The batch to write and make durable now; NULL: the flush is complete. */
const struct qbatch *qwriter_flush_batch(const struct qwriter *w);
/* It is durable: go on to the next. */
void qwriter_flush_next(struct qwriter *w);

/* Flushes all, waiting: for tools and a disk's end. `last`: nothing will be written after it, so
 * that what was freed is counted so, and the file is marked clean. */
int qwriter_sync(struct qwriter *w, int fd, bool last);
/*
 * Makes the disk `bytes` long (not less than it is), waiting; one that was under way has ended, and
 * if it failed it is done first. What is new
 * reads as zeroes, if nothing that the file stands on is longer than the disk was, and if its last
 * cluster, when the disk ends within it, has zeroes there: both are the caller's to see to. -EFBIG:
 * more than its clusters allow; -EINVAL: there is something there already; -EIO and the like: the
 * file has its old size, or, after a failed sync of the header, an unknown one, and every later
 * flush fails.
 */
int qwriter_grow(struct qwriter *w, int fd, uint64_t bytes, struct err *e);
/* The header's feature words, with these incompatible ones. Between qcow2_write.c and
 * qcow2_sync.c. */
void qwriter_features(const struct qwriter *w, uint64_t incompatible, struct qbatch *b);

#endif
