/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 file's metadata, written: see qcow2_write.h. Used by a disk's flush (flush.c) on main,
 * and by tools.
 *
 * The order of a flush, each step durable before the next:
 *
 *   HEAD   marks the file dirty, if its refcounts are lazy (once); clears unknown autoclear bits
 *   REFS   refcounts of what was allocated, whole new L2 tables; the disk's data is durable with it
 *   TABLE  the refcount table, or the header when that has moved; seldom anything
 *   LINKS  entries of L2 tables that exist, of the L1 table to new ones
 *
 * What was freed is given out again only after LINKS: until then an L2 entry in the file refers to
 * it.
 *
 * After a fork (qwriter_freeze) others read the L2 tables that the file had when it was opened, and
 * the clusters behind them. A table of those that changes is written anew elsewhere, out of a copy
 * of the old one and what the disk's map says, and what was replaced is held until the end. A copy
 * that was read while a flush wrote to the table is as good: what that changes, the map says.
 */
#include "block/qcow2_write.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

#define HEADER_INCOMPATIBLE 72u /* offset; autoclear features lie 16 bytes behind */

struct dirty_table {
	uint64_t off; /* of the L2 table */
	be64 *old;    /* what it is a copy of, until it is in the file; NULL: of nothing */
	bool ours;    /* its place was allocated by this writer: nobody else knows it */
	bool fresh;   /* it is not in the file yet, nor in the L1 table */
	bool listed;  /* has bits, or is fresh */
	uint64_t bits[];
};

static bool lazy(const struct qwriter *w)
{
	return w->head.compatible & QCOW2_LAZY_REFCOUNTS;
}

static int check_l1(const struct qwriter *w, struct err *e)
{
	for (uint32_t i = 0; i < w->head.l1_entries; i++) {
		uint64_t off = 0;
		int r = qcow2_l2_offset(&w->head, be64_get(w->l1[i]), &off);

		if (r < 0 || (r && !qrefs_exclusive(&w->refs, off >> w->head.cluster_bits)))
			return err_set(e, EINVAL,
				       "qcow2: L2 table %u at %llu is not its own (its refcount is "
				       "not 1); repair it: qemu-img check -r all FILE",
				       i, (unsigned long long)off);
	}
	return 0;
}

int qwriter_open(struct qwriter *w, int fd, uint64_t file_bytes, const struct qcow2_head *head,
		 struct err *e)
{
	size_t bytes = (size_t)head->l1_entries * sizeof(*w->l1);
	int r;

	*w = (struct qwriter){ .head = *head };
	if (head->nr_snapshots)
		return err_set(e, ENOTSUP,
			       "qcow2: has %u internal snapshots, which cannot be written beside; "
			       "delete them: qemu-img snapshot -d NAME FILE",
			       head->nr_snapshots);
	if (head->bitmaps)
		return err_set(e, ENOTSUP,
			       "qcow2: has dirty bitmaps, which would not be kept; remove them: "
			       "qemu-img bitmap --remove FILE NAME");
	if (head->incompatible & QCOW2_DIRTY)
		return err_set(
			e, EUCLEAN,
			"qcow2: was not closed cleanly; repair it: clone disk check --repair "
			"FILE");
	w->l1 = malloc(bytes);
	w->dirty = calloc(head->l1_entries, sizeof(struct dirty_table *));
	w->dirty_list = calloc(head->l1_entries, sizeof(*w->dirty_list));
	r = !w->l1 || !w->dirty || !w->dirty_list
		    ? err_set(e, ENOMEM, "qcow2: no memory for an L1 table of %zu bytes", bytes)
		    : 0;
	if (!r && fd_pread_full(fd, w->l1, bytes, head->l1_off))
		r = err_set(e, EIO, "qcow2: the L1 table cannot be read");
	if (!r)
		r = qrefs_load(&w->refs, fd, file_bytes, head, e);
	if (!r)
		r = check_l1(w, e);
	if (r)
		qwriter_fini(w);
	return r;
}

void qwriter_fini(struct qwriter *w)
{
	for (uint32_t i = 0; w->dirty && i < w->head.l1_entries; i++) {
		if (w->dirty[i])
			free(w->dirty[i]->old);
		free(w->dirty[i]);
	}
	for (unsigned int i = 0; i < ARRAY_SIZE(w->batch); i++)
		qbatch_clear(&w->batch[i]);
	free(w->l1);
	free(w->dirty);
	free(w->dirty_list);
	qrefs_fini(&w->refs);
	*w = (struct qwriter){ 0 };
}

/* ---- what changed ---- */

static void list(struct qwriter *w, uint32_t i)
{
	if (!w->dirty[i]->listed)
		w->dirty_list[w->nr_dirty++] = i;
	w->dirty[i]->listed = true;
}

static struct dirty_table *new_table(const struct qwriter *w)
{
	struct dirty_table *t;

	return calloc(1, sizeof(*t) + (size_t)ROUND_UP(qcow2_l2_entries(&w->head), 64) / 8);
}

bool qwriter_wants_copy(const struct qwriter *w, uint64_t cluster, uint64_t *off)
{
	uint64_t i = cluster / qcow2_l2_entries(&w->head);
	const struct dirty_table *t = w->dirty[i];

	if (!w->frozen || (t && t->ours))
		return false;
	if (!t)
		return qcow2_l2_offset(&w->head, be64_get(w->l1[i]), off) > 0;
	*off = t->off;
	return true;
}

int qwriter_copy(struct qwriter *w, uint64_t cluster, void *old)
{
	uint32_t i = (uint32_t)(cluster / qcow2_l2_entries(&w->head));
	struct dirty_table *t = w->dirty[i];
	uint64_t from = 0, start;
	int r;

	BUG_ON(!qwriter_wants_copy(w, cluster, &from));
	if (!t)
		t = new_table(w);
	r = t ? qrefs_alloc(&w->refs, 1, &start) : -ENOMEM;
	if (r) {
		if (!w->dirty[i])
			free(t);
		free(old);
		return r;
	}
	w->dirty[i] = t;
	qrefs_hold(&w->refs, from >> w->head.cluster_bits, 1);
	t->off = start << w->head.cluster_bits;
	t->old = old;
	t->ours = t->fresh = true;
	list(w, i);
	return 0;
}

static int prepare_table(struct qwriter *w, uint32_t i)
{
	struct dirty_table *t = w->dirty[i];
	uint64_t off = 0, start;
	int r;

	if (t)
		return 0;
	t = new_table(w);
	if (!t)
		return -ENOMEM;
	r = qcow2_l2_offset(&w->head, be64_get(w->l1[i]), &off);
	if (!r) {
		r = qrefs_alloc(&w->refs, 1, &start);
		if (r) {
			free(t);
			return r;
		}
		t->ours = t->fresh = true;
		off = start << w->head.cluster_bits;
	}
	t->off = off;
	w->dirty[i] = t;
	if (t->fresh)
		list(w, i);
	return 0;
}

int qwriter_prepare(struct qwriter *w, uint64_t cluster, uint64_t n)
{
	uint64_t per = qcow2_l2_entries(&w->head);
	int r = 0;

	if (!n)
		return 0;
	BUG_ON((cluster + n - 1) / per >= w->head.l1_entries);
	for (uint64_t i = cluster / per; i <= (cluster + n - 1) / per && !r; i++)
		r = prepare_table(w, (uint32_t)i);
	return r;
}

void qwriter_freeze(struct qwriter *w)
{
	if (!w->frozen)
		qrefs_reuse_only_new(&w->refs);
	w->frozen = true;
}

bool qwriter_prepared(const struct qwriter *w, uint64_t cluster)
{
	return w->dirty[cluster / qcow2_l2_entries(&w->head)];
}

void qwriter_dirty(struct qwriter *w, uint64_t cluster, uint64_t n)
{
	uint64_t per = qcow2_l2_entries(&w->head);

	for (uint64_t c = cluster; c < cluster + n; c++) {
		struct dirty_table *t = w->dirty[c / per];

		BUG_ON(!t);
		t->bits[c % per / 64] |= 1ull << (c % per % 64);
		list(w, (uint32_t)(c / per));
	}
}

/* ---- a flush ---- */

static bool is_dirty(const struct dirty_table *t, uint64_t i)
{
	return t->bits[i / 64] >> (i % 64) & 1;
}

/* Entries [from, to) of table i, into a batch. */
static void write_entries(struct qwriter *w, uint32_t i, uint64_t from, uint64_t to,
			  struct qbatch *b)
{
	uint64_t first = (uint64_t)i * qcow2_l2_entries(&w->head);
	be64 *out = qbatch_add(b, w->dirty[i]->off + from * sizeof(*out),
			       (uint32_t)((to - from) * sizeof(*out)));

	for (uint64_t k = from; out && k < to; k++) {
		uint64_t entry = is_dirty(w->dirty[i], k) || w->dirty[i]->old
					 ? w->entry(w->arg, first + k)
					 : 0;

		if (entry == QWRITER_ABSENT)
			out[k - from] = be64_put(0);
		else if (entry)
			out[k - from] = be64_put(entry);
		else if (w->dirty[i]->old)
			out[k - from] = w->dirty[i]->old[k];
	}
}

static void write_tables(struct qwriter *w)
{
	uint64_t n = qcow2_l2_entries(&w->head), to;
	be64 *link;

	for (uint32_t k = 0; k < w->nr_dirty; k++) {
		uint32_t i = w->dirty_list[k];
		struct dirty_table *t = w->dirty[i];

		if (t->fresh) {
			write_entries(w, i, 0, n, &w->batch[Q_REFS]);
			link = qbatch_add(&w->batch[Q_LINKS], w->head.l1_off + i * sizeof(*link),
					  sizeof(*link));
			if (link)
				*link = be64_put(t->off | QWRITER_COPIED);
			continue;
		}
		for (uint64_t from = 0; from < n; from = to + 1) {
			for (to = from; to < n && is_dirty(t, to);)
				to++;
			if (to > from)
				write_entries(w, i, from, to, &w->batch[Q_LINKS]);
		}
	}
}

void qwriter_features(const struct qwriter *w, uint64_t incompatible, struct qbatch *b)
{
	be64 *out = qbatch_add(b, HEADER_INCOMPATIBLE, 3 * sizeof(*out));

	if (!out)
		return;
	out[0] = be64_put(incompatible);
	out[1] = be64_put(w->head.compatible);
	out[2] = be64_put(0); /* whoever writes clears the autoclear features it does not know */
}

/* Table i is in the batches. It stays known: requests may have prepared to change it again. */
static void clean(struct qwriter *w, uint32_t i)
{
	struct dirty_table *t = w->dirty[i];

	if (t->fresh)
		w->l1[i] = be64_put(t->off | QWRITER_COPIED);
	t->fresh = false;
	t->listed = false;
	free(t->old);
	t->old = NULL;
	memset(t->bits, 0, (size_t)ROUND_UP(qcow2_l2_entries(&w->head), 64) / 8);
}

int qwriter_flush_begin(struct qwriter *w)
{
	bool mark = lazy(w) && !(w->head.incompatible & QCOW2_DIRTY) && w->nr_dirty;
	/* A table that has moved is written also of lazy refcounts: where it was is used again. */
	bool refs = !lazy(w) || w->refs.table_moved;

	if (w->lost)
		return -EIO;
	if (w->step != Q_IDLE)
		return -EBUSY;
	if (mark || w->head.autoclear)
		qwriter_features(w, w->head.incompatible | (mark ? QCOW2_DIRTY : 0),
				 &w->batch[Q_HEAD]);
	write_tables(w);
	if (refs) {
		qrefs_write_blocks(&w->refs, &w->batch[Q_REFS]);
		qrefs_write_table(&w->refs, &w->batch[Q_TABLE]);
	}
	for (unsigned int i = Q_HEAD; i <= Q_LINKS; i++) {
		if (!w->batch[i].bad)
			continue;
		for (i = Q_HEAD; i <= Q_LINKS; i++)
			qbatch_clear(&w->batch[i]);
		return -ENOMEM;
	}
	w->head.incompatible |= mark ? QCOW2_DIRTY : 0;
	w->head.autoclear = 0;
	for (uint32_t k = 0; k < w->nr_dirty; k++)
		clean(w, w->dirty_list[k]);
	w->nr_dirty = 0;
	if (refs)
		qrefs_written(&w->refs);
	qrefs_flushing(&w->refs);
	w->step = w->batch[Q_HEAD].n ? Q_HEAD : Q_REFS;
	return 0;
}

const struct qbatch *qwriter_flush_batch(const struct qwriter *w)
{
	return w->step == Q_IDLE ? NULL : &w->batch[w->step];
}

void qwriter_flush_next(struct qwriter *w)
{
	BUG_ON(w->step == Q_IDLE);
	qbatch_clear(&w->batch[w->step]);
	do {
		w->step = w->step == Q_LINKS ? Q_IDLE : w->step + 1;
	} while (w->step > Q_REFS && !w->batch[w->step].n);
	if (w->step == Q_IDLE)
		qrefs_flushed(&w->refs);
}
