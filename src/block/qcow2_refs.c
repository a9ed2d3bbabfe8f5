/* SPDX-License-Identifier: MIT */
/*
 * Refcounts of a qcow2 file: see qcow2_refs.h. Used by the writer (qcow2_write.c) and the checker,
 * on main of the VM process or in a tool.
 *
 * All counts are in memory, two bytes each, so that an allocation is a look at a list and the
 * blocks in the file are only ever written. New blocks and a bigger table are made as clusters are
 * allocated; the table is moved when it is full: first its copy, then the header that names it.
 */
#include "block/qcow2_refs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"

#define TABLE_MAX_BYTES MIB(8) /* as QEMU bounds it */

int qrefs_room(struct qrefs *q, uint64_t n)
{
	uint64_t cap = MAX(n, q->cap * 2);
	void *p;

	if (n <= q->cap)
		return 0;
	if (n > QREFS_CLUSTERS_MAX)
		return -EFBIG;
	p = reallocarray(q->count, (size_t)cap, sizeof(*q->count));
	if (!p)
		return -ENOMEM;
	q->count = p;
	memset(q->count + q->cap, 0, (size_t)(cap - q->cap) * sizeof(*q->count));
	q->cap = cap;
	return 0;
}

void qrefs_mark(struct qrefs *q, uint64_t cluster)
{
	struct qrefs_block *b = &q->block[cluster / q->per_block];
	uint32_t i = (uint32_t)(cluster % q->per_block);

	if (b->lo == b->hi) {
		b->lo = i;
		b->hi = i + 1;
	}
	b->lo = MIN(b->lo, i);
	b->hi = MAX(b->hi, i + 1);
}

void qrefs_fini(struct qrefs *q)
{
	free(q->count);
	free(q->block);
	extents_fini(&q->free);
	extents_fini(&q->released);
	extents_fini(&q->flushing);
	extents_fini(&q->held);
	*q = (struct qrefs){ 0 };
}

/* ---- changing ---- */

void qrefs_set(struct qrefs *q, uint64_t cluster, uint16_t count)
{
	q->count[cluster] = count;
	qrefs_mark(q, cluster);
}

static void set_range(struct qrefs *q, uint64_t start, uint64_t n, uint16_t count)
{
	for (uint64_t i = 0; i < n; i++)
		qrefs_set(q, start + i, count);
}

/* How many clusters a bigger table takes; 0: there is none. */
static uint64_t bigger_table(const struct qrefs *q, uint64_t blocks)
{
	uint64_t per = qrefs_cluster_bytes(q) / sizeof(be64),
		 most = TABLE_MAX_BYTES >> q->cluster_bits;
	uint64_t clusters = (MAX(blocks, q->nr_blocks * 2) + per - 1) / per;

	clusters = MIN(clusters, MAX(most, 1ull));
	return clusters * per >= blocks && clusters > q->table_clusters ? clusters : 0;
}

/* Memory for n more clusters and all that counts them, so that place cannot fail. */
static int reserve(struct qrefs *q, uint64_t n, uint64_t *table)
{
	uint64_t blocks = n / q->per_block + 2, end = q->nr + n + 2 * blocks;
	void *p;
	int r;

	*table = 0;
	if (end / q->per_block + 1 >= q->nr_blocks) {
		*table = bigger_table(q, end / q->per_block + 3);
		/* which must be counted itself */
		if (*table)
			*table = bigger_table(q, (end + 2 * *table) / q->per_block + 3);
		if (!*table)
			return -EFBIG;
		end += 2 * *table;
	}
	r = qrefs_room(q, end + 2);
	if (r || !*table)
		return r;
	p = reallocarray(q->block, (size_t)((*table << q->cluster_bits) / sizeof(be64)),
			 sizeof(*q->block));
	if (!p)
		return -ENOMEM;
	q->block = p;
	return 0;
}

static void move_table(struct qrefs *q, uint64_t clusters)
{
	uint64_t entries = (clusters << q->cluster_bits) / sizeof(be64);

	memset(q->block + q->nr_blocks, 0, (size_t)(entries - q->nr_blocks) * sizeof(*q->block));
	qrefs_release(q, q->table_off >> q->cluster_bits, q->table_clusters);
	q->table_off = q->nr << q->cluster_bits;
	q->table_clusters = (uint32_t)clusters;
	q->nr_blocks = entries;
	q->table_moved = true;
	q->nr += clusters;
}

/* Extends the file by n clusters, and behind them by the table and the blocks from `first` on that
 * are missing to count it all. */
static void place(struct qrefs *q, uint64_t n, uint64_t table, uint64_t first)
{
	uint64_t at = q->nr;

	q->nr += n;
	if (table)
		move_table(q, table);
	for (uint64_t i = first; i <= (q->nr - 1) / q->per_block; i++) {
		BUG_ON(i >= q->nr_blocks || q->nr >= q->cap);
		if (q->block[i].off)
			continue;
		/* written whole: the file must not end within it */
		q->block[i] = (struct qrefs_block){ .off = q->nr++ << q->cluster_bits,
						    .hi = (uint32_t)q->per_block };
		q->table_lo = q->table_hi ? MIN(q->table_lo, i) : i;
		q->table_hi = MAX(q->table_hi, i + 1);
	}
	set_range(q, at, q->nr - at, 1);
}

int qrefs_alloc(struct qrefs *q, uint64_t n, uint64_t *start)
{
	uint64_t table, at = q->nr;
	int r;

	if (extents_take(&q->free, n, start)) {
		set_range(q, *start, n, 1);
		return 0;
	}
	if (n > QREFS_CLUSTERS_MAX)
		return -EFBIG;
	r = reserve(q, n, &table);
	if (r)
		return r;
	place(q, n, table, at / q->per_block);
	*start = at;
	return 0;
}

int qrefs_cover(struct qrefs *q)
{
	uint64_t table;
	int r = reserve(q, q->nr / q->per_block + 1, &table);

	if (!r)
		place(q, 0, table, 0);
	return r;
}

void qrefs_unalloc(struct qrefs *q, uint64_t start, uint64_t n)
{
	set_range(q, start, n, 0);
	extents_put(&q->free, start, n);
}

void qrefs_release(struct qrefs *q, uint64_t start, uint64_t n)
{
	for (uint64_t i = start; i < start + n && i < q->nr; i++)
		if (q->count[i]) {
			extents_put(&q->released, i, 1);
			q->nr_released++;
		}
}

void qrefs_hold(struct qrefs *q, uint64_t start, uint64_t n)
{
	extents_put(&q->held, start, n);
}

void qrefs_reuse_only_new(struct qrefs *q)
{
	q->reuse_from = q->opened;
	extents_clear(&q->free);
}

void qrefs_release_held(struct qrefs *q)
{
	for (size_t i = 0; i < q->held.nr; i++)
		qrefs_release(q, q->held.x[i].start, q->held.x[i].n);
	extents_fini(&q->held);
}

bool qrefs_exclusive(const struct qrefs *q, uint64_t cluster)
{
	return cluster < q->nr && q->count[cluster] == 1;
}

void qrefs_flushing(struct qrefs *q)
{
	BUG_ON(q->flushing.nr);
	q->flushing = q->released;
	q->released = (struct extents){ 0 };
	q->nr_released = 0;
}

void qrefs_flushed(struct qrefs *q)
{
	for (size_t i = 0; i < q->flushing.nr; i++) {
		const struct extent *x = &q->flushing.x[i];

		for (uint64_t k = x->start; k < x->start + x->n; k++) {
			if (!q->count[k])
				continue; /* a damaged file's: given up more often than owned */
			qrefs_set(q, k, (uint16_t)(q->count[k] - 1));
			if (!q->count[k] && k >= q->reuse_from)
				extents_put(&q->free, k, 1);
		}
	}
	extents_fini(&q->flushing);
}
