/* SPDX-License-Identifier: MIT */
/*
 * See pagecache.h.
 */
#include "base/pagecache.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"

#define PAGE 4096u
#define WINDOW MIB(64) /* at once: a vector of 16 KiB */
#ifndef SYS_cachestat
#define SYS_cachestat 451 /* linux/mman.h has its structs from 6.5 on */
#endif

static int by_cachestat(int fd, uint64_t from, uint64_t to, uint64_t *bytes)
{
	struct {
		uint64_t off, len;
	} range = { from, to - from };
	struct {
		uint64_t cached, dirty, writeback, evicted, recently_evicted;
	} stat = { 0 };

	if (syscall(SYS_cachestat, fd, &range, &stat, 0))
		return -errno;
	return mul_u64(stat.cached, PAGE, bytes) ? 0 : -EOVERFLOW;
}

static int by_mincore(int fd, uint64_t from, uint64_t to, uint64_t *bytes)
{
	cleanup_free unsigned char *vec = malloc(WINDOW / PAGE);
	uint64_t pages = 0;

	if (!vec)
		return -ENOMEM;
	for (uint64_t at = from; at < to; at += WINDOW) {
		size_t len = (size_t)MIN(WINDOW, to - at);
		void *map = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, (off_t)at);
		int r;

		if (map == MAP_FAILED)
			return -errno;
		r = mincore(map, len, vec) ? -errno : 0;
		munmap(map, len);
		if (r)
			return r;
		for (size_t i = 0; i < (len + PAGE - 1) / PAGE; i++)
			pages += vec[i] & 1;
	}
	*bytes = pages * PAGE;
	return 0;
}

int pagecache_bytes(int fd, uint64_t from, uint64_t to, uint64_t *bytes)
{
	int r;

	if (from >= to) {
		*bytes = 0;
		return 0;
	}
	if (from % PAGE || to > INT64_MAX - WINDOW)
		return -EINVAL;
	r = by_cachestat(fd, from, to, bytes);
	return r == -ENOSYS || r == -EOPNOTSUPP ? by_mincore(fd, from, to, bytes) : r;
}
