/* SPDX-License-Identifier: MIT */
/*
 * The overlay's block map, called by the request engine (request.c), by the disk (blk.c) and by the
 * layer file (layer.c), on main.
 *
 * A two-level table: a directory of leaves, 512 entries (2 MiB of disk, in units of 4 KiB) each. A
 * leaf exists once a block in it was written; a leaf that is zero throughout is a mark in the
 * directory, so that a guest that discards a whole 16 TiB disk costs us the 64 MiB directory and no
 * more. Everything is private memory: fork(2) gives the child a copy of its own, and of the files
 * only descriptors are shared.
 *
 * An entry changes only when the request that changes it is alone on the block (blk.h), so whoever
 * reads an entry may use it until its request ends: files are never closed under a reader, and
 * blocks of the current file are never reused under a writer.
 */
#include "block/overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"

#define LEAF 512u

/* Never dereferenced: a mark. */
static uint64_t *all_zero(void)
{
	static const uint64_t mark = ENT_ZERO;

	return (uint64_t *)(uintptr_t)&mark;
}

int overlay_init(struct overlay *o, uint64_t nr_blocks, uint64_t base_blocks, struct err *e)
{
	*o = (struct overlay){ .nr_blocks = nr_blocks,
			       .base_blocks = base_blocks,
			       .cur = NO_LAYER };
	o->nr_leaves = (size_t)((nr_blocks + LEAF - 1) / LEAF);
	o->dir = calloc(o->nr_leaves, sizeof(*o->dir)); /* pages appear as they are used */
	if (!o->dir)
		return err_set(e, ENOMEM, "no memory for a block map of %zu leaves", o->nr_leaves);
	return 0;
}

static void close_layer(struct overlay *o, unsigned int i)
{
	struct layer *l = &o->layers[i];

	if (o->fds)
		fdtab_del(o->fds, l->fd);
	close(l->fd);
	l->fd = -1;
	o->nr_layers--;
}

void overlay_fini(struct overlay *o)
{
	for (size_t i = 0; o->dir && i < o->nr_leaves; i++)
		if (o->dir[i] && o->dir[i] != all_zero())
			free(o->dir[i]);
	free(o->dir);
	for (unsigned int i = 0; i < o->cap_layers; i++)
		if (o->layers[i].fd >= 0)
			close_layer(o, i);
	free(o->layers);
	extents_fini(&o->free);
	*o = (struct overlay){ .cur = NO_LAYER };
}

/* Beyond the base, zero is what the base gives. */
static uint64_t zero_entry(const struct overlay *o, uint64_t block)
{
	return block >= o->base_blocks ? ENT_BASE : ENT_ZERO;
}

uint64_t overlay_get(const struct overlay *o, uint64_t block)
{
	const uint64_t *leaf;

	BUG_ON(block >= o->nr_blocks);
	if (o->identity)
		return ent_make(o->cur, block);
	leaf = o->dir[block / LEAF];
	if (!leaf)
		return ENT_BASE;
	return leaf == all_zero() ? zero_entry(o, block) : leaf[block % LEAF];
}

uint64_t overlay_run(const struct overlay *o, uint64_t block, uint64_t max, uint64_t *ent)
{
	uint64_t n = 1;

	*ent = overlay_get(o, block);
	while (n < max) {
		uint64_t want = ent_is_data(*ent) ? *ent + n : *ent;

		if (overlay_get(o, block + n) != want)
			break;
		n++;
	}
	return n;
}

static int make_leaf(struct overlay *o, size_t i)
{
	uint64_t *leaf = o->dir[i];

	if (leaf && leaf != all_zero())
		return 0;
	if (!leaf) {
		leaf = calloc(LEAF, sizeof(*leaf));
		if (!leaf)
			return -ENOMEM;
	} else {
		leaf = malloc(LEAF * sizeof(*leaf));
		if (!leaf)
			return -ENOMEM;
		for (size_t k = 0; k < LEAF; k++)
			leaf[k] = zero_entry(o, (uint64_t)i * LEAF + k);
	}
	o->dir[i] = leaf;
	return 0;
}

int overlay_grow(struct overlay *o, uint64_t nr_blocks, uint64_t base_blocks)
{
	size_t leaves = (size_t)((nr_blocks + LEAF - 1) / LEAF), last = o->nr_blocks / LEAF;
	uint64_t **dir;

	BUG_ON(nr_blocks < o->nr_blocks || base_blocks < o->base_blocks);
	/* that mark would be one for more blocks than were counted */
	if (o->nr_blocks % LEAF && o->dir[last] == all_zero() && make_leaf(o, last))
		return -ENOMEM;
	if (leaves > o->nr_leaves) {
		dir = calloc(leaves, sizeof(*dir));
		if (!dir)
			return -ENOMEM;
		memcpy(dir, o->dir, o->nr_leaves * sizeof(*dir));
		free(o->dir);
		o->dir = dir;
		o->nr_leaves = leaves;
	}
	o->nr_blocks = nr_blocks;
	o->base_blocks = base_blocks;
	return 0;
}

int overlay_prepare(struct overlay *o, uint64_t block, uint64_t n)
{
	if (!n || o->identity)
		return 0;
	BUG_ON(!range_ok(block, n, o->nr_blocks));
	for (uint64_t i = block / LEAF; i <= (block + n - 1) / LEAF; i++)
		if (make_leaf(o, (size_t)i))
			return -ENOMEM;
	return 0;
}

/* One entry's worth of book-keeping; the caller stores the entry. */
static void account(struct overlay *o, uint64_t old, uint64_t ent)
{
	if (ent_is_data(ent))
		o->layers[ent_layer(ent)].live++;
	if (ent_is_data(old)) {
		struct layer *l = &o->layers[ent_layer(old)];

		BUG_ON(!l->live);
		if (--l->live == 0 && ent_layer(old) != o->cur)
			close_layer(o, ent_layer(old));
	}
	o->mapped += (uint64_t)(ent != ENT_BASE) - (uint64_t)(old != ENT_BASE);
	o->data += (uint64_t)ent_is_data(ent) - (uint64_t)ent_is_data(old);
}

void overlay_set(struct overlay *o, uint64_t block, uint64_t ent)
{
	uint64_t *slot, *leaf;

	BUG_ON(block >= o->nr_blocks);
	leaf = o->dir[block / LEAF];
	BUG_ON(!leaf || leaf == all_zero());
	slot = &leaf[block % LEAF];
	account(o, *slot, ent);
	*slot = ent;
}

static void zero_leaf(struct overlay *o, size_t i)
{
	uint64_t first = (uint64_t)i * LEAF;
	uint64_t *leaf = o->dir[i];

	if (leaf && leaf != all_zero()) {
		for (unsigned int k = 0; k < LEAF; k++)
			if (first + k < o->nr_blocks)
				overlay_set(o, first + k, ENT_BASE);
		free(leaf);
	} else if (leaf) {
		o->mapped -= MIN((uint64_t)LEAF, o->base_blocks - first);
	}
	o->dir[i] = NULL;
	if (first < o->base_blocks) {
		o->dir[i] = all_zero();
		o->mapped += MIN((uint64_t)LEAF, o->base_blocks - first);
	}
}

/* Does leaf i, covered in part, need entries of its own to say that something in it is zero? */
static bool zero_needs_leaf(const struct overlay *o, size_t i)
{
	return o->dir[i] != all_zero() && (o->dir[i] || (uint64_t)i * LEAF < o->base_blocks);
}

static bool covers_leaf(const struct overlay *o, size_t i, uint64_t block, uint64_t end)
{
	uint64_t first = (uint64_t)i * LEAF;

	return block <= first && end >= MIN(first + LEAF, o->nr_blocks);
}

int overlay_prepare_zero(struct overlay *o, uint64_t block, uint64_t n)
{
	uint64_t end = block + n;
	size_t ends[2];

	if (!n || o->identity)
		return 0;
	BUG_ON(!range_ok(block, n, o->nr_blocks));
	ends[0] = (size_t)(block / LEAF);
	ends[1] = (size_t)((end - 1) / LEAF);
	for (unsigned int k = 0; k < 2; k++)
		if (!covers_leaf(o, ends[k], block, end) && zero_needs_leaf(o, ends[k]) &&
		    make_leaf(o, ends[k]))
			return -ENOMEM;
	return 0;
}

void overlay_zero(struct overlay *o, uint64_t block, uint64_t n)
{
	uint64_t end = block + n;

	BUG_ON(!range_ok(block, n, o->nr_blocks));
	while (block < end && !o->identity) {
		size_t i = (size_t)(block / LEAF);
		uint64_t next = MIN(end, ((uint64_t)i + 1) * LEAF);

		if (covers_leaf(o, i, block, end))
			zero_leaf(o, i);
		else if (zero_needs_leaf(o, i))
			for (uint64_t k = block; k < next; k++)
				overlay_set(o, k, zero_entry(o, k));
		block = next;
	}
}

uint64_t overlay_next(const struct overlay *o, uint64_t block)
{
	while (block < o->nr_blocks) {
		if (!o->dir[block / LEAF]) {
			block = (block / LEAF + 1) * LEAF;
			continue;
		}
		if (overlay_get(o, block) != ENT_BASE)
			return block;
		block++;
	}
	return o->nr_blocks;
}

void overlay_clear(struct overlay *o)
{
	for (size_t i = 0; i < o->nr_leaves; i++) {
		if (o->dir[i] && o->dir[i] != all_zero())
			free(o->dir[i]);
		if (o->dir[i])
			o->dir[i] = NULL;
	}
	o->mapped = o->data = 0;
	for (unsigned int i = 0; i < o->cap_layers; i++) {
		o->layers[i].live = 0;
		if (o->layers[i].fd >= 0 && i != o->cur)
			close_layer(o, i);
	}
}

void overlay_relabel(struct overlay *o, unsigned int from, unsigned int to)
{
	uint64_t left = o->layers[from].live;

	for (uint64_t block = 0; left; block++) {
		uint64_t ent;

		block = overlay_next(o, block);
		BUG_ON(block >= o->nr_blocks);
		ent = overlay_get(o, block);
		if (!ent_is_data(ent) || ent_layer(ent) != from)
			continue;
		overlay_set(o, block, ent_make(to, ent_block(ent)));
		left--;
	}
}

void overlay_drop_layer(struct overlay *o, unsigned int layer)
{
	BUG_ON(layer == o->cur || o->layers[layer].live);
	close_layer(o, layer);
}

int overlay_alloc(struct overlay *o, uint64_t n, uint64_t *start)
{
	if (o->cur == NO_LAYER)
		return -ENOSPC;
	if (extents_take(&o->free, n, start))
		return 0;
	if (n > (1ull << (ENT_BLOCK_BITS - 12)) - o->next)
		return -ENOSPC;
	*start = o->next;
	o->next += n;
	return 0;
}

void overlay_free(struct overlay *o, uint64_t start, uint64_t n)
{
	if (!n || o->identity)
		return;
	if (start + n == o->next) {
		o->next = start;
		return;
	}
	extents_put(&o->free, start, n);
}

int overlay_add_layer(struct overlay *o, int fd, uint64_t data_off, unsigned int *slot,
		      struct err *e)
{
	unsigned int i = 0;

	while (i < o->cap_layers && o->layers[i].fd >= 0)
		i++;
	if (i > BLK_MAX_LAYERS)
		return err_set(e, EMFILE, "disk stands on %u layers already", BLK_MAX_LAYERS);
	if (i == o->cap_layers) {
		unsigned int cap = o->cap_layers ? o->cap_layers * 2 : 8;
		struct layer *p = reallocarray(o->layers, cap, sizeof(*p));

		if (!p)
			return err_set(e, ENOMEM, "no memory for %u layers", cap);
		for (unsigned int k = o->cap_layers; k < cap; k++)
			p[k] = (struct layer){ .fd = -1 };
		o->layers = p;
		o->cap_layers = cap;
	}
	o->layers[i] = (struct layer){ .fd = fd, .data_off = data_off };
	o->nr_layers++;
	*slot = i;
	return 0;
}

int overlay_set_current(struct overlay *o, int fd, struct err *e)
{
	unsigned int old = o->cur, slot;
	int r;

	r = overlay_add_layer(o, fd, 0, &slot, e);
	if (r)
		return r;
	o->cur = slot;
	o->next = 0;
	extents_clear(&o->free);
	if (old != NO_LAYER && !o->layers[old].live)
		close_layer(o, old);
	return 0;
}

void overlay_forget_current(struct overlay *o)
{
	if (o->cur == NO_LAYER)
		return;
	BUG_ON(o->layers[o->cur].live);
	o->layers[o->cur].fd = -1;
	o->nr_layers--;
	o->cur = NO_LAYER;
	o->next = 0;
	extents_clear(&o->free);
}

unsigned int overlay_smallest(const struct overlay *o)
{
	unsigned int best = NO_LAYER;

	for (unsigned int i = 0; i < o->cap_layers; i++)
		if (o->layers[i].fd >= 0 && i != o->cur &&
		    (best == NO_LAYER || o->layers[i].live < o->layers[best].live))
			best = i;
	return best;
}
