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
#include "base/fd.h"
#include "base/util.h"

#define TABLE_MAX_BYTES MIB(8) /* as QEMU bounds it */
#define HEADER_TABLE 48u       /* refcount_table_offset and, behind it, refcount_table_clusters */

void *qbatch_add(struct qbatch *b, uint64_t off, uint32_t len)
{
	void *buf;

	if (b->n == b->cap) {
		size_t cap = b->cap ? b->cap * 2 : 16;
		void *p = reallocarray(b->w, cap, sizeof(*b->w));

		if (!p) {
			b->bad = true;
			return NULL;
		}
		b->w = p;
		b->cap = cap;
	}
	buf = calloc(1, len);
	if (!buf) {
		b->bad = true;
		return NULL;
	}
	b->w[b->n++] = (struct qwrite){ .off = off, .buf = buf, .len = len };
	return buf;
}

int qbatch_write(const struct qbatch *b, int fd)
{
	int r = b->bad ? -ENOMEM : 0;

	for (size_t i = 0; i < b->n && !r; i++)
		r = fd_pwrite_full(fd, b->w[i].buf, b->w[i].len, b->w[i].off);
	return r;
}

void qbatch_clear(struct qbatch *b)
{
	for (size_t i = 0; i < b->n; i++)
		free(b->w[i].buf);
	free(b->w);
	*b = (struct qbatch){ 0 };
}

static uint64_t cluster_bytes(const struct qrefs *q)
{
	return 1ull << q->cluster_bits;
}

static uint64_t table_entries(const struct qrefs *q)
{
	return ((uint64_t)q->table_clusters << q->cluster_bits) / sizeof(be64);
}

/* ---- reading ---- */

static uint64_t decode(const uint8_t *raw, unsigned int bits, uint64_t i)
{
	uint64_t v = 0;

	if (bits < 8)
		return ((unsigned int)raw[i * bits / 8] >> (i * bits % 8)) & ((1u << bits) - 1);
	for (unsigned int k = 0; k < bits / 8; k++)
		v = v << 8 | raw[i * (bits / 8) + k];
	return v;
}

static void encode(uint8_t *raw, unsigned int bits, uint64_t i, uint64_t v)
{
	if (bits < 8) {
		raw[i * bits / 8] |= (uint8_t)(v << (i * bits % 8));
		return;
	}
	for (unsigned int k = bits / 8; k--; v >>= 8)
		raw[i * (bits / 8) + k] = (uint8_t)v;
}

/* Room for the counts of n clusters in all. */
static int grow(struct qrefs *q, uint64_t n)
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

/* The file is to get this cluster's count; beyond the file's end that is 0. */
static void changed(struct qrefs *q, uint64_t cluster)
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

static int load_block(struct qrefs *q, int fd, uint64_t i, uint64_t file_bytes, uint8_t *raw,
		      struct err *e)
{
	uint64_t off = q->block[i].off, first = i * q->per_block;

	if (off % cluster_bytes(q) || !range_ok(off, cluster_bytes(q), file_bytes))
		return err_set(e, EINVAL, "qcow2: refcount block %llu lies at %llu",
			       (unsigned long long)i, (unsigned long long)off);
	if (fd_pread_full(fd, raw, (size_t)cluster_bytes(q), off))
		return err_set(e, EIO, "qcow2: refcount block %llu cannot be read",
			       (unsigned long long)i);
	for (uint64_t k = 0; k < q->per_block; k++) {
		uint64_t v = decode(raw, q->ref_bits, k);

		if (!v)
			continue;
		if (v > UINT16_MAX)
			return err_set(e, EINVAL,
				       "qcow2: cluster %llu has refcount %llu; repair it: "
				       "qemu-img check -r all FILE",
				       (unsigned long long)(first + k), (unsigned long long)v);
		if (first + k < q->nr) {
			q->count[first + k] = (uint16_t)v;
			continue;
		}
		/* A crash came between its count and its data. */
		changed(q, first + k);
		q->beyond++;
		q->beyond_end = i + 1;
	}
	return 0;
}

static int load_table(struct qrefs *q, int fd, uint64_t file_bytes, struct err *e)
{
	uint64_t bytes = (uint64_t)q->table_clusters << q->cluster_bits;
	cleanup_free uint8_t *raw = NULL;
	cleanup_free be64 *table = NULL;
	int r = 0;

	if (!bytes || bytes > TABLE_MAX_BYTES || q->table_off % cluster_bytes(q) || !q->table_off ||
	    !range_ok(q->table_off, bytes, file_bytes))
		return err_set(e, EINVAL, "qcow2: a refcount table of %u clusters at %llu",
			       q->table_clusters, (unsigned long long)q->table_off);
	table = malloc((size_t)bytes);
	raw = malloc((size_t)cluster_bytes(q));
	q->nr_blocks = table_entries(q);
	q->block = calloc((size_t)q->nr_blocks, sizeof(*q->block));
	if (!table || !raw || !q->block)
		return err_set(e, ENOMEM, "qcow2: no memory for refcounts");
	if (fd_pread_full(fd, table, (size_t)bytes, q->table_off))
		return err_set(e, EIO, "qcow2: the refcount table cannot be read");
	for (uint64_t i = 0; i < q->nr_blocks && !r; i++) {
		q->block[i].off = be64_get(table[i]);
		if (q->block[i].off)
			r = load_block(q, fd, i, file_bytes, raw, e);
	}
	return r;
}

/* Is nobody's, and can be counted when it is somebody's. */
static bool usable(const struct qrefs *q, uint64_t cluster)
{
	uint64_t block = cluster / q->per_block;

	return !q->count[cluster] && block < q->nr_blocks && q->block[block].off;
}

static void find_free(struct qrefs *q)
{
	/* the lowest on top of the stack */
	for (uint64_t end = q->nr; end;) {
		uint64_t n = 0;

		while (n < end && usable(q, end - n - 1))
			n++;
		if (n)
			extents_put(&q->free, end - n, n);
		end -= MAX(n, 1ull);
	}
}

int qrefs_load(struct qrefs *q, int fd, uint64_t file_bytes, const struct qcow2_head *h,
	       struct err *e)
{
	uint64_t nr = (file_bytes + qcow2_cluster_bytes(h) - 1) >> h->cluster_bits;
	int r;

	*q = (struct qrefs){ .cluster_bits = h->cluster_bits,
			     .ref_bits = h->refcount_bits,
			     .per_block = qcow2_cluster_bytes(h) * 8 / h->refcount_bits,
			     .table_off = h->refcount_off,
			     .table_clusters = h->refcount_clusters };
	if (nr > QREFS_CLUSTERS_MAX)
		return err_set(e, EFBIG, "qcow2: %llu clusters are too many to write to: %llu",
			       (unsigned long long)nr, (unsigned long long)QREFS_CLUSTERS_MAX);
	q->nr = nr;
	r = grow(q, MAX(nr, 1ull)) ? err_set(e, ENOMEM, "qcow2: no memory for refcounts")
				   : load_table(q, fd, file_bytes, e);
	if (r) {
		qrefs_fini(q);
		return r;
	}
	q->opened = nr;
	find_free(q);
	return 0;
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
	changed(q, cluster);
}

static void set_range(struct qrefs *q, uint64_t start, uint64_t n, uint16_t count)
{
	for (uint64_t i = 0; i < n; i++)
		qrefs_set(q, start + i, count);
}

/* How many clusters a bigger table takes; 0: there is none. */
static uint64_t bigger_table(const struct qrefs *q, uint64_t blocks)
{
	uint64_t per = cluster_bytes(q) / sizeof(be64), most = TABLE_MAX_BYTES >> q->cluster_bits;
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
	r = grow(q, end + 2);
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

/* ---- writing ---- */

static void write_block(struct qrefs *q, uint64_t i, struct qbatch *b)
{
	struct qrefs_block *k = &q->block[i];
	uint64_t whole = q->ref_bits < 8 ? 8 / q->ref_bits : 1; /* entries of whole bytes */
	uint64_t lo = ROUND_DOWN(k->lo, whole), hi = ROUND_UP(k->hi, whole);
	uint8_t *raw;

	BUG_ON(!k->off);
	raw = qbatch_add(b, k->off + lo * q->ref_bits / 8, (uint32_t)((hi - lo) * q->ref_bits / 8));

	for (uint64_t j = lo; raw && j < hi; j++) {
		uint64_t cluster = i * q->per_block + j;

		if (cluster < q->nr)
			encode(raw, q->ref_bits, j - lo, q->count[cluster]);
	}
}

static void write_table(struct qrefs *q, uint64_t lo, uint64_t hi, struct qbatch *b)
{
	be64 *table = qbatch_add(b, q->table_off + lo * sizeof(*table),
				 (uint32_t)((hi - lo) * sizeof(*table)));

	for (uint64_t i = lo; table && i < hi; i++)
		table[i - lo] = be64_put(q->block[i].off);
}

void qrefs_write_blocks(struct qrefs *q, struct qbatch *b)
{
	uint64_t end =
		MIN(q->nr_blocks, MAX(q->beyond_end, (q->nr + q->per_block - 1) / q->per_block));

	for (uint64_t i = 0; i < end; i++)
		if (q->block[i].lo != q->block[i].hi)
			write_block(q, i, b);
	if (q->table_moved)
		write_table(q, 0, q->nr_blocks, b);
}

void qrefs_write_table(struct qrefs *q, struct qbatch *b)
{
	uint8_t *head;

	if (q->table_moved) {
		be64 off = be64_put(q->table_off);
		be32 clusters = be32_put(q->table_clusters);

		head = qbatch_add(b, HEADER_TABLE, sizeof(off) + sizeof(clusters));
		if (head) {
			memcpy(head, &off, sizeof(off));
			memcpy(head + sizeof(off), &clusters, sizeof(clusters));
		}
	} else if (q->table_lo != q->table_hi) {
		write_table(q, q->table_lo, q->table_hi, b);
	}
}

void qrefs_written(struct qrefs *q)
{
	for (uint64_t i = 0; i < q->nr_blocks; i++)
		q->block[i].lo = q->block[i].hi = 0;
	q->table_moved = false;
	q->table_lo = q->table_hi = 0;
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
