/* SPDX-License-Identifier: MIT */
/*
 * What the two files of virtio-blk share: the device (blk.c) and its requests (blk_request.c).
 */
#ifndef CLONE_VIRTIO_BLK_INTERNAL_H
#define CLONE_VIRTIO_BLK_INTERNAL_H

#include "virtio/blk.h"
#include "virtio/virtio.h"

#define VBLK_ZERO_SECTORS (1u << 21) /* of one DISCARD or WRITE_ZEROES: 1 GiB of map to walk */

struct vblk_state {
	struct virtio_state virtio;
	struct pci_state pci;
	uint64_t overlay_blocks;
};

/* One request of the guest from pop to push. */
struct vreq {
	struct blk_req r;
	struct vblk *d;
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
	bool dropping;		      /* the driver reset the device: completions are forgotten */
	bool stalled;		      /* chains may wait for a free vreq */
	bool kicking;		      /* vblk_kick is on the stack */
	struct loop_timer *timer;     /* looks at the queue again */
	struct vreq *reqs;	      /* BLK_DEPTH */
	uint8_t free_reqs[BLK_DEPTH]; /* a stack */
	unsigned int nr_free;
};

/* The driver kicked the queue, or chains wait that were left there. */
void vblk_kick(struct virtio_dev *v, unsigned int q);
/* A timer's or a completion's look at chains that were left. */
void vblk_go_on(void *arg);
/* src/block completed some requests. */
void vblk_on_batch(void *arg);

#endif
