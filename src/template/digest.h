/* SPDX-License-Identifier: MIT */
/*
 * Digests of files that are mostly holes. Any thread; blocks.
 */
#ifndef CLONE_TEMPLATE_DIGEST_H
#define CLONE_TEMPLATE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define DIGEST_HEX 64 /* SHA-256, lower case; buffers have room for a NUL too */

/*
 * SHA-256 over a file's meaning, not its layout: for each 64 KiB block, counted from 0, that is not
 * all zero, its index and its bytes (the last one padded with zeros); then the size. Indexes and
 * size are 8 bytes, little-endian. Two files that read the same have the same digest, whatever
 * holes they have, and holes cost nothing. Reads with pread. -errno.
 */
int digest_sparse(int fd, char hex[DIGEST_HEX + 1], struct err *e);
/* Plain SHA-256 of all bytes of a file, as sha256sum(1). */
int digest_plain(int fd, char hex[DIGEST_HEX + 1], struct err *e);
void digest_bytes(const void *p, size_t n, char hex[DIGEST_HEX + 1]);

/* true for exactly 64 lower-case hex digits. */
bool digest_ok(const char *hex);

#endif
