/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk's queues, its write cache (virtio 1.2 section 5.2.5) and its rate limits. The test is
 * the guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/disk.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vblk.h"
#include "virtio/blk_internal.h"

/* ---- queues and the write cache ---- */

#define QUEUES 4u

/* A raw file that is written in place, with QUEUES queues. */
static int up_in_place(void **state)
{
	struct virtio_blk_cfg cfg = { .size_bytes = VBLK_DISK_BYTES,
				      .writes = BLK_IN_RAW,
				      .nr_queues = QUEUES };
	static struct vblk_rig g;

	memset(&g, 0, sizeof(g));
	fm_init(&g.fm, MIB(64), -1);
	g.fm.taken = kvm_model_taken;
	g.base_fd = disk_file();
	fdtab_add(g.fm.m.fds, g.base_fd, FD_KEEP, "test base");
	assert_int_equal(ftruncate(g.base_fd, VBLK_DISK_BYTES), 0);
	g.dev = fm_add(&g.fm, &virtio_blk_class, "vda", &cfg);
	g.hdr = fm_alloc(&g.fm, VBLK_SLOTS * 32, 4096);
	g.status = fm_alloc(&g.fm, VBLK_SLOTS, 4096);
	g.data = fm_alloc(&g.fm, (uint64_t)VBLK_SLOTS * VBLK_BUF_BYTES, 4096);
	vblk_give(&g, "data", dup(g.base_fd));
	fm_start(&g.fm);
	vblk_drive(&g);
	*state = &g;
	return 0;
}

static bool all_arrived(void *arg)
{
	struct vblk_wait *w = arg;
	uint32_t id, len;

	for (unsigned int q = 0; q < QUEUES; q++)
		while (vd_used(&w->g->d, q, &id, &len))
			w->got++;
	return w->got >= w->want;
}

/* More requests than the device takes at once, on all queues: each is answered on its own queue,
 * and none waits for ever. */
static void test_vblk__every_queue_is_served(void **state)
{
	struct vblk_rig *g = *state;
	struct vblk_wait w = { g, VBLK_SLOTS, 0 };
	uint16_t before[QUEUES];

	assert_true(vd_offered(&g->d) & 1ull << VIRTIO_BLK_F_MQ);
	assert_int_equal(fm_read(&g->fm, g->d.config + 34, 2), QUEUES);
	for (unsigned int q = 0; q < QUEUES; q++)
		before[q] = vd_used_idx(&g->d, q);
	for (unsigned int i = 0; i < VBLK_SLOTS; i++) {
		vblk_fill(g, i, (uint8_t)(i + 1), 4096);
		vblk_add_on(g, i % QUEUES, i, VIRTIO_BLK_T_OUT, i * 8, 4096);
	}
	for (unsigned int q = 0; q < QUEUES; q++)
		vd_kick(&g->d, q);
	assert_true(fm_until(&g->fm, all_arrived, &w));
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal((uint16_t)(vd_used_idx(&g->d, q) - before[q]),
				 VBLK_SLOTS / QUEUES);
	for (unsigned int i = 0; i < VBLK_SLOTS; i++) {
		uint8_t got[4096];

		assert_int_equal(vblk_status(g, i), VIRTIO_BLK_S_OK);
		assert_int_equal(fd_pread_full(g->base_fd, got, sizeof(got), i * 4096ull), 0);
		assert_int_equal(got[0], (uint8_t)(i + 1));
		assert_int_equal(got[4095], (uint8_t)(i + 1));
	}
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
}

static uint64_t flushes(struct vblk_rig *g)
{
	struct blk_stats st;

	virtio_blk_stats(g->dev, &st);
	return st.flushes;
}

static void test_vblk__write_cache_is_as_the_driver_wants_it(void **state)
{
	struct vblk_rig *g = *state;

	assert_true(vd_offered(&g->d) & 1ull << VIRTIO_BLK_F_CONFIG_WCE);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 1);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 0);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 1);
	/* write-through: what completes is durable */
	fm_write(&g->fm, g->d.config + 32, 1, 0);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 0);
	vblk_fill(g, 0, 7, 4096);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 2);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 2);
	/* a driver that cannot flush */
	vd_start(&g->d, ~(1ull << VIRTIO_BLK_F_FLUSH), 0);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 1);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 16, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 3);
}

/* n requests are answered, and no more for a while. */
static void expect_answers(struct vblk_rig *g, unsigned int n)
{
	struct vblk_wait w = { g, n, 0 };

	assert_true(fm_until(&g->fm, vblk_arrived, &w));
	for (unsigned int i = 0; i < 200; i++)
		fm_spin(&g->fm);
	vblk_arrived(&w);
	assert_int_equal(w.got, n);
}

/* Two operations in an hour: the third waits, whatever happens to the machine, until the limit is
 * lifted. */
static void test_vblk__rate_limit_holds_back_until_it_is_lifted(void **state)
{
	struct virtio_blk_rate rate = { .ops = { .size = 2, .refill_ms = 3600000 } }, none = { 0 };
	struct vblk_wait w;
	struct vblk_rig *g = *state;
	struct err e;

	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 5; i++)
		vblk_add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 2);
	fm_quiesce(&g->fm);
	fm_resume(&g->fm);
	expect_answers(g, 0);
	rate.ops.burst = 1;
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	expect_answers(g, 3);
	for (unsigned int i = 0; i < 3; i++)
		vblk_add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 0);
	assert_int_equal(virtio_blk_set_rate(g->dev, &none, &e), 0);
	w = (struct vblk_wait){ g, 3, 0 };
	assert_true(fm_until(&g->fm, vblk_arrived, &w));
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(vblk_status(g, i), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	/* bytes: a request bigger than the bucket passes, the next waits for it */
	rate = (struct virtio_blk_rate){ .bytes = { .size = 512, .refill_ms = 3600000 } };
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 2; i++)
		vblk_add(g, i, VIRTIO_BLK_T_OUT, 64, 4096);
	vd_kick(&g->d, 0);
	expect_answers(g, 1);
	rate.bytes.refill_ms = 0;
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), -EINVAL);
	assert_int_equal(virtio_blk_set_rate(g->dev, &none, &e), 0);
	w = (struct vblk_wait){ g, 1, 0 };
	assert_true(fm_until(&g->fm, vblk_arrived, &w));
}

/* A copy of the machine waits as long as the machine would have. */
static void test_vblk__rate_limit_is_saved(void **state)
{
	struct virtio_blk_rate rate = { .ops = { .size = 2, .refill_ms = 3600000 } };
	static struct vblk_rig h;
	struct vblk_rig *g = *state;
	struct err e;

	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 3; i++)
		vblk_add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 2);
	fm_quiesce(&g->fm);
	vblk_restore_from(g, &h, -1);
	assert_int_equal(((struct vblk *)h.dev)->state.ops.size, 2);
	assert_true(rate_wait_ns(&((struct vblk *)h.dev)->state.ops) > 1000ull * NS_PER_SEC);
	vblk_end(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vblk__every_queue_is_served, up_in_place,
						vblk_down),
		cmocka_unit_test_setup_teardown(test_vblk__write_cache_is_as_the_driver_wants_it,
						up_in_place, vblk_down),
		cmocka_unit_test_setup_teardown(test_vblk__rate_limit_holds_back_until_it_is_lifted,
						vblk_up, vblk_down),
		cmocka_unit_test_setup_teardown(test_vblk__rate_limit_is_saved, vblk_up, vblk_down),
	};

	vblk_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
