/* SPDX-License-Identifier: MIT */
/* See vnic.h. */
#include "tests/lib/vnic.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"

#define CTRL_BYTES 64u
#define PENDING 0xee

bool (*vnic_taken)(struct fake_machine *fm, uint64_t addr, unsigned int len);

/* ---- the machine ---- */

void vnic_make(struct vnic_rig *g, unsigned int pairs)
{
	const struct virtio_net_cfg cfg = { .queue_pairs = pairs, .mtu = 1400 };

	memset(g, 0, sizeof(*g));
	g->pairs = pairs;
	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		g->wire[i] = -1;
	fm_init(&g->fm, MIB(64), -1);
	g->fm.taken = vnic_taken;
	g->dev = fm_add(&g->fm, &virtio_net_class, "net0", &cfg);
	g->rx = fm_alloc(&g->fm, VNIC_SLOTS * VNIC_BUF, 4096);
	g->tx = fm_alloc(&g->fm, VNIC_SLOTS * VNIC_BUF, 4096);
	g->big = fm_alloc(&g->fm, VNIC_BIG, 4096);
	g->ctrl = fm_alloc(&g->fm, VNIC_SLOTS * CTRL_BYTES, 4096);
}

static void unplug(struct vnic_rig *g, unsigned int pair)
{
	if (g->wire[pair] < 0)
		return;
	fdtab_del(g->fm.m.fds, g->wire[pair]);
	close(g->wire[pair]);
}

void vnic_plug(struct vnic_rig *g, const char *prefix, unsigned int pair)
{
	char name[64], number[12] = "";
	int sv[2];

	BUG_ON(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv));
	if (pair)
		snprintf(number, sizeof(number), "%u", pair);
	snprintf(name, sizeof(name), "%snet/net0/tap%s", prefix, number);
	BUG_ON(grants_put(g->fm.m.grants, name, sv[0], NULL));
	unplug(g, pair);
	g->wire[pair] = sv[1];
	fdtab_add(g->fm.m.fds, sv[1], FD_KEEP, "test wire");
}

void vnic_drive(struct vnic_rig *g, uint64_t without)
{
	vd_probe(&g->d, &g->fm, 1);
	vd_start(&g->d, ~without, 0);
	fm_spin(&g->fm);
}

void vnic_end(struct vnic_rig *g)
{
	BUG_ON(gmem_pins(g->fm.m.mem) && vnic_of(g)->pair[0].now != VNET_VHOST);
	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		unplug(g, i);
	fm_fini(&g->fm);
}

void vnic_copy(struct vnic_rig *g, struct vnic_rig *h, const struct identity *id)
{
	cleanup_free uint8_t *buf = malloc(MIB(1));
	struct wbuf w;
	struct err e;

	vnic_make(h, g->pairs);
	vnic_plug(h, "", 0);
	h->d = g->d;
	h->d.fm = &h->fm;
	for (gpa_t at = 0; at < MIB(64); at += MIB(1)) {
		BUG_ON(gmem_read(g->fm.m.mem, at, buf, MIB(1)));
		BUG_ON(gmem_write(h->fm.m.mem, at, buf, MIB(1)));
	}
	for (unsigned int i = 0; i < g->fm.nr_devs; i++) {
		fm_save(g->fm.dev[i], &w);
		assert_int_equal(fm_load(h->fm.dev[i], w.data, w.len, &e), 0);
		wbuf_fini(&w);
	}
	fm_adopt(&h->fm, id);
}

static int up(void **state, unsigned int pairs)
{
	static struct vnic_rig g;

	vnic_make(&g, pairs);
	for (unsigned int i = 0; i < pairs; i++)
		vnic_plug(&g, "", i);
	fm_start(&g.fm);
	vnic_drive(&g, 0);
	*state = &g;
	return 0;
}

int vnic_up(void **state)
{
	return up(state, 1);
}

int vnic_up_pairs(void **state)
{
	return up(state, VNIC_PAIRS);
}

int vnic_down(void **state)
{
	vnic_end(*state);
	return 0;
}

void vnic_settle(struct vnic_rig *g)
{
	for (unsigned int i = 0; i < 20; i++) {
		fm_spin(&g->fm);
		usleep(100);
	}
}

/* ---- packets ---- */

void vnic_fill(uint8_t *p, size_t n, unsigned int seed)
{
	memset(p, 0, MIN(n, (size_t)TAP_HEADER));
	for (size_t i = TAP_HEADER; i < n; i++)
		p[i] = (uint8_t)(seed * 37 + i + i / 251);
}

void vnic_put(struct vnic_rig *g, unsigned int pair, const void *p, size_t n)
{
	assert_int_equal(send(g->wire[pair], p, n, 0), n);
}

void vnic_put_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed)
{
	static uint8_t p[VNIC_BIG];

	vnic_fill(p, n, seed);
	vnic_put(g, pair, p, n);
}

ssize_t vnic_got(struct vnic_rig *g, unsigned int pair, void *p, size_t n)
{
	return recv(g->wire[pair], p, n, MSG_DONTWAIT);
}

bool vnic_got_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed)
{
	static uint8_t want[VNIC_BIG], got[VNIC_BIG];

	vnic_fill(want, n, seed);
	return vnic_got(g, pair, got, sizeof(got)) == (ssize_t)n && !memcmp(want, got, n);
}

/* ---- the driver ---- */

void vnic_offer(struct vnic_rig *g, unsigned int pair, uint32_t bytes)
{
	struct vd_buf b = { g->rx + (uint64_t)VNIC_BUF * (g->offered++ % VNIC_SLOTS), bytes, true };

	BUG_ON(bytes > VNIC_BUF);
	vd_submit(&g->d, vnet_rx(pair), &b, 1, false);
}

/* One used buffer to p; its bytes, -1: there is none. */
static ssize_t take_buffer(struct vnic_rig *g, unsigned int q, uint8_t *p, size_t max)
{
	uint32_t id, len;
	le64 at;

	if (!vd_used(&g->d, q, &id, &len))
		return -1;
	BUG_ON(gmem_read(g->fm.m.mem, g->d.q[q].desc + 16ull * id, &at, sizeof(at)));
	assert_true(len <= max);
	BUG_ON(gmem_read(g->fm.m.mem, le64_get(at), p, len));
	return (ssize_t)len;
}

size_t vnic_take(struct vnic_rig *g, unsigned int pair, void *p, size_t max, unsigned int *buffers)
{
	uint8_t *b = p;
	ssize_t n = take_buffer(g, vnet_rx(pair), b, max);
	size_t at = (size_t)n;

	if (n < 0)
		return 0;
	assert_true(at >= TAP_HEADER);
	*buffers = b[10] | (unsigned int)b[11] << 8;
	for (unsigned int i = 1; i < *buffers; i++) {
		n = take_buffer(g, vnet_rx(pair), b + at, max - at);
		assert_true(n > 0);
		at += (size_t)n;
	}
	return at;
}

bool vnic_took_seed(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed,
		    unsigned int buffers)
{
	static uint8_t want[VNIC_BIG], got[VNIC_BIG];
	unsigned int in = 0;

	vnic_fill(want, n, seed);
	want[10] = (uint8_t)buffers;
	return vnic_take(g, pair, got, sizeof(got), &in) == n && in == buffers &&
	       !memcmp(want, got, n);
}

void vnic_send(struct vnic_rig *g, unsigned int pair, size_t n, unsigned int seed)
{
	struct vd_buf b = { g->tx + (uint64_t)VNIC_BUF * (g->sent++ % VNIC_SLOTS), (uint32_t)n,
			    false };
	uint8_t p[VNIC_BUF];

	BUG_ON(n > VNIC_BUF);
	vnic_fill(p, n, seed);
	BUG_ON(gmem_write(g->fm.m.mem, b.gpa, p, n));
	vd_submit(&g->d, vnet_tx(pair), &b, 1, false);
}

unsigned int vnic_sent(struct vnic_rig *g, unsigned int pair)
{
	unsigned int n = 0;

	while (vd_used(&g->d, vnet_tx(pair), NULL, NULL))
		n++;
	return n;
}

uint8_t vnic_command(struct vnic_rig *g, unsigned int q, uint8_t class, uint8_t cmd,
		     const void *data, size_t n)
{
	const uint8_t head[2] = { class, cmd };
	uint8_t ack = PENDING;
	struct vd_buf b[3] = { { g->ctrl, 2, false } };
	unsigned int nr = 1;

	BUG_ON(gmem_write(g->fm.m.mem, g->ctrl, head, sizeof(head)) ||
	       gmem_write(g->fm.m.mem, g->ctrl + 1024, &ack, 1));
	if (n) {
		BUG_ON(gmem_write(g->fm.m.mem, g->ctrl + 64, data, n));
		b[nr++] = (struct vd_buf){ g->ctrl + 64, (uint32_t)n, false };
	}
	b[nr++] = (struct vd_buf){ g->ctrl + 1024, 1, true };
	vd_submit(&g->d, q, b, nr, false);
	vnic_settle(g);
	if (!vd_used(&g->d, q, NULL, NULL))
		return PENDING;
	BUG_ON(gmem_read(g->fm.m.mem, g->ctrl + 1024, &ack, 1));
	return ack;
}
