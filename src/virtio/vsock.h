/* SPDX-License-Identifier: MIT */
/*
 * virtio-vsock (virtio 1.2 section 5.10): sockets between host and guest without a network. The
 * device moves packets; the streams behind them are src/vsock. Main thread, device lock held.
 */
#ifndef CLONE_VIRTIO_VSOCK_H
#define CLONE_VIRTIO_VSOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"
#include "vsock/vsock.h"

/* The usual one; each VM has its own sockets, so all may use it. */
#define VIRTIO_VSOCK_GUEST_CID 3ull
#define VIRTIO_VSOCK_PATH "vsock.sock"
#define VIRTIO_VSOCK_GRANT "vsock" /* the grant of the listening socket */

struct virtio_vsock_cfg {
	uint64_t guest_cid; /* 3 .. 2^32 - 2; compared on restore */
	/* Prefix of the sockets that guest-initiated connections go to, relative to the VM's
	 * directory; empty: VIRTIO_VSOCK_PATH. */
	char path[VSOCK_PATH_MAX];
};

extern const struct device_class virtio_vsock_class;

/* The device's muxer: lives as long as the device. */
struct vsock_mux *virtio_vsock_mux(struct device *d);
/* Does a host program wait for something that the guest has not taken or answered yet? Main. */
bool virtio_vsock_waits(const struct device *d);

/*
 * fn is called each time the guest has acknowledged a transport reset: its sockets of before are
 * gone, and a stream opened now (from within fn, too) lasts. Streams opened earlier after adopt
 * wait for the same moment. Kept across a fork, like all host memory. NULL: nobody.
 */
void virtio_vsock_set_ready_cb(struct device *d, void (*fn)(void *arg), void *arg);
/* A transport reset is owed to the guest or not yet acknowledged. */
bool virtio_vsock_resetting(const struct device *d);

/*
 * Did the agent say hello since the driver started? Part of the device's state: the answer outlives
 * a snapshot or a fork, as the agent does, and ends with the driver, as the agent does.
 */
bool virtio_vsock_agent_seen(const struct device *d);
void virtio_vsock_set_agent_seen(struct device *d);

#endif
