/* SPDX-License-Identifier: MIT */
/*
 * A virtio-net device in a machine without vCPUs, its driver, and the wires behind it: what the
 * tests of the device share. In the place of each TAP is one end of a socket pair, which has
 * packets, too. What cannot go wrong is checked (BUG_ON, or cmocka's assertions). One test thread.
 */
#ifndef TESTS_LIB_VNIC_H
#define TESTS_LIB_VNIC_H

#include <sys/types.h>

#include "tests/lib/fake_machine.h"
#include "tests/lib/vdriver.h"
#include "virtio/net_internal.h"

#define VNIC_PAIRS 3u
#define VNIC_SLOTS 256u
#define VNIC_BUF 2048u	 /* bytes of a slot */
#define VNIC_BIG 200000u /* bytes of the one big buffer */

struct vnic_rig {
	struct fake_machine fm;
	struct device *dev;
	struct vdriver d;
	unsigned int pairs;
	int wire[VNIC_PAIRS];	 /* the other end of each pair's TAP; -1: none */
	gpa_t rx, tx, big, ctrl; /* rx, tx: VNIC_SLOTS of each */
	unsigned int sent, offered;
};

/* kvm_model_taken, which only a test's own file can name; set it before the first machine. */
extern bool (*vnic_taken)(struct fake_machine *fm, uint64_t addr, unsigned int len);

/* A machine with one NIC, "net0", MTU 1400, without a wire; not started. */
void vnic_make(struct vnic_rig *g, unsigned int pairs);
/* The next to adopt it (prefix: "", or "child/") finds a TAP for this pair. */
void vnic_plug(struct vnic_rig *g, const char *prefix, unsigned int pair);
/* Finds the device and takes all its features but those in `without`. */
void vnic_drive(struct vnic_rig *g, uint64_t without);
void vnic_end(struct vnic_rig *g);
/* h becomes a machine that goes on from the state of g, which is quiesced, with a wire of its own;
 * not resumed. */
void vnic_copy(struct vnic_rig *g, struct vnic_rig *h, const struct identity *id);
/* As setup and teardown of a test: *state is a running rig of one pair, with its wire and driver.
 */
int vnic_up(void **state);
int vnic_up_pairs(void **state); /* of VNIC_PAIRS, of which the driver uses one */
int vnic_down(void **state);

static inline struct vnet *vnic_of(struct vnic_rig *g)
{
	return (struct vnet *)g->dev;
}
static inline bool vnic_broken(struct vnic_rig *g)
{
	return vd_status(&g->d) & 0x40; /* NEEDS_RESET */
}

/* Lets the machine do all that is due, a few milliseconds long. */
void vnic_settle(struct vnic_rig *g);
/* A packet: 12 bytes of zeroes, then what depends on the seed. */
void vnic_fill(uint8_t *p, size_t n, unsigned int seed);

/* The wire's side. vnic_got: a packet that came out, -1: none. */
void vnic_put(struct vnic_rig *g, unsigned int pair, const void *p, size_t n);
void vnic_put_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed);
ssize_t vnic_got(struct vnic_rig *g, unsigned int pair, void *p, size_t n);
/* One that is as vnic_fill made it came out, and is n long. */
bool vnic_got_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed);

/* The driver's side. Offers a receive buffer of `bytes` (of one descriptor). */
void vnic_offer(struct vnic_rig *g, unsigned int pair, uint32_t bytes);
/* The next packet that was received, put together from its buffers; 0: none. */
size_t vnic_take(struct vnic_rig *g, unsigned int pair, void *p, size_t max, unsigned int *buffers);
/* One that is as vnic_put_seed sent it was received, in so many buffers. */
bool vnic_took_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed,
		    unsigned int buffers);
/* Makes a packet available (n up to VNIC_BUF), and kicks if that is wanted. */
void vnic_send(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed);
/* Transmit buffers that came back since the last call. */
unsigned int vnic_sent(struct vnic_rig *g, unsigned int pair);
/* A command on control queue q; its answer, or 0xee when there is none. */
uint8_t vnic_command(struct vnic_rig *g, unsigned int q, uint8_t class, uint8_t cmd,
		     const void *data, size_t n);

#endif
