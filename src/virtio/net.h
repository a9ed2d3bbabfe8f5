/* SPDX-License-Identifier: MIT */
/*
 * virtio-net (virtio 1.2 section 5.1): a NIC that forks with the machine. The kernel moves its
 * packets (vhost-net) where it can, this process where not: without vhost, with rate limits, or
 * while writes into guest RAM are being tracked. Main thread, but for the driver's reset.
 *
 * Descriptors, taken from the machine's grants by adopt; without a TAP there is no network behind
 * the NIC and its link is down:
 *   net/ID/tap      attached, non-blocking; of several queue pairs net/ID/tap1, ... too
 *   net/ID/vhost    /dev/vhost-net, opened for this NIC (optional); likewise vhost1, ...
 *   net/ID/packet   AF_PACKET on the TAP, for the responder (optional)
 *   net/ID/keep, keep1, ... (optional) not looked at, open as long as the NIC has its network
 */
#ifndef CLONE_VIRTIO_NET_H
#define CLONE_VIRTIO_NET_H

#include <stdint.h>

#include "device/device.h"
#include "virtio/ratelimit.h"

#define VIRTIO_NET_PAIRS_MAX 8

struct virtio_net_cfg {
	uint32_t queue_pairs; /* 1..VIRTIO_NET_PAIRS_MAX */
	uint16_t mtu;	      /* told to the driver; 0: unsaid */
};

/* What passes in a time, of bytes and of packets, towards the guest (rx) and from it (tx); size 0:
 * no limit. ahead_ns is not looked at. */
struct virtio_net_rate {
	struct rate_bucket rx_bytes, rx_ops, tx_bytes, tx_ops;
};

extern const struct device_class virtio_net_class;

/* Limits that hold from now on: the buckets begin full. -EINVAL. */
int virtio_net_set_rate(struct device *d, const struct virtio_net_rate *rate, struct err *e);
/* The guest knows who it is (or will never be told): the link comes up, and neighbours hear of it.
 * Of a NIC whose link is up, or without a network: nothing. While it stands still: when it is
 * resumed. */
void virtio_net_connect(struct device *d);
/* Of a NIC that stands still: a frame that comes for it is a device_wake, once. Off before resume.
 */
void virtio_net_watch(struct device *d, bool on);
/* Who moves its packets is chosen anew: whether writes to RAM are tracked (mem/gmem.h) has changed.
 */
void virtio_net_update(struct device *d);
/* NIC_MAC bytes: what the driver, if there is one, has read when it started. */
const uint8_t *virtio_net_driver_mac(const struct device *d);

struct virtio_net_view {
	const char *backend; /* "vhost", "user" or "none" */
	bool link, network;  /* network: there is a TAP */
	uint8_t mac[NIC_MAC];
	uint64_t rx_packets, tx_packets, dropped; /* of this process: vhost's are the TAP's */
};
void virtio_net_view(const struct device *d, struct virtio_net_view *out);

#endif
