/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk (virtio 1.2 section 5.2): a disk whose writes go to an ephemeral overlay that forks
 * with the machine. Main thread only.
 *
 * Descriptors, taken from the machine's grants by adopt:
 *   disk/ID/base   the base image, opened read-only; when cfg.has_base
 *   disk/ID/data   an empty file opened read-write for what this VM writes; unless cfg.read_only.
 *                  A seed, which never runs, may do without; a fork's child may not.
 *   disk/ID/data-ro  the same file opened read-only (optional): what children get of it
 *   disk/ID/layer  restore only: what virtio_blk_save_layer wrote, opened read-only
 */
#ifndef CLONE_VIRTIO_BLK_H
#define CLONE_VIRTIO_BLK_H

#include <stdint.h>

#include "block/blk.h"
#include "device/device.h"

#define VIRTIO_BLK_SERIAL_MAX 20

struct virtio_blk_cfg {
	uint64_t size_bytes; /* whole sectors; a shorter base reads as zeroes behind its end */
	uint8_t has_base;    /* 0: the disk begins as zeroes */
	uint8_t read_only;
	char serial[VIRTIO_BLK_SERIAL_MAX]; /* zero-padded; not terminated when full */
};

extern const struct device_class virtio_blk_class;

/* In a parent, quiesced, before each fork(2): see blk_rotate. data_fd is owned, also on failure; -1
 * for a read-only disk. */
int virtio_blk_rotate(struct device *d, int data_fd, struct err *e);
/* After it: the new data file opened read-only (owned). See blk_set_reader. */
void virtio_blk_set_reader(struct device *d, int reader_fd);
/* Quiesced: all that the guest wrote, into fd (empty, opened read-write, stays the caller's, who
 * syncs it). */
int virtio_blk_save_layer(struct device *d, int fd, struct err *e);
void virtio_blk_stats(const struct device *d, struct blk_stats *out);

#endif
