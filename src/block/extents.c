/* SPDX-License-Identifier: MIT */
/*
 * Free runs of blocks: see extents.h. Used by the overlay and by the writer of qcow2.
 */
#include "block/extents.h"

#include <stdlib.h>

#define LOOKS 8 /* a look through thousands would cost more than it saves */

void extents_fini(struct extents *e)
{
	free(e->x);
	*e = (struct extents){ 0 };
}

void extents_clear(struct extents *e)
{
	e->nr = 0;
}

void extents_put(struct extents *e, uint64_t start, uint64_t n)
{
	if (!n)
		return;
	if (e->nr && e->x[e->nr - 1].start + e->x[e->nr - 1].n == start) {
		e->x[e->nr - 1].n += n;
		return;
	}
	if (e->nr == e->cap) {
		size_t cap = e->cap ? e->cap * 2 : 64;
		void *p = reallocarray(e->x, cap, sizeof(*e->x));

		if (!p)
			return;
		e->x = p;
		e->cap = cap;
	}
	e->x[e->nr++] = (struct extent){ start, n };
}

bool extents_take(struct extents *e, uint64_t n, uint64_t *start)
{
	for (size_t k = e->nr; k > 0 && e->nr - k < LOOKS; k--) {
		struct extent *x = &e->x[k - 1];

		if (x->n < n)
			continue;
		*start = x->start;
		x->start += n;
		x->n -= n;
		if (!x->n)
			*x = e->x[--e->nr];
		return true;
	}
	return false;
}
