/* SPDX-License-Identifier: MIT */
/*
 * What stands behind a disk: an ephemeral overlay over a raw, shared, read-only base, or a raw file
 * alone. Asynchronous on one io_uring per disk; completions arrive on main. The overlay is a
 * block map in private memory over append-only data files: it forks O(1) with the heap. Guest RAM
 * is never registered with io_uring (it would be pinned and copied eagerly by fork(2)).
 *
 * Main thread only.
 */
#ifndef CLONE_BLOCK_BLK_H
#define CLONE_BLOCK_BLK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

#define BLK_SECTOR 512u
#define BLK_BLOCK 4096u /* the overlay's unit */
#define BLK_DEPTH 128 /* requests in flight at most */

struct blk;
struct fdtab;
struct loop;

struct blk_cfg {
	bool read_only; /* no overlay, writes fail with -EROFS */
	uint64_t size_bytes; /* 0: the base's size rounded down to sectors */
};

enum blk_op { BLK_READ, BLK_WRITE, BLK_FLUSH, BLK_DISCARD, BLK_ZERO };

struct blk_req {
	enum blk_op op;
	uint64_t offset_bytes, len; /* for READ/WRITE len is the iovecs' sum */
	struct iovec *iov; /* pinned guest memory; the caller's until done */
	unsigned int niov;
	void (*done)(struct blk_req *r, int result); /* 0 or -errno; on main; may submit more */
};

/*
 * base_fd: the shared base (owned from now on, -1: an all-zero base of cfg->size_bytes); data_fd:
 * an empty file for what this VM writes (owned; -1 when read_only). Neither is opened by path.
 */
int blk_create(const struct blk_cfg *cfg, int base_fd, int data_fd, struct blk **out, struct err *e);
void blk_destroy(struct blk *b);
uint64_t blk_size(const struct blk *b);

/* Host side: ring and completion eventfd on this loop. After create, and again in a fork's child
 * with a fresh data_fd (owned): the file written so far becomes a read-only, shared layer; ring
 * and eventfd of the parent are forgotten (closed by the fd table). On a live fork the parent calls
 * blk_rotate with its own fresh file first. Layers kept are recorded FD_KEEP in fds. */
int blk_adopt(struct blk *b, struct loop *loop, struct fdtab *fds, int data_fd, struct err *e);
int blk_rotate(struct blk *b, int data_fd, struct err *e);

/* Starts r; -EAGAIN when BLK_DEPTH are in flight (done is not called then). Errors come by done. */
int blk_submit(struct blk *b, struct blk_req *r);
/* Waits until nothing is in flight; every done was called. */
void blk_quiesce(struct blk *b);
unsigned int blk_in_flight(const struct blk *b);

/* A snapshot's layer: all blocks the overlay holds, written to fd as a self-describing file (see
 * overlay.c), and taken up again as the lowest layer over the same base. fds stay the caller's
 * for save; owned for load. Hostile bytes on load. */
int blk_save_layer(struct blk *b, int fd, struct err *e);
int blk_load_layer(struct blk *b, int fd, struct err *e);

struct blk_stats {
	uint64_t reads, writes, flushes, read_bytes, written_bytes, own_bytes, layers;
};
void blk_stats(const struct blk *b, struct blk_stats *out);

#endif
