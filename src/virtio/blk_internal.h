/* SPDX-License-Identifier: MIT */
/*
 * What the files of virtio-blk share: the device (blk.c), its requests (blk_request.c) and the disk
 * behind it (blk_medium.c).
 */
#ifndef CLONE_VIRTIO_BLK_INTERNAL_H
#define CLONE_VIRTIO_BLK_INTERNAL_H

#include "virtio/blk.h"
#include "virtio/ratelimit.h"
#include "virtio/virtio.h"

#define VBLK_ZERO_SECTORS (1u << 21) /* of one DISCARD or WRITE_ZEROES: 1 GiB of map to walk */

struct vblk_state {
	struct virtio_state virtio;
	struct pci_state pci;
	uint64_t overlay_blocks;
	uint8_t writeback; /* the driver's wish: completed writes may wait for a flush */
	struct rate_bucket bytes, ops;
};

/* One request of the guest from pop to push. */
struct vreq {
	struct blk_req r;
	struct vblk *d;
	uint16_t queue;
	struct vq_chain chain;
	struct iovec iov[VIRTIO_MAX_SEGS];
	struct vq_seg pin[VIRTIO_MAX_SEGS]; /* what iov points at */
	unsigned int pins;
	bool into_guest;
};

struct vblk {
	struct virtio_dev v; /* first: a struct device * is a struct vblk * */
	struct virtio_blk_cfg cfg;
	struct vblk_state state;
	/* host side */
	struct blk *blk;	      /* NULL before the first adopt */
	bool writable;		      /* has a data file */
	bool unseen;		      /* its size changed, and a driver has not looked since */
	bool dropping;		      /* the driver reset the device: completions are forgotten */
	uint64_t stalled;	      /* queues in which chains may wait for a free vreq */
	uint64_t touched;	      /* queues with completions that the driver was not told of */
	unsigned int next;	      /* the stalled queue that is looked at first */
	uint64_t rated_ns;	      /* until when the rate limits know the time */
	bool kicking;		      /* vblk_kick is on the stack */
	struct loop_timer *timer;     /* looks at the queue again */
	struct vreq *reqs;	      /* BLK_DEPTH */
	uint8_t free_reqs[BLK_DEPTH]; /* a stack */
	unsigned int nr_free;
};

/* -EINVAL: no disk that we could be; size 0 without files is an empty bay. */
int vblk_check_cfg(const struct virtio_blk_cfg *cfg, struct err *e);
/* The disk of d->cfg from what was granted; in a fork's child: on with the disk that is there. The
 * disk is as before on failure. */
int vblk_make_disk(struct vblk *d, struct err *e);
int vblk_renew_disk(struct vblk *d, struct err *e);
/* The driver kicked the queue, or chains wait that were left there. */
void vblk_kick(struct virtio_dev *v, unsigned int q);
/* Tells the rate limits the time; how long requests have to wait now (0: not). */
uint64_t vblk_rate_wait_ns(struct vblk *d);
/* A timer's or a completion's look at chains that were left, each queue in its turn. */
void vblk_go_on(void *arg);
/* src/block completed some requests. */
void vblk_on_batch(void *arg);

#endif
