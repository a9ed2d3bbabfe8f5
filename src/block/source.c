/* SPDX-License-Identifier: MIT */
/*
 * A chain of read-only files and the map of it that is in memory: see source.h. Used by a disk
 * (blk.c, issue.c) on main of the VM process, and by tools. How the map is filled is in
 * source_fetch.c.
 */
#include "block/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "block/source_int.h"
#include "event/fdtab.h"

static int open_qcow2(struct sfile *f, bool last, struct err *e)
{
	size_t bytes;
	int r;

	r = qcow2_read_head(f->fd, f->file_bytes, &f->head, e);
	if (r)
		return r;
	if (last && f->head.backing[0])
		return err_set(e, EINVAL,
			       "qcow2: it stands on backing file '%s', which was not allowed",
			       f->head.backing);
	if (!last && !f->head.backing[0])
		return err_set(e, EINVAL, "qcow2: a backing file was passed, it names none");
	f->disk_bytes = f->head.size_bytes;
	bytes = (size_t)f->head.l1_entries * sizeof(*f->l1);
	f->l1 = malloc(bytes);
	if (!f->l1)
		return err_set(e, ENOMEM, "qcow2: no memory for an L1 table of %zu bytes", bytes);
	r = fd_pread_full(f->fd, f->l1, bytes, f->head.l1_off);
	return r ? err_sys(e, -r, "qcow2: read the L1 table") : 0;
}

static int open_file(struct sfile *f, enum source_format format, bool last, struct err *e)
{
	int r;

	r = blk_base_bytes(f->fd, &f->file_bytes, e);
	if (r)
		return r;
	f->qcow2 = format == SOURCE_QCOW2;
	if (f->qcow2)
		return open_qcow2(f, last, e);
	f->disk_bytes = f->file_bytes;
	return last ? 0 : err_set(e, EINVAL, "a raw file has no backing file");
}

int source_file_bytes(int fd, enum source_format format, uint64_t *bytes, struct err *e)
{
	struct qcow2_head h;
	int r;

	r = blk_base_bytes(fd, bytes, e);
	if (r || format == SOURCE_RAW)
		return r;
	r = qcow2_read_head(fd, *bytes, &h, e);
	if (!r)
		*bytes = h.size_bytes;
	return r;
}

int source_open(const struct source_file *files, unsigned int n, struct source **out, struct err *e)
{
	struct source *s = calloc(1, sizeof(*s));
	uint64_t smallest = 0;
	int r = 0;

	if (s)
		s->files = calloc(n, sizeof(*s->files));
	if (!s || !s->files || !n || n > SOURCE_FILES) {
		for (unsigned int i = 0; i < n; i++)
			close(files[i].fd);
		source_close(s, NULL);
		return n && n <= SOURCE_FILES ? err_set(e, ENOMEM, "no memory for a disk's files")
					      : err_set(e, EINVAL, "a chain of %u files: 1 to %u",
							n, SOURCE_FILES);
	}
	s->nr = n;
	for (unsigned int i = 0; i < n; i++)
		s->files[i].fd = files[i].fd;
	for (unsigned int i = 0; i < n && !r; i++) {
		struct sfile *f = &s->files[i];

		r = open_file(f, files[i].format, i == n - 1, e);
		if (r && n > 1)
			err_wrap(e, r, "file %u of the chain", i);
		if (!r && f->qcow2 && (!smallest || qcow2_cluster_bytes(&f->head) < smallest))
			smallest = qcow2_cluster_bytes(&f->head);
	}
	if (r) {
		source_close(s, NULL);
		return r;
	}
	s->chunk_bytes = smallest * CHUNK_CLUSTERS;
	*out = s;
	return 0;
}

void source_close(struct source *s, struct fdtab *fds)
{
	if (!s)
		return;
	for (unsigned int i = 0; s->files && i < s->nr; i++) {
		if (fds)
			fdtab_del(fds, s->files[i].fd);
		close(s->files[i].fd);
		free(s->files[i].l1);
	}
	for (unsigned int i = 0; i < CHUNKS; i++)
		free(s->chunks[i].x);
	for (unsigned int i = 0; i < UNPACKED; i++)
		free(s->unpacked[i].data);
	free(s->files);
	free(s);
}

uint64_t source_bytes(const struct source *s)
{
	return s->files[0].disk_bytes;
}

uint64_t source_behind_bytes(const struct source *s)
{
	return s->nr > 1 ? s->files[1].disk_bytes : 0;
}

bool source_is_top(const struct source *s, int fd)
{
	struct stat top, st;

	return !fstat(s->files[0].fd, &top) && !fstat(fd, &st) && top.st_dev == st.st_dev &&
	       top.st_ino == st.st_ino;
}

int source_dup_top(const struct source *s)
{
	int fd = fcntl(s->files[0].fd, F_DUPFD_CLOEXEC, 3);

	return fd < 0 ? -errno : fd;
}

void source_record(struct source *s, struct fdtab *fds)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		fdtab_del(fds, s->files[i].fd);
		fdtab_add(fds, s->files[i].fd, FD_KEEP, "disk base");
	}
}

/* ---- the map ---- */

static unsigned int chunk_slot(const struct source *s, uint64_t off)
{
	return (unsigned int)(off / s->chunk_bytes % CHUNKS);
}

const struct sextent *source_extent(const struct source *s, uint64_t off)
{
	const struct chunk *c = &s->chunks[chunk_slot(s, off)];
	uint32_t lo = 0, hi = c->n;

	if (!c->n || c->start != ROUND_DOWN(off, s->chunk_bytes))
		return NULL;
	while (hi - lo > 1) {
		uint32_t mid = lo + (hi - lo) / 2;

		if (c->x[mid].start <= off)
			lo = mid;
		else
			hi = mid;
	}
	BUG_ON(off < c->x[lo].start || off - c->x[lo].start >= c->x[lo].len);
	return &c->x[lo];
}

const uint8_t *source_unpacked(const struct source *s, const struct sextent *x)
{
	for (unsigned int i = 0; i < UNPACKED; i++)
		if (s->unpacked[i].data && s->unpacked[i].off == x->off &&
		    s->unpacked[i].file == x->file)
			return s->unpacked[i].data;
	return NULL;
}

void source_put_chunk(struct source *s, uint64_t start, struct sextent *x, uint32_t n)
{
	struct chunk *c = &s->chunks[chunk_slot(s, start)];

	free(c->x);
	*c = (struct chunk){ .start = start, .x = x, .n = n };
}

void source_put_unpacked(struct source *s, const struct sextent *x, uint8_t *data)
{
	struct unpacked *u = &s->unpacked[s->next_unpacked++ % UNPACKED];

	free(u->data);
	*u = (struct unpacked){ .off = x->off, .file = x->file, .data = data };
}

int source_find(struct source *s, uint64_t off, uint64_t max, struct source_piece *p)
{
	const struct sextent *x;
	const uint8_t *data;
	uint64_t in;

	BUG_ON(off >= source_bytes(s));
	if (!s->chunk_bytes) {
		*p = (struct source_piece){ .kind = SOURCE_FILE,
					    .fd = s->files[0].fd,
					    .top = true,
					    .off = off,
					    .len = MIN(max, source_bytes(s) - off) };
		return 1;
	}
	x = source_extent(s, off);
	if (!x)
		return 0;
	in = off - x->start;
	*p = (struct source_piece){ .kind = SOURCE_ZERO, .len = MIN(max, x->len - in) };
	switch ((enum extent_kind)x->kind) {
	case X_ZERO:
		return 1;
	case X_FILE:
		p->kind = SOURCE_FILE;
		p->fd = s->files[x->file].fd;
		p->top = !x->file;
		p->off = x->off + in;
		return 1;
	case X_PACKED:
		data = source_unpacked(s, x);
		if (!data)
			return 0;
		p->kind = SOURCE_MEMORY;
		p->at = data + x->skip + in;
		return 1;
	case X_UNKNOWN:
	case X_BAD:
		break;
	}
	return -EIO;
}

int source_where(const struct source *s, uint64_t off, struct source_where *w)
{
	static const enum source_origin origin[] = { [X_ZERO] = SOURCE_IN_ZERO,
						     [X_FILE] = SOURCE_IN_FILE,
						     [X_PACKED] = SOURCE_IN_PACKED,
						     [X_BAD] = SOURCE_IN_NONE };
	const struct sextent *x = source_extent(s, off);
	uint64_t in;

	if (!x)
		return 0;
	in = off - x->start;
	*w = (struct source_where){ .origin = origin[x->kind],
				    .file = x->file,
				    .off = x->off + (x->kind == X_FILE ? in : 0),
				    .len = x->len - in,
				    .packed = x->packed };
	return 1;
}

int source_pread(struct source *s, void *buf, uint64_t n, uint64_t off)
{
	uint8_t *to = buf;

	while (n) {
		struct source_fetch *f = NULL;
		struct source_piece p;
		struct source_read rd;
		int r = source_find(s, off, n, &p);

		if (r < 0)
			return r;
		if (!r) {
			r = source_fetch_begin(s, off, &f);
			while (!r && (r = source_fetch_next(f, &rd)) == 1)
				r = fd_pread_full(rd.fd, rd.buf, rd.len, rd.off);
			source_fetch_end(f);
			if (r)
				return r;
			continue;
		}
		if (p.kind == SOURCE_FILE)
			r = fd_pread_full(p.fd, to, (size_t)p.len, p.off);
		else if (p.kind == SOURCE_ZERO)
			memset(to, 0, (size_t)p.len);
		else
			memcpy(to, p.at, (size_t)p.len);
		if (p.kind == SOURCE_FILE && r)
			return r;
		to += p.len;
		off += p.len;
		n -= p.len;
	}
	return 0;
}
