/* SPDX-License-Identifier: MIT */
/*
 * What a qcow2 file's writer does waiting, not on a disk's ring: its last flush, its clean end, and
 * growing. See qcow2_write.h; called by qtop.c on main with nothing in flight, and by tools.
 */
#include "block/qcow2_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

/* Offset: the disk's size, 4 bytes of encryption, the L1 table's entries and its place. */
#define HEADER_SIZE 24u

static int write_batch(const struct qbatch *b, int fd)
{
	int r = qbatch_write(b, fd);

	return r ? r : fdatasync(fd) ? -errno : 0;
}

static int flush_all(struct qwriter *w, int fd)
{
	const struct qbatch *b;
	int r = 0;

	while (!r && (b = qwriter_flush_batch(w))) {
		r = write_batch(b, fd);
		if (!r)
			qwriter_flush_next(w);
	}
	return r;
}

/* Refcounts as they are, and then: closed cleanly. */
static int settle(struct qwriter *w, int fd)
{
	struct qbatch refs = { 0 }, table = { 0 }, head = { 0 };
	int r;

	qrefs_write_blocks(&w->refs, &refs);
	qrefs_write_table(&w->refs, &table);
	if (w->head.incompatible & QCOW2_DIRTY)
		qwriter_features(w, w->head.incompatible & ~QCOW2_DIRTY, &head);
	r = refs.bad || table.bad || head.bad ? -ENOMEM : 0;
	if (!r && refs.n)
		r = write_batch(&refs, fd);
	if (!r && table.n)
		r = write_batch(&table, fd);
	if (!r && head.n)
		r = write_batch(&head, fd);
	if (!r) {
		qrefs_written(&w->refs);
		w->head.incompatible &= ~QCOW2_DIRTY;
	}
	qbatch_clear(&refs);
	qbatch_clear(&table);
	qbatch_clear(&head);
	return r;
}

int qwriter_sync(struct qwriter *w, int fd, bool last)
{
	int r = flush_all(w, fd); /* one that failed before */

	if (last)
		qrefs_release_held(&w->refs);
	if (!r)
		r = qwriter_flush_begin(w);
	if (!r)
		r = flush_all(w, fd);
	if (!r && last)
		r = settle(w, fd);
	return r;
}

/* ---- growing ---- */

/* What the file may have for clusters behind the disk's end would come to light. */
static int nothing_behind(const struct qwriter *w, int fd, struct err *e)
{
	uint64_t clusters =
		(w->head.size_bytes + qcow2_cluster_bytes(&w->head) - 1) >> w->head.cluster_bits;
	uint64_t per = qcow2_l2_entries(&w->head), off = 0;
	uint64_t i = clusters / per;
	cleanup_free be64 *table = malloc(per * sizeof(*table));
	int r = 0;

	if (!table)
		return err_set(e, ENOMEM, "qcow2: no memory for an L2 table");
	if (clusters % per && qcow2_l2_offset(&w->head, be64_get(w->l1[i]), &off) > 0) {
		r = fd_pread_full(fd, table, per * sizeof(*table), off);
		if (r)
			return err_sys(e, -r, "qcow2: read an L2 table");
		for (uint64_t k = clusters % per; k < per; k++)
			r |= be64_get(table[k]) != 0;
		i++;
	}
	for (; i < w->head.l1_entries; i++)
		r |= be64_get(w->l1[i]) != 0;
	return r ? err_set(e, EINVAL,
			   "qcow2: it has data behind the disk's end, which would "
			   "come to light; copy it: clone disk export")
		 : 0;
}

/* Tables in memory of that many entries. */
static int longer_tables(struct qwriter *w, uint32_t entries)
{
	be64 *l1 = calloc(entries, sizeof(*l1));
	struct dirty_table **dirty = calloc(entries, sizeof(struct dirty_table *));
	uint32_t *list = calloc(entries, sizeof(*list));

	if (!l1 || !dirty || !list) {
		free(l1);
		free(dirty);
		free(list);
		return -ENOMEM;
	}
	memcpy(l1, w->l1, w->head.l1_entries * sizeof(*l1));
	memcpy(dirty, w->dirty, w->head.l1_entries * sizeof(struct dirty_table *));
	free(w->l1);
	free(w->dirty);
	free(w->dirty_list);
	w->l1 = l1;
	w->dirty = dirty;
	w->dirty_list = list;
	return 0;
}

static uint64_t l1_clusters(const struct qwriter *w, uint64_t entries)
{
	return (entries * sizeof(*w->l1) + qcow2_cluster_bytes(&w->head) - 1) >>
	       w->head.cluster_bits;
}

/* Another place for the L1 table, durable before the header knows of it. */
static int move_l1(struct qwriter *w, int fd, uint32_t entries, uint64_t *start)
{
	uint64_t n = l1_clusters(w, entries);
	cleanup_free be64 *l1 = calloc(n, qcow2_cluster_bytes(&w->head));
	int r = l1 ? qrefs_alloc(&w->refs, n, start) : -ENOMEM;

	if (r)
		return r;
	memcpy(l1, w->l1, w->head.l1_entries * sizeof(*l1));
	r = fd_pwrite_full(fd, l1, n << w->head.cluster_bits, *start << w->head.cluster_bits);
	if (!r)
		r = settle(w, fd); /* with an fdatasync(2), if anything was counted; it was */
	if (!r)
		r = longer_tables(w, entries);
	if (r)
		qrefs_release(&w->refs, *start, n);
	return r;
}

/* One write within one sector: the file has the old size and table, or the new ones. */
static int write_size(struct qwriter *w, int fd, const struct qcow2_head *h)
{
	struct {
		be64 size;
		be32 encryption, l1_entries;
		be64 l1_off;
	} raw = { be64_put(h->size_bytes), be32_put(0), be32_put(h->l1_entries),
		  be64_put(h->l1_off) };
	int r = fd_pwrite_full(fd, &raw, sizeof(raw), HEADER_SIZE);

	if (r || !fdatasync(fd))
		return r;
	r = -errno;
	w->lost = true;
	return r;
}

int qwriter_grow(struct qwriter *w, int fd, uint64_t bytes, struct err *e)
{
	uint64_t per = qcow2_l2_entries(&w->head) << w->head.cluster_bits;
	uint64_t entries = (bytes + per - 1) / per, start = 0;
	struct qcow2_head h = w->head;
	int r;

	if (bytes < w->head.size_bytes)
		return err_set(e, EINVAL, "qcow2: the file is of a disk of %llu bytes already",
			       (unsigned long long)w->head.size_bytes);
	if (entries * sizeof(*w->l1) > QCOW2_L1_MAX_BYTES)
		return err_set(e, EFBIG,
			       "qcow2: with clusters of %llu bytes a disk has at most %llu bytes",
			       (unsigned long long)qcow2_cluster_bytes(&w->head),
			       (unsigned long long)(QCOW2_L1_MAX_BYTES / sizeof(*w->l1) * per));
	r = qwriter_sync(w, fd, false);
	if (r)
		return err_sys(e, -r, "qcow2: flush");
	r = nothing_behind(w, fd, e);
	if (r)
		return r;
	h.size_bytes = bytes;
	if (entries > h.l1_entries) {
		r = move_l1(w, fd, (uint32_t)entries, &start);
		if (r)
			return err_sys(e, -r, "qcow2: a longer L1 table");
		h.l1_off = start << h.cluster_bits;
		h.l1_entries = (uint32_t)entries;
	}
	r = write_size(w, fd, &h);
	if (r && !w->lost && h.l1_off != w->head.l1_off)
		qrefs_release(&w->refs, start, l1_clusters(w, h.l1_entries));
	if (r)
		return err_sys(e, -r, "qcow2: write the header");
	/* nobody reads the old one: who has the file open has it in memory */
	if (h.l1_off != w->head.l1_off)
		qrefs_release(&w->refs, w->head.l1_off >> h.cluster_bits,
			      l1_clusters(w, w->head.l1_entries));
	w->head.size_bytes = bytes;
	w->head.l1_off = h.l1_off;
	w->head.l1_entries = h.l1_entries;
	return 0;
}
