/* SPDX-License-Identifier: MIT */
/*
 * Reader and writer of the state file's container. See format.h for the layout.
 */
#include "snapshot/format.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

static const char snap_magic[8] = "CLONEVM";
#define REC_MAGIC 0x44434552u /* "RECD" */

void snap_writer_init(struct snap_writer *s)
{
	*s = (struct snap_writer){ 0 };
	wbuf_init(&s->w, SNAP_FILE_MAX);
	wbuf_bytes(&s->w, snap_magic, sizeof(snap_magic));
	wbuf_u32(&s->w, SNAP_FORMAT_VERSION);
	wbuf_u32(&s->w, 0);
}

void snap_writer_fini(struct snap_writer *s)
{
	wbuf_fini(&s->w);
}

static void put_name(struct wbuf *w, const char *s)
{
	size_t n = strlen(s);

	BUG_ON(n > SNAP_NAME_MAX);
	wbuf_u8(w, (uint8_t)n);
	wbuf_bytes(w, s, n);
}

struct wbuf *snap_begin(struct snap_writer *s, const char *name, const char *id, uint32_t version)
{
	BUG_ON(s->open);
	s->open = true;
	s->begin = s->w.len;
	wbuf_u32(&s->w, REC_MAGIC);
	put_name(&s->w, name);
	put_name(&s->w, id);
	wbuf_u32(&s->w, version);
	s->len_at = s->w.len;
	wbuf_u32(&s->w, 0);
	return &s->w;
}

void snap_end(struct snap_writer *s)
{
	BUG_ON(!s->open);
	s->open = false;
	if (!s->w.bad) {
		wbuf_patch_u32(&s->w, s->len_at, (uint32_t)(s->w.len - s->len_at - 4));
		wbuf_u32(&s->w, crc32c(0, s->w.data + s->begin, s->w.len - s->begin));
	}
	s->records++;
}

int snap_finish(struct snap_writer *s, int fd, struct err *e)
{
	uint32_t n = s->records;
	int ret;

	wbuf_u32(snap_begin(s, "end", "", 1), n);
	snap_end(s);
	if (s->w.bad)
		return err_set(e, EFBIG, "state: out of memory or larger than %u MiB",
			       SNAP_FILE_MAX >> 20);
	ret = fd_pwrite_full(fd, s->w.data, s->w.len, 0);
	if (ret)
		return err_sys(e, -ret, "state: writing %zu bytes", s->w.len);
	if (ftruncate(fd, (off_t)s->w.len) < 0)
		return err_sys(e, errno, "state: setting its length");
	return 0;
}

static bool get_name(struct rbuf *r, char out[SNAP_NAME_MAX + 1])
{
	uint8_t n = rbuf_u8(r);

	if (n > SNAP_NAME_MAX)
		return false;
	memset(out, 0, SNAP_NAME_MAX + 1);
	rbuf_bytes(r, out, n);
	return !r->bad && strlen(out) == n;
}

static int parse_record(struct rbuf *r, struct snap_record *rec, struct err *e)
{
	size_t begin = r->pos;
	uint32_t len, crc;
	const void *p;

	if (rbuf_u32(r) != REC_MAGIC || !get_name(r, rec->name) || !get_name(r, rec->id))
		return err_set(e, EINVAL, "state: no record at byte %zu", begin);
	rec->version = rbuf_u32(r);
	len = rbuf_u32(r);
	p = rbuf_view(r, len);
	if (!p)
		return err_set(e, EINVAL, "state: record '%s' is truncated", rec->name);
	rbuf_init(&rec->payload, p, len);
	len = (uint32_t)(r->pos - begin);
	crc = rbuf_u32(r);
	if (r->bad || crc != crc32c(0, r->data + begin, len))
		return err_set(e, EINVAL, "state: record '%s' is damaged (checksum)", rec->name);
	return 0;
}

int snap_parse(const void *data, size_t len, struct snap_file *out, struct err *e)
{
	struct snap_file f = { 0 };
	struct rbuf r;
	uint32_t version;
	char magic[8];
	int ret;

	rbuf_init(&r, data, len);
	rbuf_bytes(&r, magic, sizeof(magic));
	if (memcmp(magic, snap_magic, sizeof(magic)) != 0)
		return err_set(e, EINVAL, "state: not a snapshot's state file");
	version = rbuf_u32(&r);
	if (version != SNAP_FORMAT_VERSION)
		return err_set(e, EPROTONOSUPPORT,
			       "state: format version %u, this program reads %u: make the "
			       "template again",
			       version, SNAP_FORMAT_VERSION);
	if (rbuf_u32(&r) != 0)
		return err_set(e, EINVAL, "state: damaged header");
	f.rec = calloc(SNAP_RECORDS_MAX, sizeof(*f.rec));
	if (!f.rec)
		return err_set(e, ENOMEM, "state: out of memory");
	for (;;) {
		struct snap_record *rec = &f.rec[f.n];

		if (f.n == SNAP_RECORDS_MAX) {
			ret = err_set(e, EINVAL, "state: more than %d records", SNAP_RECORDS_MAX);
			break;
		}
		ret = parse_record(&r, rec, e);
		if (ret)
			break;
		if (!strcmp(rec->name, "end")) {
			if (rbuf_u32(&rec->payload) != f.n || !rbuf_done(&rec->payload) ||
			    !rbuf_done(&r))
				ret = err_set(e, EINVAL, "state: wrong end after %zu records", f.n);
			break;
		}
		f.n++;
	}
	if (ret) {
		free(f.rec);
		return ret;
	}
	*out = f;
	return 0;
}

int snap_open(int fd, struct snap_file *out, struct err *e)
{
	struct stat st;
	void *data;
	int ret;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "state: stat");
	if (st.st_size <= 0 || st.st_size > (off_t)SNAP_FILE_MAX)
		return err_set(e, EINVAL, "state: %lld bytes is no size for it",
			       (long long)st.st_size);
	data = malloc((size_t)st.st_size);
	if (!data)
		return err_set(e, ENOMEM, "state: out of memory");
	ret = fd_pread_full(fd, data, (size_t)st.st_size, 0);
	if (ret) {
		free(data);
		return err_sys(e, -ret, "state: reading");
	}
	ret = snap_parse(data, (size_t)st.st_size, out, e);
	if (ret) {
		free(data);
		return ret;
	}
	out->data = data;
	return 0;
}

void snap_close(struct snap_file *f)
{
	free(f->rec);
	free(f->data);
	*f = (struct snap_file){ 0 };
}

int snap_find(const struct snap_file *f, const char *name, const char *id, uint32_t version,
	      struct rbuf *out, struct err *e)
{
	for (size_t i = 0; i < f->n; i++) {
		if (strcmp(f->rec[i].name, name) != 0 || strcmp(f->rec[i].id, id) != 0)
			continue;
		if (f->rec[i].version != version)
			return err_set(e, EPROTONOSUPPORT,
				       "state: %s '%s' has version %u, this program reads %u: make "
				       "the template again",
				       name, id, f->rec[i].version, version);
		*out = f->rec[i].payload;
		return 0;
	}
	return err_set(e, ENOENT, "state: no record '%s' for '%s'", name, id);
}
