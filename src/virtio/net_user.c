/* SPDX-License-Identifier: MIT */
/*
 * virtio-net's packets moved by this process: TAP to receive queue by a buffer, because how big a
 * packet is is known when it has been read; transmit queue to TAP without one. A packet that finds
 * no buffers of the guest's waits in ours, and the TAP behind it. The kernel checks what is in
 * front of a packet (its virtio-net header).
 *
 * Bounds on a hostile driver: BATCH packets before others get their turn on main; MERGE_MAX buffers
 * a packet. Main.
 */
#include <errno.h>
#include <linux/virtio_net.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "mem/gmem.h"
#include "virtio/net_internal.h"

#define BATCH 64
#define MERGE_MAX 64u
#define NUM_BUFFERS_AT 10u
#define SOON_NS 50000u

/* ---- the timer ---- */

void vnet_look_again(struct vnet *d, uint64_t ns)
{
	uint64_t at = time_mono_ns() + ns;

	if (d->again_ns && d->again_ns <= at)
		return;
	d->again_ns = at;
	loop_set_timer(d->timer, ns);
}

void vnet_look_never(struct vnet *d)
{
	d->again_ns = 0;
	loop_set_timer(d->timer, 0);
}

/* ---- limits ---- */

bool vnet_limited(const struct vnet *d)
{
	return d->state.rx_bytes.size || d->state.rx_ops.size || d->state.tx_bytes.size ||
	       d->state.tx_ops.size;
}

static void pass_time(struct vnet *d)
{
	uint64_t now = time_mono_ns(), ns = now - d->rated_ns;

	rate_pass(&d->state.rx_bytes, ns);
	rate_pass(&d->state.rx_ops, ns);
	rate_pass(&d->state.tx_bytes, ns);
	rate_pass(&d->state.tx_ops, ns);
	d->rated_ns = now;
}

static uint64_t rx_wait_ns(struct vnet *d)
{
	if (!vnet_limited(d))
		return 0;
	pass_time(d);
	return MAX(rate_wait_ns(&d->state.rx_bytes), rate_wait_ns(&d->state.rx_ops));
}

static uint64_t tx_wait_ns(struct vnet *d)
{
	if (!vnet_limited(d))
		return 0;
	pass_time(d);
	return MAX(rate_wait_ns(&d->state.tx_bytes), rate_wait_ns(&d->state.tx_ops));
}

/* ---- receiving ---- */

struct used {
	uint16_t head;
	uint32_t bytes;
};

static void unpop(struct vnet *d, unsigned int q, unsigned int n)
{
	while (n--)
		vq_unpop(&d->v, q);
}

/* Into the guest's buffers: 1 done, 0 there are not enough of them, -1 it has no place at all. */
static int deliver(struct vnet_pair *p, size_t len)
{
	struct vnet *d = p->d;
	unsigned int q = vnet_rx((unsigned int)(p - d->pair)), n = 0;
	bool merge = virtio_has(&d->v, VIRTIO_NET_F_MRG_RXBUF);
	struct used used[MERGE_MAX];
	struct vq_chain first, c;
	size_t at = 0;
	le16 buffers;

	while (at < len) {
		int r = n == MERGE_MAX || (n && !merge) ? -1 : vq_pop(&d->v, q, &c);

		/* when all buffers that there can be are not enough, more will not come */
		if (!r && n == d->state.virtio.vq[q].size)
			r = -1;
		if (r <= 0) {
			unpop(d, q, n);
			return r < 0 ? -1 : 0;
		}
		if (!n)
			first = c;
		if (c.nr_out || c.in_bytes < (n ? 1 : TAP_HEADER)) {
			virtio_broken(&d->v, "receive buffer: %u bytes to read, %u to write",
				      c.out_bytes, c.in_bytes);
			unpop(d, q, n + 1);
			return -1;
		}
		used[n].head = c.head;
		used[n].bytes = (uint32_t)vq_write(&d->v, &c, 0, p->buf + at, len - at);
		at += used[n++].bytes;
	}
	buffers = le16_put((uint16_t)n);
	vq_write(&d->v, &first, NUM_BUFFERS_AT, &buffers, sizeof(buffers));
	for (unsigned int i = 0; i < n; i++)
		vq_push(&d->v, q, used[i].head, used[i].bytes);
	d->rx_packets++;
	return 1;
}

/* What is in the buffer; false: it waits on. */
static bool deliver_pending(struct vnet_pair *p)
{
	int r = p->pending ? deliver(p, p->pending) : 1;

	if (!r)
		return false;
	p->d->dropped += r < 0;
	p->pending = 0;
	return true;
}

static void rx_some(struct vnet_pair *p)
{
	struct vnet *d = p->d;
	bool more = deliver_pending(p);

	for (unsigned int i = 0; i < BATCH && more && virtio_live(&d->v); i++) {
		uint64_t wait = rx_wait_ns(d);
		ssize_t n;

		if (wait) {
			more = false;
			vnet_look_again(d, MAX(wait, NS_PER_MS));
			break;
		}
		n = read(p->tap_fd, p->buf, TAP_PACKET_MAX);
		if (n < (ssize_t)TAP_HEADER) {
			/* A TAP that is gone would be reported for ever. */
			more = n > 0 || (n < 0 && errno == EAGAIN);
			break;
		}
		rate_take(&d->state.rx_bytes, (uint64_t)n - TAP_HEADER);
		rate_take(&d->state.rx_ops, 1);
		p->pending = (size_t)n;
		more = deliver_pending(p);
	}
	loop_set_io(p->tap_io, more && virtio_live(&d->v) ? LOOP_READ : 0);
	vq_notify(&d->v, vnet_rx((unsigned int)(p - d->pair)));
}

void vnet_on_tap(void *arg, int fd, unsigned int events)
{
	struct vnet_pair *p = arg;

	(void)fd;
	(void)events;
	if (p->now == VNET_USER && p->d->v.resumed && virtio_live(&p->d->v)) {
		rx_some(p);
	} else {
		loop_set_io(p->tap_io, 0);
		device_wake(p->d->v.dev.m, "network"); /* as virtio_net_watch says */
	}
}

/* ---- transmitting ---- */

/* The chain's bytes to the TAP in one go; borrowed while it takes them. */
static void transmit(struct vnet_pair *p, const struct vq_chain *c)
{
	struct iovec iov[VIRTIO_MAX_SEGS];
	struct gmem *gm = p->d->v.dev.m->mem;
	unsigned int n = 0;
	ssize_t done = -1;

	for (; n < c->nr_out; n++) {
		iov[n].iov_base = gmem_pin(gm, c->seg[n].gpa, c->seg[n].len, false);
		iov[n].iov_len = c->seg[n].len;
		if (!iov[n].iov_base)
			break;
	}
	if (n == c->nr_out && c->out_bytes > TAP_HEADER && c->out_bytes <= TAP_PACKET_MAX)
		done = writev(p->tap_fd, iov, (int)n);
	while (n--)
		gmem_unpin(gm, c->seg[n].gpa, c->seg[n].len, false);
	/* a full TAP drops, as a wire does */
	if (done < 0)
		p->d->dropped++;
	else
		p->d->tx_packets++;
}

static void tx_some(struct vnet_pair *p)
{
	struct vnet *d = p->d;
	unsigned int q = vnet_tx((unsigned int)(p - d->pair));
	struct vq_chain c;

	for (unsigned int i = 0; !vq_empty(&d->v, q); i++) {
		uint64_t wait = p->now == VNET_USER ? tx_wait_ns(d) : 0;

		if (wait || i == BATCH) {
			vnet_look_again(d, wait ? MAX(wait, NS_PER_MS) : SOON_NS);
			break;
		}
		if (vq_pop(&d->v, q, &c) <= 0)
			break;
		if (c.nr_in || c.out_bytes < TAP_HEADER) {
			virtio_broken(&d->v, "packet: %u bytes to read, %u to write", c.out_bytes,
				      c.in_bytes);
			vq_push(&d->v, q, c.head, 0);
			break;
		}
		if (p->now == VNET_USER) {
			rate_take(&d->state.tx_bytes, c.out_bytes - TAP_HEADER);
			rate_take(&d->state.tx_ops, 1);
			transmit(p, &c);
		} else {
			d->dropped++;
		}
		vq_push(&d->v, q, c.head, 0);
	}
	vq_notify(&d->v, q);
}

/* ---- the rest ---- */

void vnet_user_kick(struct vnet *d, unsigned int q)
{
	struct vnet_pair *p = &d->pair[q / 2];

	if (p->now == VNET_VHOST)
		return;
	if (q & 1)
		tx_some(p);
	else if (p->now == VNET_USER)
		rx_some(p);
}

void vnet_go_on(void *arg)
{
	struct vnet *d = arg;

	d->again_ns = 0;
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++) {
		struct vnet_pair *p = &d->pair[i];

		if (!d->v.resumed || !virtio_live(&d->v) || p->now == VNET_VHOST)
			continue;
		if (p->now == VNET_USER)
			rx_some(p);
		tx_some(p);
	}
	if (d->v.resumed)
		vnet_ctrl_kick(d, vnet_ctrl_queue(d));
	if (!virtio_live(&d->v))
		vnet_update(d);
}

void vnet_drop_sent(struct vnet *d)
{
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++) {
		unsigned int size = d->state.virtio.vq[vnet_tx(i)].size;

		/* as many as a ring holds: one that fills it meanwhile is told of the link */
		for (unsigned int n = 0; n < size; n += BATCH)
			tx_some(&d->pair[i]);
	}
}

void vnet_user_start(struct vnet_pair *p)
{
	if (!p->buf)
		p->buf = malloc(TAP_PACKET_MAX);
	if (!p->buf) {
		log_guest(&p->d->v.log, "%s: no memory for packets", p->d->v.dev.id);
		return;
	}
	p->now = VNET_USER;
	rx_some(p);
	tx_some(p);
}

void vnet_user_stop(struct vnet_pair *p)
{
	loop_set_io(p->tap_io, 0);
	p->pending = 0; /* a wire loses packets */
	p->now = VNET_NONE;
}

void vnet_user_pause(struct vnet *d)
{
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++) {
		struct vnet_pair *p = &d->pair[i];

		if (p->now != VNET_USER)
			continue;
		loop_set_io(p->tap_io, 0);
		p->now = VNET_NONE;
	}
}
