/* SPDX-License-Identifier: MIT */
/*
 * The driver's side of virtio over PCI, scripted: finds a device, negotiates, lays rings out in
 * guest RAM, programs MSI-X, adds chains, kicks, reads used entries. It goes through the buses
 * only, as a guest does. It can be told to misbehave by writing to the rings it describes.
 *
 * MSI-X message of vector i: data VD_MSI_DATA + i, to APIC 0.
 */
#ifndef TESTS_LIB_VDRIVER_H
#define TESTS_LIB_VDRIVER_H

#include "tests/lib/fake_machine.h"
#include "virtio/virtio.h"

#define VD_MSI_ADDR 0xfee00000u
#define VD_MSI_DATA 0x40u
#define VD_MAX_QUEUES 8

struct vd_queue {
	gpa_t desc, avail, used;
	uint16_t size, next_desc, avail_idx, last_used;
	bool awake; /* an interrupt came and the ring has not been found empty since */
};

struct vdriver {
	struct fake_machine *fm;
	unsigned int slot;
	uint64_t bar;				    /* where BAR 0 is */
	uint64_t common, notify, isr, config, msix; /* addresses */
	uint32_t notify_mult;
	uint64_t features; /* negotiated */
	unsigned int nr_queues;
	struct vd_queue q[VD_MAX_QUEUES];
};

struct vd_buf {
	gpa_t gpa;
	uint32_t len;
	bool in; /* the device writes it */
};

/* Finds the function of this virtio type, enables memory decoding, reads the capabilities. */
void vd_probe(struct vdriver *d, struct fake_machine *fm, uint16_t virtio_id);
/* Offered by the device. */
uint64_t vd_offered(struct vdriver *d);
/* Reset, negotiation of `want` (and VERSION_1) as far as offered, all queues at `size` entries at
 * most (0: the device's own), MSI-X with a vector each, DRIVER_OK. */
void vd_start(struct vdriver *d, uint64_t want, uint16_t size);
/* The parts of vd_start, for tests that do otherwise. */
void vd_negotiate(struct vdriver *d, uint64_t want);
void vd_msix(struct vdriver *d);
void vd_queue_setup(struct vdriver *d, unsigned int q, uint16_t size, bool enable);
uint8_t vd_status(struct vdriver *d);
void vd_set_status(struct vdriver *d, uint8_t s);

uint64_t vd_get(struct vdriver *d, unsigned int reg, unsigned int len); /* common config */
void vd_set(struct vdriver *d, unsigned int reg, unsigned int len, uint64_t v);

/* Raw ring writes. */
void vd_desc(struct vdriver *d, gpa_t table, unsigned int i, gpa_t addr, uint32_t len,
	     uint16_t flags, uint16_t next);
void vd_avail(struct vdriver *d, unsigned int q, uint16_t head);
void vd_set_avail_idx(struct vdriver *d, unsigned int q, uint16_t idx);
/* Adds a chain of n buffers and makes it available; indirect puts it in a table of its own.
 * Descriptors are taken round robin: at most size of them may be outstanding. Returns the head. */
uint16_t vd_add(struct vdriver *d, unsigned int q, const struct vd_buf *b, unsigned int n,
		bool indirect);
void vd_kick(struct vdriver *d, unsigned int q); /* always */
/* Kicks if the device asked for it (EVENT_IDX or flags); returns whether. */
bool vd_kick_if_wanted(struct vdriver *d, unsigned int q, uint16_t old_idx);
/* Takes the next used entry; false when there is none. Publishes used_event (with EVENT_IDX). */
bool vd_used(struct vdriver *d, unsigned int q, uint32_t *id, uint32_t *len);
uint16_t vd_used_idx(struct vdriver *d, unsigned int q);
/*
 * As vd_used, but as a driver does it: it sleeps until an interrupt of the queue, and not a look at
 * the ring, says that there is news (where the machine can tell interrupts); then it takes entries
 * until there are none. A driver that slept when its machine was forked or saved sleeps on in the
 * copy. false after 5 s.
 */
bool vd_wait_used(struct vdriver *d, unsigned int q, uint32_t *id, uint32_t *len);
/* vd_add, and a kick if the device asked for one. */
void vd_submit(struct vdriver *d, unsigned int q, const struct vd_buf *b, unsigned int n,
	       bool indirect);

#endif
