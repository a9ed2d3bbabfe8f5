/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng: bytes, bounds and rates, and a driver that asks for nonsense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vdriver.h"
#include "virtio/rng.h"

struct rig {
	struct fake_machine fm;
	struct vdriver d;
};

static void rng_up(struct rig *r, const struct virtio_rng_cfg *cfg)
{
	memset(r, 0, sizeof(*r));
	fm_init(&r->fm, MIB(64), -1);
	fm_add(&r->fm, &virtio_rng_class, "rng", cfg);
	r->fm.taken = kvm_model_taken;
	fm_start(&r->fm);
	vd_probe(&r->d, &r->fm, 4);
	vd_start(&r->d, 1ull << VIRTIO_RING_F_EVENT_IDX, 0);
	fm_spin(&r->fm);
}

static void test_virtio_rng__buffers_fill_with_different_bytes(void **state)
{
	struct virtio_rng_cfg cfg = { 0 };
	uint8_t got[2][64], zero[64] = { 0 };
	struct vd_buf b[2];
	uint32_t len;
	struct rig r;

	(void)state;
	rng_up(&r, &cfg);
	for (int i = 0; i < 2; i++) {
		b[i] = (struct vd_buf){ fm_alloc(&r.fm, 64, 64), 64, true };
		vd_add(&r.d, 0, &b[i], 1, false);
	}
	vd_kick(&r.d, 0);
	fm_spin(&r.fm);
	for (int i = 0; i < 2; i++) {
		assert_true(vd_used(&r.d, 0, NULL, &len));
		assert_int_equal(len, 64);
		gmem_read(r.fm.m.mem, b[i].gpa, got[i], 64);
		assert_memory_not_equal(got[i], zero, 64);
	}
	assert_memory_not_equal(got[0], got[1], 64);
	assert_int_equal(kvm_model_deliver(r.fm.m.kvm), 1);
	fm_fini(&r.fm);
}

static void test_virtio_rng__one_request_is_bounded(void **state)
{
	struct virtio_rng_cfg cfg = { 0 };
	struct vd_buf b = { MIB(16), (uint32_t)MIB(32), true };
	uint32_t len;
	struct rig r;

	(void)state;
	rng_up(&r, &cfg);
	vd_add(&r.d, 0, &b, 1, false);
	vd_kick(&r.d, 0);
	fm_spin(&r.fm);
	assert_true(vd_used(&r.d, 0, NULL, &len));
	assert_int_equal(len, 4096);
	fm_fini(&r.fm);
}

static bool one_used(void *arg)
{
	struct vdriver *d = arg;

	return vd_used_idx(d, 0) != d->q[0].last_used;
}

static void test_virtio_rng__rate_is_kept_and_waiting_ends(void **state)
{
	struct virtio_rng_cfg cfg = { .bytes_per_s = 100, .burst_bytes = 100 };
	struct vd_buf b = { MIB(1) * 8, 100, true };
	uint32_t len, sum = 0;
	struct rig r;

	(void)state;
	rng_up(&r, &cfg);
	for (int i = 0; i < 3; i++)
		vd_add(&r.d, 0, &b, 1, false);
	vd_kick(&r.d, 0);
	fm_spin(&r.fm);
	/* the burst, and then what the rate lets through by and by */
	assert_true(vd_used(&r.d, 0, NULL, &len));
	assert_int_equal(len, 100);
	for (int i = 0; i < 2; i++) {
		assert_true(fm_until(&r.fm, one_used, &r.d));
		assert_true(vd_used(&r.d, 0, NULL, &len));
		assert_true(len > 0);
		sum += len;
	}
	assert_true(sum < 200);
	fm_fini(&r.fm);
}

static void test_virtio_rng__readable_buffer_breaks_it(void **state)
{
	struct virtio_rng_cfg cfg = { 0 };
	struct vd_buf b = { MIB(8), 64, false };
	struct rig r;

	(void)state;
	rng_up(&r, &cfg);
	vd_add(&r.d, 0, &b, 1, false);
	vd_kick(&r.d, 0);
	fm_spin(&r.fm);
	assert_true(vd_status(&r.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(vd_used_idx(&r.d, 0), 0);
	vd_start(&r.d, 0, 0); /* a reset makes it good again */
	b.in = true;
	vd_add(&r.d, 0, &b, 1, false);
	vd_kick(&r.d, 0);
	fm_spin(&r.fm);
	assert_int_equal(vd_used_idx(&r.d, 0), 1);
	fm_fini(&r.fm);
}

static void test_virtio_rng__many_requests_leave_main_its_turn_and_all_complete(void **state)
{
	struct virtio_rng_cfg cfg = { 0 };
	struct vd_buf b = { MIB(8), 64, true };
	unsigned int done = 0;
	struct rig r;

	(void)state;
	rng_up(&r, &cfg);
	for (unsigned int i = 0; i < r.d.q[0].size; i++)
		vd_add(&r.d, 0, &b, 1, false);
	vd_kick(&r.d, 0);
	while (done < r.d.q[0].size) {
		assert_true(fm_until(&r.fm, one_used, &r.d));
		while (vd_used(&r.d, 0, NULL, NULL))
			done++;
	}
	fm_fini(&r.fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_virtio_rng__buffers_fill_with_different_bytes),
		cmocka_unit_test(test_virtio_rng__one_request_is_bounded),
		cmocka_unit_test(test_virtio_rng__rate_is_kept_and_waiting_ends),
		cmocka_unit_test(test_virtio_rng__readable_buffer_breaks_it),
		cmocka_unit_test(
			test_virtio_rng__many_requests_leave_main_its_turn_and_all_complete),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
