/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon: what becomes of pages that a driver gives, by whichever queue and however it
 * numbers its queues; and drivers that give nonsense.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <event2/event.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "event/loop.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vballoon.h"

#define P(gpa) (uint32_t)((gpa) / GMEM_PAGE)
#define PAGES MIB(8) /* a place in RAM that nothing else uses */

static unsigned int discards;

int madvise(void *p, size_t n, int advice)
{
	discards += advice == MADV_DONTNEED;
	return (int)syscall(SYS_madvise, p, n, advice);
}

static void up(struct vballoon *r, uint64_t ram, uint64_t features)
{
	vb_up(r, ram, features);
	r->fm.taken = kvm_model_taken;
	r->fm.interrupted = kvm_model_interrupted;
}

static void test_balloon__inflated_pages_fall_to_zero_and_neighbours_stay(void **state)
{
	const uint32_t pfn[] = { P(PAGES),     P(PAGES) + 1, P(PAGES) + 3,  P(PAGES) + 9,
				 P(PAGES) + 8, P(PAGES) + 7, P(PAGES) + 20, P(PAGES) + 18 };
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(1), 1);
	assert_true(vb_pfns(&r, r.q[VB_INFLATE], pfn, 8));
	assert_int_equal(vb_zero(&r, PAGES, MIB(1)), 8);
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 256 - 8);
	for (int i = 0; i < 8; i++)
		assert_int_equal(vb_zero(&r, (gpa_t)pfn[i] * GMEM_PAGE, GMEM_PAGE), 1);
	assert_int_equal(vb_view(&r).inflated_bytes, 8 * 4096);
	assert_int_equal(vb_view(&r).kept_bytes, 0);
	/* deflating changes nothing that the guest has */
	vb_fill(&r, PAGES, 4096, 2);
	assert_true(vb_pfns(&r, r.q[VB_DEFLATE], pfn, 8));
	assert_int_equal(vb_filled(&r, PAGES, 4096, 2), 1);
	fm_fini(&r.fm);
}

static void test_balloon__pages_above_4_gib_and_in_the_hole_are_told_apart(void **state)
{
	const uint32_t pfn[] = { P(GMEM_HOLE_END), P(GMEM_HOLE_END) + 1, P(GMEM_HOLE_START) - 1,
				 /* not RAM, and never a fault of ours */
				 P(GMEM_HOLE_START), P(GMEM_HOLE_END) - 1,
				 P(GMEM_HOLE_END + MIB(64)), 0xffffffff };
	struct vballoon r;

	(void)state;
	up(&r, GMEM_HOLE_START + MIB(64), VB_ALL);
	vb_fill(&r, GMEM_HOLE_END, 4 * 4096, 1);
	vb_fill(&r, GMEM_HOLE_START - 2 * 4096, 2 * 4096, 1);
	assert_true(vb_pfns(&r, r.q[VB_INFLATE], pfn, ARRAY_SIZE(pfn)));
	assert_int_equal(vb_zero(&r, GMEM_HOLE_END, 2 * 4096), 2);
	assert_int_equal(vb_filled(&r, GMEM_HOLE_END + 2 * 4096, 2 * 4096, 1), 2);
	assert_int_equal(vb_zero(&r, GMEM_HOLE_START - 4096, 4096), 1);
	assert_int_equal(vb_filled(&r, GMEM_HOLE_START - 2 * 4096, 4096, 1), 1);
	assert_int_equal(vb_view(&r).inflated_bytes, 7 * 4096);
	assert_int_equal(vb_view(&r).kept_bytes, 4 * 4096);
	assert_false(vd_status(&r.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	fm_fini(&r.fm);
}

static void test_balloon__given_pages_are_the_templates_again_and_no_mapping_is_split(void **state)
{
	uint32_t pfn[1024];
	unsigned int before;
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_template(&r, PAGES, MIB(16), 7);
	vb_fill(&r, PAGES, MIB(24), 1);
	before = vb_mappings();
	/* every other page, in the file and in anonymous memory behind it */
	for (unsigned int i = 0; i < 1024; i++)
		pfn[i] = P(PAGES + MIB(12)) + 2 * i;
	assert_true(vb_pfns(&r, r.q[VB_INFLATE], pfn, 1024));
	for (unsigned int i = 0; i < 16; i++)
		assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES + 8192 * i, 4096));
	assert_int_equal(vb_mappings(), before);
	assert_int_equal(vb_filled(&r, PAGES + MIB(12), MIB(4), 7), 512);
	assert_int_equal(vb_filled(&r, PAGES + MIB(12), MIB(4), 1), 512);
	assert_int_equal(vb_zero(&r, PAGES + MIB(16), MIB(4)), 512);
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 7), 16);
	assert_int_equal(vb_view(&r).reported_bytes, 16 * 4096);
	assert_int_equal(vb_view(&r).kept_bytes, 0);
	fm_fini(&r.fm);
}

static void test_balloon__a_report_gives_whole_pages_only(void **state)
{
	struct vd_buf b[3] = { { PAGES + 100, 3 * 4096, true },
			       { PAGES + MIB(1), 4095, true },
			       { PAGES + MIB(2), 2 * 4096, true } };
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(4), 1);
	vd_submit(&r.d, (unsigned int)r.q[VB_REPORT], b, 3, false);
	assert_true(vd_wait_used(&r.d, (unsigned int)r.q[VB_REPORT], NULL, NULL));
	assert_int_equal(vb_zero(&r, PAGES, MIB(4)), 4);
	assert_int_equal(vb_zero(&r, PAGES + 4096, 2 * 4096), 2);
	assert_int_equal(vb_zero(&r, PAGES + MIB(2), 2 * 4096), 2);
	assert_int_equal(vb_view(&r).reported_bytes, 4 * 4096);
	fm_fini(&r.fm);
}

/* Every subset of functions, with either way to count queues: each does what it is for. */
static void test_balloon__queues_are_found_for_every_subset_and_numbering(void **state)
{
	static const uint64_t bit[] = { VB_F(STATS_VQ), VB_F(FREE_PAGE_HINT), VB_F(REPORTING) };
	const uint16_t tag = VIRTIO_BALLOON_S_MEMFREE;
	struct err e;
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), 0);
	for (unsigned int i = 0; i < 16; i++) {
		const uint32_t pfn = P(PAGES);
		const uint64_t val = 1000 + i;
		uint64_t want = 0;

		for (unsigned int k = 0; k < 3; k++)
			want |= i >> k & 1 ? bit[k] : 0;
		vb_start(&r, want, i & 8, 0);
		assert_int_equal(virtio_balloon_hint(r.dev, &e), want & bit[1] ? 0 : -ENOTSUP);
		vb_fill(&r, PAGES, 3 * 4096, i);
		assert_true(vb_pfns(&r, r.q[VB_INFLATE], &pfn, 1));
		assert_true(vb_pfns(&r, r.q[VB_DEFLATE], &pfn, 1));
		if (want & bit[0]) {
			vb_stats(&r, &tag, &val, 1);
			assert_int_equal(vb_view(&r).stat[tag], val);
		}
		if (want & bit[1]) {
			assert_true(vb_word(&r, r.q[VB_HINT], vb_config(&r, 8)));
			assert_true(vb_word(&r, r.q[VB_HINT], 0));
			assert_true(virtio_balloon_hint_through(r.dev));
			virtio_balloon_hint_end(r.dev);
			assert_int_equal(vb_config(&r, 8), VIRTIO_BALLOON_CMD_ID_DONE);
		}
		if (want & bit[2])
			assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES + 4096, 4096));
		assert_int_equal(vb_zero(&r, PAGES, 4096), 1);
		assert_int_equal(vb_zero(&r, PAGES + 4096, 4096), want & bit[2] ? 1 : 0);
		assert_int_equal(vb_filled(&r, PAGES + 8192, 4096, i), 1);
		assert_false(vd_status(&r.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
	fm_fini(&r.fm);
}

/* It counts as the specification does, and has no use for the last of its queues. */
static void test_balloon__a_gap_in_the_queues_says_that_they_are_not_counted(void **state)
{
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), 0);
	vd_negotiate(&r.d, VB_F(FREE_PAGE_HINT) | VB_F(REPORTING));
	vd_queue_setup(&r.d, VB_INFLATE, 0, true);
	vd_queue_setup(&r.d, VB_DEFLATE, 0, true);
	vd_queue_setup(&r.d, VB_HINT, 0, true);
	vd_set_status(&r.d, vd_status(&r.d) | VIRTIO_CONFIG_S_DRIVER_OK);
	r.fm.interrupted = NULL; /* without MSI-X */
	vb_fill(&r, PAGES, 4096, 1);
	assert_true(vb_pages(&r, VB_HINT, PAGES, 4096));
	assert_int_equal(vb_filled(&r, PAGES, 4096, 1), 1);
	assert_int_equal(vb_view(&r).reported_bytes, 0);
	/* nor does one that enables whatever there is */
	vd_start(&r.d, VB_F(REPORTING), 0);
	assert_true(vb_pages(&r, VB_REPORT, PAGES, 4096));
	assert_int_equal(vb_zero(&r, PAGES, 4096), 1);
	fm_fini(&r.fm);
}

static void test_balloon__what_is_offered_follows_what_was_asked_for(void **state)
{
	static const struct {
		struct virtio_balloon_cfg cfg;
		uint64_t offered;
	} c[] = {
		{ { 0, 0, 0, 0 }, 0 },
		{ { 1, 0, 0, 0 }, VB_F(DEFLATE_ON_OOM) },
		{ { 0, 1, 0, 0 }, VB_F(STATS_VQ) },
		{ { 0, 0, 1, 0 }, VB_F(REPORTING) | VB_F(PAGE_POISON) },
		{ { 0, 0, 0, 1 }, VB_F(FREE_PAGE_HINT) | VB_F(PAGE_POISON) },
		{ { 1, 1, 1, 1 }, VB_ALL | VB_F(PAGE_POISON) },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(c); i++) {
		struct vballoon r;
		struct err e;

		vb_make(&r, MIB(64), &c[i].cfg);
		fm_start(&r.fm);
		vd_probe(&r.d, &r.fm, 5);
		assert_int_equal(vd_offered(&r.d) & 0xffffff, c[i].offered);
		assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e),
				 c[i].cfg.stats ? 0 : -ENOTSUP);
		fm_fini(&r.fm);
	}
}

/* With poison 0 (init_on_free) zero is right and a template's page is not; with another, neither.
 */
static void test_balloon__poisoned_pages_keep_what_the_driver_expects(void **state)
{
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL | VB_F(PAGE_POISON));
	vb_template(&r, PAGES, MIB(1), 7);
	vb_fill(&r, PAGES, MIB(2), 1);
	assert_int_equal(vb_config(&r, 12), 0);
	assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES + MIB(1) - 8192, 16384));
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 256);
	assert_int_equal(vb_zero(&r, PAGES + MIB(1), 8192), 2);
	assert_int_equal(vb_view(&r).reported_bytes, 16384);
	assert_int_equal(vb_view(&r).kept_bytes, 8192);

	vb_start(&r, VB_ALL | VB_F(PAGE_POISON), true, 0xaaaaaaaa);
	assert_int_equal(vb_config(&r, 12), 0xaaaaaaaa);
	vb_fill(&r, PAGES, MIB(2), 1);
	assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES, (uint32_t)MIB(2)));
	assert_int_equal(vb_filled(&r, PAGES, MIB(2), 1), 512);
	assert_int_equal(vb_view(&r).kept_bytes, 8192 + MIB(2));

	/* what was not negotiated is not heard of; a new driver does not inherit it */
	vb_start(&r, VB_ALL, true, 0);
	fm_write(&r.fm, r.d.config + 12, 4, 0xaaaaaaaa);
	assert_int_equal(vb_config(&r, 12), 0);
	assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES, (uint32_t)MIB(2)));
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 7), 256);
	assert_int_equal(vb_zero(&r, PAGES + MIB(1), MIB(1)), 256);
	fm_fini(&r.fm);
}

static unsigned int ticks;

static void on_tick(void *arg)
{
	(void)arg;
	ticks++;
}

/* One chain that names 8 million pages, one report of a GiB: neither keeps main for itself. */
static void test_balloon__a_long_chain_leaves_main_its_turn(void **state)
{
	struct vd_buf b = { MIB(16), (uint32_t)MIB(32), false };
	struct loop_timer *t;
	struct vballoon r;
	unsigned int q;

	(void)state;
	up(&r, MIB(2048), VB_ALL);
	t = loop_add_timer(r.fm.m.loop, on_tick, NULL);
	q = (unsigned int)r.q[VB_INFLATE];
	ticks = 0;
	vb_fill(&r, 0, 4096, 1); /* page 0, which all that zero memory names */
	vd_submit(&r.d, q, &b, 1, false);
	for (int i = 0; i < 3; i++) {
		loop_set_timer(t, 1000);
		while (ticks == (unsigned int)i)
			fm_spin(&r.fm);
		assert_int_equal(vd_used_idx(&r.d, q), 0);
	}
	assert_true(vd_wait_used(&r.d, q, NULL, NULL));
	assert_int_equal(vb_zero(&r, 0, 4096), 1);
	assert_int_equal(vb_view(&r).inflated_bytes, MIB(8) * 4096);

	q = (unsigned int)r.q[VB_REPORT];
	b = (struct vd_buf){ MIB(512) + 1, (uint32_t)GIB(1), true };
	vb_fill(&r, MIB(512), MIB(4), 1);
	vb_fill(&r, MIB(1532), MIB(8), 1);
	vd_submit(&r.d, q, &b, 1, false);
	ticks = 0;
	loop_set_timer(t, 1000);
	while (!ticks)
		fm_spin(&r.fm);
	assert_int_equal(vd_used_idx(&r.d, q), 0);
	assert_true(vd_wait_used(&r.d, q, NULL, NULL));
	assert_int_equal(vb_view(&r).reported_bytes, GIB(1) - 4096);
	assert_int_equal(vb_filled(&r, MIB(512), 4096, 1), 1);
	assert_int_equal(vb_zero(&r, MIB(512) + 4096, MIB(4) - 4096), 1023);
	assert_int_equal(vb_zero(&r, MIB(1532), MIB(4)), 1024);
	assert_int_equal(vb_filled(&r, MIB(1536), MIB(4), 1), 1024);
	loop_del_timer(t);
	fm_fini(&r.fm);
}

#define STRIPES 4096

/* Behind PAGES every other page becomes a template's, which has zeroes there. */
static void map_stripes(struct vballoon *r)
{
	static struct gmem_extent x[STRIPES];
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct err e;

	for (uint64_t i = 0; i < STRIPES; i++)
		x[i] = (struct gmem_extent){ PAGES + 2 * i * GMEM_PAGE, GMEM_PAGE };
	assert_int_equal(ftruncate(fd, MIB(64)), 0);
	assert_int_equal(gmem_map_file(r->fm.m.mem, fd, x, STRIPES, &e), 0);
	close(fd);
}

/* Of poisoned pages between a template's each is a call of its own. */
static void test_balloon__a_poisoned_report_in_stripes_leaves_main_its_turn(void **state)
{
	struct vd_buf b = { PAGES, 2 * STRIPES * GMEM_PAGE, true };
	unsigned int q, before, turns = 0;
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL | VB_F(PAGE_POISON));
	map_stripes(&r);
	vb_fill(&r, PAGES, b.len, 1);
	q = (unsigned int)r.q[VB_REPORT];
	discards = 0;
	vd_submit(&r.d, q, &b, 1, false);
	for (int i = 0; i < 10000000 && !vd_used(&r.d, q, NULL, NULL); i++) {
		before = discards;
		event_base_loop(loop_base(r.fm.m.loop), EVLOOP_NONBLOCK | EVLOOP_ONCE);
		assert_in_range(discards - before, 0, 512);
		turns += discards != before;
	}
	assert_int_equal(discards, STRIPES);
	assert_in_range(turns, 8, 32); /* and it is not for ever */
	assert_int_equal(vb_zero(&r, PAGES, b.len), STRIPES);
	assert_int_equal(vb_filled(&r, PAGES, b.len, 1), STRIPES);
	assert_int_equal(vb_view(&r).kept_bytes, b.len / 2);
	fm_fini(&r.fm);
}

static void test_balloon__wrong_chains_break_it_and_a_reset_mends_it(void **state)
{
	static const struct {
		int queue;
		struct vd_buf b;
	} bad[] = {
		{ VB_INFLATE, { PAGES, 4096, true } },	{ VB_DEFLATE, { PAGES, 4096, true } },
		{ VB_STATS, { PAGES, 100, true } },	{ VB_REPORT, { PAGES, 4096, false } },
		{ VB_HINT, { PAGES, 3, false } },	{ VB_HINT, { PAGES, 8, false } },
		{ VB_REPORT, { MIB(64), 4096, true } }, { VB_INFLATE, { 0, 0, false } },
	};
	const uint32_t pfn = P(PAGES);
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vb_fill(&r, PAGES, 8192, 1);
		vd_submit(&r.d, (unsigned int)r.q[bad[i].queue], &bad[i].b, 1, false);
		fm_spin(&r.fm);
		assert_true(vd_status(&r.d) & VIRTIO_CONFIG_S_NEEDS_RESET);
		assert_int_equal(vb_filled(&r, PAGES, 8192, 1), 2);
		fm_quiesce(&r.fm);
		fm_assert_valid(r.dev);
		fm_resume(&r.fm);
		vb_start(&r, VB_ALL, i & 1, 0);
		assert_true(vb_pfns(&r, r.q[VB_INFLATE], &pfn, 1));
		assert_int_equal(vb_zero(&r, PAGES, 8192), 1);
	}
	fm_fini(&r.fm);
}

static void test_balloon__config_space_is_read_and_written_in_any_width(void **state)
{
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r, MIB(64), VB_ALL | VB_F(PAGE_POISON));
	assert_int_equal(virtio_balloon_set_target(r.dev, 0x1234567, &e), 0);
	assert_int_equal(vb_config(&r, 0), 0x1234);
	assert_int_equal(fm_read(&r.fm, r.d.config, 2), 0x1234);
	assert_int_equal(fm_read(&r.fm, r.d.config + 1, 1), 0x12);
	assert_int_equal(vb_view(&r).target_bytes, 0x1234000);
	fm_write(&r.fm, r.d.config, 4, 99); /* ours */
	fm_write(&r.fm, r.d.config + 8, 4, 99);
	assert_int_equal(vb_config(&r, 0), 0x1234);
	assert_int_equal(vb_config(&r, 8), 0);
	for (unsigned int i = 0; i < 4; i++)
		fm_write(&r.fm, r.d.config + 4 + i, 1, 0x01020304 >> (8 * i) & 0xff);
	assert_int_equal(vb_config(&r, 4), 0x01020304);
	assert_int_equal(vb_view(&r).actual_bytes, MIB(64)); /* not more than there is */
	assert_int_equal(fm_read(&r.fm, r.d.config + 6, 2), 0x0102);
	fm_write(&r.fm, r.d.config + 4, 2, 7);
	fm_write(&r.fm, r.d.config + 6, 2, 0);
	assert_int_equal(vb_view(&r).actual_bytes, 7 * 4096);
	assert_int_equal(fm_read(&r.fm, r.d.config + 16, 4), 0);
	fm_write(&r.fm, r.d.config + 14, 4, 0xffffffff); /* its second half is beyond */
	assert_int_equal(vb_config(&r, 12), 0xffff0000);
	/* before DRIVER_OK nothing is in it; and of a driver that never came to it nothing is left
	 */
	vd_negotiate(&r.d, VB_ALL | VB_F(PAGE_POISON));
	fm_write(&r.fm, r.d.config + 12, 4, 0xaa);
	vd_negotiate(&r.d, VB_ALL);
	assert_int_equal(vb_config(&r, 12), 0);
	fm_write(&r.fm, r.d.config + 4, 4, 5);
	assert_int_equal(vb_config(&r, 4), 0);
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(64) + 1, &e), -EINVAL);
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(64), &e), 0);
	fm_fini(&r.fm);
}

static void test_balloon__a_page_given_back_is_dirty(void **state)
{
	const uint32_t pfn = P(PAGES);
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, 4 * 4096, 1);
	assert_int_equal(gmem_dirty_start(r.fm.m.mem, &e), 0);
	assert_true(vb_pfns(&r, r.q[VB_INFLATE], &pfn, 1));
	assert_true(vb_pages(&r, r.q[VB_REPORT], PAGES + 8192, 4096));
	assert_true(gmem_dirty_test(r.fm.m.mem, PAGES));
	assert_false(gmem_dirty_test(r.fm.m.mem, PAGES + 4096));
	assert_true(gmem_dirty_test(r.fm.m.mem, PAGES + 8192));
	gmem_dirty_stop(r.fm.m.mem);
	fm_fini(&r.fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_balloon__inflated_pages_fall_to_zero_and_neighbours_stay),
		cmocka_unit_test(test_balloon__pages_above_4_gib_and_in_the_hole_are_told_apart),
		cmocka_unit_test(
			test_balloon__given_pages_are_the_templates_again_and_no_mapping_is_split),
		cmocka_unit_test(test_balloon__a_report_gives_whole_pages_only),
		cmocka_unit_test(test_balloon__queues_are_found_for_every_subset_and_numbering),
		cmocka_unit_test(test_balloon__a_gap_in_the_queues_says_that_they_are_not_counted),
		cmocka_unit_test(test_balloon__what_is_offered_follows_what_was_asked_for),
		cmocka_unit_test(test_balloon__poisoned_pages_keep_what_the_driver_expects),
		cmocka_unit_test(test_balloon__a_long_chain_leaves_main_its_turn),
		cmocka_unit_test(test_balloon__a_poisoned_report_in_stripes_leaves_main_its_turn),
		cmocka_unit_test(test_balloon__wrong_chains_break_it_and_a_reset_mends_it),
		cmocka_unit_test(test_balloon__config_space_is_read_and_written_in_any_width),
		cmocka_unit_test(test_balloon__a_page_given_back_is_dirty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
