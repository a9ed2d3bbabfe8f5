/* SPDX-License-Identifier: MIT */
/*
 * A virtio-vsock device in a fake machine, with a scripted guest that drives it through its rings
 * as Linux does: RX buffers of a header and a page, eight event buffers. Works in a fresh
 * directory, which becomes the working directory. The test program includes kvm_model.h.
 */
#ifndef TESTS_LIB_VSOCK_GUEST_H
#define TESTS_LIB_VSOCK_GUEST_H

#include <sys/types.h>

#include "tests/lib/fake_machine.h"
#include "tests/lib/vdriver.h"
#include "virtio/vsock.h"

#define VG_CID 3u
#define VG_RX_DATA 4096u
#define VG_RX_BUFS 32u
#define VG_EVENTS 8u
enum { VG_RX, VG_TX, VG_EVENT };

struct vg {
	struct fake_machine fm;
	struct device *dev;
	struct vsock_mux *mux;
	struct vdriver d;
	gpa_t rx, tx, event; /* buffers: VG_RX_BUFS, one, VG_EVENTS */
	char dir[64];
	uint32_t alloc, fwd; /* what the guest says in its headers */
};

/* The machine and its device, not adopted. */
void vg_make(struct vg *g);
/* The same, running, with a listening socket "vsock.sock", and a driver if `driver`. */
void vg_init(struct vg *g, bool driver);
void vg_fini(struct vg *g);
/* The driver's probe: resets the device, sets it up and gives it RX (nr_rx) and event buffers. */
void vg_driver(struct vg *g, unsigned int nr_rx, unsigned int nr_events);
void vg_add_rx(struct vg *g, unsigned int n);
void vg_add_event(struct vg *g);
/* Grants a listening socket at `path` under the device's grant, with a prefix (for a child). */
void vg_grant(struct vg *g, const char *prefix, const char *path);

/* The guest sends one packet (and checks that the device is done with it). */
void vg_send(struct vg *g, const struct vsock_hdr *h, const void *data, uint32_t len);
void vg_say(struct vg *g, enum vsock_op op, uint32_t host_port, uint32_t guest_port, uint32_t flags,
	    const void *data, uint32_t len);
/* Only puts it into the ring. */
void vg_post(struct vg *g, enum vsock_op op, uint32_t host_port, uint32_t guest_port);
/* The next packet for the guest; its buffer is given back. false: there is none within wait_ns. */
bool vg_take(struct vg *g, uint64_t wait_ns, struct vsock_hdr *h, uint8_t data[VG_RX_DATA]);
/* The same, within a minute, and it must be this one: fails the test otherwise. */
void vg_expect(struct vg *g, enum vsock_op op, struct vsock_hdr *h, uint8_t data[VG_RX_DATA]);
/* No packet and no event, now. */
bool vg_quiet(struct vg *g);
/* An event was delivered: its buffer must say TRANSPORT_RESET. Not given back yet. */
bool vg_event(struct vg *g);

/* A host program. */
int vg_dial(const char *path, const char *line);
ssize_t vg_read(struct vg *g, int fd, void *buf, size_t n);
bool vg_closed(struct vg *g, int fd);

#endif
