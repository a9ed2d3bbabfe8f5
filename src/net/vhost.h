/* SPDX-License-Identifier: MIT */
/*
 * vhost-net: the kernel moves packets between a TAP and the rings of one queue pair. A vhost
 * descriptor belongs to the process that first used it: a fork's child gets its own. What is handed
 * over are addresses in this process that were checked to be guest RAM; descriptors that a guest
 * writes into the rings are checked by the kernel against the same RAM.
 *
 * Linux uapi linux/vhost.h. Start on main; stop on any thread with the device lock held.
 */
#ifndef CLONE_NET_VHOST_H
#define CLONE_NET_VHOST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct gmem;

struct vhost_ring {
	uint16_t size, last_avail;
	void *desc, *avail, *used;    /* in this process */
	int kick_fd, call_fd, err_fd; /* eventfds, borrowed; call_fd -1: nobody is told */
};

/* Takes possession of fd (/dev/vhost-net, the caller's) for this process and its guest's RAM: once.
 * *features: those of virtio and vhost that it knows. -errno. */
int vhost_claim(int fd, struct gmem *gm, uint64_t *features, struct err *e);
/* ring[0] receives, ring[1] transmits. features: negotiated ones that vhost is to know. -errno:
 * nothing runs any more, and last_avail says how far a ring came that did. */
int vhost_start(int fd, int tap_fd, uint64_t features, struct vhost_ring ring[2], struct err *e);
/* Returns when nothing is in flight; how far each ring came is in last_avail. Cannot fail on a
 * started one: BUG. */
void vhost_stop(int fd, uint16_t last_avail[2]);

#endif
