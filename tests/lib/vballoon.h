/* SPDX-License-Identifier: MIT */
/*
 * A machine with a balloon and a scripted driver of it, for tests.
 */
#ifndef TESTS_LIB_VBALLOON_H
#define TESTS_LIB_VBALLOON_H

#include <linux/virtio_balloon.h>

#include "tests/lib/vdriver.h"
#include "virtio/balloon.h"

enum { VB_INFLATE, VB_DEFLATE, VB_STATS, VB_HINT, VB_REPORT, VB_QUEUES };
#define VB_F(name) (1ull << VIRTIO_BALLOON_F_##name)
#define VB_ALL (VB_F(STATS_VQ) | VB_F(DEFLATE_ON_OOM) | VB_F(FREE_PAGE_HINT) | VB_F(REPORTING))

struct vballoon {
	struct fake_machine fm;
	struct vdriver d;
	struct device *dev;
	int q[VB_QUEUES]; /* where the driver has its queues; -1: not */
	gpa_t buf;	  /* 64 KiB */
	unsigned int changes;
};

/* Starts the driver. Queues by the specification's numbers, or (packed) as Linux counts. */
void vb_start(struct vballoon *r, uint64_t features, bool packed, uint32_t poison);
/* The machine, everything offered, not started. on_change counts. Needs the program's KVM model. */
void vb_make(struct vballoon *r, uint64_t ram, const struct virtio_balloon_cfg *cfg);
/* vb_make with all functions, vb_start. */
void vb_up(struct vballoon *r, uint64_t ram, uint64_t features);

/* One chain, waited for: false when it did not come back in 5 s. */
bool vb_pfns(struct vballoon *r, int queue, const uint32_t *pfn, unsigned int n);
bool vb_pages(struct vballoon *r, int queue, gpa_t gpa, uint32_t len);
bool vb_word(struct vballoon *r, int queue, uint32_t val); /* a readable buffer of 4 bytes */
/* One statistics buffer of n entries, offered. */
void vb_stats(struct vballoon *r, const uint16_t *tag, const uint64_t *val, unsigned int n);

/* Each page of the range begins with (or is expected to) its own number and this mark. */
void vb_fill(struct vballoon *r, gpa_t gpa, uint64_t len, uint32_t mark);
/* Of the pages in the range, how many are filled so; zero whole; */
unsigned int vb_filled(struct vballoon *r, gpa_t gpa, uint64_t len, uint32_t mark);
unsigned int vb_zero(struct vballoon *r, gpa_t gpa, uint64_t len);
/* The first len bytes of RAM become a template's file, filled with this mark, mapped privately. */
void vb_template(struct vballoon *r, uint64_t offset, uint64_t len, uint32_t mark);

uint32_t vb_config(struct vballoon *r, unsigned int off);
struct virtio_balloon_view vb_view(struct vballoon *r);
unsigned int vb_mappings(void); /* of this process */

#endif
