/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng (virtio 1.2 section 5.4): the host's random bytes for the guest, at a bounded rate.
 */
#ifndef CLONE_VIRTIO_RNG_H
#define CLONE_VIRTIO_RNG_H

#include <stdint.h>

#include "device/device.h"

struct virtio_rng_cfg {
	uint64_t bytes_per_s; /* 0: no limit */
	uint64_t burst_bytes; /* what may be taken at once; 0: one second's worth */
};

extern const struct device_class virtio_rng_class;

#endif
