/* SPDX-License-Identifier: MIT */
/*
 * virtio-net's control queue (virtio 1.2 section 5.1.6.5): the driver's own MAC, how many queues it
 * uses, which offloads it takes, and that it has announced itself. A command that makes no sense
 * is answered with an error; it breaks nothing. Main.
 */
#include <linux/virtio_net.h>
#include <string.h>

#include "base/endian.h"
#include "base/log.h"
#include "base/util.h"
#include "event/loop.h"
#include "virtio/net_internal.h"

#define BATCH 64
#define DATA_MAX 16u /* bytes of a command that we look at: the longest we know has 8 */

/* Behind the pairs that there could be if the driver uses several, else behind the first. */
unsigned int vnet_ctrl_queue(const struct vnet *d)
{
	return virtio_has(&d->v, VIRTIO_NET_F_MQ) ? 2 * d->cfg.queue_pairs : 2;
}

void vnet_set_offloads(struct vnet *d)
{
	struct err e;

	/* all queues of a TAP are one device; the first always takes part */
	if (d->pair[0].tap_fd >= 0 &&
	    tap_set_offloads(d->pair[0].tap_fd, d->state.guest_offloads, &e))
		log_guest(&d->v.log, "%s: %s", d->v.dev.id, e.msg);
}

static bool set_mac(struct vnet *d, const uint8_t *data, size_t n)
{
	if (n != NIC_MAC || !vnet_mac_ok(data))
		return false;
	memcpy(d->state.mac, data, NIC_MAC);
	return true;
}

static bool set_pairs(struct vnet *d, const uint8_t *data, size_t n)
{
	le16 raw;
	uint16_t pairs;

	if (n != sizeof(raw) || !virtio_has(&d->v, VIRTIO_NET_F_MQ))
		return false;
	memcpy(&raw, data, sizeof(raw));
	pairs = le16_get(raw);
	if (!pairs || pairs > d->cfg.queue_pairs)
		return false;
	d->state.pairs = pairs;
	vnet_update(d);
	return true;
}

static bool set_offloads(struct vnet *d, const uint8_t *data, size_t n)
{
	le64 raw;
	uint64_t want;

	if (n != sizeof(raw) || !virtio_has(&d->v, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS))
		return false;
	memcpy(&raw, data, sizeof(raw));
	want = le64_get(raw);
	if (want & ~vnet_guest_offloads(d))
		return false;
	d->state.guest_offloads = want;
	vnet_set_offloads(d);
	return true;
}

static bool command(struct vnet *d, uint8_t class, uint8_t cmd, const uint8_t *data, size_t n)
{
	switch (class << 8 | cmd) {
	case VIRTIO_NET_CTRL_MAC << 8 | VIRTIO_NET_CTRL_MAC_ADDR_SET:
		return set_mac(d, data, n);
	case VIRTIO_NET_CTRL_MQ << 8 | VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET:
		return set_pairs(d, data, n);
	case VIRTIO_NET_CTRL_GUEST_OFFLOADS << 8 | VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET:
		return set_offloads(d, data, n);
	case VIRTIO_NET_CTRL_ANNOUNCE << 8 | VIRTIO_NET_CTRL_ANNOUNCE_ACK:
		d->state.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
		return true;
	default:
		return false;
	}
}

static void answer(struct vnet *d, unsigned int q, const struct vq_chain *c)
{
	uint8_t head[2], data[DATA_MAX], ack = VIRTIO_NET_ERR;
	size_t n;

	if (c->out_bytes < sizeof(head) || !c->in_bytes) {
		virtio_broken(&d->v, "command of %u bytes, with %u for the answer", c->out_bytes,
			      c->in_bytes);
		vq_push(&d->v, q, c->head, 0);
		return;
	}
	vq_read(&d->v, c, 0, head, sizeof(head));
	n = c->out_bytes - sizeof(head);
	if (n <= sizeof(data) && vq_read(&d->v, c, sizeof(head), data, n) == n &&
	    command(d, head[0], head[1], data, n))
		ack = VIRTIO_NET_OK;
	vq_write(&d->v, c, 0, &ack, sizeof(ack));
	vq_push(&d->v, q, c->head, sizeof(ack));
}

void vnet_ctrl_kick(struct vnet *d, unsigned int q)
{
	struct vq_chain c;

	/* as many as the ring holds at most, and each is little work: no turn for others needed */
	for (unsigned int i = 0; i < BATCH && vq_pop(&d->v, q, &c) > 0; i++)
		answer(d, q, &c);
	vq_notify(&d->v, q);
	if (!vq_empty(&d->v, q))
		vnet_look_again(d, 1);
}
