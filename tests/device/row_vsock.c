/* SPDX-License-Identifier: MIT */
/*
 * Conformance row of virtio-vsock: the guest asks for connections to a host port where nobody
 * listens and is refused, packet by packet; after a restore or a fork it first acknowledges the
 * transport reset.
 */
#include <linux/virtio_vsock.h>
#include <string.h>

#include "base/util.h"
#include "event/grants.h"
#include "tests/device/conformance.h"
#include "virtio/vsock.h"
#include "vsock/vsock.h"

enum { RX, TX, EVENT };
#define NR_RX 32
#define RX_BYTES 256u
#define NR_EVENT 4
#define NR_TX 32
#define HOST_PORT 7777
#define TX_OFF (NR_RX * RX_BYTES)
#define EVENT_OFF (TX_OFF + NR_TX * 64u)

/* Descriptors are used round robin and completed in order, so that the n-th buffer is n modulo. */
static void offer_rx(struct conf *c, unsigned int i)
{
	struct vd_buf b = { c->buf + RX_BYTES * (i % NR_RX), RX_BYTES, true };

	vd_submit(&c->d, RX, &b, 1, false);
}

static void offer_event(struct conf *c, unsigned int i)
{
	struct vd_buf b = { c->buf + EVENT_OFF + 16 * (i % NR_EVENT), 8, true };

	vd_submit(&c->d, EVENT, &b, 1, false);
}

static void vsock_boot(struct conf *c)
{
	c->done = 0;
	for (unsigned int i = 0; i < NR_RX; i++)
		offer_rx(c, i);
	for (unsigned int i = 0; i < NR_EVENT; i++)
		offer_event(c, i);
}

static void request(struct conf *c, uint32_t port)
{
	struct vsock_hdr h = {
		.src_cid = VIRTIO_VSOCK_GUEST_CID,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = port,
		.dst_port = HOST_PORT,
		.type = VIRTIO_VSOCK_TYPE_STREAM,
		.op = VIRTIO_VSOCK_OP_REQUEST,
		.buf_alloc = 65536,
	};
	struct vd_buf b = { c->buf + TX_OFF + 64 * (port % NR_TX), VSOCK_HDR_BYTES, false };
	uint8_t raw[VSOCK_HDR_BYTES];

	vsock_hdr_encode(&h, raw);
	CONF(c, !gmem_write(c->fm.m.mem, b.gpa, raw, sizeof(raw)));
	vd_submit(&c->d, TX, &b, 1, port & 1);
	c->outstanding++;
}

static void vsock_load(struct conf *c)
{
	for (unsigned int i = 0; i < 16; i++)
		request(c, 2000 + i);
}

/* TX buffers come back whatever becomes of the answers. */
static void vsock_drain(struct conf *c)
{
	for (; c->outstanding; c->outstanding--)
		CONF(c, vd_wait_used(&c->d, TX, NULL, NULL));
}

/* The answer to a request of this port; others, of streams of before, are passed over. */
static void await_refusal(struct conf *c, uint32_t port)
{
	struct vsock_hdr h;

	do {
		struct vd_queue *q = &c->d.q[RX];
		uint8_t raw[VSOCK_HDR_BYTES];
		uint16_t n = q->last_used;
		uint32_t len;

		CONF(c, vd_wait_used(&c->d, RX, NULL, &len) && len >= VSOCK_HDR_BYTES);
		CONF(c, !gmem_read(c->fm.m.mem, c->buf + RX_BYTES * (n % NR_RX), raw, sizeof(raw)));
		vsock_hdr_decode(&h, raw);
		offer_rx(c, n);
		CONF(c, h.op == VIRTIO_VSOCK_OP_RST && h.src_port == HOST_PORT);
	} while (h.dst_port != port);
}

static void vsock_progress(struct conf *c)
{
	uint32_t port = 10000 + (uint32_t)c->done++;

	vsock_drain(c);
	request(c, port);
	await_refusal(c, port);
	vsock_drain(c);
}

static void vsock_woke(struct conf *c)
{
	struct vd_queue *q = &c->d.q[EVENT];
	uint16_t n = q->last_used;
	uint32_t len, event = ~0u;

	CONF(c, vd_wait_used(&c->d, EVENT, NULL, &len) && len == 4);
	CONF(c, !gmem_read(c->fm.m.mem, c->buf + EVENT_OFF + 16 * (n % NR_EVENT), &event, 4));
	CONF(c, event == VIRTIO_VSOCK_EVENT_TRANSPORT_RESET);
	offer_event(c, n);
}

static void vsock_give(struct conf *c, const char *prefix)
{
	char name[32];

	snprintf(name, sizeof(name), "%s%s", prefix, VIRTIO_VSOCK_GRANT);
	BUG_ON(grants_put(c->fm.m.grants, name, conf_listener(), NULL));
}

static const struct virtio_vsock_cfg vsock_cfg = { .guest_cid = VIRTIO_VSOCK_GUEST_CID,
						   .path = "/nonexistent/conformance" };

const struct conf_row conf_row_vsock = {
	.cls = &virtio_vsock_class,
	.id = "vsock",
	.cfg = &vsock_cfg,
	.virtio_id = 19,
	.give = vsock_give,
	.boot = vsock_boot,
	.load = vsock_load,
	.drain = vsock_drain,
	.progress = vsock_progress,
	.woke = vsock_woke,
};
