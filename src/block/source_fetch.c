/* SPDX-License-Identifier: MIT */
/*
 * How a source's memory is filled: chunks of the map from the L2 tables of a chain, clusters from
 * their compressed form. See source.h; the reads are done by whoever asked for them.
 *
 * A chunk begins as one extent of unknown origin. File by file, from the topmost down, the entries
 * of its L2 tables split what is still unknown; what no file has is zero. One read is asked for at
 * a time: a part of one L2 table.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "block/source_int.h"

struct source_fetch {
	struct source *s;
	bool packed;

	/* a cluster */
	struct sextent x;
	uint8_t *in;
	bool asked;

	/* a chunk */
	uint64_t start, end; /* bytes of the disk */
	struct sextent *list;
	uint32_t n, cap;
	unsigned int file;
	bool reading; /* entries of `file` are being read */
	uint64_t first, nr,
		asked_to; /* clusters: the first, how many, how far they were asked for */
	be64 *entries;
};

/* ---- lists of extents ---- */

static bool continues(const struct sextent *a, const struct sextent *b)
{
	if (a->kind != b->kind || a->start + a->len != b->start)
		return false;
	if (a->kind == X_ZERO)
		return !a->off && !b->off;
	return a->kind == X_FILE ? a->file == b->file && a->off + a->len == b->off
				 : a->kind != X_PACKED;
}

static int append(struct sextent **list, uint32_t *n, uint32_t *cap, const struct sextent *x)
{
	if (!x->len)
		return 0;
	if (*n && continues(&(*list)[*n - 1], x)) {
		(*list)[*n - 1].len += x->len;
		return 0;
	}
	if (*n == *cap) {
		uint32_t more = *cap ? *cap * 2 : 16;
		void *p = reallocarray(*list, more, sizeof(**list));

		if (!p)
			return -ENOMEM;
		*list = p;
		*cap = more;
	}
	(*list)[(*n)++] = *x;
	return 0;
}

/* What file f says of [at, at+len), which lies in one cluster of it (or anywhere in a raw file). */
static struct sextent origin(struct source_fetch *f, uint64_t at, uint64_t len)
{
	const struct sfile *sf = &f->s->files[f->file];
	struct sextent x = { .start = at, .len = len, .file = (uint16_t)f->file, .kind = X_BAD };
	uint64_t in = at % qcow2_cluster_bytes(&sf->head);
	struct qcow2_cluster c;

	if (!sf->qcow2) {
		x.kind = X_FILE;
		x.off = at;
		return x;
	}
	c = qcow2_decode(&sf->head, be64_get(f->entries[(at >> sf->head.cluster_bits) - f->first]));
	switch (c.kind) {
	case QCOW2_NONE:
		x.kind = X_UNKNOWN;
		break;
	case QCOW2_ZERO:
		x.kind = X_ZERO;
		x.off = c.off;
		break;
	case QCOW2_DATA:
		x.kind = X_FILE;
		x.off = c.off + in;
		break;
	case QCOW2_PACKED:
		if (c.off >= sf->file_bytes)
			break;
		x.kind = X_PACKED;
		x.off = c.off;
		x.packed = (uint32_t)MIN((uint64_t)c.packed_bytes, sf->file_bytes - c.off);
		x.skip = (uint32_t)in;
		break;
	case QCOW2_BAD:
		break;
	}
	return x;
}

/* Replaces the unknown parts of the list by what the file says. */
static int merge(struct source_fetch *f)
{
	const struct sfile *sf = &f->s->files[f->file];
	uint64_t cluster = qcow2_cluster_bytes(&sf->head), step;
	struct sextent *list = NULL;
	uint32_t n = 0, cap = 0;
	int r = 0;

	for (uint32_t i = 0; i < f->n && !r; i++) {
		uint64_t at = f->list[i].start, end = at + f->list[i].len;

		if (f->list[i].kind != X_UNKNOWN) {
			r = append(&list, &n, &cap, &f->list[i]);
			continue;
		}
		for (; at < end && !r; at += step) {
			struct sextent x, rest;

			/* Beyond the end of a file's disk it and all below it are zero. */
			if (at >= sf->disk_bytes) {
				step = end - at;
				x = (struct sextent){ .start = at, .len = step, .kind = X_ZERO };
				r = append(&list, &n, &cap, &x);
				continue;
			}
			step = MIN(end, sf->disk_bytes) - at;
			if (sf->qcow2)
				step = MIN(step, cluster - at % cluster);
			x = origin(f, at, step);
			rest = (struct sextent){ .start = at + step, .kind = X_ZERO };
			/* A file may end within its last cluster: the rest of that is zero. */
			if (x.kind == X_FILE && !range_ok(x.off, x.len, sf->file_bytes)) {
				x.len = x.off < sf->file_bytes ? sf->file_bytes - x.off : 0;
				rest.start = x.start + x.len;
				rest.len = step - x.len;
			}
			r = append(&list, &n, &cap, &x);
			if (!r)
				r = append(&list, &n, &cap, &rest);
		}
	}
	if (r) {
		free(list);
		return r;
	}
	free(f->list);
	f->list = list;
	f->n = n;
	f->cap = cap;
	return 0;
}

/* ---- a chunk ---- */

/* The clusters of the current file that may answer what is unknown; none: false. */
static bool unknown_clusters(struct source_fetch *f)
{
	const struct sfile *sf = &f->s->files[f->file];
	uint64_t from = UINT64_MAX, to = 0;

	for (uint32_t i = 0; i < f->n; i++) {
		if (f->list[i].kind != X_UNKNOWN)
			continue;
		from = MIN(from, f->list[i].start);
		to = f->list[i].start + f->list[i].len;
	}
	to = MIN(to, sf->disk_bytes);
	if (from >= to)
		return false;
	f->first = from >> sf->head.cluster_bits;
	f->nr = ((to - 1) >> sf->head.cluster_bits) - f->first + 1;
	f->asked_to = 0;
	return true;
}

/* The next part of an L2 table to read: 1; 0 when all entries are there. */
static int next_table(struct source_fetch *f, struct source_read *rd)
{
	const struct sfile *sf = &f->s->files[f->file];
	uint64_t per = qcow2_l2_entries(&sf->head), off = 0;

	while (f->asked_to < f->nr) {
		uint64_t cluster = f->first + f->asked_to, in = cluster % per;
		uint64_t n = MIN(f->nr - f->asked_to, per - in);
		be64 *to = f->entries + f->asked_to;
		int r = qcow2_l2_offset(&sf->head, be64_get(sf->l1[cluster / per]), &off);

		f->asked_to += n;
		if (r == 1 && range_ok(off, per * sizeof(*to), sf->file_bytes)) {
			*rd = (struct source_read){ .fd = sf->fd,
						    .off = off + in * sizeof(*to),
						    .buf = to,
						    .len = (uint32_t)(n * sizeof(*to)) };
			return 1;
		}
		for (uint64_t i = 0; i < n; i++)
			to[i] = be64_put(r ? QCOW2_BAD_ENTRY : 0);
	}
	return 0;
}

static bool anything_unknown(const struct source_fetch *f)
{
	for (uint32_t i = 0; i < f->n; i++)
		if (f->list[i].kind == X_UNKNOWN)
			return true;
	return false;
}

static int next_of_chunk(struct source_fetch *f, struct source_read *rd)
{
	for (; f->file < f->s->nr && anything_unknown(f); f->file++) {
		const struct sfile *sf = &f->s->files[f->file];
		int r;

		if (!f->reading && sf->qcow2 && unknown_clusters(f)) {
			free(f->entries);
			f->entries = calloc((size_t)f->nr, sizeof(*f->entries));
			if (!f->entries)
				return -ENOMEM;
		}
		f->reading = true;
		if (sf->qcow2 && next_table(f, rd))
			return 1;
		f->reading = false;
		f->nr = 0;
		f->asked_to = 0;
		r = merge(f);
		if (r)
			return r;
	}
	for (uint32_t i = 0; i < f->n; i++)
		if (f->list[i].kind == X_UNKNOWN)
			f->list[i].kind = X_ZERO;
	source_put_chunk(f->s, f->start, f->list, f->n);
	f->list = NULL;
	return 0;
}

/* ---- a compressed cluster ---- */

static int next_of_cluster(struct source_fetch *f, struct source_read *rd)
{
	const struct sfile *sf = &f->s->files[f->x.file];
	uint32_t bytes = (uint32_t)qcow2_cluster_bytes(&sf->head);
	cleanup_free uint8_t *out = NULL;
	int r;

	if (!f->asked) {
		f->in = malloc(f->x.packed);
		if (!f->in)
			return -ENOMEM;
		f->asked = true;
		*rd = (struct source_read){
			.fd = sf->fd, .off = f->x.off, .buf = f->in, .len = f->x.packed
		};
		return 1;
	}
	out = malloc(bytes);
	if (!out)
		return -ENOMEM;
	r = qcow2_unpack(sf->head.zstd, f->in, f->x.packed, out, bytes);
	if (r)
		return r == -EINVAL ? -EIO : r;
	source_put_unpacked(f->s, &f->x, take_ptr(out));
	return 0;
}

int source_fetch_begin(struct source *s, uint64_t off, struct source_fetch **out)
{
	const struct sextent *x = source_extent(s, off);
	struct source_fetch *f = calloc(1, sizeof(*f));
	struct sextent all = { .kind = X_UNKNOWN };

	if (!f)
		return -ENOMEM;
	f->s = s;
	if (x) {
		BUG_ON(x->kind != X_PACKED);
		f->packed = true;
		f->x = *x;
	} else {
		f->start = ROUND_DOWN(off, s->chunk_bytes);
		f->end = MIN(f->start + s->chunk_bytes, source_bytes(s));
		all.start = f->start;
		all.len = f->end - f->start;
		if (append(&f->list, &f->n, &f->cap, &all)) {
			source_fetch_end(f);
			return -ENOMEM;
		}
	}
	*out = f;
	return 0;
}

bool source_fetch_brings(const struct source_fetch *f, uint64_t off)
{
	const struct sextent *x = source_extent(f->s, off);

	if (x)
		return f->packed && x->kind == X_PACKED && x->file == f->x.file &&
		       x->off == f->x.off;
	return !f->packed && off >= f->start && off < f->end;
}

int source_fetch_next(struct source_fetch *f, struct source_read *rd)
{
	return f->packed ? next_of_cluster(f, rd) : next_of_chunk(f, rd);
}

void source_fetch_end(struct source_fetch *f)
{
	if (!f)
		return;
	free(f->list);
	free(f->entries);
	free(f->in);
	free(f);
}
