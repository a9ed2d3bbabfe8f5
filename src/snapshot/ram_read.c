/* SPDX-License-Identifier: MIT */
/*
 * Reading RAM files, alone and as a chain. See ram.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "base/fd.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"

/* Which window each frame is of, and where it begins. */
static int index_frames(struct ram_layer *l, struct err *e)
{
	const struct ram_index *ix = &l->ix;
	uint64_t at = 0, next = 0;
	size_t k = 0;

	l->window = calloc(ix->nr_frames + 1, sizeof(*l->window));
	l->at = calloc(ix->nr_frames + 1, sizeof(*l->at));
	l->packed = malloc(ZSTD_COMPRESSBOUND(RAM_WINDOW));
	l->plain = malloc(RAM_WINDOW);
	if (!l->window || !l->at || !l->packed || !l->plain)
		return err_set(e, ENOMEM, "RAM file: out of memory");
	for (size_t i = 0; i < ix->n; i++) {
		const struct ram_extent *x = &ix->ext[i];
		uint64_t w = MAX(next, x->offset / RAM_WINDOW);

		for (; !x->zero && w * RAM_WINDOW < x->offset + x->len; w++) {
			l->window[k] = w;
			l->at[k] = at;
			at += ix->frames[k++];
			next = w + 1;
		}
	}
	BUG_ON(k != ix->nr_frames); /* ram_index_decode counted */
	l->at[k] = at;
	return 0;
}

static int check_length(const struct ram_layer *l, struct err *e)
{
	const struct ram_index *ix = &l->ix;
	uint64_t need = 0;
	struct stat st;

	if (fstat(l->fd, &st) < 0)
		return err_sys(e, errno, "RAM file");
	if (ix->encoding == RAM_ZSTD)
		need = l->at[ix->nr_frames];
	else
		for (size_t i = 0; i < ix->n; i++)
			if (!ix->ext[i].zero)
				need = ix->ext[i].offset + ix->ext[i].len;
	if ((uint64_t)st.st_size < need)
		return err_set(e, EINVAL, "RAM file is truncated: %lld bytes, needs %llu",
			       (long long)st.st_size, (unsigned long long)need);
	return 0;
}

int ram_layer_open(struct ram_layer *l, struct ram_index *ix, int fd, struct err *e)
{
	int ret = 0;

	*l = (struct ram_layer){ .ix = *ix, .fd = fd };
	*ix = (struct ram_index){ 0 };
	if (l->ix.encoding == RAM_ZSTD)
		ret = index_frames(l, e);
	if (!ret)
		ret = check_length(l, e);
	if (ret)
		ram_layer_close(l);
	return ret;
}

void ram_layer_close(struct ram_layer *l)
{
	ram_index_fini(&l->ix);
	if (l->fd >= 0)
		close(l->fd);
	free(l->window);
	free(l->at);
	free(l->packed);
	free(l->plain);
	*l = (struct ram_layer){ .fd = -1 };
}

/* The frame of window number w unpacked into l->plain, which must hold exactly n bytes. */
static int unpack(struct ram_layer *l, uint64_t w, size_t n, struct err *e)
{
	size_t lo = 0, hi = l->ix.nr_frames, got;
	int ret;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (l->window[mid] >= w)
			hi = mid;
		else
			lo = mid + 1;
	}
	BUG_ON(lo == l->ix.nr_frames || l->window[lo] != w);
	ret = fd_pread_full(l->fd, l->packed, l->ix.frames[lo], l->at[lo]);
	if (ret)
		return err_sys(e, -ret, "RAM file: reading frame %zu", lo);
	got = ZSTD_decompress(l->plain, RAM_WINDOW, l->packed, l->ix.frames[lo]);
	if (ZSTD_isError(got) || got != n)
		return err_set(e, EINVAL, "RAM frame %zu is damaged: %s", lo,
			       ZSTD_isError(got) ? ZSTD_getErrorName(got) : "its length is wrong");
	return 0;
}

/* The part of an extent that lies in [from, to). */
static uint64_t clip(const struct ram_extent *x, uint64_t from, uint64_t to, uint64_t *offset)
{
	*offset = MAX(x->offset, from);
	return MIN(x->offset + x->len, to) - *offset;
}

int ram_layer_apply(struct ram_layer *l, uint64_t window, uint8_t *buf, struct err *e)
{
	const struct ram_index *ix = &l->ix;
	uint64_t end = MIN(window + RAM_WINDOW, ix->size_bytes), off, n;
	size_t first = ram_index_find(ix, window), held = 0;
	int ret = 0;

	BUG_ON(window % RAM_WINDOW);
	if (ix->encoding == RAM_ZSTD) {
		for (size_t i = first; i < ix->n && ix->ext[i].offset < end; i++)
			if (!ix->ext[i].zero)
				held += clip(&ix->ext[i], window, end, &off);
		if (held)
			ret = unpack(l, window / RAM_WINDOW, held, e);
	}
	held = 0;
	for (size_t i = first; i < ix->n && ix->ext[i].offset < end && !ret; i++) {
		n = clip(&ix->ext[i], window, end, &off);
		if (ix->ext[i].zero) {
			memset(buf + (off - window), 0, n);
		} else if (ix->encoding == RAM_ZSTD) {
			memcpy(buf + (off - window), l->plain + held, n);
			held += n;
		} else {
			ret = fd_pread_full(l->fd, buf + (off - window), n, off);
			if (ret)
				ret = err_sys(e, -ret, "RAM file: reading %llu bytes at %llu",
					      (unsigned long long)n, (unsigned long long)off);
		}
	}
	return ret;
}

int ram_chain_read(struct ram_layer *l, size_t n, uint64_t window, uint8_t *buf, struct err *e)
{
	int ret = 0;

	memset(buf, 0, RAM_WINDOW);
	for (size_t i = 0; i < n && !ret; i++)
		ret = ram_layer_apply(&l[i], window, buf, e);
	return ret;
}
