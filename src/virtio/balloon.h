/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon (virtio 1.2 section 5.5): memory that the guest gives back, asked for (inflate) or
 * by itself (free page reporting, hinting). A page given back falls to its template's page where
 * that file is mapped, else to zero; never to a private copy.
 *
 * Fork and restore: keep. What the guest has in its balloon is in its memory; the target, too.
 *
 * Main, with the device lock.
 */
#ifndef CLONE_VIRTIO_BALLOON_H
#define CLONE_VIRTIO_BALLOON_H

#include <stdbool.h>
#include <stdint.h>

#include "device/device.h"

#define VIRTIO_BALLOON_STATS 16 /* tags that we know of, by number (virtio 1.2 section 5.5.6.4) */

struct virtio_balloon_cfg {
	uint8_t deflate_on_oom; /* the driver takes pages back by itself before its OOM killer */
	uint8_t stats, reporting, hinting;
};

/* What is known of it: of what the driver said, nothing is trusted. */
struct virtio_balloon_view {
	bool driver;		 /* one is at work */
	uint64_t target_bytes;	 /* asked for */
	uint64_t actual_bytes;	 /* in it, as the driver says; at most RAM */
	uint64_t inflated_bytes; /* told to us by inflating, in sum since start, load or fork */
	uint64_t reported_bytes; /* by reporting */
	uint64_t hinted_bytes;	 /* by hinting, in rounds that are over */
	uint64_t kept_bytes;  /* of these three: what was not given back (poisoned, hinted and then
				 written to or its round broken off, not RAM) */
	uint64_t stats_ns;    /* CLOCK_MONOTONIC of the last statistics; 0: there were none */
	uint32_t stats_known; /* bits: which of stat[] the driver has said */
	uint64_t stat[VIRTIO_BALLOON_STATS];
	uint32_t stats_period_ms; /* they are asked for so often; 0: never */
};

extern const struct device_class virtio_balloon_class;

/* How much is to be in it, rounded down to pages. The driver does it in its own time; it is told
 * also by a machine that stands still. -EINVAL: more than RAM. */
int virtio_balloon_set_target(struct device *d, uint64_t bytes, struct err *e);
/* Statistics are asked for every period_ms (0: never), and once now, or when the machine goes on.
 * A driver that has not answered is not asked again. Kept by snapshots and forks. -ENOTSUP: not
 * offered. */
int virtio_balloon_poll_stats(struct device *d, uint32_t period_ms, struct err *e);
/*
 * A round of hinting (virtio 1.2 section 5.5.6.5; why it is so: balloon_hint.c). The driver is
 * asked for all its free pages, once, and holds them until the end of the round, which its owner
 * tells it. -EBUSY: there is a round; -ENOTSUP: not negotiated; -ENOMEM: they are remembered, a bit
 * a page of RAM. The owner knows by then of every write to RAM from here on.
 */
int virtio_balloon_hint(struct device *d, struct err *e);
/* true until the end of the round: the owner's, or the driver's reset. */
bool virtio_balloon_hinting(const struct device *d);
/* Has the driver named them all? */
bool virtio_balloon_hint_through(const struct device *d);
/* These pages of RAM (a bit each, by offset) were written to since virtio_balloon_hint: they are
 * not taken, unless they hold zeroes. */
void virtio_balloon_hint_written(struct device *d, const uint64_t *pages);
/* Takes so many (at most) of those that are left; false when there are no more, or the driver is
 * not through. The world stands still since before it was known what was written. */
bool virtio_balloon_take_hinted(struct device *d, uint64_t max_bytes);
/* The round is over, wherever it is; the driver has its pages back. No-op without one. */
void virtio_balloon_hint_end(struct device *d);
void virtio_balloon_view(const struct device *d, struct virtio_balloon_view *out);
/* Called (main, from its loop) when actual_bytes or the statistics have changed, or the driver is
 * through with hinting or gone; one of them, NULL for none. Forgotten by nothing but this. */
void virtio_balloon_on_change(struct device *d, void (*fn)(void *arg), void *arg);

#endif
