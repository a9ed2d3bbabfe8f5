/* SPDX-License-Identifier: MIT */
/*
 * The smallest helpers everything else may use: overflow-checked sums, BUG_ON, and the cleanup
 * attributes that make error paths leak nothing. Header only, any thread.
 */
#ifndef CLONE_BASE_UTIL_H
#define CLONE_BASE_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))
/* Arguments are evaluated twice: no calls in them. */
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define ROUND_UP(x, to) ((((x) + (to)-1) / (to)) * (to))
#define ROUND_DOWN(x, to) (((x) / (to)) * (to))

#define KIB(n) ((uint64_t)(n) << 10)
#define MIB(n) ((uint64_t)(n) << 20)
#define GIB(n) ((uint64_t)(n) << 30)

/* Our own mistakes end the process with a place to look at; never compiled out. */
_Noreturn void bug_at(const char *file, int line, const char *what);
#define BUG_ON(cond)                                                                               \
	do {                                                                                       \
		if (__builtin_expect(!!(cond), 0))                                                 \
			bug_at(__FILE__, __LINE__, #cond);                                         \
	} while (0)

/* true when [off, off+len) lies inside [0, size), without overflow. */
static inline bool range_ok(uint64_t off, uint64_t len, uint64_t size)
{
	return off <= size && len <= size - off;
}

/* Sum and product that say so when they overflow; *out is unchanged then. */
static inline bool add_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t r;

	if (__builtin_add_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
	uint64_t r;

	if (__builtin_mul_overflow(a, b, &r))
		return false;
	*out = r;
	return true;
}

/* Are all n bytes zero? True of none. */
static inline bool bytes_are_zero(const void *p, size_t n)
{
	const uint8_t *b = p;

	return !n || (!b[0] && !memcmp(b, b + 1, n - 1));
}

static inline void cleanup_free_p(void *p)
{
	free(*(void **)p);
}
#define cleanup_free __attribute__((cleanup(cleanup_free_p)))

static inline void cleanup_close_p(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}
#define cleanup_close __attribute__((cleanup(cleanup_close_p)))

/* Hands a cleanup_close fd to its new owner. */
static inline int take_fd(int *fd)
{
	int r = *fd;

	*fd = -1;
	return r;
}

static inline void *take_ptr_p(void *pp)
{
	void *r = *(void **)pp;

	*(void **)pp = NULL;
	return r;
}
/* Hands a cleanup_free pointer to its new owner. */
#define take_ptr(p) ((__typeof__(p))take_ptr_p(&(p)))

#endif
