/* SPDX-License-Identifier: MIT */
/*
 * Conformance row of virtio-net, its packets moved by this process. In the place of the TAP is one
 * end of a socket pair, which has packets, too; the other end is the NIC's "keep", so that a forked
 * child has its own. The guest sends, and receives in merged buffers; after a restore or a fork it
 * is connected when it knows who it is.
 */
#include <fcntl.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "event/grants.h"
#include "tests/device/conformance.h"
#include "virtio/net_internal.h"

enum { RX, TX, CTRL };
#define NR_RX 16
#define RX_BYTES 512u
#define NR_TX 16
#define TX_BYTES 256u
#define TX_OFF (NR_RX * RX_BYTES)
#define CTRL_OFF (TX_OFF + NR_TX * TX_BYTES)
#define BIG 1200u /* bytes of a packet that needs three buffers */

static void put(struct conf *c, const char *prefix, const char *what, int fd)
{
	char name[64];

	snprintf(name, sizeof(name), "%snet/%s/%s", prefix, c->row->id, what);
	BUG_ON(grants_put(c->fm.m.grants, name, fd, NULL));
}

static void net_give(struct conf *c, const char *prefix)
{
	int sv[2];

	BUG_ON(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv));
	put(c, prefix, "tap", sv[0]);
	put(c, prefix, "keep", sv[1]);
}

static int wire(struct conf *c)
{
	return ((struct vnet *)c->dev)->keep[0];
}

static void offer_rx(struct conf *c, unsigned int i)
{
	struct vd_buf b = { c->buf + RX_BYTES * (i % NR_RX), RX_BYTES, true };

	vd_submit(&c->d, RX, &b, 1, false);
}

static void net_boot(struct conf *c)
{
	c->done = 0;
	for (unsigned int i = 0; i < NR_RX; i++)
		offer_rx(c, i);
}

static void fill(uint8_t *p, size_t n, uint64_t seed)
{
	memset(p, 0, TAP_HEADER);
	for (size_t i = TAP_HEADER; i < n; i++)
		p[i] = (uint8_t)(seed * 31 + i);
}

static void send_one(struct conf *c, uint64_t seed)
{
	struct vd_buf b = { c->buf + TX_OFF + TX_BYTES * (seed % NR_TX), 100, false };
	uint8_t p[100];

	fill(p, sizeof(p), seed);
	CONF(c, !gmem_write(c->fm.m.mem, b.gpa, p, sizeof(p)));
	vd_submit(&c->d, TX, &b, 1, seed & 1);
	c->outstanding++;
}

static void net_load(struct conf *c)
{
	for (unsigned int i = 0; i < NR_TX / 2; i++)
		send_one(c, 1000 + i);
}

static bool link_up(struct conf *c)
{
	return fm_read(&c->fm, c->d.config + 6, 2) & VIRTIO_NET_S_LINK_UP;
}

/* Buffers come back, also of packets that a child must not send. */
static void net_drain(struct conf *c)
{
	uint8_t p[256];

	for (; c->outstanding; c->outstanding--)
		CONF(c, vd_wait_used(&c->d, TX, NULL, NULL));
	while (recv(wire(c), p, sizeof(p), MSG_DONTWAIT) > 0)
		CONF(c, link_up(c)); /* else they were its parent's */
}

static void receive(struct conf *c, uint64_t seed)
{
	uint8_t want[BIG], got[BIG + RX_BYTES];
	size_t at = 0;

	fill(want, sizeof(want), seed);
	CONF(c, send(wire(c), want, sizeof(want), 0) == sizeof(want));
	while (at < sizeof(want)) {
		uint16_t n = c->d.q[RX].last_used;
		uint32_t len;

		CONF(c, vd_wait_used(&c->d, RX, NULL, &len) && len && len <= RX_BYTES);
		CONF(c, !gmem_read(c->fm.m.mem, c->buf + RX_BYTES * (n % NR_RX), got + at, len));
		at += len;
		offer_rx(c, n);
	}
	want[10] = 3; /* num_buffers */
	CONF(c, at == sizeof(want) && !memcmp(want, got, sizeof(want)));
}

static void transmit(struct conf *c, uint64_t seed)
{
	uint8_t want[100], got[256];

	net_drain(c);
	send_one(c, seed);
	CONF(c, vd_wait_used(&c->d, TX, NULL, NULL));
	c->outstanding--;
	fill(want, sizeof(want), seed);
	CONF(c, recv(wire(c), got, sizeof(got), MSG_DONTWAIT) == sizeof(want));
	CONF(c, !memcmp(want, got, sizeof(want)));
}

/* A command that is answered with OK, and one that is not. */
static void command(struct conf *c, uint8_t class, uint8_t ack)
{
	uint8_t head[2] = { class, 0 }, got = 0xee;
	struct vd_buf b[2] = { { c->buf + CTRL_OFF, 2, false },
			       { c->buf + CTRL_OFF + 8, 1, true } };

	CONF(c, !gmem_write(c->fm.m.mem, b[0].gpa, head, sizeof(head)));
	vd_submit(&c->d, CTRL, b, 2, false);
	CONF(c, vd_wait_used(&c->d, CTRL, NULL, NULL));
	CONF(c, !gmem_read(c->fm.m.mem, b[1].gpa, &got, 1) && got == ack);
}

static void net_progress(struct conf *c)
{
	uint64_t seed = ++c->done;

	CONF(c, link_up(c));
	transmit(c, seed);
	receive(c, seed);
	command(c, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_OK);
	command(c, 77, VIRTIO_NET_ERR);
}

/* Before it is connected nothing gets out. */
static void net_woke(struct conf *c)
{
	CONF(c, !link_up(c));
	send_one(c, 3);
	net_drain(c);
	virtio_net_connect(c->dev);
}

static const struct virtio_net_cfg net_cfg = { .queue_pairs = 1, .mtu = 1400 };

const struct conf_row conf_row_net = {
	.cls = &virtio_net_class,
	.id = "net0",
	.cfg = &net_cfg,
	.virtio_id = 1,
	.features = 1ull << VIRTIO_NET_F_MRG_RXBUF | 1ull << VIRTIO_NET_F_CTRL_VQ |
		    1ull << VIRTIO_NET_F_GUEST_ANNOUNCE | 1ull << VIRTIO_NET_F_STATUS,
	.give = net_give,
	.boot = net_boot,
	.load = net_load,
	.drain = net_drain,
	.progress = net_progress,
	.woke = net_woke,
};
