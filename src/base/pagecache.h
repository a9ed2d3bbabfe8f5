/* SPDX-License-Identifier: MIT */
/*
 * How much of a file is in the page cache: for those who measure memory (src/account, src/cli).
 * Any thread.
 */
#ifndef CLONE_BASE_PAGECACHE_H
#define CLONE_BASE_PAGECACHE_H

#include <stdint.h>

/*
 * Bytes, in whole pages, of the file's from..to (from whole, to at most its size) that are in the
 * page cache. By cachestat(2), which takes as long as there are pages; before Linux 6.5 by
 * mincore(2): 50 ns for each page of the range, so the caller bounds that. 0 or -errno; to those
 * who may not write the file the kernel may say that all is there.
 */
int pagecache_bytes(int fd, uint64_t from, uint64_t to, uint64_t *bytes);

#endif
