/* SPDX-License-Identifier: MIT */
/*
 * The overlay's block map: which file holds each block of a disk (4 KiB, or a qcow2
 * cluster). Plain memory and file
 * descriptors, no I/O but closing: see overlay.c. Private to src/block. One thread at a time.
 */
#ifndef CLONE_BLOCK_OVERLAY_H
#define CLONE_BLOCK_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "block/blk.h"
#include "block/extents.h"

struct fdtab;

/* An entry is ENT_BASE, ENT_ZERO (within the base only: all else is zero by itself), or a layer and
 * a block of its file. */
#define ENT_BASE ((uint64_t)0)
#define ENT_ZERO ((uint64_t)1)
#define ENT_BLOCK_BITS 48

static inline uint64_t ent_make(unsigned int layer, uint64_t block)
{
	return ((uint64_t)(layer + 1) << ENT_BLOCK_BITS) | block;
}
static inline bool ent_is_data(uint64_t ent)
{
	return ent >> ENT_BLOCK_BITS;
}
static inline unsigned int ent_layer(uint64_t ent)
{
	return (unsigned int)(ent >> ENT_BLOCK_BITS) - 1;
}
static inline uint64_t ent_block(uint64_t ent)
{
	return ent & ((1ull << ENT_BLOCK_BITS) - 1);
}

struct layer {
	int fd;		   /* -1: the slot is free */
	bool own;	   /* it is the qcow2 file that the disk itself is: see qtop.c */
	uint64_t data_off; /* where block 0 lies in the file */
	uint64_t live;	   /* map entries that point here */
};

struct overlay {
	bool identity;	      /* no map: every block lies in the current file at its own place */
	uint64_t nr_blocks;   /* of the disk */
	uint64_t base_blocks; /* blocks that the base reaches into; the rest of it is zeroes */
	uint64_t **dir;	      /* leaves of 512 entries; NULL: all ENT_BASE; a mark: all zero */
	size_t nr_leaves;
	uint64_t mapped; /* entries that are not ENT_BASE */
	uint64_t data;	 /* of them: those with a block of a layer, which takes space */
	struct layer *layers;
	unsigned int cap_layers, nr_layers; /* slots, slots in use (the current one included) */
	unsigned int cur;		    /* layer being written; NO_LAYER: none */
	uint64_t next;			    /* first block of the current file never allocated */
	struct extents free;		    /* blocks of the current file to use again */
	struct fdtab *fds;		    /* told of every close; may be NULL before adopt */
};
#define NO_LAYER 0xffffffffu

/* identity: set by the caller afterwards, before the first request. */
int overlay_init(struct overlay *o, uint64_t nr_blocks, uint64_t base_blocks, struct err *e);
/* More blocks; whether what is not mapped of them counts as the base's (which says what a zeroed
 * one becomes) is the caller's to say. -ENOMEM. */
int overlay_grow(struct overlay *o, uint64_t nr_blocks, uint64_t base_blocks);
/* Closes the layers. */
void overlay_fini(struct overlay *o);

uint64_t overlay_get(const struct overlay *o, uint64_t block);
/* How many blocks from block on, at most max, have the same source, following each other in it. */
uint64_t overlay_run(const struct overlay *o, uint64_t block, uint64_t max, uint64_t *ent);
/* Makes overlay_set of blocks [block, block+n) unable to fail. -ENOMEM: nothing changed. */
int overlay_prepare(struct overlay *o, uint64_t block, uint64_t n);
/* Points a prepared block at ent; the layer that loses its last block is closed. */
void overlay_set(struct overlay *o, uint64_t block, uint64_t ent);
/* Makes overlay_zero of the same blocks unable to fail (leaves covered in part need memory).
 * -ENOMEM: nothing changed. */
int overlay_prepare_zero(struct overlay *o, uint64_t block, uint64_t n);
/* Blocks [block, block+n), prepared, read as zeroes. */
void overlay_zero(struct overlay *o, uint64_t block, uint64_t n);
/* The first block at or after `block` that is not ENT_BASE, or nr_blocks. Skips whole leaves. */
uint64_t overlay_next(const struct overlay *o, uint64_t block);
/* Forgets every mapping; layers with nothing live are closed except the current one. */
void overlay_clear(struct overlay *o);

/* What points at one layer points at another, at the same blocks; the first is closed. */
void overlay_relabel(struct overlay *o, unsigned int from, unsigned int to);
/* Closes a layer that nothing points at. */
void overlay_drop_layer(struct overlay *o, unsigned int layer);

/* n contiguous blocks of the current file, and giving them back. -ENOSPC: no current file, or its
 * numbers are used up. */
int overlay_alloc(struct overlay *o, uint64_t n, uint64_t *start);
void overlay_free(struct overlay *o, uint64_t start, uint64_t n);

/* A new slot for fd (owned on success only). -EMFILE beyond BLK_MAX_LAYERS. */
int overlay_add_layer(struct overlay *o, int fd, uint64_t data_off, unsigned int *slot,
		      struct err *e);
/* Makes fd (owned on success only) the current file, to be written from its start; the one before,
 * if any, stays as a layer while anything in it is live. */
int overlay_set_current(struct overlay *o, int fd, struct err *e);
/* In a fork's child: the current file, empty, was the parent's and is not open here. */
void overlay_forget_current(struct overlay *o);
/* The layer other than the current one with the fewest live blocks; NO_LAYER when there is none. */
unsigned int overlay_smallest(const struct overlay *o);

#endif
