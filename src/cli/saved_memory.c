/* SPDX-License-Identifier: MIT */
/*
 * See saved_memory.h. By the indices in the state files: no RAM file is read.
 */
#include "cli/saved_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/pagecache.h"
#include "base/util.h"
#include "snapshot/format.h"

/* RAM from..to as layers [0, n) of `all` have it. Depth: RAM_LAYERS_MAX. */
static void count(const struct ram_index *ix, size_t n, size_t all, uint64_t from, uint64_t to,
		  struct saved_memory *out)
{
	const struct ram_index *own;

	if (!n) {
		out->zero += to - from;
		return;
	}
	own = &ix[n - 1];
	for (size_t k = ram_index_find(own, from); k < own->n && own->ext[k].offset < to; k++) {
		const struct ram_extent *x = &own->ext[k];
		uint64_t begin = MAX(from, x->offset), end = MIN(to, x->offset + x->len);

		if (begin > from)
			count(ix, n - 1, all, from, begin, out);
		if (x->zero)
			out->zero += end - begin;
		else if (n == all)
			out->stored += end - begin;
		else
			out->shared += end - begin;
		from = end;
	}
	if (from < to)
		count(ix, n - 1, all, from, to, out);
}

void saved_memory_count(const struct ram_index *ix, size_t n, struct saved_memory *out)
{
	out->size = ix[n - 1].size_bytes;
	out->stored = out->shared = out->zero = 0;
	count(ix, n, n, 0, out->size, out);
}

/* Pages of the file's offset..end in the page cache, in bytes. */
static int add_cached(int fd, uint64_t offset, uint64_t end, uint64_t *sum, struct err *e)
{
	uint64_t bytes = 0;
	int r = pagecache_bytes(fd, offset, end, &bytes);

	*sum += bytes;
	return r ? err_sys(e, -r, "RAM file: what of it is cached") : 0;
}

int saved_memory_resident(const struct ram_index *ix, int fd, struct saved_memory *out,
			  struct err *e)
{
	uint64_t sum = 0, size;
	struct stat st;
	int r = 0;

	if (fstat(fd, &st))
		return err_sys(e, errno, "RAM file");
	out->resident = 0;
	/* to others mincore says that everything is there */
	out->resident_known = !geteuid() || geteuid() == st.st_uid;
	if (!out->resident_known)
		return 0;
	size = (uint64_t)st.st_size;
	if (ix->encoding != RAM_RAW)
		r = add_cached(fd, 0, size, &sum, e);
	for (size_t i = 0; i < ix->n && ix->encoding == RAM_RAW && !r; i++)
		if (!ix->ext[i].zero)
			r = add_cached(fd, ix->ext[i].offset,
				       MIN(size, ix->ext[i].offset + ix->ext[i].len), &sum, e);
	if (!r)
		out->resident = sum;
	return r;
}

static int read_index(const struct template *t, struct ram_index *ix, struct err *e)
{
	cleanup_close int fd = template_file_open(t, TEMPLATE_STATE, e);
	struct snap_file f;
	struct rbuf rb;
	int r = fd < 0 ? fd : snap_open(fd, &f, e);

	if (r)
		return r;
	r = snap_find(&f, "ram", "", RAM_RECORD_VERSION, &rb, e);
	if (!r)
		r = ram_index_decode(&rb, ix, e);
	snap_close(&f);
	return r;
}

static int read_chain(const struct template *chain, size_t n, struct ram_index *ix, struct err *e)
{
	for (size_t i = 0; i < n; i++) {
		int r = read_index(&chain[i], &ix[i], e);

		if (!r && ix[i].size_bytes != ix[0].size_bytes)
			r = err_set(e, EBADMSG,
				    "it has another amount of RAM than what it stands on");
		if (r)
			return err_wrap(e, r, "%s %s", store_word(chain[i].store), chain[i].name);
	}
	return 0;
}

int saved_memory(const struct template *t, struct saved_memory *out, struct err *e)
{
	struct ram_index ix[TEMPLATE_CHAIN_MAX] = { 0 };
	struct template *chain = NULL;
	cleanup_close int fd = -1;
	size_t n = 0;
	int r = template_chain(t, &chain, &n, e);

	if (!r)
		r = read_chain(chain, n, ix, e);
	if (!r) {
		fd = template_file_open(t, TEMPLATE_RAM, e);
		r = MIN(fd, 0);
	}
	if (!r)
		r = saved_memory_resident(&ix[n - 1], fd, out, e);
	if (!r)
		saved_memory_count(ix, n, out);
	for (size_t i = 0; i < n; i++)
		ram_index_fini(&ix[i]);
	free(chain);
	return r;
}

json_t *saved_memory_json(const struct saved_memory *m)
{
	json_t *j = json_pack("{s:I, s:I, s:I, s:I}", "size_bytes", (json_int_t)m->size,
			      "stored_bytes", (json_int_t)m->stored, "shared_bytes",
			      (json_int_t)m->shared, "zero_bytes", (json_int_t)m->zero);

	if (j && m->resident_known)
		json_object_set_new(j, "resident_bytes", json_integer((json_int_t)m->resident));
	return j;
}
