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
#include "block/qcow2_write.h"
#include "block/source.h"
#include "block/uring.h"

#define BLK_IOS 128    /* operations in the kernel at most: a request may need many */
#define BLK_IO_SEGS 32 /* pieces of guest memory in one of them */
#define BLK_IO_FLUSH 8 /* operations that only a flush may use: it never waits for requests */

struct loop_io;

/* What requests wait for that the source must fetch first; see fetch.c. */
struct blk_fetch {
	struct blk_fetch *next;
	struct source_fetch *f;
	struct blk_req *waiting;
};

/* One operation in the kernel, of a request, a fetch or a flush. */
struct blk_io {
	/* It ended, whole or not at all: 0 or -errno. false: it is on its way again. */
	bool (*end)(struct blk *b, struct blk_io *io, int res);
	struct blk_req *r;	 /* of a request */
	struct blk_fetch *fetch; /* of a fetch */
	enum uring_op op;
	int fd;
	int cached_fd;	    /* the same file without O_DIRECT, if fd has that */
	uint64_t off, left; /* what is still to do */
	struct iovec iov[BLK_IO_SEGS];
	unsigned int first, n; /* iov[first..n) is still to do */
};

struct blk_queue {
	struct blk_req *head, *tail;
};

/* What makes written data durable; see flush.c. */
struct blk_flush {
	struct blk_req *waiting, *running; /* requests: for the next one, for this one */
	bool busy, again;     /* again: it completes one that failed, its own follows */
	bool syncing, ready;  /* ready: an operation ended, the flush can be moved on */
	size_t at;	      /* writes of the batch that were issued */
	unsigned int pending; /* in the kernel */
	int result;
	int owed; /* of a flush that nobody asked for: who asks next is told */
};

struct blk {
	bool read_only, adopted;
	enum blk_writes writes;
	struct qwriter *w; /* BLK_IN_QCOW2 */
	struct blk_flush flush;
	uint64_t quota,
		growing; /* blocks that the overlay may hold (0: any); that requests will add */
	uint64_t unit;	 /* of the map, bytes: BLK_BLOCK, or a qcow2 file's cluster */
	uint64_t size, base_end; /* bytes; beyond base_end the base reads as zeroes */
	struct source *base;	 /* NULL: none */
	struct overlay ov;
	dev_t data_dev; /* the current data file's: a child finds another or none by that number */
	ino_t data_ino;
	int direct_fd; /* of a file that is written in place: the same with O_DIRECT; -1: none */
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
	struct blk_fetch *fetches;
	bool pumping, completed;
	void (*batch)(void *arg);
	void *batch_arg;

	struct blk_io *ios;	    /* BLK_IOS */
	uint16_t free_ios[BLK_IOS]; /* a stack: few are touched when few are needed */
	unsigned int nr_free_ios;

	struct blk_stats stats;
};

/* Phases of a request; see request.c. */
enum phase { PH_MAP, PH_EDGES, PH_IO, PH_PUNCH, PH_FLUSH, PH_END };

/* Whether all that a phase needs was issued, or a free blk_io was missing, or the source must fetch
 * something first (which counts as pending). */
enum issue { ISSUED, NO_SLOT, WAITS };
enum issue blk_issue_phase(struct blk *b, struct blk_req *r);
/* One operation of r between a file and n bytes at buf, which belongs to r. NO_SLOT or ISSUED. */
enum issue blk_issue_buf(struct blk *b, struct blk_req *r, enum uring_op op, int fd, uint64_t off,
			 void *buf, uint64_t n);
/* (Again) hands an operation to the ring. */
void blk_io_push(struct blk *b, struct blk_io *io);

/* Something that r waited for ended: r is to be moved on when it was the last. */
void blk_io_ended(struct blk *b, struct blk_req *r);

/* Lets r wait for what the source lacks at `at`. ISSUED: it has it now, or r has failed. */
enum issue blk_fetch_wait(struct blk *b, struct blk_req *r, uint64_t at);
/* A flush for r, which waits for it. */
void blk_flush_add(struct blk *b, struct blk_req *r);
/* The next step of the flush that runs, as far as it can be taken now. */
void blk_flush_go(struct blk *b);
/* Also without anybody who waits: when much is dirty. */
void blk_flush_start(struct blk *b);

/*
 * Space for what is written, and the book-keeping of a qcow2 file that is written (qtop.c). alloc:
 * n blocks of the current file that follow each other; unalloc: they were not used after all.
 */
int blk_alloc(struct blk *b, uint64_t n, uint64_t *start);
void blk_unalloc(struct blk *b, uint64_t start, uint64_t n);
/* BLK_IN_QCOW2: opens the writer. data_fd stays the caller's. */
int blk_qtop_open(struct blk *b, int data_fd, struct err *e);
/* Everything durable and the file closed cleanly; then the writer is gone. */
int blk_qtop_close(struct blk *b);
/* Before fork(2), quiesced: what is in the file stays as it is for the children. */
int blk_qtop_rotate(struct blk *b, struct err *e);
/* In a child: the disk goes on as an overlay. */
void blk_qtop_child(struct blk *b);
/* PH_MAP: learns where the blocks are that r changes; those that are in the file itself enter the
 * map, to be overwritten in place. */
enum issue blk_qtop_map(struct blk *b, struct blk_req *r);
/* Makes blk_qtop_changed unable to fail. */
int blk_qtop_prepare(struct blk *b, struct blk_req *r);
/* Block `block` is about to change, from what `old` says in the map; or to read as zeroes. */
void blk_qtop_changed(struct blk *b, uint64_t block, uint64_t old);
void blk_qtop_zeroed(struct blk *b, uint64_t block, uint64_t n);
/* The map says what all changed blocks are now: a flush may begin by itself when much is dirty. */
void blk_qtop_committed(struct blk *b);

/* Between blk.c and blk_fork.c. -EINVAL unless fd is what a disk of this kind can write to. */
int blk_check_data(const struct blk *b, int fd, struct err *e);
/* fd (owned on success only) takes what is written from now on. */
int blk_set_data(struct blk *b, int fd, struct err *e);
/* All descriptors into the fd table, each with its fate. */
void blk_record_files(struct blk *b);
/* In a fork's child: lets go of the parent's data file, takes its own (owned). */
int blk_child_file(struct blk *b, int data_fd, struct err *e);

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
	return b->ov.layers[ent_layer(ent)].data_off + ent_block(ent) * b->unit;
}

/* How many bytes of a block the disk has: its last one may be cut. */
static inline uint64_t blk_block_bytes(const struct blk *b, uint64_t block)
{
	uint64_t left = b->size - block * b->unit;

	return left < b->unit ? left : b->unit;
}

#endif
