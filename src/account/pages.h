/* SPDX-License-Identifier: MIT */
/*
 * How often each physical page was seen, by its frame number: two bytes a page, in chunks that are
 * made when one of their pages is seen first. Private to src/account. One thread.
 */
#ifndef CLONE_ACCOUNT_PAGES_H
#define CLONE_ACCOUNT_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#define PAGES_PFN_MAX (1ull << 36) /* 256 TiB: what says more is no frame number */
#define PAGES_COUNT_MAX UINT16_MAX /* a page that is seen more often stays at this */

struct pages;

struct pages *pages_create(void); /* NULL: no memory */
void pages_destroy(struct pages *p);
/* Sees pfn once more; how often that makes, or -ENOMEM, -ERANGE (above PAGES_PFN_MAX). */
int pages_see(struct pages *p, uint64_t pfn);
/* 0 of a page that was never seen. */
unsigned int pages_seen(const struct pages *p, uint64_t pfn);

#define PAGES_BLOCK                                                                                \
	64u /* frames whose flags are asked for at once: the kernel needs 50 ns for each */
/* Is the page merged (KSM)? Asks `flags` for its block's /proc/kpageflags words, once a block; what
 * it cannot tell is not. Only of a page that was seen. */
bool pages_merged(struct pages *p, uint64_t pfn,
		  int (*flags)(void *arg, uint64_t pfn, uint64_t *words, unsigned int n),
		  void *arg);

#endif
