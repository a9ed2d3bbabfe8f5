/* SPDX-License-Identifier: MIT */
/*
 * What stands behind a disk: an ephemeral overlay over a shared, read-only base (source.h), the
 * base alone, or a raw or qcow2 file that is written in place. Asynchronous on one io_uring per
 * disk. The overlay is a block map in private memory over append-only data files: it forks O(1)
 * with the heap. Guest RAM is never registered with io_uring (it would be pinned and copied eagerly
 * by fork(2)).
 *
 * Requests that overlap run in the order of their submission when one of them changes the disk, at
 * the granularity of the disk's unit (blk_unit); all others run at once.
 *
 * All calls and callbacks: main, or a vCPU thread that holds the device lock.
 */
#ifndef CLONE_BLOCK_BLK_H
#define CLONE_BLOCK_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

#define BLK_SECTOR 512u
#define BLK_BLOCK 4096u /* the overlay's unit */
#define BLK_DEPTH 128	/* requests in flight at most */
#define BLK_MAX_BYTES (16ull << 40)
#define BLK_MAX_LAYERS 4096 /* older data files that an overlay can stand on */
#define BLK_SMALL_LAYERS 64 /* beyond this many, small ones are merged; see blk_rotate */

struct blk;
struct fdtab;
struct loop;
struct source;

/* Where writes go. */
enum blk_writes {
	BLK_OVERLAY,  /* an ephemeral overlay over the base */
	BLK_IN_RAW,   /* the raw file that the disk is; there is no base */
	BLK_IN_QCOW2, /* the qcow2 file that is the base's topmost, and there it stays */
};

struct blk_cfg {
	bool read_only; /* no overlay, writes fail with -EROFS */
	enum blk_writes writes;
	uint64_t size_bytes; /* whole sectors; 0: the base's size rounded down to sectors */
	/* What an overlay may hold at most, over its base: beyond it writes fail with -EDQUOT. 0:
	 * no limit. What it holds from before a fork counts, discarded blocks do not. */
	uint64_t quota_bytes;
};

enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_FLUSH,   /* what was written before it was submitted is durable (not in an ephemeral
		      * overlay, which promises nothing after a power cut: succeeds at once) */
	BLK_DISCARD, /* a hint: whole blocks inside read as zeroes afterwards, edges are left */
	BLK_ZERO,
};

struct blk_req {
	enum blk_op op;
	uint64_t offset_bytes, len; /* whole sectors; for READ/WRITE len is the iovecs' sum */
	struct iovec *iov;	    /* pinned guest memory; the caller's until done */
	unsigned int niov;
	/* 0 or -errno, exactly once; may come before blk_submit returns; may submit more. After a
	 * failed WRITE or ZERO each sector reads as before or as asked, never as anything else. */
	void (*done)(struct blk_req *r, int result);

	/* The engine's own from submit to done; needs no initialisation. */
	struct {
		struct blk *b;
		struct blk_req *next, *prev;   /* all in flight, oldest first */
		struct blk_req *qnext;	       /* the runnable queue */
		struct blk_req *fnext;	       /* those that wait for the same fetch or flush */
		uint64_t start, end;	       /* what it touches, in bytes */
		uint64_t pos;		       /* how far the phase got */
		uint64_t zero_block, zero_end; /* whole blocks that a ZERO or DISCARD covers */
		uint64_t grows;		       /* blocks that the overlay did not hold before */
		uint64_t alloc, nalloc, fresh; /* new blocks of the data file; how many were used */
		size_t iov_off;
		unsigned int iov_idx;
		unsigned int blockers; /* older requests that must end first */
		unsigned int pending;  /* in the kernel */
		void *table;	       /* an L2 table that is being read: qtop.c */
		int result;
		uint8_t phase, queued;
		struct {
			uint64_t block;
			uint8_t *buf; /* one block, read, patched and written back */
		} edge[2];
	} p;
};

/*
 * base: what is there before anybody writes (NULL: zeroes); data_fd: of an overlay an empty regular
 * file, else the disk's own file (a block device, too, if raw), opened read-write for what this VM
 * writes (-1 when read_only, or for a seed that never runs: writes fail with -ENOSPC until a fork's
 * child adopts with one). Both are owned from now on, also on failure. -EINVAL: bad size or a
 * descriptor opened in another mode.
 */
int blk_create(const struct blk_cfg *cfg, struct source *base, int data_fd, struct blk **out,
	       struct err *e);
/* Waits for what is in flight and closes a qcow2 file that is written cleanly; nothing may be
 * submitted afterwards. 0 or -errno; also part of blk_destroy. */
int blk_finish(struct blk *b);
/* Accepts NULL. */
void blk_destroy(struct blk *b);
uint64_t blk_size(const struct blk *b);
/*
 * Makes the disk longer, waiting for what is in flight; between adopt and finish. A file that is
 * written in place grows with it. -EINVAL: shorter, read-only, or no whole sectors; -ENOTSUP,
 * -EFBIG: a qcow2 file that cannot; -ENOSPC and the like. The disk is as before on failure.
 */
int blk_grow(struct blk *b, uint64_t bytes, struct err *e);
/* What a discard frees whole, in bytes. */
uint64_t blk_unit(const struct blk *b);
/* Size of a file or block device opened read-only (stays the caller's). -EINVAL: it is something
 * else, or opened in another mode. */
int blk_base_bytes(int base_fd, uint64_t *size, struct err *e);

/* The ring, ahead of blk_adopt, which otherwise makes it: in a fork's child it needs no file of its
 * own. */
int blk_prepare(struct blk *b, struct err *e);
/*
 * Host side: ring and completion eventfd on this loop, descriptors recorded in fds. Called once
 * after create with data_fd -1 (create had it), and once in a fork's child with a fresh data_fd
 * (owned, also on failure; -1 when read_only). What the parent had written became a layer, shared
 * and never written again, by the blk_rotate that must precede every fork(2) of an overlay that was
 * written to: -EINVAL when it did not. -ENOSYS and the like when io_uring is not to be had.
 */
int blk_adopt(struct blk *b, struct loop *loop, struct fdtab *fds, int data_fd, struct err *e);
/*
 * reader_fd (owned) is the current data file opened read-only: when it becomes a layer, this takes
 * its place, so that children cannot write what they share. Another file's is closed.
 */
void blk_set_reader(struct blk *b, int reader_fd);
/*
 * fd (owned, also on failure) is the file that is written in place, opened once more, read-write
 * and with O_DIRECT: what the guest reads and writes of it, and is aligned, does not go by the
 * host's cache. Between create and adopt, or later. -EINVAL: it is not that; -ENOTSUP: a qcow2 file
 * with clusters that are smaller than the cache's pages.
 */
int blk_set_direct(struct blk *b, int fd, struct err *e);
/*
 * In a parent before fork(2), quiesced: the current data file becomes a layer (FD_KEEP) and
 * data_fd (owned, also on failure) takes what is written from now on. When nothing was written the
 * current file stays and data_fd is closed. To bound descriptors in long lines of descent, beyond
 * BLK_SMALL_LAYERS the smallest layer is first copied into the current file if it holds at most
 * 1 MiB; a layer with nothing live left is closed at once. -EMFILE at BLK_MAX_LAYERS.
 *
 * A qcow2 file that is written needs no data_fd (it is closed): the file stays, and what is in it
 * is not overwritten any more; a child's disk is an overlay over it. -ENOTSUP for a raw one.
 */
int blk_rotate(struct blk *b, int data_fd, struct err *e);

/* Starts r; -EAGAIN when BLK_DEPTH are in flight (done is not called then). Other errors come by
 * done. The kernel sees it at the next blk_kick. */
int blk_submit(struct blk *b, struct blk_req *r);
/* Once after a batch of blk_submit. */
void blk_kick(struct blk *b);
/* fn is called after each batch of completions (one interrupt for many). NULL: nobody. */
void blk_on_batch(struct blk *b, void (*fn)(void *arg), void *arg);
/* Waits until nothing is in flight; every done was called. */
void blk_quiesce(struct blk *b);
unsigned int blk_in_flight(const struct blk *b);

/*
 * A snapshot's layer: all that the overlay holds, as one self-describing file (see layer.c), taken
 * up again as the lowest layer over the same base. -ENOTSUP of a disk in other units than
 * BLK_BLOCK. Both with nothing in flight. save: fd (empty,
 * seekable) stays the caller's, who syncs it; also in a fork's child before blk_adopt, when the
 * parent had rotated (-EINVAL). load: between create and adopt (-EBUSY); fd (opened read-only) is
 * owned, also on failure; the overlay is as before on failure; hostile bytes are -EINVAL.
 */
int blk_save_layer(struct blk *b, int fd, struct err *e);
int blk_load_layer(struct blk *b, int fd, struct err *e);

struct blk_stats {
	uint64_t reads, writes, flushes, read_bytes, written_bytes;
	uint64_t own_bytes;	   /* live in the current data file: this fork's alone */
	uint64_t overlay_blocks;   /* blocks that do not come from the base */
	uint64_t overlay_bytes;	   /* what the overlay holds: zeroes take nothing */
	uint64_t layers;	   /* older data files in use */
	uint64_t errors, no_space; /* requests that failed; of them for want of space */
};
void blk_stats(const struct blk *b, struct blk_stats *out);

#endif
