/* SPDX-License-Identifier: MIT */
/*
 * What the files of the balloon share: the device (balloon.c), the pages that come by its queues
 * (balloon_pages.c), hinting (balloon_hint.c), statistics (balloon_stats.c). Nobody else includes
 * this.
 */
#ifndef CLONE_VIRTIO_BALLOON_INT_H
#define CLONE_VIRTIO_BALLOON_INT_H

#include <linux/virtio_balloon.h>

#include "event/loop.h"
#include "virtio/balloon.h"
#include "virtio/virtio.h"

/* The queues, by the numbers that the specification gives them (virtio 1.2 section 5.5.2). */
enum balloon_queue { INFLATE, DEFLATE, STATS, HINT, REPORT, NR_BALLOON_QUEUES };

struct balloon_state {
	struct virtio_state virtio;
	struct pci_state pci;
	/* config space, as it is read */
	uint32_t num_pages, actual, cmd_id, poison_val;
	uint32_t last_id;   /* the last command id that was given out; 0: none was */
	uint32_t poll_ms;   /* statistics: the period, 0 for none */
	uint8_t hint_open;  /* the driver has said cmd_id, and not yet that it is through */
	uint8_t stats_held; /* the buffer next in the statistics queue was read and is kept */
};

struct balloon {
	struct virtio_dev v; /* first: a struct device * is a struct balloon * */
	struct virtio_balloon_cfg cfg;
	struct balloon_state state;
	/* host side */
	struct loop_timer *again, *poll;
	bool posted; /* on_change will be called soon */
	bool ask;    /* for statistics, when it is resumed */
	void (*on_change)(void *arg);
	void *arg;
	/* How many bytes of the chain next in a queue are dealt with: a long one takes several
	 * turns of main. In a fork's child, or restored, it begins anew, which the driver cannot
	 * tell. */
	uint64_t at[NR_BALLOON_QUEUES];
	uint64_t inflated_bytes, reported_bytes, hinted_bytes, kept_bytes;
	/* A round of hinting: a bit a page of RAM that was hinted and is not dealt with; NULL:
	 * there is none. And those that the guest has written to in it, as far as we were told;
	 * one allocation. */
	uint64_t *hinted, *written;
	bool hint_through; /* the driver has named them all */
	uint64_t hint_at;  /* pages before this one are dealt with, once it is through */
	uint64_t hint_told, hint_given; /* bytes, of this round */
	uint64_t stats_ns;
	uint32_t stats_known;
	uint64_t stat[VIRTIO_BALLOON_STATS];
};

/* What q is to this driver; NR_BALLOON_QUEUES: nothing. And the other way round: -1. */
enum balloon_queue balloon_role(const struct balloon *b, unsigned int q);
int balloon_queue_of(const struct balloon *b, enum balloon_queue role);
/* on_change, soon and on main; any thread with the device lock. */
void balloon_changed(struct balloon *b);

/* Kicks (main): what is queued is dealt with, or some of it, and the rest soon. */
void balloon_pages_kick(struct balloon *b, unsigned int q, enum balloon_queue role);
void balloon_hint_chain(struct balloon *b, const struct vq_chain *c);
/* Free pages go, as far as the driver's poison allows; how many bytes. Whole pages of RAM. */
uint64_t balloon_give_free(struct balloon *b, gpa_t gpa, uint64_t len);
/* There is no round (any more); what was hinted in it and is not given back is counted as kept. */
void balloon_hint_forget(struct balloon *b);
void balloon_stats_kick(struct balloon *b, unsigned int q);
/* The driver is asked for statistics, if it has answered the last time. Main, resumed. */
void balloon_stats_ask(struct balloon *b);
/* The timer of the period: armed, or not; and its callback. */
void balloon_stats_arm(struct balloon *b);
void balloon_stats_due(void *arg);

#endif
