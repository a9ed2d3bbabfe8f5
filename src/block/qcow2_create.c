/* SPDX-License-Identifier: MIT */
/*
 * Making and filling qcow2 files: see qcow2_tools.h.
 *
 * An empty image is a header, a refcount table with one block, and an L1 table of zeroes; the last
 * is allocated as everything else will be, so that a big one gets the blocks that count it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/blk.h"
#include "block/qcow2_tools.h"
#include "block/qcow2_write.h"

#define HEAD_BYTES 112u
#define FIRST 3u /* clusters: header, refcount table, its first block */

static void put32(uint8_t *p, uint32_t v)
{
	be32 b = be32_put(v);

	memcpy(p, &b, sizeof(b));
}

static void put64(uint8_t *p, uint64_t v)
{
	be64 b = be64_put(v);

	memcpy(p, &b, sizeof(b));
}

/* The first cluster. */
static int write_head(int fd, const struct qcow2_head *h, const struct qcow2_new *n, struct err *e)
{
	uint64_t cluster = qcow2_cluster_bytes(h), at = HEAD_BYTES;
	cleanup_free uint8_t *raw = calloc(1, (size_t)cluster);
	size_t name = n->backing ? strlen(n->backing) : 0;
	int r;

	if (!raw)
		return err_set(e, ENOMEM, "no memory for a header");
	put32(raw, QCOW2_MAGIC);
	put32(raw + 4, 3);
	put32(raw + 20, h->cluster_bits);
	put64(raw + 24, h->size_bytes);
	put32(raw + 36, h->l1_entries);
	put64(raw + 40, h->l1_off);
	put64(raw + 48, h->refcount_off);
	put32(raw + 56, h->refcount_clusters);
	put32(raw + 96, 4); /* 16 bits of refcount */
	put32(raw + 100, HEAD_BYTES);
	if (name) {
		size_t format = strlen(n->backing_format);

		if (name >= QCOW2_NAME_MAX || at + 24 + 8 + name > cluster)
			return err_set(e, EINVAL, "a backing file's name of %zu bytes", name);
		put32(raw + at, QCOW2_EXT_BACKING_FORMAT);
		put32(raw + at + 4, (uint32_t)format);
		memcpy(raw + at + 8, n->backing_format, format);
		at += 8 + ROUND_UP(format, 8) + 8; /* and the end of extensions, zeroes */
		put64(raw + 8, at);
		put32(raw + 16, (uint32_t)name);
		memcpy(raw + at, n->backing, name);
	}
	r = fd_pwrite_full(fd, raw, (size_t)cluster, 0);
	return r ? err_sys(e, -r, "write the header") : 0;
}

/* Refcounts of the first three clusters, in the two others of them. */
static int write_first_counts(int fd, const struct qcow2_head *h)
{
	uint64_t cluster = qcow2_cluster_bytes(h);
	uint8_t count[FIRST * 2] = { 0, 1, 0, 1, 0, 1 };
	be64 block = be64_put(2 * cluster);
	int r;

	if (ftruncate(fd, (off_t)(FIRST * cluster)))
		return -errno;
	r = fd_pwrite_full(fd, &block, sizeof(block), cluster);
	return r ? r : fd_pwrite_full(fd, count, sizeof(count), 2 * cluster);
}

/* Allocates the L1 table; h says where it and the refcounts are then. */
static int make_l1(int fd, struct qcow2_head *h, struct err *e)
{
	uint64_t cluster = qcow2_cluster_bytes(h), start = 0;
	struct qbatch blocks = { 0 }, table = { 0 };
	struct qrefs refs;
	int r;

	r = qrefs_load(&refs, fd, FIRST * cluster, h, e);
	if (r)
		return r;
	r = qrefs_alloc(&refs, ROUND_UP((uint64_t)h->l1_entries * 8, cluster) / cluster, &start);
	if (!r && ftruncate(fd, (off_t)(refs.nr * cluster)))
		r = -errno;
	if (!r) {
		qrefs_write_blocks(&refs, &blocks);
		r = qbatch_write(&blocks, fd);
	}
	if (!r && !refs.table_moved) {
		qrefs_write_table(&refs, &table);
		r = qbatch_write(&table, fd);
	}
	h->l1_off = start * cluster;
	h->refcount_off = refs.table_off;
	h->refcount_clusters = refs.table_clusters;
	qbatch_clear(&blocks);
	qbatch_clear(&table);
	qrefs_fini(&refs);
	return r ? err_sys(e, -r, "write the tables") : 0;
}

int qcow2_create(int fd, const struct qcow2_new *n, struct err *e)
{
	struct qcow2_head h = { .version = 3,
				.cluster_bits = n->cluster_bits ? n->cluster_bits : 16,
				.refcount_bits = 16,
				.size_bytes = n->size_bytes,
				.refcount_clusters = 1 };
	uint64_t entries;
	int r;

	if (!h.size_bytes || h.size_bytes % BLK_SECTOR || h.size_bytes > BLK_MAX_BYTES)
		return err_set(e, EINVAL, "a disk of %llu bytes: whole sectors, up to 16 TiB",
			       (unsigned long long)h.size_bytes);
	if (h.cluster_bits < QCOW2_CLUSTER_BITS_MIN || h.cluster_bits > QCOW2_CLUSTER_BITS_MAX)
		return err_set(e, EINVAL, "clusters of 2^%u bytes: 2^%u to 2^%u", h.cluster_bits,
			       QCOW2_CLUSTER_BITS_MIN, QCOW2_CLUSTER_BITS_MAX);
	entries = (h.size_bytes + (qcow2_cluster_bytes(&h) * qcow2_l2_entries(&h)) - 1) /
		  (qcow2_cluster_bytes(&h) * qcow2_l2_entries(&h));
	if (entries > QCOW2_L1_MAX_BYTES / 8)
		return err_set(e, EINVAL, "a disk of %llu bytes needs bigger clusters than %llu",
			       (unsigned long long)h.size_bytes,
			       (unsigned long long)qcow2_cluster_bytes(&h));
	h.l1_entries = (uint32_t)entries;
	h.refcount_off = qcow2_cluster_bytes(&h);
	r = write_first_counts(fd, &h);
	if (r)
		return err_sys(e, -r, "write the refcounts");
	r = make_l1(fd, &h, e);
	if (!r)
		r = write_head(fd, &h, n, e);
	if (!r && fdatasync(fd))
		r = err_sys(e, errno, "sync");
	return r;
}

/* ---- filling ---- */

struct filler {
	struct qwriter w;
	uint64_t *where; /* clusters of one L2 table that were written: in the file; 0: none */
	uint64_t first;	 /* the first cluster of that table */
	uint64_t cluster;
	bool (*step)(void *arg, uint64_t done); /* may be NULL */
	void *arg;
};

#define STEP_BYTES MIB(1) /* a caller is told, and may interrupt, that often */

static uint64_t entry_of(void *arg, uint64_t cluster)
{
	const struct filler *f = arg;

	return f->where[cluster - f->first] * f->cluster | QWRITER_COPIED;
}

/* The clusters of one L2 table. */
static int fill_table(struct filler *f, int fd, struct source *s, uint8_t *buf, struct err *e)
{
	uint64_t per = qcow2_l2_entries(&f->w.head), start = 0;
	int r = 0;

	memset(f->where, 0, (size_t)per * sizeof(*f->where));
	for (uint64_t i = 0; i < per && !r; i++) {
		uint64_t off = (f->first + i) * f->cluster, n;

		if (off >= source_bytes(s))
			break;
		n = MIN(f->cluster, source_bytes(s) - off);
		if (off % STEP_BYTES == 0 && f->step && f->step(f->arg, off))
			return err_set(e, ECANCELED, "interrupted");
		memset(buf + n, 0, (size_t)(f->cluster - n));
		r = source_pread(s, buf, n, off);
		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		if (bytes_are_zero(buf, (size_t)f->cluster))
			continue;
		r = qrefs_alloc(&f->w.refs, 1, &start);
		if (!r)
			r = qwriter_prepare(&f->w, f->first + i, 1);
		if (!r)
			r = fd_pwrite_full(fd, buf, (size_t)f->cluster, start * f->cluster);
		if (!r) {
			f->where[i] = start;
			qwriter_dirty(&f->w, f->first + i, 1);
		}
	}
	if (!r && f->w.nr_dirty)
		r = qwriter_sync(&f->w, fd, false);
	return r ? err_sys(e, -r, "write") : 0;
}

int qcow2_fill(int fd, struct source *s, bool (*step)(void *arg, uint64_t done), void *arg,
	       struct err *e)
{
	cleanup_free uint8_t *buf = NULL;
	struct filler f = { 0 };
	struct qcow2_head h;
	struct stat st;
	int r;

	if (fstat(fd, &st))
		return err_sys(e, errno, "image");
	r = qcow2_read_head(fd, (uint64_t)st.st_size, &h, e);
	if (!r)
		r = qwriter_open(&f.w, fd, (uint64_t)st.st_size, &h, e);
	if (r)
		return r;
	f.w.entry = entry_of;
	f.w.arg = &f;
	f.cluster = qcow2_cluster_bytes(&h);
	f.step = step;
	f.arg = arg;
	buf = malloc((size_t)f.cluster);
	f.where = calloc((size_t)qcow2_l2_entries(&h), sizeof(*f.where));
	if (!buf || !f.where)
		r = err_set(e, ENOMEM, "no memory to copy");
	for (; !r && f.first * f.cluster < source_bytes(s); f.first += qcow2_l2_entries(&h))
		r = fill_table(&f, fd, s, buf, e);
	if (!r && qwriter_sync(&f.w, fd, true))
		r = err_set(e, EIO, "write the last tables");
	qwriter_fini(&f.w);
	free(f.where);
	return r;
}
