/* SPDX-License-Identifier: MIT */
/*
 * Checking and repairing a qcow2 file: see qcow2_tools.h. Walks the tables, counts who uses which
 * cluster, and compares.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/qcow2_tools.h"
#include "block/qcow2_write.h"

struct walk {
	int fd;
	uint64_t file_bytes;
	struct qcow2_head head;
	struct qrefs refs;
	uint16_t *used; /* per cluster of the file */
	struct qcow2_report *rep;
};

__attribute__((format(printf, 2, 3))) static void wrong(struct walk *w, const char *fmt, ...)
{
	va_list ap;

	if (w->rep->errors++)
		return;
	va_start(ap, fmt);
	vsnprintf(w->rep->first, sizeof(w->rep->first), fmt, ap);
	va_end(ap);
}

/* Bytes [off, off+len) of the file are used. false: they are not in the file. */
static bool use(struct walk *w, const char *what, uint64_t off, uint64_t len)
{
	uint64_t last;

	if (!len || !range_ok(off, len, w->refs.nr << w->head.cluster_bits)) {
		wrong(w, "%s at %llu lies beyond the file's end", what, (unsigned long long)off);
		return false;
	}
	last = (off + len - 1) >> w->head.cluster_bits;
	for (uint64_t c = off >> w->head.cluster_bits; c <= last; c++)
		if (w->used[c] < UINT16_MAX)
			w->used[c]++;
	return true;
}

/* Refers with the flag "copied" exactly to what is counted once. */
static void check_copied(struct walk *w, const char *what, uint64_t off, uint64_t entry)
{
	bool once = qrefs_exclusive(&w->refs, off >> w->head.cluster_bits);

	if (!w->rep->dirty && once != !!(entry & QWRITER_COPIED))
		wrong(w, "%s at %llu: its entry says it is %sshared, its refcount does not", what,
		      (unsigned long long)off, entry & QWRITER_COPIED ? "not " : "");
}

static int walk_l2(struct walk *w, uint64_t off, be64 *table)
{
	uint64_t n = qcow2_l2_entries(&w->head);
	int r = fd_pread_full(w->fd, table, (size_t)n * sizeof(*table), off);

	for (uint64_t i = 0; i < n && !r; i++) {
		uint64_t entry = be64_get(table[i]);
		struct qcow2_cluster c = qcow2_decode(&w->head, entry);

		switch (c.kind) {
		case QCOW2_BAD:
			wrong(w, "entry %llu of the L2 table at %llu is no entry: %llx",
			      (unsigned long long)i, (unsigned long long)off,
			      (unsigned long long)entry);
			break;
		case QCOW2_PACKED:
			w->rep->packed++;
			if (c.off < w->file_bytes)
				use(w, "compressed cluster", c.off,
				    MIN((uint64_t)c.packed_bytes, w->file_bytes - c.off));
			else
				wrong(w, "compressed cluster at %llu lies beyond the file's end",
				      (unsigned long long)c.off);
			break;
		case QCOW2_DATA:
		case QCOW2_ZERO:
			w->rep->data += c.kind == QCOW2_DATA;
			if (c.off && use(w, "cluster", c.off, qcow2_cluster_bytes(&w->head)))
				check_copied(w, "cluster", c.off, entry);
			break;
		case QCOW2_NONE:
			break;
		}
	}
	return r;
}

static int walk_tables(struct walk *w, struct err *e)
{
	uint64_t cluster = qcow2_cluster_bytes(&w->head);
	cleanup_free be64 *l1 = calloc(w->head.l1_entries, sizeof(*l1));
	cleanup_free be64 *table = malloc((size_t)cluster);
	int r;

	if (!l1 || !table)
		return err_set(e, ENOMEM, "no memory for tables");
	r = fd_pread_full(w->fd, l1, w->head.l1_entries * sizeof(*l1), w->head.l1_off);
	for (uint32_t i = 0; i < w->head.l1_entries && !r; i++) {
		uint64_t entry = be64_get(l1[i]), off = 0;
		int has = qcow2_l2_offset(&w->head, entry, &off);

		if (has < 0)
			wrong(w, "L1 entry %u is no table's offset: %llx", i,
			      (unsigned long long)entry);
		if (has != 1 || !use(w, "L2 table", off, cluster))
			continue;
		check_copied(w, "L2 table", off, entry);
		/* Once is enough: a small file may name one table millions of times. */
		if (w->used[off >> w->head.cluster_bits] > 1)
			wrong(w, "the L2 table at %llu is something else as well",
			      (unsigned long long)off);
		else if (range_ok(off, cluster, w->file_bytes))
			r = walk_l2(w, off, table);
		else
			wrong(w, "the L2 table at %llu is cut short", (unsigned long long)off);
	}
	return r ? err_sys(e, -r, "read the tables") : 0;
}

static void use_own(struct walk *w)
{
	uint64_t cluster = qcow2_cluster_bytes(&w->head);

	use(w, "header", 0, cluster);
	use(w, "L1 table", w->head.l1_off, (uint64_t)w->head.l1_entries * sizeof(be64));
	use(w, "refcount table", w->refs.table_off, w->refs.table_clusters * cluster);
	for (uint64_t i = 0; i < w->refs.nr_blocks; i++)
		if (w->refs.block[i].off)
			use(w, "refcount block", w->refs.block[i].off, cluster);
}

/* What is used more often than it may be: only compressed clusters share one. */
static void compare(struct walk *w)
{
	w->rep->leaks += w->refs.beyond;
	for (uint64_t c = 0; c < w->refs.nr; c++) {
		uint16_t have = w->refs.count[c], used = w->used[c];

		if (have > used)
			w->rep->leaks++;
		else if (have < used && !w->rep->dirty)
			wrong(w, "cluster %llu is used %u times and counted %u times",
			      (unsigned long long)c, used, have);
	}
}

static int repair(struct walk *w, struct err *e)
{
	struct qwriter q = { .head = w->head, .refs = w->refs };
	uint64_t nr = w->refs.nr;
	int r = qrefs_cover(&q.refs);

	for (uint64_t c = 0; c < nr && !r; c++)
		if (q.refs.count[c] != w->used[c])
			qrefs_set(&q.refs, c, w->used[c]);
	if (!r)
		r = qwriter_sync(&q, w->fd, true);
	w->refs = q.refs;
	if (r)
		return err_sys(e, -r, "write the refcounts");
	w->rep->repaired = true;
	return 0;
}

int qcow2_check(int fd, bool mend, struct qcow2_report *out, struct err *e)
{
	struct qcow2_report rep = { 0 };
	struct walk w = { .fd = fd, .rep = &rep };
	off_t end = lseek(fd, 0, SEEK_END); /* it may be a device */
	int r;

	if (end < 0)
		return err_sys(e, errno, "image");
	w.file_bytes = (uint64_t)end;
	r = qcow2_read_head(fd, w.file_bytes, &w.head, e);
	if (!r && w.head.nr_snapshots)
		r = err_set(e, ENOTSUP, "qcow2: has internal snapshots: use qemu-img check");
	if (!r && w.head.bitmaps)
		r = err_set(e, ENOTSUP, "qcow2: has dirty bitmaps: use qemu-img check");
	if (!r)
		r = qrefs_load(&w.refs, fd, w.file_bytes, &w.head, e);
	if (r)
		return r;
	rep.dirty = w.head.incompatible & QCOW2_DIRTY;
	rep.clusters = w.refs.nr;
	w.used = calloc((size_t)w.refs.nr, sizeof(*w.used));
	r = w.used ? 0 : err_set(e, ENOMEM, "no memory to count clusters");
	if (!r) {
		use_own(&w);
		r = walk_tables(&w, e);
	}
	if (!r) {
		compare(&w);
		if (mend && !rep.errors && (rep.leaks || rep.dirty))
			r = repair(&w, e);
	}
	free(w.used);
	qrefs_fini(&w.refs);
	if (!r)
		*out = rep;
	return r;
}
