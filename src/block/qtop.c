/* SPDX-License-Identifier: MIT */
/*
 * A disk whose writes go to the qcow2 file that it is. Called by request.c and blk.c; main, or a
 * vCPU thread with the device lock.
 *
 * The overlay's map and the file's own tables say the same in two ways. The source (source.h) reads
 * the file as it was when it was opened; the map has, in units of the file's clusters, what changed
 * since, and what lies in the file and was about to change: such a cluster enters the map when it
 * is first written to, and is overwritten in place if it is counted once. All that is written then
 * goes through the same engine as in an overlay's data file. The writer (qcow2_write.h) is told
 * which entries changed and looks them up here when they are flushed.
 *
 * Forks share what is in the file then, and go on in overlays of their own: for them the file is a
 * layer and their source, which must stay as they are. blk_qtop_rotate gives the map a new slot for
 * the same file, so that only what is written from now on is in the current one and overwritten in
 * place; clusters and L2 tables that are replaced are held, allocated, until the disk's end.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk_int.h"
#include "event/fdtab.h"

/* A flush begins by itself beyond this many: a guest need not ask for one. */
#define DIRTY_TABLES_MAX 256u /* L2 tables with changes that are not in the file */
#define RELEASED_MAX 4096u    /* clusters that wait for a flush to be used again */

int blk_alloc(struct blk *b, uint64_t n, uint64_t *start)
{
	return b->w ? qrefs_alloc(&b->w->refs, n, start) : overlay_alloc(&b->ov, n, start);
}

void blk_unalloc(struct blk *b, uint64_t start, uint64_t n)
{
	if (b->w)
		qrefs_unalloc(&b->w->refs, start, n);
	else
		overlay_free(&b->ov, start, n);
}

/* Does it lie in the file that the disk is? */
static bool in_own(const struct blk *b, uint64_t ent)
{
	return ent_is_data(ent) && b->ov.layers[ent_layer(ent)].own;
}

/* The L2 entry of a cluster of the disk. */
static uint64_t entry_of(void *arg, uint64_t cluster)
{
	const struct blk *b = arg;
	/* a table reaches beyond the disk's end */
	uint64_t ent = cluster < b->ov.nr_blocks ? overlay_get(&b->ov, cluster) : ENT_BASE;

	if (in_own(b, ent))
		return ent_block(ent) * b->unit | QWRITER_COPIED;
	if (ent != ENT_ZERO)
		return 0;
	/* version 2 has no zero clusters; what is not there is zero where nothing is behind it */
	return b->w->head.version < 3 ? QWRITER_ABSENT : QWRITER_ZERO;
}

int blk_qtop_open(struct blk *b, int data_fd, struct err *e)
{
	struct qcow2_head head;
	uint64_t bytes;
	struct stat st;
	int r;

	if (!b->base || fstat(data_fd, &st) || !source_is_top(b->base, data_fd))
		return err_set(e, EINVAL,
			       "qcow2: what is to be written is not the file that is read");
	bytes = (uint64_t)st.st_size;
	r = qcow2_read_head(data_fd, bytes, &head, e);
	if (r)
		return r;
	if (head.version < 3 && head.backing[0])
		return err_set(e, ENOTSUP,
			       "qcow2: version 2, which has no zero clusters, cannot be written "
			       "to over a backing file; convert it: "
			       "qemu-img amend -o compat=1.1 FILE");
	b->w = calloc(1, sizeof(*b->w));
	if (!b->w)
		return err_set(e, ENOMEM, "no memory for a writer");
	r = qwriter_open(b->w, data_fd, bytes, &head, e);
	/* A cluster in the map is read whole. */
	if (!r && ftruncate(data_fd, (off_t)ROUND_UP(bytes, qcow2_cluster_bytes(&head))))
		r = err_sys(e, errno, "qcow2: make its last cluster whole");
	if (r) {
		free(b->w);
		b->w = NULL;
		return r;
	}
	b->w->entry = entry_of;
	b->w->arg = b;
	b->unit = qcow2_cluster_bytes(&head);
	return 0;
}

int blk_qtop_close(struct blk *b)
{
	int r = 0;

	if (!b->w)
		return 0;
	if (b->ov.cur != NO_LAYER)
		r = qwriter_sync(b->w, b->ov.layers[b->ov.cur].fd, true);
	qwriter_fini(b->w);
	free(b->w);
	b->w = NULL;
	return r;
}

/* Many small slots become one: it is all one file. */
static void merge_slots(struct blk *b)
{
	unsigned int small = overlay_smallest(&b->ov), other = 0;

	while (other < b->ov.cap_layers &&
	       (b->ov.layers[other].fd < 0 || other == b->ov.cur || other == small))
		other++;
	if (other < b->ov.cap_layers)
		overlay_relabel(&b->ov, small, other);
}

int blk_qtop_rotate(struct blk *b, struct err *e)
{
	unsigned int old = b->ov.cur, slot;
	int fd, r;

	BUG_ON(old == NO_LAYER);
	if (!b->ov.layers[old].live) {
		qwriter_freeze(b->w);
		return 0;
	}
	if (b->ov.nr_layers > BLK_SMALL_LAYERS)
		merge_slots(b);
	fd = source_dup_top(b->base);
	if (fd < 0)
		return err_sys(e, -fd, "qcow2: its file once more");
	r = overlay_add_layer(&b->ov, fd, 0, &slot, e);
	if (r) {
		close(fd);
		return r;
	}
	/* children cannot write by what they share */
	b->ov.layers[slot].fd = b->ov.layers[old].fd;
	b->ov.layers[slot].own = true;
	b->ov.layers[old].fd = fd;
	b->ov.cur = slot;
	qwriter_freeze(b->w);
	return 0;
}

void blk_qtop_child(struct blk *b)
{
	qwriter_fini(b->w);
	free(b->w);
	b->w = NULL;
	b->writes = BLK_OVERLAY;
	b->direct_fd = -1; /* the parent's, closed here */
	b->flush = (struct blk_flush){ 0 };
}

/* Reads the L2 table at off for r, which goes on in qtop_map. */
static enum issue read_table(struct blk *b, struct blk_req *r, uint64_t off)
{
	enum issue is;

	r->p.table = malloc(b->unit);
	if (!r->p.table) {
		r->p.result = -ENOMEM;
		return ISSUED;
	}
	is = blk_issue_buf(b, r, URING_READ, b->ov.layers[b->ov.cur].fd, off, r->p.table, b->unit);
	if (is == ISSUED)
		return WAITS;
	free(r->p.table);
	r->p.table = NULL;
	return is;
}

/* An L2 table that others read is copied before an entry of it changes. */
static enum issue copy_table(struct blk *b, struct blk_req *r, uint64_t block)
{
	uint64_t off;

	if (!qwriter_wants_copy(b->w, block, &off)) {
		/* another request was faster */
		free(r->p.table);
		r->p.table = NULL;
		return ISSUED;
	}
	/* one discard may copy every table there is: no more until these are in the file */
	if (!r->p.table && b->w->nr_dirty > DIRTY_TABLES_MAX) {
		blk_flush_add(b, r);
		return WAITS;
	}
	if (!r->p.table)
		return read_table(b, r, off);
	r->p.result = qwriter_copy(b->w, block, r->p.table);
	r->p.table = NULL;
	return ISSUED;
}

/* What the file as it was opened has there: source_where, also behind the end that it had. */
static int file_where(const struct blk *b, uint64_t block, struct source_where *w)
{
	*w = (struct source_where){ .origin = SOURCE_IN_ZERO, .len = b->unit };
	return block * b->unit >= b->base_end ? 1 : source_where(b->base, block * b->unit, w);
}

/* A slot of the map for what is in the file and shared with children; NO_LAYER: none to be had. */
static unsigned int shared_slot(struct blk *b)
{
	unsigned int i = 0;
	int fd;

	while (i < b->ov.cap_layers && (b->ov.layers[i].fd < 0 || i == b->ov.cur))
		i++;
	if (i < b->ov.cap_layers)
		return i;
	fd = source_dup_top(b->base);
	if (fd < 0)
		return NO_LAYER;
	if (overlay_add_layer(&b->ov, fd, 0, &i, NULL)) {
		close(fd);
		return NO_LAYER;
	}
	b->ov.layers[i].own = true;
	if (b->fds)
		fdtab_add(b->fds, fd, FD_KEEP, "disk layer");
	return i;
}

/* pos counts blocks here. */
enum issue blk_qtop_map(struct blk *b, struct blk_req *r)
{
	uint64_t end = (r->p.end - 1) / b->unit + 1;
	enum issue is = ISSUED;

	while (r->p.pos < end && is == ISSUED && !r->p.result) {
		struct source_where w;
		uint64_t block = r->p.pos;

		is = copy_table(b, r, block);
		if (is != ISSUED || r->p.result)
			break;
		if (overlay_get(&b->ov, block) != ENT_BASE) {
			r->p.pos++;
			continue;
		}
		if (!file_where(b, block, &w)) {
			is = blk_fetch_wait(b, r, block * b->unit);
			continue;
		}
		if (w.origin == SOURCE_IN_FILE && !w.file &&
		    qrefs_exclusive(&b->w->refs, w.off / b->unit)) {
			/* of what is shared only where it was is remembered, to be held */
			unsigned int slot = b->w->frozen ? shared_slot(b) : b->ov.cur;

			if (slot == NO_LAYER || overlay_prepare(&b->ov, block, 1))
				r->p.result = -ENOMEM;
			else
				overlay_set(&b->ov, block, ent_make(slot, w.off / b->unit));
		}
		r->p.pos++;
	}
	return is;
}

/* Does it read as zeroes already, from nothing in the file that zeroing would give back? */
static bool zero_already(const struct blk *b, uint64_t block)
{
	uint64_t ent = overlay_get(&b->ov, block);
	struct source_where w;

	if (ent == ENT_ZERO)
		return true;
	return ent == ENT_BASE && file_where(b, block, &w) && w.origin == SOURCE_IN_ZERO &&
	       (w.file || !w.off) &&
	       w.len >= blk_block_bytes(b, block); /* what is below may have smaller clusters */
}

int blk_qtop_prepare(struct blk *b, struct blk_req *r)
{
	uint64_t first = r->p.start / b->unit, last = (r->p.end - 1) / b->unit;
	int err = 0;

	if (r->op == BLK_WRITE)
		return r->p.nalloc ? qwriter_prepare(b->w, first, last - first + 1) : 0;
	for (unsigned int i = 0; i < 2 && !err; i++)
		if (r->p.edge[i].buf)
			err = qwriter_prepare(b->w, r->p.edge[i].block, 1);
	for (uint64_t k = r->p.zero_block; k < r->p.zero_end && !err; k++)
		if (!zero_already(b, k))
			err = qwriter_prepare(b->w, k, 1);
	return err;
}

void blk_qtop_committed(struct blk *b)
{
	if (b->w->nr_dirty > DIRTY_TABLES_MAX || b->w->refs.nr_released > RELEASED_MAX)
		blk_flush_start(b);
}

void blk_qtop_changed(struct blk *b, uint64_t block, uint64_t old)
{
	void (*give_back)(struct qrefs *, uint64_t, uint64_t) =
		b->w->frozen ? qrefs_hold : qrefs_release;
	struct qrefs *refs = &b->w->refs;
	struct source_where w;
	uint64_t from;

	qwriter_dirty(b->w, block, 1);
	if (blk_in_current(b, old))
		qrefs_release(refs, ent_block(old), 1);
	else if (in_own(b, old))
		qrefs_hold(refs, ent_block(old), 1);
	/* What the file held there. If it is not known any more it is leaked, which is harmless. */
	if (old != ENT_BASE || !file_where(b, block, &w) || w.file)
		return;
	from = w.off / b->unit;
	if (w.origin == SOURCE_IN_PACKED)
		give_back(refs, from, (w.off + w.packed - 1) / b->unit - from + 1);
	else if (w.origin != SOURCE_IN_NONE && w.off)
		give_back(refs, from, 1);
}

void blk_qtop_zeroed(struct blk *b, uint64_t block, uint64_t n)
{
	/* What was zero already when r began has no table prepared; it may be that meanwhile the
	 * source has forgotten where it is. */
	for (uint64_t k = block; k < block + n; k++)
		if (!zero_already(b, k) && qwriter_prepared(b->w, k))
			blk_qtop_changed(b, k, overlay_get(&b->ov, k));
}
