/* SPDX-License-Identifier: MIT */
/*
 * A virtio device that does nothing by itself: the test pops and pushes. It counts what the
 * transport tells it.
 */
#ifndef TESTS_LIB_NULL_VIRTIO_H
#define TESTS_LIB_NULL_VIRTIO_H

#include "virtio/virtio.h"

#define NULL_VIRTIO_ID 62 /* no device has this number */
#define NULL_QUEUES 2
#define NULL_QUEUE_SIZE 256
#define NULL_FEATURE 5

struct null_state {
	struct virtio_state virtio;
	struct pci_state pci;
};

struct null_virtio {
	struct virtio_dev v; /* first */
	struct null_state state;
	unsigned int kicks[NULL_QUEUES], started, stopped;
	uint8_t config[16];
};

extern const struct device_class null_virtio_class; /* no cfg */

#endif
