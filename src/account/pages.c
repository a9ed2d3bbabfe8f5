/* SPDX-License-Identifier: MIT */
/*
 * Counters by frame number. See pages.h. A flat array would be as long as the highest frame, which
 * on hosts with memory at high addresses is far more than there is.
 */
#include "account/pages.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

#define CHUNK 65536u
#define KPF_KSM (1ull << 21) /* linux/kernel-page-flags.h */

struct chunk {
	uint16_t seen[CHUNK];
	uint64_t asked[CHUNK / PAGES_BLOCK / 64]; /* a bit for each block */
	uint64_t merged[CHUNK / 64];
};

struct pages {
	struct chunk **chunks;
	uint64_t n; /* of pointers */
};

struct pages *pages_create(void)
{
	return calloc(1, sizeof(struct pages));
}

void pages_destroy(struct pages *p)
{
	if (!p)
		return;
	for (uint64_t i = 0; i < p->n; i++)
		free(p->chunks[i]);
	free(p->chunks);
	free(p);
}

static struct chunk *chunk_of(const struct pages *p, uint64_t pfn)
{
	return pfn / CHUNK < p->n ? p->chunks[pfn / CHUNK] : NULL;
}

static struct chunk *make_chunk(struct pages *p, uint64_t at)
{
	if (at >= p->n) {
		uint64_t n = MAX(at + 1, 2 * p->n);
		struct chunk **v = realloc(p->chunks, n * sizeof(struct chunk *));

		if (!v)
			return NULL;
		memset(v + p->n, 0, (n - p->n) * sizeof(struct chunk *));
		p->chunks = v;
		p->n = n;
	}
	p->chunks[at] = calloc(1, sizeof(struct chunk));
	return p->chunks[at];
}

int pages_see(struct pages *p, uint64_t pfn)
{
	struct chunk *c = chunk_of(p, pfn);
	uint16_t *seen;

	if (pfn >= PAGES_PFN_MAX)
		return -ERANGE;
	if (!c)
		c = make_chunk(p, pfn / CHUNK);
	if (!c)
		return -ENOMEM;
	seen = &c->seen[pfn % CHUNK];
	if (*seen < PAGES_COUNT_MAX)
		++*seen;
	return *seen;
}

unsigned int pages_seen(const struct pages *p, uint64_t pfn)
{
	const struct chunk *c = chunk_of(p, pfn);

	return c ? c->seen[pfn % CHUNK] : 0;
}

bool pages_merged(struct pages *p, uint64_t pfn,
		  int (*flags)(void *arg, uint64_t pfn, uint64_t *words, unsigned int n), void *arg)
{
	struct chunk *c = chunk_of(p, pfn);
	uint32_t at = (uint32_t)(pfn % CHUNK), block = at / PAGES_BLOCK;
	uint64_t words[PAGES_BLOCK];

	if (!c)
		return false;
	if (!(c->asked[block / 64] & 1ull << block % 64)) {
		c->asked[block / 64] |= 1ull << block % 64;
		if (flags(arg, pfn - at % PAGES_BLOCK, words, PAGES_BLOCK))
			memset(words, 0, sizeof(words));
		for (uint32_t i = 0; i < PAGES_BLOCK; i++) {
			uint32_t bit = block * PAGES_BLOCK + i;

			if (words[i] & KPF_KSM)
				c->merged[bit / 64] |= 1ull << bit % 64;
		}
	}
	return c->merged[at / 64] & 1ull << at % 64;
}
