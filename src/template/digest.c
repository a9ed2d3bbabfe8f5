/* SPDX-License-Identifier: MIT */
/*
 * SHA-256 of files and bytes, by OpenSSL. See digest.h.
 */
#include "template/digest.h"

#include <errno.h>
#include <openssl/evp.h>
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

static int finish(EVP_MD_CTX *md, char hex[DIGEST_HEX + 1], struct err *e)
{
	unsigned char out[EVP_MAX_MD_SIZE];
	unsigned int n = 0;

	if (EVP_DigestFinal_ex(md, out, &n) != 1 || n * 2 != DIGEST_HEX)
		return err_set(e, EIO, "sha256 failed");
	for (unsigned int i = 0; i < n; i++)
		snprintf(hex + 2 * i, 3, "%02x", out[i]);
	return 0;
}

static EVP_MD_CTX *begin(struct err *e)
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();

	if (md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1)
		return md;
	EVP_MD_CTX_free(md);
	err_set(e, ENOMEM, "sha256: out of memory");
	return NULL;
}

static void hash_u64(EVP_MD_CTX *md, uint64_t v)
{
	le64 b = le64_put(v);

	EVP_DigestUpdate(md, &b, sizeof(b));
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && !memcmp(p, p + 1, n - 1));
}

/* [off, off + n) of the file, n a multiple of BLOCK but for the last; buf has READ_BYTES. */
static int add_range(EVP_MD_CTX *md, int fd, uint64_t off, uint64_t end, uint8_t *buf, struct err *e)
{
	while (off < end) {
		size_t n = (size_t)MIN(end - off, (uint64_t)READ_BYTES);
		size_t padded = ROUND_UP(n, BLOCK);
		int r = fd_pread_full(fd, buf, n, off);

		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		memset(buf + n, 0, padded - n);
		for (size_t at = 0; at < padded; at += BLOCK) {
			if (all_zero(buf + at, BLOCK))
				continue;
			hash_u64(md, (off + at) / BLOCK);
			EVP_DigestUpdate(md, buf + at, BLOCK);
		}
		off += n;
	}
	return 0;
}

static int sparse(EVP_MD_CTX *md, int fd, uint64_t size, uint8_t *buf, struct err *e)
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

static int plain(EVP_MD_CTX *md, int fd, uint64_t size, uint8_t *buf, struct err *e)
{
	for (uint64_t off = 0; off < size;) {
		size_t n = (size_t)MIN(size - off, (uint64_t)READ_BYTES);
		int r = fd_pread_full(fd, buf, n, off);

		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		EVP_DigestUpdate(md, buf, n);
		off += n;
	}
	return 0;
}

static int digest_file(int fd, char hex[DIGEST_HEX + 1], struct err *e,
		       int (*fn)(EVP_MD_CTX *, int, uint64_t, uint8_t *, struct err *))
{
	cleanup_free uint8_t *buf = malloc(READ_BYTES);
	EVP_MD_CTX *md;
	struct stat st;
	int r;

	if (!buf)
		return err_set(e, ENOMEM, "sha256: out of memory");
	if (fstat(fd, &st))
		return err_sys(e, errno, "stat");
	md = begin(e);
	if (!md)
		return -ENOMEM;
	r = fn(md, fd, (uint64_t)st.st_size, buf, e);
	if (!r)
		r = finish(md, hex, e);
	EVP_MD_CTX_free(md);
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

int digest_bytes(const void *p, size_t n, char hex[DIGEST_HEX + 1], struct err *e)
{
	EVP_MD_CTX *md = begin(e);
	int r;

	if (!md)
		return -ENOMEM;
	EVP_DigestUpdate(md, p, n);
	r = finish(md, hex, e);
	EVP_MD_CTX_free(md);
	return r;
}

bool digest_ok(const char *hex)
{
	return strlen(hex) == DIGEST_HEX && strspn(hex, "0123456789abcdef") == DIGEST_HEX;
}
