/* SPDX-License-Identifier: MIT */
/*
 * What the files of src/block share about a disk: the disk itself (blk.c) and its request engine
 * (request.c, issue.c). Private to src/block.
 */
#ifndef CLONE_BLOCK_BLK_INT_H
#define CLONE_BLOCK_BLK_INT_H

#include <sys/types.h>

#include "block/blk.h"
#include "block/overlay.h"
#include "block/uring.h"

#define BLK_IOS 256    /* operations in the kernel at most: a request may need many */
#define BLK_IO_SEGS 32 /* pieces of guest memory in one of them */

struct loop_io;

/* One operation in the kernel. */
struct blk_io {
	struct blk_req *r;
	enum uring_op op;
	int fd;
	uint64_t off, left; /* what is still to do */
	struct iovec iov[BLK_IO_SEGS];
	unsigned int first, n; /* iov[first..n) is still to do */
};

struct blk_queue {
	struct blk_req *head, *tail;
};

struct blk {
	bool read_only, adopted;
	uint64_t size, base_end; /* bytes; beyond base_end the base reads as zeroes */
	int base_fd;		 /* -1: none */
	struct overlay ov;
	dev_t data_dev; /* the current data file's: a child finds another or none by that number */
	ino_t data_ino;
	int reader_fd; /* the current data file again, read-only: what it is to children; -1: none
			*/

	struct uring *ring; /* NULL before adopt */
	struct fdtab *fds;
	struct loop_io *watch;
	bool prepared; /* the ring is this process's already; adopt follows */

	struct blk_req *oldest, *newest; /* in flight */
	unsigned int nr;		 /* of them */
	struct blk_queue runnable;	 /* to be moved on */
	struct blk_queue starved;	 /* waiting for a free blk_io */
	bool pumping, completed;
	void (*batch)(void *arg);
	void *batch_arg;

	struct blk_io *ios;	    /* BLK_IOS */
	uint16_t free_ios[BLK_IOS]; /* a stack: few are touched when few are needed */
	unsigned int nr_free_ios;

	struct blk_stats stats;
};

/* Phases of a request; see request.c. */
enum phase { PH_EDGES, PH_IO, PH_PUNCH, PH_END };

/* Whether all that a phase needs was issued, or a free blk_io was missing. */
enum issue { ISSUED, NO_SLOT };
enum issue blk_issue_phase(struct blk *b, struct blk_req *r);
/* (Again) hands an operation to the ring. */
void blk_io_push(struct blk *b, struct blk_io *io);

/* Takes completions, moves requests on, submits; then the batch callback. */
void blk_poll(struct blk *b);

/* -EINVAL unless fd is open for exactly this access (O_RDONLY, O_RDWR), cached and seekable. */
int blk_check_mode(int fd, int access, const char *what, struct err *e);

static inline bool blk_in_current(const struct blk *b, uint64_t ent)
{
	return ent_is_data(ent) && ent_layer(ent) == b->ov.cur;
}

/* Where an entry's block lies in its file. */
static inline uint64_t blk_file_off(const struct blk *b, uint64_t ent)
{
	return b->ov.layers[ent_layer(ent)].data_off + ent_block(ent) * BLK_BLOCK;
}

/* How many bytes of a block the disk has: its last one may be cut. */
static inline uint64_t blk_block_bytes(const struct blk *b, uint64_t block)
{
	uint64_t left = b->size - block * BLK_BLOCK;

	return left < BLK_BLOCK ? left : BLK_BLOCK;
}

#endif
