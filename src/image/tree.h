/* SPDX-License-Identifier: MIT */
/*
 * Files and directory trees as the image code needs them: read a small file, write one, make
 * parents, remove and link whole trees, hash. Privileged side only; blocks; any one thread.
 */
#ifndef CLONE_IMAGE_TREE_H
#define CLONE_IMAGE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* A path out of pieces, checked for length: -ENAMETOOLONG. */
int tree_path(char *buf, size_t n, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/*
 * Reads a regular file whole as a string into *out (freed by the caller). -ENOENT and the like,
 * -EFBIG beyond max bytes, -EBADMSG with a NUL byte in it.
 */
int tree_read_text(const char *path, size_t max, char **out, struct err *e);

/* Makes path a directory, and its parents. An existing one is fine. */
int tree_mkdirs(const char *path, mode_t mode, struct err *e);

/*
 * Each makes one object under root, with its parents (mode 0755) if they are missing, in place of
 * whatever was there; root belongs to nobody else while this runs.
 */
int tree_write(const char *root, const char *path, mode_t mode, const void *data, size_t n,
	       struct err *e);
int tree_symlink(const char *root, const char *path, const char *target, struct err *e);

/* Copies one small regular file. to must not exist. */
int tree_copy_file(const char *from, const char *to, mode_t mode, struct err *e);

/*
 * Makes a tree like `from` at `to` (which must not exist): directories, symbolic links, and regular
 * files as hard links if `link` and the file system can, else as copies. Other kinds are refused.
 */
int tree_clone(const char *from, const char *to, bool link, struct err *e);

/* Removes path and everything below it, on its file system only. Absent is fine. */
int tree_remove(const char *path, struct err *e);

/* Allocated bytes of everything below path. */
int tree_disk_usage(const char *path, uint64_t *bytes, struct err *e);

/* SHA-256 of a file's content as lower-case hex. */
int tree_sha256(const char *path, char hex[65], struct err *e);

#endif
