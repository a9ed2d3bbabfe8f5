/* SPDX-License-Identifier: MIT */
/*
 * The scripted guest of the virtio-vsock tests: see vsock_guest.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/grants.h"
#include "tests/lib/vsock_guest.h"

#define PATIENCE_NS (60 * NS_PER_SEC)
#define RX_BYTES (VSOCK_HDR_BYTES + VG_RX_DATA)

static struct sockaddr_un address(const char *path)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", path);
	return sa;
}

void vg_grant(struct vg *g, const char *prefix, const char *path)
{
	struct sockaddr_un sa = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	char name[64];
	struct err e;

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 16), 0);
	snprintf(name, sizeof(name), "%s%s", prefix, VIRTIO_VSOCK_GRANT);
	assert_int_equal(grants_put(g->fm.m.grants, name, fd, &e), 0);
}

void vg_add_rx(struct vg *g, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		/* A chain is two descriptors, taken round robin and completed in order, so a
		 * buffer's place follows from its head. */
		unsigned int slot = g->d.q[VG_RX].next_desc / 2u % VG_RX_BUFS;
		gpa_t at = g->rx + (uint64_t)slot * RX_BYTES;
		const struct vd_buf b[2] = { { at, VSOCK_HDR_BYTES, true },
					     { at + VSOCK_HDR_BYTES, VG_RX_DATA, true } };
		uint16_t old = g->d.q[VG_RX].avail_idx;

		vd_add(&g->d, VG_RX, b, 2, false);
		vd_kick_if_wanted(&g->d, VG_RX, old);
	}
}

void vg_add_event(struct vg *g)
{
	unsigned int slot = g->d.q[VG_EVENT].next_desc % VG_EVENTS;
	const struct vd_buf b = { g->event + 4ull * slot, 4, true };
	uint16_t old = g->d.q[VG_EVENT].avail_idx;

	vd_add(&g->d, VG_EVENT, &b, 1, false);
	vd_kick_if_wanted(&g->d, VG_EVENT, old);
}

void vg_driver(struct vg *g, unsigned int nr_rx, unsigned int nr_events)
{
	vd_probe(&g->d, &g->fm, 19);
	vd_start(&g->d, 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC, 0);
	vg_add_rx(g, nr_rx);
	for (unsigned int i = 0; i < nr_events; i++)
		vg_add_event(g);
	fm_spin(&g->fm);
}

void vg_make(struct vg *g)
{
	const struct virtio_vsock_cfg cfg = { .guest_cid = VG_CID };

	memset(g, 0, sizeof(*g));
	g->alloc = 256u << 10;
	strcpy(g->dir, "/tmp/vsock-test-XXXXXX");
	assert_non_null(mkdtemp(g->dir));
	assert_int_equal(chdir(g->dir), 0);
	fm_init(&g->fm, MIB(64), -1);
	g->dev = fm_add(&g->fm, &virtio_vsock_class, "vsock", &cfg);
	g->mux = virtio_vsock_mux(g->dev);
	g->rx = fm_alloc(&g->fm, (uint64_t)VG_RX_BUFS * RX_BYTES, 4096);
	g->tx = fm_alloc(&g->fm, VSOCK_HDR_BYTES + 2 * VSOCK_PKT_MAX, 4096);
	g->event = fm_alloc(&g->fm, 4ull * VG_EVENTS, 4096);
}

void vg_init(struct vg *g, bool driver)
{
	vg_make(g);
	vg_grant(g, "", "vsock.sock");
	fm_start(&g->fm);
	if (driver)
		vg_driver(g, VG_RX_BUFS, VG_EVENTS);
}

void vg_fini(struct vg *g)
{
	fm_fini(&g->fm);
	unlink("vsock.sock");
	unlink("child.sock");
	assert_int_equal(chdir("/"), 0);
	rmdir(g->dir);
}

static void put(struct vg *g, const struct vsock_hdr *h, const void *data, uint32_t len)
{
	const struct vd_buf b[2] = { { g->tx, VSOCK_HDR_BYTES, false },
				     { g->tx + VSOCK_HDR_BYTES, len, false } };
	uint8_t raw[VSOCK_HDR_BYTES];
	uint16_t old = g->d.q[VG_TX].avail_idx;

	vsock_hdr_encode(h, raw);
	assert_int_equal(gmem_write(g->fm.m.mem, g->tx, raw, sizeof(raw)), 0);
	if (len)
		assert_int_equal(gmem_write(g->fm.m.mem, b[1].gpa, data, len), 0);
	vd_add(&g->d, VG_TX, b, len ? 2 : 1, false);
	vd_kick_if_wanted(&g->d, VG_TX, old);
}

void vg_send(struct vg *g, const struct vsock_hdr *h, const void *data, uint32_t len)
{
	uint32_t written = 1;

	put(g, h, data, len);
	fm_spin(&g->fm);
	assert_true(vd_used(&g->d, VG_TX, NULL, &written));
	assert_int_equal(written, 0);
}

static struct vsock_hdr header(struct vg *g, enum vsock_op op, uint32_t host_port,
			       uint32_t guest_port, uint32_t flags, uint32_t len)
{
	return (struct vsock_hdr){
		.src_cid = VG_CID,
		.dst_cid = VSOCK_CID_HOST,
		.src_port = guest_port,
		.dst_port = host_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = g->alloc,
		.fwd_cnt = g->fwd,
	};
}

void vg_say(struct vg *g, enum vsock_op op, uint32_t host_port, uint32_t guest_port, uint32_t flags,
	    const void *data, uint32_t len)
{
	const struct vsock_hdr h = header(g, op, host_port, guest_port, flags, len);

	vg_send(g, &h, data, len);
}

void vg_post(struct vg *g, enum vsock_op op, uint32_t host_port, uint32_t guest_port)
{
	const struct vsock_hdr h = header(g, op, host_port, guest_port, 0, 0);

	put(g, &h, NULL, 0);
}

bool vg_take(struct vg *g, uint64_t wait_ns, struct vsock_hdr *h, uint8_t data[VG_RX_DATA])
{
	uint64_t end = time_mono_ns() + wait_ns;
	uint8_t raw[VSOCK_HDR_BYTES];
	uint32_t head, len;
	gpa_t at;

	fm_spin(&g->fm);
	while (!vd_used(&g->d, VG_RX, &head, &len)) {
		if (time_mono_ns() >= end)
			return false;
		fm_spin(&g->fm);
	}
	at = g->rx + (uint64_t)(head / 2u % VG_RX_BUFS) * RX_BYTES;
	assert_int_equal(gmem_read(g->fm.m.mem, at, raw, sizeof(raw)), 0);
	vsock_hdr_decode(h, raw);
	assert_int_equal(len, VSOCK_HDR_BYTES + h->len);
	assert_int_equal(h->src_cid, VSOCK_CID_HOST);
	assert_int_equal(h->dst_cid, VG_CID);
	if (data && h->len)
		assert_int_equal(gmem_read(g->fm.m.mem, at + sizeof(raw), data, h->len), 0);
	vg_add_rx(g, 1);
	return true;
}

void vg_expect(struct vg *g, enum vsock_op op, struct vsock_hdr *h, uint8_t data[VG_RX_DATA])
{
	assert_true(vg_take(g, PATIENCE_NS, h, data));
	assert_int_equal(h->op, op);
}

bool vg_quiet(struct vg *g)
{
	fm_spin(&g->fm);
	return vd_used_idx(&g->d, VG_RX) == g->d.q[VG_RX].last_used &&
	       vd_used_idx(&g->d, VG_EVENT) == g->d.q[VG_EVENT].last_used;
}

bool vg_event(struct vg *g)
{
	uint32_t head, len;
	le32 id;

	fm_spin(&g->fm);
	if (!vd_used(&g->d, VG_EVENT, &head, &len))
		return false;
	assert_int_equal(len, sizeof(id));
	assert_int_equal(gmem_read(g->fm.m.mem, g->event + 4ull * (head % VG_EVENTS), &id, 4), 0);
	assert_int_equal(le32_get(id), 0);
	return true;
}

int vg_dial(const char *path, const char *line)
{
	struct sockaddr_un sa = address(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	return fd;
}

ssize_t vg_read(struct vg *g, int fd, void *buf, size_t n)
{
	ssize_t got;

	fm_spin(&g->fm);
	got = recv(fd, buf, n, MSG_DONTWAIT);
	return got < 0 && errno == ECONNRESET ? 0 : got;
}

bool vg_closed(struct vg *g, int fd)
{
	uint64_t end = time_mono_ns() + PATIENCE_NS;
	char buf[256];

	while (time_mono_ns() < end)
		if (vg_read(g, fd, buf, sizeof(buf)) == 0)
			return true;
	return false;
}
