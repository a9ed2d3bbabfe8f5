/* SPDX-License-Identifier: MIT */
/*
 * What the files of virtio-net share: the device and its contract (net.c), who moves its packets
 * (net_backend.c), this process doing so (net_user.c), the control queue (net_ctrl.c). Device lock
 * held throughout.
 */
#ifndef CLONE_VIRTIO_NET_INTERNAL_H
#define CLONE_VIRTIO_NET_INTERNAL_H

#include "net/tap.h"
#include "virtio/net.h"
#include "virtio/virtio.h"

#define VNET_KEEP_MAX 65 /* a lease, and NETWORK_PUBLISH_MAX ports of two families */

struct responder;
struct vnet;

/* What the guest can observe. */
struct vnet_state {
	struct virtio_state virtio;
	struct pci_state pci;
	uint8_t mac[NIC_MAC], driver_mac[NIC_MAC];
	uint16_t status;	 /* VIRTIO_NET_S_* */
	uint16_t pairs;		 /* that the driver uses */
	uint64_t guest_offloads; /* features that it takes now: part of what was negotiated */
	struct rate_bucket rx_bytes, rx_ops, tx_bytes, tx_ops;
};

enum vnet_backend { VNET_NONE, VNET_USER, VNET_VHOST };

/* The host side of one queue pair. */
struct vnet_pair {
	struct vnet *d;
	int tap_fd, vhost_fd, err_fd; /* -1: none */
	struct loop_io *tap_io, *err_io;
	enum vnet_backend now;
	bool claimed;  /* vhost_fd is ours, with `features` */
	bool no_vhost; /* it failed: not again */
	uint64_t features;
	uint8_t *buf;	/* TAP_PACKET_MAX bytes, once VNET_USER was */
	size_t pending; /* bytes of a packet in buf that waits for the guest's buffers */
	bool off;	/* the TAP's queue does not take part */
};

struct vnet {
	struct virtio_dev v; /* first */
	struct virtio_net_cfg cfg;
	struct vnet_state state;
	/* host side */
	struct vnet_pair pair[VIRTIO_NET_PAIRS_MAX];
	struct responder *responder;
	int keep[VNET_KEEP_MAX];
	unsigned int nr_keep;
	struct nic_address addr; /* what its network gave it; a zero MAC: none did */
	struct loop_timer *announcer;
	unsigned int rounds;	  /* in which the driver is still asked to announce itself */
	bool unseen;		  /* it has not looked at the link since that came up */
	bool late;		  /* a round fell due while the machine stood still */
	struct loop_timer *timer; /* looks at the queues again, */
	uint64_t again_ns;	  /* then; 0: it is not set */
	uint64_t rated_ns;	  /* until when the rate limits know the time */
	bool adopted;		  /* and not resumed since */
	bool connect;		  /* when it is resumed */
	bool posted;
	uint64_t rx_packets, tx_packets, dropped;
};

/* net_backend.c */
/* Each pair's packets are moved by whoever can, or by nobody: after anything that this depends on.
 * Main. */
void vnet_update(struct vnet *d);
/* Nobody moves packets. Also on a vCPU thread: vhost is stopped, main looks at the rest. */
void vnet_stop(struct vnet *d);
/* vnet_update soon, from any thread. */
void vnet_update_later(struct vnet *d);
/* TAPs, vhost and the rest from the grants; the loop's parts. */
int vnet_backend_adopt(struct vnet *d, struct err *e);
void vnet_backend_fini(struct vnet *d);

/* net_user.c */
void vnet_user_start(struct vnet_pair *p);
void vnet_user_stop(struct vnet_pair *p);
/* The VM stands still: a packet that waits in our buffer waits on. */
void vnet_user_pause(struct vnet *d);
void vnet_on_tap(void *arg, int fd, unsigned int events);
void vnet_user_kick(struct vnet *d, unsigned int q);
/* The timer: queues that wait for the rate limits, or for their turn. */
void vnet_go_on(void *arg);
/* It comes in ns, or earlier if something else waits for it. */
void vnet_look_again(struct vnet *d, uint64_t ns);
void vnet_look_never(struct vnet *d);
/* What was sent so far comes back to the driver and goes nowhere. The link is down. */
void vnet_drop_sent(struct vnet *d);
bool vnet_limited(const struct vnet *d);

/* net_announce.c */
/* The link has come up. */
void vnet_announce(struct vnet *d);
/* The driver looks at it; any thread. */
void vnet_announce_seen(struct vnet *d);
/* It goes on: what fell due meanwhile comes soon. Main. */
void vnet_announce_resume(struct vnet *d);
int vnet_announce_adopt(struct vnet *d, struct err *e);

/* net_ctrl.c */
unsigned int vnet_ctrl_queue(const struct vnet *d);
void vnet_ctrl_kick(struct vnet *d, unsigned int q);
/* Of GUEST_CSUM and the like, what was negotiated. */
uint64_t vnet_guest_offloads(const struct vnet *d);
/* Tells TAPs what the driver takes. */
void vnet_set_offloads(struct vnet *d);

static inline unsigned int vnet_rx(unsigned int pair)
{
	return 2 * pair;
}

static inline unsigned int vnet_tx(unsigned int pair)
{
	return 2 * pair + 1;
}

static inline bool vnet_mac_ok(const uint8_t *mac)
{
	return !(mac[0] & 1) && (mac[0] | mac[1] | mac[2] | mac[3] | mac[4] | mac[5]);
}

#endif
