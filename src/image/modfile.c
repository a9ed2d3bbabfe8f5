/* SPDX-License-Identifier: MIT */
/*
 * Reads one module file and unpacks it (xz, zstd, gzip) within a bound, so that a small file made
 * for it cannot fill memory. Called by initrd.c; any one thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <lzma.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include "base/fd.h"
#include "base/util.h"
#include "image/modules.h"

#define UNPACK_CHUNK KIB(256)
#define UNPACK_MEMORY MIB(128) /* a decoder's own; kernel builds use windows of up to 8 MiB */

/*
 * Room for the next piece of output, 0 < *n <= UNPACK_CHUNK; gives back what the last piece did not
 * use. NULL when the module exceeds its limit.
 */
static void *next_room(struct wbuf *out, size_t start, size_t unused, size_t *n)
{
	out->len -= unused;
	*n = MIN(UNPACK_CHUNK, MODULE_MAX_BYTES - (out->len - start));
	return *n ? wbuf_reserve(out, *n) : NULL;
}

static int too_big(const char *path, struct err *e)
{
	return err_set(e, EBADMSG, "%s is larger than %u MiB unpacked", path,
		       (unsigned)(MODULE_MAX_BYTES >> 20));
}

static int unpack_xz(const char *path, const uint8_t *in, size_t n, struct wbuf *out, struct err *e)
{
	lzma_stream s = LZMA_STREAM_INIT;
	size_t start = out->len, room;
	lzma_ret lr = lzma_stream_decoder(&s, UNPACK_MEMORY, LZMA_CONCATENATED);
	int r = 0;

	if (lr != LZMA_OK)
		return err_sys(e, ENOMEM, "unpack %s", path);
	s.next_in = in;
	s.avail_in = n;
	while (lr == LZMA_OK) {
		s.next_out = next_room(out, start, s.avail_out, &room);
		if (!s.next_out) {
			r = too_big(path, e);
			break;
		}
		s.avail_out = room;
		lr = lzma_code(&s, LZMA_FINISH);
	}
	if (!r) {
		out->len -= s.avail_out;
		if (lr != LZMA_STREAM_END)
			r = err_set(e, EBADMSG, "%s is damaged (xz error %d)", path, (int)lr);
	}
	lzma_end(&s);
	return r;
}

static int unpack_zstd(const char *path, const uint8_t *in, size_t n, struct wbuf *out,
		       struct err *e)
{
	ZSTD_DCtx *d = ZSTD_createDCtx();
	ZSTD_inBuffer src = { .src = in, .size = n };
	ZSTD_outBuffer dst = { 0 };
	size_t start = out->len, left = 1;
	int r = 0;

	if (!d)
		return err_sys(e, ENOMEM, "unpack %s", path);
	ZSTD_DCtx_setParameter(d, ZSTD_d_windowLogMax, 27);
	/* A frame that has not ended may still have output when all input is in. */
	while (!r && (src.pos < src.size || (left && dst.pos == dst.size))) {
		dst.dst = next_room(out, start, dst.size - dst.pos, &dst.size);
		dst.pos = 0;
		if (!dst.dst)
			r = too_big(path, e);
		else if (ZSTD_isError(left = ZSTD_decompressStream(d, &dst, &src)))
			r = err_set(e, EBADMSG, "%s is damaged (zstd: %s)", path,
				    ZSTD_getErrorName(left));
	}
	if (!r) {
		out->len -= dst.size - dst.pos;
		if (left)
			r = err_set(e, EBADMSG, "%s is damaged (zstd frame cut short)", path);
	}
	ZSTD_freeDCtx(d);
	return r;
}

static int unpack_gzip(const char *path, const uint8_t *in, size_t n, struct wbuf *out,
		       struct err *e)
{
	z_stream s = { .next_in = (Bytef *)(uintptr_t)in, .avail_in = (uInt)n };
	size_t start = out->len, room;
	int zr = inflateInit2(&s, 15 + 16), r = 0; /* 16: a gzip header is expected */

	if (zr != Z_OK)
		return err_sys(e, ENOMEM, "unpack %s", path);
	while (zr == Z_OK) {
		s.next_out = next_room(out, start, s.avail_out, &room);
		if (!s.next_out) {
			r = too_big(path, e);
			break;
		}
		s.avail_out = (uInt)room;
		zr = inflate(&s, Z_NO_FLUSH);
	}
	if (!r) {
		out->len -= s.avail_out;
		if (zr != Z_STREAM_END)
			r = err_set(e, EBADMSG, "%s is damaged (gzip error %d)", path, zr);
	}
	inflateEnd(&s);
	return r;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), m = strlen(end);

	return n >= m && !strcmp(s + n - m, end);
}

static int unpack(const char *path, const uint8_t *in, size_t n, struct wbuf *out, struct err *e)
{
	if (ends_with(path, ".xz"))
		return unpack_xz(path, in, n, out, e);
	if (ends_with(path, ".zst"))
		return unpack_zstd(path, in, n, out, e);
	if (ends_with(path, ".gz"))
		return unpack_gzip(path, in, n, out, e);
	wbuf_bytes(out, in, n);
	return 0;
}

int module_read(const char *dir, const char *path, struct wbuf *out, struct err *e)
{
	cleanup_free char *full = NULL;
	cleanup_free uint8_t *in = NULL;
	cleanup_close int fd = -1;
	size_t start = out->len;
	struct stat st;
	int r;

	if (asprintf(&full, "%s/%s", dir, path) < 0) {
		full = NULL;
		return err_sys(e, ENOMEM, "%s", path);
	}
	fd = open(full, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", full);
	if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size > MODULE_MAX_BYTES)
		return err_set(e, EBADMSG, "%s is no regular file of at most %u MiB", full,
			       (unsigned)(MODULE_MAX_BYTES >> 20));
	in = malloc((size_t)st.st_size + 1);
	if (!in)
		return err_sys(e, ENOMEM, "%s", full);
	r = fd_read_full(fd, in, (size_t)st.st_size);
	if (r)
		return err_sys(e, -r, "read %s", full);
	r = unpack(full, in, (size_t)st.st_size, out, e);
	if (!r && out->bad)
		r = err_set(e, EFBIG, "%s: no room left", full);
	if (!r && (out->len - start < 64 || memcmp(out->data + start, "\177ELF", 4)))
		r = err_set(e, EBADMSG, "%s is no ELF object", full);
	if (r)
		out->len = start;
	return r;
}
