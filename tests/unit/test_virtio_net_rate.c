/* SPDX-License-Identifier: MIT */
/*
 * virtio-net's rate limits, both ways. The test is the guest, the wire and the clock: clock_gettime
 * is the host's plus `skew`, so that hours pass at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/syscall.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vnic.h"

#define HOUR_MS 3600000u

static uint64_t skew; /* nanoseconds */

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	long ret = syscall(SYS_clock_gettime, clock, ts);
	uint64_t ns = (uint64_t)ts->tv_nsec + skew;

	ts->tv_sec += (time_t)(ns / NS_PER_SEC);
	ts->tv_nsec = (long)(ns % NS_PER_SEC);
	return (int)ret;
}

static void pass(struct vnic_rig *g, unsigned int seconds)
{
	skew += seconds * NS_PER_SEC;
	vnic_settle(g);
}

static unsigned int received(struct vnic_rig *g)
{
	unsigned int n = 0;

	while (vd_used(&g->d, 0, NULL, NULL))
		n++;
	return n;
}

static void limit(struct vnic_rig *g, struct virtio_net_rate r)
{
	struct err e;

	assert_int_equal(virtio_net_set_rate(g->dev, &r, &e), 0);
}

static unsigned int got(struct vnic_rig *g)
{
	uint8_t p[VNIC_BUF];
	unsigned int n = 0;

	while (vnic_got(g, 0, p, sizeof(p)) > 0)
		n++;
	return n;
}

static void test_vnet__packets_sent_are_held_to_the_limit(void **state)
{
	struct vnic_rig *g = *state;

	limit(g, (struct virtio_net_rate){
			 .tx_ops = { .size = 10, .refill_ms = HOUR_MS, .burst = 3 } });
	for (unsigned int i = 0; i < 30; i++)
		vnic_send(g, 0, 100, i);
	vnic_settle(g);
	assert_int_equal(got(g), 13);
	pass(g, 359);
	assert_int_equal(got(g), 0);
	pass(g, 1);
	assert_int_equal(got(g), 1);
	pass(g, 720);
	assert_int_equal(got(g), 2);
	/* a pause does not count */
	fm_quiesce(&g->fm);
	skew += 1000 * NS_PER_SEC;
	fm_resume(&g->fm);
	vnic_settle(g);
	assert_int_equal(got(g), 0);
	pass(g, 360);
	assert_int_equal(got(g), 1);
	/* others hold at once, from a full bucket on */
	limit(g, (struct virtio_net_rate){ .tx_ops = { .size = 2, .refill_ms = HOUR_MS } });
	vnic_settle(g);
	assert_int_equal(got(g), 2);
	limit(g, (struct virtio_net_rate){ .rx_ops = { .size = 0 } });
	vnic_settle(g);
	assert_int_equal(got(g), 11);
	assert_int_equal(vnic_sent(g, 0), 30);
	assert_int_equal(vnic_of(g)->dropped, 0);
}

/* Bytes are the packet's without its header; one bigger than the bucket passes into debt. */
static void test_vnet__bytes_sent_are_held_to_the_limit(void **state)
{
	struct vnic_rig *g = *state;

	limit(g, (struct virtio_net_rate){ .tx_bytes = { .size = 3600, .refill_ms = HOUR_MS } });
	for (unsigned int i = 0; i < 10; i++)
		vnic_send(g, 0, 1212, i); /* 1200 bytes */
	vnic_settle(g);
	assert_int_equal(got(g), 3);
	/* the bucket is empty: a token a second; the fourth needs one and owes 1199 */
	pass(g, 2);
	assert_int_equal(got(g), 1);
	pass(g, 1190);
	assert_int_equal(got(g), 0);
	pass(g, 10);
	assert_int_equal(got(g), 1);
}

static void test_vnet__packets_received_are_held_to_the_limit(void **state)
{
	struct vnic_rig *g = *state;

	for (unsigned int i = 0; i < 100; i++)
		vnic_offer(g, 0, 1500);
	limit(g, (struct virtio_net_rate){ .rx_ops = { .size = 10, .refill_ms = HOUR_MS } });
	for (unsigned int i = 0; i < 30; i++)
		vnic_put_seed(g, 0, 100, i);
	vnic_settle(g);
	assert_int_equal(received(g), 10);
	pass(g, 359);
	assert_int_equal(received(g), 0);
	pass(g, 1);
	assert_int_equal(received(g), 1);
	vnic_offer(g, 0, 1500); /* a kick gives it nothing */
	vnic_settle(g);
	assert_int_equal(received(g), 0);
	limit(g, (struct virtio_net_rate){
			 .rx_bytes = { .size = 880, .refill_ms = HOUR_MS, .burst = 88 } });
	vnic_settle(g);
	assert_int_equal(received(g), 11); /* of 88 bytes */
	limit(g, (struct virtio_net_rate){ .rx_ops = { .size = 0 } });
	vnic_settle(g);
	assert_int_equal(received(g), 8);
}

/* One direction's wait does not put the other's off, nor work that is due at once. */
static void test_vnet__each_limit_waits_for_itself(void **state)
{
	struct vnic_rig *g = *state;

	for (unsigned int i = 0; i < 100; i++)
		vnic_offer(g, 0, 1500);
	limit(g, (struct virtio_net_rate){ .rx_ops = { .size = 360, .refill_ms = HOUR_MS },
					   .tx_ops = { .size = 1, .refill_ms = HOUR_MS } });
	vnic_of(g)->state.rx_ops.ahead_ns = 3600 * NS_PER_SEC; /* an empty bucket */
	vnic_put_seed(g, 0, 100, 1);
	vnic_settle(g);
	for (unsigned int i = 0; i < 3; i++)
		vnic_send(g, 0, 100, i);
	vnic_settle(g);
	assert_int_equal(got(g), 1);
	assert_int_equal(received(g), 0);
	pass(g, 10);
	assert_int_equal(received(g), 1);
	pass(g, 3590);
	assert_int_equal(got(g), 1);
	limit(g, (struct virtio_net_rate){ .rx_ops = { .size = 1, .refill_ms = HOUR_MS } });
	got(g);
	vnic_sent(g, 0);
	vnic_put_seed(g, 0, 100, 1);
	vnic_put_seed(g, 0, 100, 2);
	vnic_settle(g);
	for (unsigned int i = 0; i < 100; i++)
		vnic_send(g, 0, 100, i);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 100);
	/* more than is sent in one go, and a receive buffer before the rest has its turn */
	for (unsigned int i = 0; i < 100; i++)
		vd_add(&g->d, 1, &(struct vd_buf){ g->tx, 100, false }, 1, false);
	pthread_mutex_lock(&g->fm.lock);
	vnic_of(g)->v.type->kick(&vnic_of(g)->v, 1);
	vnic_of(g)->v.type->kick(&vnic_of(g)->v, 0);
	pthread_mutex_unlock(&g->fm.lock);
	vnic_settle(g);
	assert_int_equal(vnic_sent(g, 0), 100);
}

static const struct identity copy = { .renew = true, .name = "copy", .generation = { 2 } };

static void test_vnet__limits_are_saved_with_what_is_used_of_them(void **state)
{
	struct vnic_rig *g = *state;
	static struct vnic_rig h;

	limit(g, (struct virtio_net_rate){ .tx_ops = { .size = 2, .refill_ms = HOUR_MS },
					   .rx_bytes = { .size = 9, .refill_ms = 7 } });
	for (unsigned int i = 0; i < 5; i++)
		vnic_send(g, 0, 100, i);
	vnic_settle(g);
	assert_int_equal(got(g), 2);
	fm_quiesce(&g->fm);
	vnic_copy(g, &h, &copy);
	assert_int_equal(vnic_of(&h)->state.tx_ops.size, 2);
	assert_int_equal(vnic_of(&h)->state.rx_bytes.refill_ms, 7);
	fm_resume(&h.fm);
	virtio_net_connect(h.dev);
	vnic_settle(&h);
	vnic_sent(&h, 0);
	vnic_send(&h, 0, 100, 1);
	vnic_settle(&h);
	assert_int_equal(got(&h), 0);
	pass(&h, 1800);
	assert_int_equal(got(&h), 1);
	vnic_end(&h);
	fm_resume(&g->fm);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, vnic_up, vnic_down)
	const struct CMUnitTest tests[] = {
		T(test_vnet__packets_sent_are_held_to_the_limit),
		T(test_vnet__bytes_sent_are_held_to_the_limit),
		T(test_vnet__packets_received_are_held_to_the_limit),
		T(test_vnet__each_limit_waits_for_itself),
		T(test_vnet__limits_are_saved_with_what_is_used_of_them),
	};

	vnic_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
