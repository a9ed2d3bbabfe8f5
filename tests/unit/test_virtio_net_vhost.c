/* SPDX-License-Identifier: MIT */
/*
 * virtio-net's choice of who moves its packets, and rings that change hands. vhost is a model
 * (tests/lib/vhost_model.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vhost_model.h"
#include "tests/lib/vnic.h"

#define BIT(n) (1ull << (n))
#define CTRL 2u

/* ---- the machine ---- */

static int give_vhost(struct vnic_rig *g, const char *prefix, unsigned int pair)
{
	int fd = eventfd(0, EFD_CLOEXEC);
	char name[64], number[12] = "";

	if (pair)
		snprintf(number, sizeof(number), "%u", pair);
	snprintf(name, sizeof(name), "%snet/net0/vhost%s", prefix, number);
	BUG_ON(fd < 0 || grants_put(g->fm.m.grants, name, fd, NULL));
	return fd;
}

static int up(void **state, unsigned int pairs)
{
	static struct vnic_rig g;

	memset(&world, 0, sizeof(world));
	world.features = ~0ull;
	world.fail_start = -1;
	vnic_make(&g, pairs);
	for (unsigned int i = 0; i < pairs; i++) {
		vnic_plug(&g, "", i);
		give_vhost(&g, "", i);
	}
	fm_start(&g.fm);
	*state = &g;
	return 0;
}

static int setup(void **state)
{
	return up(state, 1);
}

static int setup_pairs(void **state)
{
	return up(state, VNIC_PAIRS);
}

static int teardown(void **state)
{
	struct vnic_rig *g = *state;

	vnic_end(g);
	assert_int_equal(running(), 0);
	return 0;
}

static const char *backend(struct vnic_rig *g)
{
	struct virtio_net_view v;

	virtio_net_view(g->dev, &v);
	return v.backend;
}

static void limit(struct vnic_rig *g, uint64_t packets)
{
	struct virtio_net_rate r = { .tx_ops = { .size = packets, .refill_ms = packets ? 1 : 0 } };
	struct err e;

	pthread_mutex_lock(&g->fm.lock);
	assert_int_equal(virtio_net_set_rate(g->dev, &r, &e), 0);
	pthread_mutex_unlock(&g->fm.lock);
}

/* n packets each way, which arrive in order. */
static void traffic(struct vnic_rig *g, unsigned int pair, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++) {
		vnic_send(g, pair, 100 + i, i);
		vnic_offer(g, pair, 1000);
		vnic_put_seed(g, pair, 200 + i, i);
	}
	work(g);
	assert_int_equal(vnic_sent(g, pair), n);
	for (unsigned int i = 0; i < n; i++) {
		assert_true(vnic_got_seed(g, pair, 100 + i, i));
		assert_true(vnic_took_seed(g, pair, 200 + i, i, 1));
	}
	assert_false(vnic_broken(g));
}

static void test_vhost__serves_by_default_and_is_told_what_was_negotiated(void **state)
{
	struct vnic_rig *g = *state;

	assert_int_equal(world.claims, 0);
	vnic_drive(g, BIT(VIRTIO_RING_F_INDIRECT_DESC));
	assert_string_equal(backend(g), "vhost");
	assert_int_equal(world.claims, 1);
	assert_int_equal(world.wanted, BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_EVENT_IDX) |
					       BIT(VIRTIO_NET_F_MRG_RXBUF));
	traffic(g, 0, 20);
	assert_int_equal(world.signals, 40);
	assert_int_equal(vnic_of(g)->tx_packets + vnic_of(g)->rx_packets, 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 6);
	/* a new driver: from the start */
	vnic_drive(g, 0);
	assert_int_equal(world.v[0].ring[0].last_avail, 0);
	assert_int_equal(world.claims, 1);
	traffic(g, 0, 20);
}

static void test_vhost__rings_change_hands_with_their_position(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, 0);
	for (unsigned int i = 1; i < 4; i++) {
		traffic(g, 0, 30 * i);
		limit(g, 1000000);
		assert_string_equal(backend(g), "user");
		assert_int_equal(gmem_pins(g->fm.m.mem), 0);
		traffic(g, 0, 30 * i);
		limit(g, 0);
		assert_string_equal(backend(g), "vhost");
		assert_int_equal(world.starts, i + 1);
	}
	assert_int_equal(world.v[0].ring[1].last_avail, 2 * (30 + 60 + 90));
	assert_int_equal(vnic_of(g)->tx_packets, 30 + 60 + 90);
}

/* The driver has kicked, and does not do so again. */
static void test_vhost__sends_what_a_limit_held_back(void **state)
{
	struct virtio_net_rate r = { .tx_ops = { .size = 1, .refill_ms = 3600000 } };
	struct vnic_rig *g = *state;
	struct err e;

	vnic_drive(g, 0);
	assert_int_equal(virtio_net_set_rate(g->dev, &r, &e), 0);
	for (unsigned int i = 0; i < 4; i++)
		vnic_send(g, 0, 100, i);
	work(g);
	assert_int_equal(vnic_sent(g, 0), 1);
	limit(g, 0);
	assert_string_equal(backend(g), "vhost");
	work(g);
	assert_int_equal(vnic_sent(g, 0), 3);
	for (unsigned int i = 0; i < 4; i++)
		assert_true(vnic_got_seed(g, 0, 100, i));
}

/* What was made available while nobody looked is found, by whoever comes. */
static void test_vhost__nothing_is_lost_around_a_pause(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, 0);
	for (unsigned int round = 0; round < 4; round++) {
		traffic(g, 0, 10);
		vnic_offer(g, 0, 500);
		vnic_send(g, 0, 70, 1); /* kicked, and not looked at */
		fm_quiesce(&g->fm);
		assert_int_equal(running(), 0);
		assert_int_equal(gmem_pins(g->fm.m.mem), 0);
		vnic_send(g, 0, 71, 2);
		vnic_put_seed(g, 0, 72, 3);
		if (round % 2)
			limit(g, round == 1 ? 1000000 : 0);
		fm_resume(&g->fm);
		assert_string_equal(backend(g), round == 1 || round == 2 ? "user" : "vhost");
		work(g);
		assert_true(vnic_got_seed(g, 0, 70, 1));
		assert_true(vnic_got_seed(g, 0, 71, 2));
		assert_true(vnic_took_seed(g, 0, 72, 3, 1));
		assert_int_equal(vnic_sent(g, 0), 2);
	}
	assert_int_equal(vnic_of(g)->dropped, 0);
}

/* A packet that waited in our buffer is none that a later turn of ours may deliver. */
static void test_vhost__a_packet_that_waited_is_not_delivered_by_and_by(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, 0);
	limit(g, 1000000);
	vnic_put_seed(g, 0, 90, 1);
	work(g);
	fm_quiesce(&g->fm);
	limit(g, 0);
	fm_resume(&g->fm);
	traffic(g, 0, 3);
	limit(g, 1000000);
	traffic(g, 0, 3);
}

static void test_vhost__kicks_that_come_to_us_are_forwarded(void **state)
{
	struct vnic_rig *g = *state;

	g->fm.taken = NULL; /* no ioeventfd */
	vnic_drive(g, 0);
	assert_string_equal(backend(g), "vhost");
	for (unsigned int i = 0; i < 5; i++)
		traffic(g, 0, 2);
}

static void test_vhost__what_fails_once_is_not_tried_again(void **state)
{
	struct vnic_rig *g = *state;

	world.fail_start = vnic_of(g)->pair[0].vhost_fd;
	world.ran_before = true;
	vnic_drive(g, 0);
	assert_string_equal(backend(g), "user");
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	assert_int_equal(vnic_of(g)->state.virtio.vq[0].last_avail, 1);
	assert_int_equal(vnic_of(g)->state.virtio.vq[0].used_idx, 1);
	vnic_drive(g, 0);
	traffic(g, 0, 5);
	world.fail_start = -1;
	fm_quiesce(&g->fm);
	fm_resume(&g->fm);
	vnic_drive(g, 0);
	traffic(g, 0, 5);
	assert_string_equal(backend(g), "user");
	assert_int_equal(world.starts, 1);
}

static void test_vhost__that_cannot_be_claimed_or_knows_too_little_is_left_alone(void **state)
{
	struct vnic_rig *g = *state;

	world.fail_claim = 1;
	vnic_drive(g, 0);
	assert_string_equal(backend(g), "user");
	traffic(g, 0, 5);
	vnic_end(g);
	setup(state);
	g = *state;
	world.features = ~BIT(VIRTIO_RING_F_EVENT_IDX);
	vnic_drive(g, 0);
	assert_string_equal(backend(g), "user");
	assert_int_equal(world.starts, 0);
	assert_int_equal(world.claims, 1);
	traffic(g, 0, 5);
	/* what it does not know is no matter if it is not used */
	vnic_end(g);
	setup(state);
	g = *state;
	world.features = ~BIT(VIRTIO_RING_F_EVENT_IDX);
	vnic_drive(g, BIT(VIRTIO_RING_F_EVENT_IDX));
	assert_string_equal(backend(g), "vhost");
}

static void test_vhost__a_bad_ring_breaks_the_device_until_its_reset(void **state)
{
	struct vnic_rig *g = *state;
	const uint64_t one = 1;

	vnic_drive(g, 0);
	assert_int_equal(write(world.v[0].ring[1].err_fd, &one, sizeof(one)), sizeof(one));
	vnic_settle(g);
	assert_true(vnic_broken(g));
	assert_int_equal(running(), 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	vnic_drive(g, 0);
	assert_string_equal(backend(g), "vhost");
	traffic(g, 0, 5);
}

static void test_vhost__a_broken_control_queue_stops_it_too(void **state)
{
	struct vnic_rig *g = *state;
	const struct vd_buf b = { g->ctrl, 1, false };

	vnic_drive(g, 0);
	vd_submit(&g->d, CTRL, &b, 1, false);
	vnic_settle(g);
	assert_true(vnic_broken(g));
	assert_int_equal(running(), 0);
}

static void test_vhost__the_drivers_reset_takes_the_rings_back(void **state)
{
	struct vnic_rig *g = *state;

	vnic_drive(g, 0);
	vnic_send(g, 0, 100, 1);
	vd_set_status(&g->d, 0); /* on a vCPU thread: before main does anything */
	assert_int_equal(running(), 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	work(g);
	assert_string_equal(backend(g), "none");
	vnic_drive(g, 0);
	traffic(g, 0, 5);
}

static void test_vhost__writes_that_are_tracked_are_ours(void **state)
{
	struct vnic_rig *g = *state;
	struct err e;

	vnic_drive(g, 0);
	traffic(g, 0, 5);
	fm_quiesce(&g->fm);
	assert_int_equal(gmem_dirty_start(g->fm.m.mem, &e), 0);
	fm_resume(&g->fm);
	assert_string_equal(backend(g), "user");
	traffic(g, 0, 5);
	assert_true(gmem_dirty_test(g->fm.m.mem, g->rx + 5 * VNIC_BUF));
	assert_true(gmem_dirty_test(g->fm.m.mem, g->d.q[0].used));
	fm_quiesce(&g->fm);
	gmem_dirty_stop(g->fm.m.mem);
	fm_resume(&g->fm);
	assert_string_equal(backend(g), "vhost");
	traffic(g, 0, 5);
	/* and of a machine that runs */
	assert_int_equal(gmem_dirty_start(g->fm.m.mem, &e), 0);
	virtio_net_update(g->dev);
	assert_string_equal(backend(g), "user");
	traffic(g, 0, 5);
	assert_true(gmem_dirty_test(g->fm.m.mem, g->d.q[0].used));
	gmem_dirty_stop(g->fm.m.mem);
	virtio_net_update(g->dev);
	assert_string_equal(backend(g), "vhost");
	traffic(g, 0, 5);
}

static uint8_t set_pairs(struct vnic_rig *g, uint8_t n)
{
	return vnic_command(g, 2 * VNIC_PAIRS, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
			    (const uint8_t[]){ n, 0 }, 2);
}

static void test_vhost__each_pair_has_its_own(void **state)
{
	struct vnic_rig *g = *state;
	struct vnet *d = vnic_of(g);

	vnic_drive(g, 0);
	assert_int_equal(running(), 1);
	world.fail_start = d->pair[1].vhost_fd;
	assert_int_equal(set_pairs(g, 3), VIRTIO_NET_OK);
	assert_int_equal(running(), 2);
	assert_int_equal(d->pair[0].now, VNET_VHOST);
	assert_int_equal(d->pair[1].now, VNET_USER);
	assert_int_equal(d->pair[2].now, VNET_VHOST);
	for (unsigned int i = 0; i < 3; i++)
		traffic(g, i, 7);
	fm_quiesce(&g->fm);
	assert_int_equal(running(), 0);
	fm_resume(&g->fm);
	for (unsigned int i = 0; i < 3; i++)
		traffic(g, i, 7);
	/* one that breaks in our hands breaks the others' */
	assert_int_equal(set_pairs(g, 1), VIRTIO_NET_OK);
	assert_int_equal(running(), 1);
	traffic(g, 0, 7);
	assert_int_equal(set_pairs(g, 3), VIRTIO_NET_OK);
	vd_set_avail_idx(&g->d, vnet_tx(1), 30000);
	vd_kick(&g->d, vnet_tx(1));
	vnic_settle(g);
	assert_true(vnic_broken(g));
	assert_int_equal(running(), 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
}

/* ---- copies ---- */

static const struct identity copy = { .renew = true, .name = "copy", .generation = { 2 } };

static int child_life(struct vnic_rig *g)
{
	fm_child(&g->fm, &copy);
	fm_resume(&g->fm);
	work(g);
	if (running() != 1 || strcmp(backend(g), "none")) /* the parent's, as it was copied */
		return 2;
	world.v[0] = (struct stand_in){ .fd = -1 };
	vnic_sent(g, 0);
	virtio_net_connect(g->dev);
	if (strcmp(backend(g), "vhost") || world.claims != 2 || running() != 1)
		return 3;
	traffic(g, 0, 10);
	vd_set_status(&g->d, 0);
	return gmem_pins(g->fm.m.mem) ? 4 : 0;
}

static void test_vhost__a_child_has_its_own_and_goes_on_where_the_ring_was(void **state)
{
	struct vnic_rig *g = *state;
	int status, mine = g->wire[0], childs;
	pid_t pid;

	vnic_drive(g, 0);
	traffic(g, 0, 17);
	fm_quiesce(&g->fm);
	vnic_send(g, 0, 80, 5);
	g->wire[0] = -1;
	vnic_plug(g, "child/", 0);
	give_vhost(g, "child/", 0);
	world.v[0].running = true; /* as the kernel's would be: it is the parent's */
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child_life(g));
	world.v[0].running = false;
	grants_drop(g->fm.m.grants, "child/");
	childs = g->wire[0];
	g->wire[0] = mine;
	fm_resume(&g->fm);
	work(g);
	assert_true(vnic_got_seed(g, 0, 80, 5));
	assert_int_equal(vnic_sent(g, 0), 1);
	traffic(g, 0, 10);
	assert_int_equal(world.claims, 1);
	fdtab_del(g->fm.m.fds, childs);
	close(childs);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* Whether vhost's last signal came before the vCPUs' state was taken is not known: the copy's
 * driver is told again, wherever the index stands. */
static void test_vhost__a_copys_driver_is_told_of_what_was_used(void **state)
{
	static const uint16_t at[] = { 1, 700, UINT16_MAX, 0 };
	struct vnic_rig *g = *state;
	struct vnet *d = vnic_of(g);

	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		vnic_drive(g, 0);
		/* all that was sent is used, but for the last the driver has seen it */
		vd_set_avail_idx(&g->d, 1, at[i]);
		world.v[0].ring[1].last_avail = at[i];
		*word(world.v[0].ring[1].used, 2) = at[i];
		assert_int_equal(gmem_store16(g->fm.m.mem,
					      g->d.q[1].avail + 4 + 2ull * g->d.q[1].size,
					      (uint16_t)(at[i] - 1)),
				 0);
		fm_quiesce(&g->fm);
		fm_assert_valid(g->dev);
		d->v.adopted = true; /* as a copy's is */
		g->fm.m.kvm->msgs[VD_MSI_DATA + 2] = 0;
		fm_resume(&g->fm);
		if (!g->fm.m.kvm->msgs[VD_MSI_DATA + 2])
			fail_msg("used index %u: no interrupt", at[i]);
	}
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_vhost__serves_by_default_and_is_told_what_was_negotiated),
		T(test_vhost__rings_change_hands_with_their_position),
		T(test_vhost__sends_what_a_limit_held_back),
		T(test_vhost__nothing_is_lost_around_a_pause),
		T(test_vhost__a_packet_that_waited_is_not_delivered_by_and_by),
		T(test_vhost__kicks_that_come_to_us_are_forwarded),
		T(test_vhost__what_fails_once_is_not_tried_again),
		T(test_vhost__that_cannot_be_claimed_or_knows_too_little_is_left_alone),
		T(test_vhost__a_bad_ring_breaks_the_device_until_its_reset),
		T(test_vhost__a_broken_control_queue_stops_it_too),
		T(test_vhost__the_drivers_reset_takes_the_rings_back),
		T(test_vhost__writes_that_are_tracked_are_ours),
		cmocka_unit_test_setup_teardown(test_vhost__each_pair_has_its_own, setup_pairs,
						teardown),
		T(test_vhost__a_child_has_its_own_and_goes_on_where_the_ring_was),
		T(test_vhost__a_copys_driver_is_told_of_what_was_used),
	};

	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
