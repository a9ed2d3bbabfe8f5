/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk (virtio 1.2 section 5.2): a disk that forks with the machine. Its writes go to an
 * ephemeral overlay, or to its own file. One without a size is an empty bay: the guest sees a disk
 * of no sectors until one is put in. Main thread only, but for the driver's reset.
 *
 * Descriptors, taken from the machine's grants by adopt:
 *   disk/ID/base   the base image, opened read-only; when cfg.nr_files
 *   disk/ID/base/N what the base stands on: N from 1 to cfg.nr_files - 1
 *   disk/ID/data   what takes this VM's writes, opened read-write; unless cfg.read_only. An empty
 *                  file; with cfg.writes the disk's own.
 *                  A seed, which never runs, may do without; a fork's child may not.
 *   disk/ID/data-ro  the same file opened read-only (optional): what children get of it
 *   disk/ID/direct with cfg.writes (optional): the same file opened read-write and with O_DIRECT
 *   disk/ID/layer  restore only: what virtio_blk_save_layer wrote, opened read-only
 */
#ifndef CLONE_VIRTIO_BLK_H
#define CLONE_VIRTIO_BLK_H

#include <stdint.h>

#include "block/blk.h"
#include "device/device.h"
#include "virtio/ratelimit.h"

#define VIRTIO_BLK_SERIAL_MAX 20
#define VIRTIO_BLK_QUEUES_MAX 64 /* one for each vCPU of the biggest machine */

struct virtio_blk_cfg {
	uint64_t size_bytes; /* whole sectors; a shorter base reads as zeroes behind its end; 0: an
				empty bay, which has no files and is not read-only */
	uint32_t nr_files;   /* of the base (source.h): 0: the disk begins as zeroes */
	uint8_t last_qcow2;  /* the format of the last of them; all others are qcow2 */
	uint8_t read_only;
	uint8_t writes;			    /* enum blk_writes */
	uint64_t quota_bytes;		    /* of an overlay: see blk_cfg */
	uint32_t nr_queues;		    /* 1 to VIRTIO_BLK_QUEUES_MAX; 0 is 1 */
	char serial[VIRTIO_BLK_SERIAL_MAX]; /* zero-padded; not terminated when full */
};

/* What passes in a time, of bytes read and written and of requests; size 0: no limit. ahead_ns is
 * not looked at. */
struct virtio_blk_rate {
	struct rate_bucket bytes, ops;
};

extern const struct device_class virtio_blk_class;

/* Limits that hold from now on: the buckets begin full. -EINVAL. */
int virtio_blk_set_rate(struct device *d, const struct virtio_blk_rate *rate, struct err *e);

/* What follows changes the config space and tells the driver so. Of a VM that runs or is paused. */

/* A disk for an empty bay, its descriptors granted as for adopt; serial, nr_queues of cfg are not
 * looked at. -EBUSY; -EINVAL also for read_only; what adopt may fail with. */
int virtio_blk_insert(struct device *d, const struct virtio_blk_cfg *cfg, struct err *e);
/* Takes the disk out, written and closed cleanly where it is written in place; what is in flight
 * ends first. Any disk can go: its place is a bay then, without limits. -ENOENT: there is none;
 * -EIO: it is out, but its file was not closed cleanly. */
int virtio_blk_eject(struct device *d, struct err *e);
/* Waits for what is in flight. -ENOENT; as blk_grow. */
int virtio_blk_grow(struct device *d, uint64_t bytes, struct err *e);

/* In a parent, quiesced, before each fork(2): see blk_rotate. data_fd is owned, also on failure; -1
 * for a read-only disk. */
int virtio_blk_rotate(struct device *d, int data_fd, struct err *e);
/* After it: the new data file opened read-only (owned). See blk_set_reader. */
void virtio_blk_set_reader(struct device *d, int reader_fd);
/* Quiesced: all that the guest wrote, into fd (empty, opened read-write, stays the caller's, who
 * syncs it). */
int virtio_blk_save_layer(struct device *d, int fd, struct err *e);
/* The VM has ended: a file that is written in place is closed cleanly. */
void virtio_blk_finish(struct device *d);
/* Has the driver, if there is one, looked at the size since it changed last? */
bool virtio_blk_seen(const struct device *d);
void virtio_blk_stats(const struct device *d, struct blk_stats *out);

#endif
