/* SPDX-License-Identifier: MIT */
/*
 * A TAP as the VM process sees it: a non-blocking descriptor that was attached by the privileged
 * side, with a virtio-net header of 12 bytes before each packet. Any thread with the device lock
 * held.
 */
#ifndef CLONE_NET_TAP_H
#define CLONE_NET_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define TAP_HEADER 12u	      /* struct virtio_net_hdr_v1 */
#define TAP_PACKET_MAX 65565u /* header, Ethernet header and VLAN tag, 65,535 bytes of IP */

/* Which unfinished packets the guest takes: VIRTIO_NET_F_GUEST_CSUM, _TSO4, _TSO6, _ECN among its
 * features. -errno. */
int tap_set_offloads(int fd, uint64_t features, struct err *e);
/* Does this queue of a TAP of several take part? One that does not gets no packets. */
int tap_enable(int fd, bool on, struct err *e);
/* Throws away what has come. */
void tap_drain(int fd);

/* Every ioctl that src/net makes, for the system call filter: by number, with the reason. */
struct net_ioctl {
	unsigned int nr;
	const char *name, *why;
	bool vcpu; /* vCPU threads, too: a driver that starts or resets */
};
extern const struct net_ioctl net_ioctls[];
extern const unsigned int net_ioctls_count;

#endif
