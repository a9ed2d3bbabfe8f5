/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 file's refcount table and blocks: how they are read at the beginning, and what is written
 * of them by a flush. Who owns what is in qcow2_refs.c. Called by the writer, the checker and
 * tools; one thread.
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

static int load_block(struct qrefs *q, int fd, uint64_t i, uint64_t file_bytes, uint8_t *raw,
		      struct err *e)
{
	uint64_t off = q->block[i].off, first = i * q->per_block;

	if (off % qrefs_cluster_bytes(q) || !range_ok(off, qrefs_cluster_bytes(q), file_bytes))
		return err_set(e, EINVAL,
			       "qcow2: refcount block %llu lies at %llu; repair it: qemu-img check "
			       "-r all FILE",
			       (unsigned long long)i, (unsigned long long)off);
	if (fd_pread_full(fd, raw, (size_t)qrefs_cluster_bytes(q), off))
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
		qrefs_mark(q, first + k);
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
	uint64_t named = 0;
	int r = 0;

	if (!bytes || bytes > TABLE_MAX_BYTES || q->table_off % qrefs_cluster_bytes(q) ||
	    !q->table_off || !range_ok(q->table_off, bytes, file_bytes))
		return err_set(e, EINVAL,
			       "qcow2: a refcount table of %u clusters at %llu; repair it: "
			       "qemu-img check -r all FILE",
			       q->table_clusters, (unsigned long long)q->table_off);
	table = malloc((size_t)bytes);
	raw = malloc((size_t)qrefs_cluster_bytes(q));
	q->nr_blocks = table_entries(q);
	q->block = calloc((size_t)q->nr_blocks, sizeof(*q->block));
	if (!table || !raw || !q->block)
		return err_set(e, ENOMEM, "qcow2: no memory for refcounts");
	if (fd_pread_full(fd, table, (size_t)bytes, q->table_off))
		return err_set(e, EIO, "qcow2: the refcount table cannot be read");
	for (uint64_t i = 0; i < q->nr_blocks && !r; i++) {
		q->block[i].off = be64_get(table[i]);
		if (!q->block[i].off)
			continue;
		/* each is a cluster of the file: a small file may name one a million times */
		r = ++named > q->nr ? err_set(e, EINVAL,
					      "qcow2: more refcount blocks than clusters; repair "
					      "it: qemu-img check -r all FILE")
				    : load_block(q, fd, i, file_bytes, raw, e);
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
	r = qrefs_room(q, MAX(nr, 1ull)) ? err_set(e, ENOMEM, "qcow2: no memory for refcounts")
					 : load_table(q, fd, file_bytes, e);
	if (r) {
		qrefs_fini(q);
		return r;
	}
	q->opened = nr;
	find_free(q);
	return 0;
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
