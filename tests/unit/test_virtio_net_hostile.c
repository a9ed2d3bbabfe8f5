/* SPDX-License-Identifier: MIT */
/*
 * virtio-net and drivers that lie, on each kind of queue. Whatever one does, the device is broken
 * until its reset or drops packets; then it works again, nothing is pinned, and memory that it was
 * not given is as it was.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vnic.h"

#define RX 0u
#define TX 1u
#define CTRL 2u
#define RAM_END MIB(64)
#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define INDIRECT VRING_DESC_F_INDIRECT

/* The big buffer is nobody's here. */
static void guard(struct vnic_rig *g)
{
	uint8_t p[4096];

	memset(p, 0xa5, sizeof(p));
	for (gpa_t at = 0; at + sizeof(p) <= VNIC_BIG; at += sizeof(p))
		BUG_ON(gmem_write(g->fm.m.mem, g->big + at, p, sizeof(p)));
}

static void assert_guarded(struct vnic_rig *g)
{
	uint8_t p[4096];

	for (gpa_t at = 0; at + sizeof(p) <= VNIC_BIG; at += sizeof(p)) {
		BUG_ON(gmem_read(g->fm.m.mem, g->big + at, p, sizeof(p)));
		for (size_t i = 0; i < sizeof(p); i++)
			assert_int_equal(p[i], 0xa5);
	}
}

/* Packets for the driver to find, whatever it offers. */
static void wire_is_busy(struct vnic_rig *g)
{
	for (unsigned int i = 0; i < 3; i++)
		vnic_put_seed(g, 0, 300, i);
}

static void assert_works_after_reset(struct vnic_rig *g)
{
	uint8_t p[VNIC_BIG];

	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	for (unsigned int q = 0; q < g->d.nr_queues; q++)
		assert_int_equal(vnic_of(g)->v.q[q].in_flight, 0);
	fm_quiesce(&g->fm);
	fm_assert_valid(g->dev);
	fm_resume(&g->fm);
	vnic_drive(g, 0);
	assert_false(vnic_broken(g));
	/* what was on its way */
	for (unsigned int i = 0; i < 200; i++)
		vnic_offer(g, 0, 1000);
	vnic_settle(g);
	while (vd_used(&g->d, RX, NULL, NULL))
		;
	while (vnic_got(g, 0, p, sizeof(p)) >= 0)
		;
	vnic_put_seed(g, 0, 200, 77);
	vnic_send(g, 0, 200, 78);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 200, 77, 1));
	assert_true(vnic_got_seed(g, 0, 200, 78));
	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_ANNOUNCE,
				      VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0),
			 VIRTIO_NET_OK);
	assert_guarded(g);
	vnic_drive(g, 0); /* rings that are empty */
}

struct lie {
	const char *name;
	unsigned int queues; /* where it is one: bits */
	struct {
		gpa_t addr;
		uint32_t len;
		uint16_t flags, next;
	} d[3];
	uint16_t head, avail; /* avail: entries, beyond those before */
};

#define RXQ 1u
#define TXQ 2u
#define CTLQ 4u
#define OUTQ (TXQ | CTLQ)
#define ALL 7u

static const struct lie lies[] = {
	{ "beyond RAM", OUTQ, { { RAM_END, 64, 0, 0 } }, 0, 1 },
	{ "beyond RAM", RXQ, { { RAM_END, 64, WRITE, 0 } }, 0, 1 },
	{ "over the end of RAM", RXQ, { { RAM_END - 63, 64, WRITE, 0 } }, 0, 1 },
	{ "over the end of RAM", OUTQ, { { RAM_END - 63, 64, 0, 0 } }, 0, 1 },
	{ "address wraps", RXQ, { { UINT64_MAX - 10, 64, WRITE, 0 } }, 0, 1 },
	{ "address wraps", OUTQ, { { UINT64_MAX - 10, 64, 0, 0 } }, 0, 1 },
	{ "empty", RXQ, { { 4096, 0, WRITE, 0 } }, 0, 1 },
	{ "empty", OUTQ, { { 4096, 0, 0, 0 } }, 0, 1 },
	{ "empty at the end", TXQ, { { 4096, 64, NEXT, 1 }, { 8192, 0, 0, 0 } }, 0, 1 },
	{ "4 GiB long", RXQ, { { 4096, UINT32_MAX, WRITE, 0 } }, 0, 1 },
	{ "4 GiB long", OUTQ, { { 4096, UINT32_MAX, 0, 0 } }, 0, 1 },
	{ "circle of one", RXQ, { { 4096, 64, WRITE | NEXT, 0 } }, 0, 1 },
	{ "circle of one", OUTQ, { { 4096, 64, NEXT, 0 } }, 0, 1 },
	{ "circle", TXQ, { { 4096, 64, NEXT, 1 }, { 4096, 64, NEXT, 0 } }, 0, 1 },
	{ "next is none", ALL, { { 4096, 64, NEXT, 256 } }, 0, 1 },
	{ "head is none", ALL, { { 4096, 64, 0, 0 } }, 256, 1 },
	{ "head is none", ALL, { { 4096, 64, 0, 0 } }, 0xffff, 1 },
	{ "more than the ring holds", ALL, { { 4096, 64, 0, 0 } }, 0, 257 },
	{ "backwards", ALL, { { 4096, 64, 0, 0 } }, 0, 0xffff },
	{ "writable, then readable",
	  ALL,
	  { { 4096, 64, WRITE | NEXT, 1 }, { 8192, 64, 0, 0 } },
	  0,
	  1 },
	{ "to be read by us alone", RXQ, { { 4096, 64, 0, 0 } }, 0, 1 },
	{ "to be read too", RXQ, { { 4096, 64, NEXT, 1 }, { 8192, 64, WRITE, 0 } }, 0, 1 },
	{ "no room for a header", RXQ, { { 4096, 11, WRITE, 0 } }, 0, 1 },
	{ "one byte", RXQ, { { 4096, 1, WRITE, 0 } }, 0, 1 },
	{ "to be written", TXQ, { { 4096, 64, WRITE, 0 } }, 0, 1 },
	{ "to be written too", TXQ, { { 4096, 64, NEXT, 1 }, { 8192, 64, WRITE, 0 } }, 0, 1 },
	{ "no header", TXQ, { { 4096, 11, 0, 0 } }, 0, 1 },
	{ "no answer", CTLQ, { { 4096, 64, 0, 0 } }, 0, 1 },
	{ "no command", CTLQ, { { 4096, 64, WRITE, 0 } }, 0, 1 },
	{ "half a command", CTLQ, { { 4096, 1, NEXT, 1 }, { 8192, 1, WRITE, 0 } }, 0, 1 },
	{ "indirect, not RAM", ALL, { { RAM_END, 16, INDIRECT, 0 } }, 0, 1 },
	{ "indirect, half a descriptor", ALL, { { 4096, 24, INDIRECT, 0 } }, 0, 1 },
	{ "indirect, empty", ALL, { { 4096, 0, INDIRECT, 0 } }, 0, 1 },
	{ "indirect, with a next", ALL, { { 4096, 16, INDIRECT | NEXT, 1 } }, 0, 1 },
};

static void tell(struct vnic_rig *g, unsigned int q, const struct lie *l)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(l->d); i++)
		vd_desc(&g->d, g->d.q[q].desc, i, l->d[i].addr, l->d[i].len, l->d[i].flags,
			l->d[i].next);
	for (unsigned int i = 0; i < MIN(l->avail, 300u); i++)
		vd_avail(&g->d, q, l->head);
	if (l->avail > 300u)
		vd_set_avail_idx(&g->d, q, (uint16_t)(g->d.q[q].avail_idx + l->avail - 300u));
	vd_kick(&g->d, q);
	vnic_settle(g);
}

static void test_vnet__every_lie_breaks_the_device_until_its_reset(void **state)
{
	struct vnic_rig *g = *state;

	guard(g);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++)
		for (unsigned int q = 0; q < 3; q++) {
			if (!(lies[i].queues & 1u << q))
				continue;
			wire_is_busy(g);
			tell(g, q, &lies[i]);
			if (!vnic_broken(g))
				fail_msg("queue %u: %s", q, lies[i].name);
			assert_works_after_reset(g);
		}
}

/* An honest chain first: what is wrong is found when a part of a packet is in place. */
static void test_vnet__a_lie_in_the_middle_of_a_packet(void **state)
{
	struct vnic_rig *g = *state;

	guard(g);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		if (!(lies[i].queues & RXQ) || lies[i].head || lies[i].avail != 1)
			continue;
		/* a buffer that is not the first has no header, and one byte is enough */
		if (lies[i].d[0].flags == WRITE && lies[i].d[0].len && lies[i].d[0].len < 12)
			continue;
		vd_desc(&g->d, g->d.q[RX].desc, 200, g->rx, 100, WRITE, 0);
		vd_avail(&g->d, RX, 200);
		wire_is_busy(g);
		tell(g, RX, &lies[i]);
		if (!vnic_broken(g))
			fail_msg("%s", lies[i].name);
		assert_int_equal(vd_used_idx(&g->d, RX), 0);
		assert_works_after_reset(g);
	}
}

/* A sum of 2^32 and a little, out of pieces that are RAM. */
static void test_vnet__sums_do_not_wrap(void **state)
{
	struct vnic_rig *g = *state;
	gpa_t table = fm_alloc(&g->fm, 16 * 128, 16);

	guard(g);
	for (unsigned int q = 0; q < 2; q++) {
		for (unsigned int i = 0; i < 80; i++)
			vd_desc(&g->d, table, i, 0, (uint32_t)(RAM_END - MIB(1)),
				(uint16_t)(NEXT | (q == RX ? WRITE : 0)), (uint16_t)(i + 1));
		vd_desc(&g->d, table, 80, g->tx, 64, q == RX ? WRITE : 0, 0);
		vd_desc(&g->d, g->d.q[q].desc, 0, table, 16 * 81, INDIRECT, 0);
		vd_avail(&g->d, q, 0);
		wire_is_busy(g);
		vd_kick(&g->d, q);
		vnic_settle(g);
		assert_true(vnic_broken(g));
		assert_works_after_reset(g);
	}
}

static void test_vnet__chain_of_more_pieces_than_there_may_be(void **state)
{
	struct vd_buf b[VIRTIO_MAX_SEGS + 1];
	struct vnic_rig *g = *state;

	guard(g);
	for (unsigned int q = 0; q < 2; q++) {
		for (unsigned int i = 0; i < ARRAY_SIZE(b); i++)
			b[i] = (struct vd_buf){ g->tx + i, 1, q == RX };
		vd_add(&g->d, q, b, ARRAY_SIZE(b), q);
		wire_is_busy(g);
		vd_kick(&g->d, q);
		vnic_settle(g);
		assert_true(vnic_broken(g));
		assert_works_after_reset(g);
	}
}

/* First a header's worth, then a byte each: no packet fits in 64, and others are not held up. */
static void test_vnet__receive_buffers_of_one_byte(void **state)
{
	struct vnic_rig *g = *state;

	guard(g);
	vnic_offer(g, 0, 12);
	for (unsigned int i = 0; i < 255; i++)
		vnic_offer(g, 0, 1);
	vnic_put_seed(g, 0, 300, 1);
	vnic_put_seed(g, 0, 12 + 63, 2);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 12 + 63, 2, 64));
	assert_int_equal(vnic_of(g)->dropped, 1);
	vnic_put_seed(g, 0, 50, 3); /* no room for a header: a lie */
	vnic_settle(g);
	assert_true(vnic_broken(g));
	assert_works_after_reset(g);
}

/* The same chain again and again, and buffers over rings and each other: that is the driver's own
 * business. */
static void test_vnet__buffers_over_the_rings_harm_only_the_driver(void **state)
{
	struct vnic_rig *g = *state;

	guard(g);
	for (unsigned int q = 0; q < 3; q++) {
		const gpa_t at[] = { g->d.q[q].desc, g->d.q[q].avail, g->d.q[q].used,
				     g->d.q[RX].avail };

		for (size_t k = 0; k < ARRAY_SIZE(at); k++) {
			for (unsigned int i = 0; i < 16; i++) {
				vd_desc(&g->d, g->d.q[q].desc, i, at[k], 20, q == RX ? WRITE : NEXT,
					17);
				vd_avail(&g->d, q, (uint16_t)i);
			}
			vd_desc(&g->d, g->d.q[q].desc, 17, at[k], 600,
				(uint16_t)(q == CTRL ? WRITE : 0), 0);
			wire_is_busy(g);
			vd_kick(&g->d, q);
			vnic_settle(g);
			assert_works_after_reset(g);
		}
	}
}

static void test_vnet__a_live_rings_address_and_size_do_not_change(void **state)
{
	struct vnic_rig *g = *state;

	guard(g);
	vnic_offer(g, 0, 1000);
	for (unsigned int q = 0; q < 3; q++) {
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_DESCLO, 4, (uint32_t)g->big);
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, (uint32_t)g->big);
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_USEDLO, 4, (uint32_t)g->big);
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 2);
		vd_set(&g->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	}
	vnic_put_seed(g, 0, 100, 1);
	vnic_send(g, 0, 100, 2);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 100, 1, 1));
	assert_true(vnic_got_seed(g, 0, 100, 2));
	assert_works_after_reset(g);
}

static void test_vnet__queue_sizes_that_are_none(void **state)
{
	static const uint16_t bad[] = { 0, 3, 100, 512, 0x8000 };
	struct vnic_rig *g = *state;

	guard(g);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		for (unsigned int q = 0; q < 3; q++) {
			vd_negotiate(&g->d, ~0ull);
			vd_set(&g->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
			vd_set(&g->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, bad[i]);
			assert_true(vnic_broken(g));
			assert_works_after_reset(g);
		}
	/* the smallest */
	vd_start(&g->d, ~0ull, 1);
	vnic_send(g, 0, 100, 1);
	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 60, 2);
	vnic_settle(g);
	assert_true(vnic_got_seed(g, 0, 100, 1));
	assert_true(vnic_took_seed(g, 0, 60, 2, 1));
}

/* DRIVER_OK with these queues enabled only. */
static void start_with(struct vnic_rig *g, unsigned int queues)
{
	vd_negotiate(&g->d, ~0ull);
	vd_msix(&g->d);
	for (unsigned int q = 0; q < g->d.nr_queues; q++)
		if (queues & 1u << q)
			vd_queue_setup(&g->d, q, 0, true);
	vd_set_status(&g->d, vd_status(&g->d) | VIRTIO_CONFIG_S_DRIVER_OK);
	vnic_settle(g);
}

static void test_vnet__queues_that_are_not_set_up(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int all = g->d.nr_queues;

	guard(g);
	for (unsigned int queues = 0; queues < 1u << MIN(all, 3u); queues++) {
		start_with(g, queues);
		for (unsigned int q = 0; q < all; q++)
			vd_kick(&g->d, q);
		if (queues & 1u << TX)
			vnic_send(g, 0, 100, 1);
		if (queues & 1u << RX)
			vnic_offer(g, 0, 100);
		vnic_put_seed(g, 0, 90, 2);
		vnic_settle(g);
		assert_false(vnic_broken(g));
		/* half a pair is none: nothing leaves */
		assert_int_equal(vnic_got_seed(g, 0, 100, 1), (queues & 3) == 3);
	}
	/* before DRIVER_OK, and after a reset */
	vd_negotiate(&g->d, ~0ull);
	for (unsigned int q = 0; q < all; q++)
		vd_kick(&g->d, q);
	vd_set_status(&g->d, 0);
	for (unsigned int q = 0; q < all; q++)
		vd_kick(&g->d, q);
	vnic_settle(g);
}

/* Pairs that it says it uses, and has not set up. */
static void test_vnet__pairs_that_are_not_set_up(void **state)
{
	struct vnic_rig *g = *state;

	start_with(g, 3 | 1u << 2 * VNIC_PAIRS | 1u << vnet_tx(2));
	assert_int_equal(vnic_command(g, 2 * VNIC_PAIRS, VIRTIO_NET_CTRL_MQ,
				      VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\3", 2),
			 VIRTIO_NET_OK);
	for (unsigned int q = 0; q < g->d.nr_queues; q++)
		vd_kick(&g->d, q);
	vnic_send(g, 2, 100, 1);
	vnic_send(g, 0, 100, 2);
	vnic_put_seed(g, 1, 100, 3);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 2), 1);
	assert_false(vnic_got_seed(g, 2, 100, 1));
	assert_true(vnic_got_seed(g, 0, 100, 2));
	fm_quiesce(&g->fm);
	fm_assert_valid(g->dev);
	fm_resume(&g->fm);
	assert_false(vnic_broken(g));
}

/* More commands than one turn takes: an answer that moves the ring's index says there is another.
 */
static void test_vnet__commands_beyond_a_turn_get_their_own(void **state)
{
	struct vnic_rig *g = *state;
	struct vd_queue *q = &g->d.q[CTRL];
	const uint8_t head[2] = { 99, 9 };
	unsigned int n = 0;

	BUG_ON(gmem_write(g->fm.m.mem, g->ctrl, head, 2));
	for (unsigned int i = 0; i < 0xc0; i++) /* so that 64 more make the index 0x100 */
		assert_int_equal(vnic_command(g, CTRL, 99, 9, NULL, 0), VIRTIO_NET_ERR);
	for (unsigned int i = 0; i < 32; i++) {
		vd_desc(&g->d, q->desc, 2 * i, g->ctrl, 2, NEXT, (uint16_t)(2 * i + 1));
		vd_desc(&g->d, q->desc, 2 * i + 1, i ? g->ctrl + 1024 : q->avail + 2, 1, WRITE, 0);
	}
	for (unsigned int i = 0; i < 65; i++) {
		vd_avail(&g->d, CTRL, (uint16_t)(2 * (i % 32)));
		if (i == 63)
			vd_set_avail_idx(&g->d, CTRL, 0x100);
	}
	vd_set_avail_idx(&g->d, CTRL, 0x100);
	vd_kick(&g->d, CTRL);
	vnic_settle(g);
	while (vd_used(&g->d, CTRL, NULL, NULL))
		n++;
	assert_int_equal(n, 65);
	assert_false(vnic_broken(g));
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, vnic_up, vnic_down)
	const struct CMUnitTest tests[] = {
		T(test_vnet__every_lie_breaks_the_device_until_its_reset),
		T(test_vnet__a_lie_in_the_middle_of_a_packet),
		T(test_vnet__sums_do_not_wrap),
		T(test_vnet__chain_of_more_pieces_than_there_may_be),
		T(test_vnet__receive_buffers_of_one_byte),
		T(test_vnet__buffers_over_the_rings_harm_only_the_driver),
		T(test_vnet__a_live_rings_address_and_size_do_not_change),
		T(test_vnet__queue_sizes_that_are_none),
		T(test_vnet__queues_that_are_not_set_up),
		cmocka_unit_test_setup_teardown(test_vnet__pairs_that_are_not_set_up, vnic_up_pairs,
						vnic_down),
		T(test_vnet__commands_beyond_a_turn_get_their_own),
	};

	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
