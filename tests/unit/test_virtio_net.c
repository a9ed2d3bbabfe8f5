/* SPDX-License-Identifier: MIT */
/*
 * virtio-net through its rings, its packets moved by this process: config space, the control queue,
 * receiving and sending (virtio 1.2 section 5.1). The test is the guest and the wire. Its life,
 * links and limits: test_virtio_net_life.c; hostile drivers: test_virtio_net_hostile.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vnic.h"

#define BIT(n) (1ull << (n))
#define CTRL 2u /* of one pair */

/* ---- the device as such ---- */

static void test_vnet__config_space_says_what_the_nic_is(void **state)
{
	static const uint8_t mac[NIC_MAC] = { 2, 1, 2, 3, 4, 5 };
	struct vnic_rig *g = *state;
	uint64_t at = g->d.config;

	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
				      mac, sizeof(mac)),
			 VIRTIO_NET_OK);
	assert_int_equal(fm_read(&g->fm, at, 4), 0x03020102);
	assert_int_equal(fm_read(&g->fm, at + 4, 2), 0x0504);
	assert_int_equal(fm_read(&g->fm, at + 6, 2), VIRTIO_NET_S_LINK_UP);
	assert_int_equal(fm_read(&g->fm, at + 8, 2), 1);
	assert_int_equal(fm_read(&g->fm, at + 10, 2), 1400);
	assert_int_equal(fm_read(&g->fm, at + 12, 4), 0);
	assert_int_equal(fm_read(&g->fm, at + 4000, 4), 0);
	fm_write(&g->fm, at, 4, 0);
	fm_write(&g->fm, at + 6, 2, 0);
	assert_int_equal(fm_read(&g->fm, at, 4), 0x03020102);
	assert_int_equal(fm_read(&g->fm, at + 6, 2), VIRTIO_NET_S_LINK_UP);
}

static void test_vnet__features_are_those_of_its_cfg(void **state)
{
	static const unsigned int always[] = {
		VIRTIO_NET_F_CSUM,	    VIRTIO_NET_F_GUEST_CSUM,
		VIRTIO_NET_F_GUEST_TSO4,    VIRTIO_NET_F_GUEST_TSO6,
		VIRTIO_NET_F_GUEST_ECN,	    VIRTIO_NET_F_HOST_TSO4,
		VIRTIO_NET_F_HOST_TSO6,	    VIRTIO_NET_F_HOST_ECN,
		VIRTIO_NET_F_MAC,	    VIRTIO_NET_F_MRG_RXBUF,
		VIRTIO_NET_F_STATUS,	    VIRTIO_NET_F_CTRL_VQ,
		VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
		VIRTIO_NET_F_MTU,	    VIRTIO_NET_F_GUEST_ANNOUNCE,
	};
	struct vnic_rig *g = *state;
	uint64_t offered = vd_offered(&g->d);

	for (size_t i = 0; i < ARRAY_SIZE(always); i++)
		assert_true(offered & BIT(always[i]));
	/* packets that neither this process nor the kernel would handle for us */
	assert_false(offered & (BIT(VIRTIO_NET_F_GUEST_UFO) | BIT(VIRTIO_NET_F_HOST_UFO) |
				BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN)));
	assert_int_equal(!!(offered & BIT(VIRTIO_NET_F_MQ)), g->pairs > 1);
	assert_int_equal(fm_read(&g->fm, g->d.config + 8, 2), g->pairs);
	assert_int_equal(g->d.nr_queues, 2 * g->pairs + 1);
}

static void test_vnet__bad_cfg_is_refused(void **state)
{
	static const struct virtio_net_cfg bad[] = {
		{ 0, 1500 },
		{ VIRTIO_NET_PAIRS_MAX + 1, 1500 },
		{ UINT32_MAX, 0 },
		{ 1, NIC_MTU_MIN - 1 },
		{ 1, NIC_MTU_MAX + 1 },
		{ 1, UINT16_MAX },
	};
	struct vnic_rig *g = *state;
	struct device *d = NULL;
	struct err e = { "" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(virtio_net_class.create(&g->fm.m, "x", &bad[i], &d, &e), -EINVAL);
	assert_null(d);
	assert_non_null(strstr(e.msg, "x: MTU 65535"));
}

/* As the machine's builder does it: limits before the device has been adopted. */
static void test_vnet__limits_can_be_set_before_it_is_adopted(void **state)
{
	const struct virtio_net_rate rate = { .tx_ops = { .size = 3, .refill_ms = 3600000 } },
				     bad = { .tx_ops = { .size = 3 } };
	static struct vnic_rig g;
	struct err e;

	(void)state;
	vnic_make(&g, 2);
	assert_int_equal(virtio_net_set_rate(g.dev, &rate, &e), 0);
	assert_int_equal(virtio_net_set_rate(g.dev, &bad, &e), -EINVAL);
	vnic_plug(&g, "", 0);
	fm_start(&g.fm);
	vnic_drive(&g, 0);
	for (unsigned int i = 0; i < 5; i++)
		vnic_send(&g, 0, 100, i);
	vnic_settle(&g);
	assert_int_equal(vnic_sent(&g, 0), 3);
	vnic_end(&g);
}

static void test_vnet__without_a_tap_the_link_is_down(void **state)
{
	static struct vnic_rig g;
	struct virtio_net_view v;

	(void)state;
	vnic_make(&g, 1);
	fm_start(&g.fm);
	vnic_drive(&g, 0);
	virtio_net_view(g.dev, &v);
	assert_false(v.network || v.link);
	assert_string_equal(v.backend, "none");
	assert_int_equal(fm_read(&g.fm, g.d.config + 6, 2), 0);
	vnic_offer(&g, 0, 1000);
	vnic_send(&g, 0, 100, 1);
	vnic_settle(&g);
	assert_int_equal(vnic_sent(&g, 0), 1);
	virtio_net_connect(g.dev);
	assert_int_equal(fm_read(&g.fm, g.d.config + 6, 2), 0);
	assert_int_equal(vnic_command(&g, CTRL, VIRTIO_NET_CTRL_ANNOUNCE,
				      VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0),
			 VIRTIO_NET_OK);
	assert_false(vnic_broken(&g));
	vnic_end(&g);
}

/* ---- the control queue ---- */

static uint8_t set_mac(struct vnic_rig *g, const uint8_t *mac, size_t n)
{
	return vnic_command(g, CTRL, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, mac, n);
}

static void test_vnet__only_a_unicast_mac_is_taken(void **state)
{
	static const uint8_t good[NIC_MAC] = { 2, 1, 2, 3, 4, 5 }, zero[NIC_MAC],
			     group[NIC_MAC] = { 3, 1, 2, 3, 4, 5 },
			     last[NIC_MAC] = { 0, 0, 0, 0, 0, 9 },
			     longer[7] = { 2, 9, 9, 9, 9, 9, 9 };
	struct vnic_rig *g = *state;

	assert_int_equal(set_mac(g, good, 6), VIRTIO_NET_OK);
	assert_int_equal(set_mac(g, zero, 6), VIRTIO_NET_ERR);
	assert_int_equal(set_mac(g, group, 6), VIRTIO_NET_ERR);
	assert_int_equal(set_mac(g, longer, 5), VIRTIO_NET_ERR);
	assert_int_equal(set_mac(g, longer, 7), VIRTIO_NET_ERR);
	assert_int_equal(set_mac(g, NULL, 0), VIRTIO_NET_ERR);
	assert_int_equal(fm_read(&g->fm, g->d.config, 4), 0x03020102);
	assert_int_equal(set_mac(g, last, 6), VIRTIO_NET_OK);
	assert_int_equal(fm_read(&g->fm, g->d.config + 4, 2), 0x0900);
}

static uint8_t set_offloads(struct vnic_rig *g, uint64_t f, size_t n)
{
	le64 raw = le64_put(f);

	return vnic_command(g, CTRL, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
			    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, &raw, n);
}

static void test_vnet__offloads_are_part_of_what_was_negotiated(void **state)
{
	uint64_t csum = BIT(VIRTIO_NET_F_GUEST_CSUM), tso = BIT(VIRTIO_NET_F_GUEST_TSO4),
		 tso6 = BIT(VIRTIO_NET_F_GUEST_TSO6);
	struct vnic_rig *g = *state;
	struct vnet *d = vnic_of(g);

	vnic_drive(g, tso6);
	assert_int_equal(d->state.guest_offloads & (csum | tso | tso6), csum | tso);
	assert_int_equal(set_offloads(g, csum, 8), VIRTIO_NET_OK);
	assert_int_equal(d->state.guest_offloads, csum);
	assert_int_equal(set_offloads(g, csum | tso6, 8), VIRTIO_NET_ERR);
	assert_int_equal(set_offloads(g, UINT64_MAX, 8), VIRTIO_NET_ERR);
	assert_int_equal(set_offloads(g, 0, 4), VIRTIO_NET_ERR);
	assert_int_equal(d->state.guest_offloads, csum);
	assert_int_equal(set_offloads(g, csum | tso, 8), VIRTIO_NET_OK);
	assert_int_equal(set_offloads(g, 0, 8), VIRTIO_NET_OK);
	assert_int_equal(d->state.guest_offloads, 0);
	vnic_drive(g, BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
	assert_int_equal(set_offloads(g, 0, 8), VIRTIO_NET_ERR);
}

static uint8_t set_pairs(struct vnic_rig *g, unsigned int q, uint16_t n)
{
	le16 raw = le16_put(n);

	return vnic_command(g, q, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &raw, 2);
}

static void test_vnet__pairs_that_the_driver_uses_work_and_others_do_not(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int ctrl = 2 * VNIC_PAIRS;

	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		vnic_offer(g, i, 1000);
	vnic_put_seed(g, 2, 100, 1);
	vnic_settle(g);
	assert_false(vnic_took_seed(g, 2, 100, 1, 1));
	assert_int_equal(set_pairs(g, ctrl, 0), VIRTIO_NET_ERR);
	assert_int_equal(set_pairs(g, ctrl, VNIC_PAIRS + 1), VIRTIO_NET_ERR);
	assert_int_equal(set_pairs(g, ctrl, 0x8000), VIRTIO_NET_ERR);
	assert_int_equal(
		vnic_command(g, ctrl, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, "\3", 1),
		VIRTIO_NET_ERR);
	assert_int_equal(vnic_of(g)->state.pairs, 1);
	assert_int_equal(set_pairs(g, ctrl, VNIC_PAIRS), VIRTIO_NET_OK);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 2, 100, 1, 1));
	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		vnic_send(g, i, 200, 10 + i);
	vnic_settle(g);
	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		assert_true(vnic_got_seed(g, i, 200, 10 + i));
	/* what is sent on a pair that is not used any more goes nowhere, and comes back */
	assert_int_equal(set_pairs(g, ctrl, 1), VIRTIO_NET_OK);
	vnic_sent(g, 2);
	vnic_send(g, 2, 200, 20);
	vnic_send(g, 0, 200, 21);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 2), 1);
	assert_false(vnic_got_seed(g, 2, 200, 20));
	assert_true(vnic_got_seed(g, 0, 200, 21));
	assert_false(vnic_broken(g));
	/* a driver without MQ finds the control queue behind the first pair */
	vnic_drive(g, BIT(VIRTIO_NET_F_MQ));
	assert_int_equal(set_pairs(g, 2, 1), VIRTIO_NET_ERR);
	assert_int_equal(set_mac(g, (const uint8_t *)"\2\1\1\1\1\1", 6), VIRTIO_NET_OK);
}

static void test_vnet__unknown_commands_are_answered_and_break_nothing(void **state)
{
	uint8_t data[600] = { 0 };
	struct vnic_rig *g = *state;

	for (unsigned int class = 0; class < 256; class += 5)
		assert_int_equal(vnic_command(g, CTRL, (uint8_t) class, 200, data, 4),
				 VIRTIO_NET_ERR);
	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET,
				      data, sizeof(data)),
			 VIRTIO_NET_ERR);
	assert_int_equal(
		vnic_command(g, CTRL, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, data, 17),
		VIRTIO_NET_ERR);
	assert_int_equal(vnic_command(g, CTRL, VIRTIO_NET_CTRL_ANNOUNCE,
				      VIRTIO_NET_CTRL_ANNOUNCE_ACK, NULL, 0),
			 VIRTIO_NET_OK);
	assert_false(vnic_broken(g));
}

/* The whole command in one descriptor of 8 and one of 4 bytes, and more room than one byte. */
static void test_vnet__a_commands_framing_is_the_drivers_choice(void **state)
{
	static const uint8_t raw[] = {
		VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 7, 7, 7, 7, 7
	};
	struct vnic_rig *g = *state;
	const struct vd_buf b[] = { { g->ctrl, 1, false },
				    { g->ctrl + 1, 3, false },
				    { g->ctrl + 4, 4, false },
				    { g->ctrl + 64, 3, true },
				    { g->ctrl + 80, 1, true } };
	uint8_t got[3] = { 9, 9, 9 };
	uint32_t len;

	assert_int_equal(gmem_write(g->fm.m.mem, g->ctrl, raw, sizeof(raw)), 0);
	assert_int_equal(gmem_write(g->fm.m.mem, g->ctrl + 64, got, 3), 0);
	vd_submit(&g->d, CTRL, b, 5, true);
	vnic_settle(g);
	assert_true(vd_used(&g->d, CTRL, NULL, &len));
	assert_int_equal(len, 1);
	assert_int_equal(gmem_read(g->fm.m.mem, g->ctrl + 64, got, 3), 0);
	assert_memory_equal(got, "\0\11\11", 3);
	assert_int_equal(fm_read(&g->fm, g->d.config, 4), 0x07070702);
}

/* ---- receiving ---- */

static void test_vnet__packets_fill_as_many_buffers_as_they_need(void **state)
{
	static const struct {
		size_t n;
		unsigned int buffers;
	} cases[] = { { 13, 1 },  { 99, 1 },  { 100, 1 },  { 101, 2 },
		      { 200, 2 }, { 201, 3 }, { 1514, 16 } };
	struct vnic_rig *g = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (unsigned int k = 0; k < cases[i].buffers; k++)
			vnic_offer(g, 0, 100);
		vnic_put_seed(g, 0, cases[i].n, (unsigned int)i);
		vnic_settle(g);
		assert_true(vnic_took_seed(g, 0, cases[i].n, (unsigned int)i, cases[i].buffers));
	}
	assert_int_equal(vnic_of(g)->rx_packets, ARRAY_SIZE(cases));
	assert_true(kvm_model_deliver(g->fm.m.kvm) >= ARRAY_SIZE(cases));
}

static void test_vnet__packet_waits_for_its_buffers_and_is_the_first_then(void **state)
{
	struct vnic_rig *g = *state;

	vnic_offer(g, 0, 100);
	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 250, 1);
	vnic_put_seed(g, 0, 50, 2);
	vnic_put_seed(g, 0, 60, 3);
	vnic_settle(g);
	assert_int_equal(vd_used_idx(&g->d, 0), 0);
	vnic_offer(g, 0, 100);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 250, 1, 3));
	assert_int_equal(vd_used_idx(&g->d, 0), 3);
	vnic_offer(g, 0, 100);
	vnic_offer(g, 0, 100);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 50, 2, 1));
	assert_true(vnic_took_seed(g, 0, 60, 3, 1));
	assert_int_equal(vnic_of(g)->dropped, 0);
}

static void test_vnet__without_merging_a_packet_too_big_is_dropped(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, BIT(VIRTIO_NET_F_MRG_RXBUF));
	vnic_offer(g, 0, 100);
	vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 101, 1);
	vnic_put_seed(g, 0, 100, 2);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 100, 2, 1));
	assert_int_equal(vnic_of(g)->dropped, 1);
	vnic_put_seed(g, 0, 60, 3);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 60, 3, 1));
	assert_int_equal(vd_used_idx(&g->d, 0), 2);
}

/* The header alone, then bytes here and there: one chain of four descriptors. */
static void test_vnet__a_buffer_may_be_in_pieces(void **state)
{
	struct vnic_rig *g = *state;
	const struct vd_buf b[] = { { g->big, 5, true },
				    { g->big + 100, 7, true },
				    { g->big + 200, 1, true },
				    { g->big + 300, 500, true } };
	uint8_t want[80], got[80];
	uint32_t len;

	vnic_fill(want, sizeof(want), 9);
	for (unsigned int i = 0; i < 2; i++) {
		vd_submit(&g->d, 0, b, 4, i);
		vnic_put(g, 0, want, sizeof(want));
		vnic_settle(g);
		assert_true(vd_used(&g->d, 0, NULL, &len));
		assert_int_equal(len, sizeof(want));
		assert_int_equal(gmem_read(g->fm.m.mem, g->big + 200, got, 1), 0);
		assert_int_equal(got[0], want[12]);
		assert_int_equal(gmem_read(g->fm.m.mem, g->big + 300, got, 67), 0);
		assert_memory_equal(got, want + 13, 67);
		assert_int_equal(gmem_read(g->fm.m.mem, g->big + 105, got, 2), 0);
		assert_memory_equal(got, "\1\0", 2); /* num_buffers, which needs both pieces */
	}
}

/* No ring of this driver's can ever hold the packet: those behind it must not wait for ever. */
static void test_vnet__packet_bigger_than_the_whole_ring_does_not_block_it(void **state)
{
	struct vnic_rig *g = *state;

	vd_start(&g->d, ~0ull, 8);
	fm_spin(&g->fm);
	for (unsigned int i = 0; i < 8; i++)
		vnic_offer(g, 0, 100);
	vnic_put_seed(g, 0, 801, 1);
	vnic_put_seed(g, 0, 800, 2);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, 800, 2, 8));
	assert_int_equal(vnic_of(g)->dropped, 1);
}

/* The longest there is: 65,535 bytes of IP behind an Ethernet header with a VLAN tag. */
#define LONGEST (TAP_HEADER + 18u + 65535u)

static void test_vnet__the_longest_packet_arrives_whole(void **state)
{
	struct vnic_rig *g = *state;
	const struct vd_buf b = { g->big, VNIC_BIG, true };

	vd_submit(&g->d, 0, &b, 1, false);
	vnic_put_seed(g, 0, LONGEST, 5);
	vnic_settle(g);
	assert_true(vnic_took_seed(g, 0, LONGEST, 5, 1));
}

static void test_vnet__hundreds_of_packets_arrive_in_order(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int put = 0, took = 0;

	for (unsigned int i = 0; i < 250; i++)
		vnic_offer(g, 0, 400);
	while (took < 1000) {
		for (; put < 1000 && put < took + 100; put++)
			vnic_put_seed(g, 0, 60 + put % 300, put);
		fm_spin(&g->fm);
		while (took < put && vnic_took_seed(g, 0, 60 + took % 300, took, 1)) {
			took++;
			vnic_offer(g, 0, 400);
		}
	}
	assert_int_equal(vnic_of(g)->rx_packets, 1000);
}

/* ---- sending ---- */

static void test_vnet__a_packets_framing_is_the_drivers_choice(void **state)
{
	static const uint32_t cuts[][5] = { { 300 },	   { 12, 288 },	      { 5, 7, 288 },
					    { 13, 287 },   { 1, 11, 1, 287 }, { 20, 200, 79, 1 },
					    { 1, 1, 298 }, { 299, 1 } };
	struct vnic_rig *g = *state;
	uint8_t p[300];

	for (size_t i = 0; i < 2 * ARRAY_SIZE(cuts); i++) {
		const uint32_t *cut = cuts[i / 2];
		struct vd_buf b[5];
		unsigned int n = 0;

		vnic_fill(p, sizeof(p), (unsigned int)i);
		for (uint32_t at = 0; n < 5 && cut[n]; at += cut[n++]) {
			b[n] = (struct vd_buf){ g->tx + 1000 * n, cut[n], false };
			assert_int_equal(gmem_write(g->fm.m.mem, b[n].gpa, p + at, cut[n]), 0);
		}
		vd_submit(&g->d, 1, b, n, i % 2);
		vnic_settle(g);
		assert_int_equal(vnic_sent(g, 0), 1);
		assert_true(vnic_got_seed(g, 0, 300, (unsigned int)i));
	}
	assert_int_equal(vnic_of(g)->tx_packets, 2 * ARRAY_SIZE(cuts));
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
}

static void test_vnet__packet_of_as_many_pieces_as_there_may_be(void **state)
{
	struct vd_buf b[VIRTIO_MAX_SEGS];
	struct vnic_rig *g = *state;
	uint8_t p[VIRTIO_MAX_SEGS * 3];

	vnic_fill(p, sizeof(p), 4);
	for (unsigned int i = 0; i < VIRTIO_MAX_SEGS; i++) {
		b[i] = (struct vd_buf){ g->tx + 16 * i, 3, false };
		assert_int_equal(gmem_write(g->fm.m.mem, b[i].gpa, p + 3ull * i, 3), 0);
	}
	vd_submit(&g->d, 1, b, VIRTIO_MAX_SEGS, true);
	vnic_settle(g);
	assert_true(vnic_got_seed(g, 0, sizeof(p), 4));
}

static void send_big(struct vnic_rig *g, uint32_t n, unsigned int seed)
{
	static uint8_t p[VNIC_BIG];
	struct vd_buf b[3] = { { g->big, 12, false } };
	unsigned int nr = 1;

	vnic_fill(p, n, seed);
	assert_int_equal(gmem_write(g->fm.m.mem, g->big, p, n), 0);
	if (n > 12)
		b[nr++] = (struct vd_buf){ g->big + 12, n - 12, false };
	vd_submit(&g->d, 1, b, nr, false);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 1);
}

static void test_vnet__too_short_and_too_long_packets_are_dropped(void **state)
{
	struct vnic_rig *g = *state;
	uint8_t p[16];

	send_big(g, 12, 1);
	send_big(g, LONGEST + 1, 2);
	send_big(g, 150000, 3);
	assert_int_equal(vnic_got(g, 0, p, sizeof(p)), -1);
	assert_int_equal(vnic_of(g)->dropped, 3);
	send_big(g, 13, 4);
	assert_true(vnic_got_seed(g, 0, 13, 4));
	send_big(g, LONGEST, 5);
	assert_true(vnic_got_seed(g, 0, LONGEST, 5));
	assert_false(vnic_broken(g));
}

static void test_vnet__thousand_packets_back_to_back(void **state)
{
	struct vnic_rig *g = *state;
	unsigned int sent = 0, back = 0, got = 0;

	while (got < 1000) {
		for (; sent < 1000 && sent - got < 150; sent++)
			vnic_send(g, 0, 60 + sent % 500, sent);
		vnic_settle(g);
		back += vnic_sent(g, 0);
		while (got < sent && vnic_got_seed(g, 0, 60 + got % 500, got))
			got++;
		assert_int_equal(back, sent);
		assert_int_equal(got, sent);
	}
	assert_int_equal(vnic_of(g)->dropped, 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, vnic_up, vnic_down)
	const struct CMUnitTest tests[] = {
		T(test_vnet__config_space_says_what_the_nic_is),
		T(test_vnet__features_are_those_of_its_cfg),
		cmocka_unit_test_setup_teardown(test_vnet__features_are_those_of_its_cfg,
						vnic_up_pairs, vnic_down),
		T(test_vnet__bad_cfg_is_refused),
		cmocka_unit_test(test_vnet__limits_can_be_set_before_it_is_adopted),
		cmocka_unit_test(test_vnet__without_a_tap_the_link_is_down),
		T(test_vnet__only_a_unicast_mac_is_taken),
		T(test_vnet__offloads_are_part_of_what_was_negotiated),
		cmocka_unit_test_setup_teardown(
			test_vnet__pairs_that_the_driver_uses_work_and_others_do_not, vnic_up_pairs,
			vnic_down),
		T(test_vnet__unknown_commands_are_answered_and_break_nothing),
		T(test_vnet__a_commands_framing_is_the_drivers_choice),
		T(test_vnet__packets_fill_as_many_buffers_as_they_need),
		T(test_vnet__packet_waits_for_its_buffers_and_is_the_first_then),
		T(test_vnet__without_merging_a_packet_too_big_is_dropped),
		T(test_vnet__a_buffer_may_be_in_pieces),
		T(test_vnet__packet_bigger_than_the_whole_ring_does_not_block_it),
		T(test_vnet__the_longest_packet_arrives_whole),
		T(test_vnet__hundreds_of_packets_arrive_in_order),
		T(test_vnet__a_packets_framing_is_the_drivers_choice),
		T(test_vnet__packet_of_as_many_pieces_as_there_may_be),
		T(test_vnet__too_short_and_too_long_packets_are_dropped),
		T(test_vnet__thousand_packets_back_to_back),
	};

	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
