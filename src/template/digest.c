/* SPDX-License-Identifier: MIT */
/*
 * SHA-256 of files and bytes, by nettle: no table of algorithms to load at each start. See
 * digest.h.
 */
#include "template/digest.h"

#include <errno.h>
#include <nettle/sha2.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"

#define BLOCK 65536u
#define READ_BYTES (1u << 20)

static void finish(struct sha256_ctx *md, char hex[DIGEST_HEX + 1])
{
	uint8_t out[SHA256_DIGEST_SIZE];

	sha256_digest(md, sizeof(out), out);
	for (size_t i = 0; i < sizeof(out); i++)
		snprintf(hex + 2 * i, 3, "%02x", out[i]);
}

static void hash_u64(struct sha256_ctx *md, uint64_t v)
{
	le64 b = le64_put(v);

	sha256_update(md, sizeof(b), (const uint8_t *)&b);
}

/* [off, off + n) of the file, n a multiple of BLOCK but for the last; buf has READ_BYTES. */
static int add_range(struct sha256_ctx *md, int fd, uint64_t off, uint64_t end, uint8_t *buf,
		     struct err *e)
{
	while (off < end) {
		size_t n = (size_t)MIN(end - off, (uint64_t)READ_BYTES);
		size_t padded = ROUND_UP(n, BLOCK);
		int r = fd_pread_full(fd, buf, n, off);

		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		memset(buf + n, 0, padded - n);
		for (size_t at = 0; at < padded; at += BLOCK) {
			if (bytes_are_zero(buf + at, BLOCK))
				continue;
			hash_u64(md, (off + at) / BLOCK);
			sha256_update(md, BLOCK, buf + at);
		}
		off += n;
	}
	return 0;
}

static int sparse(struct sha256_ctx *md, int fd, uint64_t size, uint8_t *buf, struct err *e)
{
	uint64_t off = 0;

	while (off < size) {
		off_t data = lseek(fd, (off_t)off, SEEK_DATA);
		off_t hole;
		uint64_t end;
		int r;

		if (data < 0 && errno == ENXIO)
			break; /* only a hole is left */
		if (data < 0)
			return err_sys(e, errno, "seek");
		hole = lseek(fd, data, SEEK_HOLE);
		if (hole < 0)
			return err_sys(e, errno, "seek");
		off = MAX(off, ROUND_DOWN((uint64_t)data, BLOCK));
		end = MIN(size, ROUND_UP((uint64_t)hole, BLOCK));
		r = add_range(md, fd, off, end, buf, e);
		if (r)
			return r;
		off = end;
	}
	hash_u64(md, size);
	return 0;
}

static int plain(struct sha256_ctx *md, int fd, uint64_t size, uint8_t *buf, struct err *e)
{
	for (uint64_t off = 0; off < size;) {
		size_t n = (size_t)MIN(size - off, (uint64_t)READ_BYTES);
		int r = fd_pread_full(fd, buf, n, off);

		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		sha256_update(md, n, buf);
		off += n;
	}
	return 0;
}

static int digest_file(int fd, char hex[DIGEST_HEX + 1], struct err *e,
		       int (*fn)(struct sha256_ctx *, int, uint64_t, uint8_t *, struct err *))
{
	cleanup_free uint8_t *buf = malloc(READ_BYTES);
	struct sha256_ctx md;
	struct stat st;
	int r;

	if (!buf)
		return err_set(e, ENOMEM, "sha256: out of memory");
	if (fstat(fd, &st))
		return err_sys(e, errno, "stat");
	sha256_init(&md);
	r = fn(&md, fd, (uint64_t)st.st_size, buf, e);
	if (!r)
		finish(&md, hex);
	return r;
}

int digest_sparse(int fd, char hex[DIGEST_HEX + 1], struct err *e)
{
	return digest_file(fd, hex, e, sparse);
}

int digest_plain(int fd, char hex[DIGEST_HEX + 1], struct err *e)
{
	return digest_file(fd, hex, e, plain);
}

void digest_bytes(const void *p, size_t n, char hex[DIGEST_HEX + 1])
{
	struct sha256_ctx md;

	sha256_init(&md);
	sha256_update(&md, n, p);
	finish(&md, hex);
}

bool digest_ok(const char *hex)
{
	return strlen(hex) == DIGEST_HEX && strspn(hex, "0123456789abcdef") == DIGEST_HEX;
}
