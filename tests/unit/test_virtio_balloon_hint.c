/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon: rounds of free page hinting, with a scripted driver and the test as the device's
 * owner: what is taken, what is not, what is counted, and how a round ends early.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vballoon.h"

#define PAGES MIB(8)
#define CONFIG_MSG VD_MSI_DATA
#define DONE VIRTIO_BALLOON_CMD_ID_DONE

static void up(struct vballoon *r, uint64_t ram, uint64_t features)
{
	vb_up(r, ram, features);
	r->fm.taken = kvm_model_taken;
	r->fm.interrupted = kvm_model_interrupted;
}

static bool config_interrupt(struct vballoon *r)
{
	return kvm_model_interrupted(&r->fm, CONFIG_MSG);
}

/* A round begins and the driver has said so. */
static void begin(struct vballoon *r)
{
	struct err e;

	assert_int_equal(virtio_balloon_hint(r->dev, &e), 0);
	assert_true(vb_word(r, r->q[VB_HINT], vb_config(r, 8)));
}

static void hint(struct vballoon *r, gpa_t gpa, uint64_t len)
{
	assert_true(vb_pages(r, r->q[VB_HINT], gpa, (uint32_t)len));
}

static void stop(struct vballoon *r)
{
	assert_true(vb_word(r, r->q[VB_HINT], VIRTIO_BALLOON_CMD_ID_STOP));
}

/* As the owner: all at once. */
static void take_all(struct vballoon *r)
{
	assert_false(virtio_balloon_take_hinted(r->dev, gmem_size(r->fm.m.mem) + GMEM_PAGE));
	virtio_balloon_hint_end(r->dev);
}

static void assert_counted(struct vballoon *r, uint64_t hinted, uint64_t kept)
{
	assert_int_equal(vb_view(r).hinted_bytes, hinted);
	assert_int_equal(vb_view(r).kept_bytes, kept);
}

/* A bitmap of written pages with one page in it. */
static uint64_t *written(struct vballoon *r, uint64_t page)
{
	uint64_t *bits = calloc(gmem_size(r->fm.m.mem) / GMEM_PAGE / 64, sizeof(*bits));

	bits[page / 64] = 1ull << page % 64;
	return bits;
}

static void test_hint__a_round_is_heard_in_its_order_and_ends_with_done(void **state)
{
	struct vballoon r;
	struct err e;
	uint32_t id;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(8), 1);
	hint(&r, PAGES, 4096); /* of no round: ignored */
	stop(&r);
	assert_int_equal(vb_config(&r, 8), VIRTIO_BALLOON_CMD_ID_STOP);
	for (uint32_t i = 0; i < 3; i++) {
		config_interrupt(&r);
		assert_int_equal(virtio_balloon_hint(r.dev, &e), 0);
		assert_true(config_interrupt(&r));
		assert_int_equal(virtio_balloon_hint(r.dev, &e), -EBUSY);
		id = vb_config(&r, 8);
		assert_int_equal(id, 2 + i);			/* never the same again */
		assert_true(vb_word(&r, r.q[VB_HINT], id - 1)); /* a stale one opens nothing */
		hint(&r, PAGES + MIB(4), MIB(4));
		stop(&r);
		assert_false(virtio_balloon_hint_through(r.dev));
		assert_true(vb_word(&r, r.q[VB_HINT], id));
		vb_fill(&r, PAGES, MIB(4), 1);
		hint(&r, PAGES, MIB(4));
		/* nothing happens before the driver is through, whatever the owner does */
		assert_false(virtio_balloon_take_hinted(r.dev, MIB(64)));
		assert_int_equal(vb_filled(&r, PAGES, MIB(8), 1), 2048);
		assert_counted(&r, (uint64_t)i * MIB(4), 0);
		/* and a pause in the middle changes nothing */
		fm_quiesce(&r.fm);
		fm_assert_valid(r.dev);
		fm_resume(&r.fm);
		assert_int_equal(r.changes, i);
		assert_true(virtio_balloon_hinting(r.dev));
		stop(&r);
		fm_spin(&r.fm);
		assert_int_equal(r.changes, i + 1);
		assert_true(virtio_balloon_hint_through(r.dev));
		assert_true(virtio_balloon_hinting(r.dev));
		assert_int_equal(vb_config(&r, 8), id); /* it holds them until the end */
		hint(&r, PAGES + MIB(4), MIB(4));	/* too late */
		assert_true(vb_word(&r, r.q[VB_HINT], id));
		hint(&r, PAGES + MIB(4), MIB(4));
		fm_quiesce(&r.fm);
		assert_false(virtio_balloon_take_hinted(r.dev, MIB(64)));
		fm_resume(&r.fm);
		config_interrupt(&r);
		virtio_balloon_hint_end(r.dev);
		assert_true(config_interrupt(&r));
		assert_int_equal(vb_config(&r, 8), DONE);
		assert_false(virtio_balloon_hinting(r.dev));
		assert_int_equal(vb_zero(&r, PAGES, MIB(4)), 1024);
		assert_int_equal(vb_filled(&r, PAGES + MIB(4), MIB(4), 1), 1024);
		assert_counted(&r, (uint64_t)(i + 1) * MIB(4), 0);
		virtio_balloon_hint_end(r.dev); /* of nothing */
		assert_false(config_interrupt(&r));
	}
	fm_fini(&r.fm);
}

static void test_hint__what_was_written_to_is_the_guests(void **state)
{
	struct vballoon r;
	uint64_t *bits;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(2), 1);
	begin(&r);
	hint(&r, PAGES, MIB(1));
	hint(&r, PAGES + MIB(1), MIB(1));
	hint(&r, PAGES, 4096); /* twice: counted twice, and there to be taken once */
	stop(&r);
	bits = written(&r, PAGES / GMEM_PAGE + 300);
	virtio_balloon_hint_written(r.dev, bits);
	free(bits);
	/* in steps; what is written between two is not taken either */
	assert_true(virtio_balloon_take_hinted(r.dev, MIB(1)));
	assert_int_equal(vb_zero(&r, PAGES, MIB(2)), 256);
	assert_int_equal(vb_filled(&r, PAGES + MIB(1), MIB(1), 1), 256);
	vb_fill(&r, PAGES, MIB(1), 2); /* taken, used, and not hinted any more */
	bits = written(&r, PAGES / GMEM_PAGE + 511);
	virtio_balloon_hint_written(r.dev, bits);
	free(bits);
	assert_true(virtio_balloon_take_hinted(r.dev, 4096));
	assert_int_equal(vb_zero(&r, PAGES + MIB(1), MIB(1)), 1);
	assert_false(virtio_balloon_take_hinted(r.dev, MIB(1)));
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 2), 256);
	assert_int_equal(vb_zero(&r, PAGES + MIB(1), MIB(1)), 254);
	assert_int_equal(vb_filled(&r, PAGES + 300 * 4096, 4096, 1), 1);
	assert_int_equal(vb_filled(&r, PAGES + 511 * 4096, 4096, 1), 1);
	virtio_balloon_hint_end(r.dev);
	assert_counted(&r, MIB(2) + 4096, 3 * 4096);
	/* a new round knows nothing of the old */
	begin(&r);
	stop(&r);
	take_all(&r);
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 2), 256);
	assert_counted(&r, MIB(2) + 4096, 3 * 4096);
	fm_fini(&r.fm);
}

/* Linux clears what it allocates, also to hint it. */
static void test_hint__zeroes_that_were_written_are_taken_and_stay_zeroes(void **state)
{
	struct vballoon r;
	uint64_t *bits;
	static const char zeroes[4096];
	uint64_t first = PAGES / GMEM_PAGE;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_template(&r, PAGES + MIB(1), MIB(1), 7);
	for (gpa_t at = PAGES; at < PAGES + MIB(2); at += 4096)
		assert_int_equal(gmem_write(r.fm.m.mem, at, zeroes, 4096), 0);
	vb_fill(&r, PAGES + 5 * 4096, 4096, 1);
	begin(&r);
	hint(&r, PAGES, MIB(2));
	stop(&r);
	bits = written(&r, first);
	for (uint64_t p = first; p < first + 512; p++)
		bits[p / 64] |= 1ull << p % 64;
	virtio_balloon_hint_written(r.dev, bits);
	free(bits);
	take_all(&r);
	/* not the one that holds something, nor what would hold its template's again */
	assert_int_equal(vb_zero(&r, PAGES, MIB(2)), 511);
	assert_int_equal(vb_filled(&r, PAGES + 5 * 4096, 4096, 1), 1);
	assert_counted(&r, MIB(2), MIB(1) + 4096);
	fm_fini(&r.fm);
}

static void test_hint__whole_pages_only_also_above_4_gib_and_of_a_template(void **state)
{
	struct vd_buf b[4] = { { PAGES + 100, 3 * 4096, true },
			       { PAGES + MIB(1), 4095, true },
			       { GMEM_HOLE_START - 4096, 4096, true },
			       { GMEM_HOLE_END, 2 * 4096, true } };
	struct vballoon r;

	(void)state;
	up(&r, GMEM_HOLE_START + MIB(64), VB_ALL);
	vb_template(&r, MIB(32), MIB(2), 7);
	vb_fill(&r, PAGES, MIB(2), 1);
	vb_fill(&r, MIB(32), MIB(2), 1);
	vb_fill(&r, GMEM_HOLE_START - 8192, 8192, 1);
	vb_fill(&r, GMEM_HOLE_END, 3 * 4096, 1);
	begin(&r);
	vd_submit(&r.d, (unsigned int)r.q[VB_HINT], b, 4, false);
	assert_true(vd_wait_used(&r.d, (unsigned int)r.q[VB_HINT], NULL, NULL));
	hint(&r, MIB(33), MIB(1));
	stop(&r);
	take_all(&r);
	assert_int_equal(vb_zero(&r, PAGES, MIB(2)), 2);
	assert_int_equal(vb_zero(&r, PAGES + 4096, 8192), 2);
	assert_int_equal(vb_filled(&r, MIB(32), MIB(1), 1), 256);
	assert_int_equal(vb_filled(&r, MIB(33), MIB(1), 7), 256);
	assert_int_equal(vb_filled(&r, GMEM_HOLE_START - 8192, 4096, 1), 1);
	assert_int_equal(vb_zero(&r, GMEM_HOLE_START - 4096, 4096), 1);
	assert_int_equal(vb_zero(&r, GMEM_HOLE_END, 8192), 2);
	assert_int_equal(vb_filled(&r, GMEM_HOLE_END + 8192, 4096, 1), 1);
	assert_counted(&r, MIB(1) + 7 * 4096 - 1, 2 * 4096 - 1);
	fm_fini(&r.fm);
}

/* As of reported pages. */
static void test_hint__poisoned_pages_keep_what_the_driver_expects(void **state)
{
	struct vballoon r;

	(void)state;
	up(&r, MIB(64), VB_ALL | VB_F(PAGE_POISON));
	vb_template(&r, PAGES, MIB(1), 7);
	for (unsigned int i = 0; i < 2; i++) {
		if (i)
			vb_start(&r, VB_ALL | VB_F(PAGE_POISON), true, 0xaaaaaaaa);
		vb_fill(&r, PAGES, MIB(2), 1);
		begin(&r);
		hint(&r, PAGES, MIB(2));
		stop(&r);
		take_all(&r);
		assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 256);
		assert_int_equal(vb_zero(&r, PAGES + MIB(1), MIB(1)), i ? 0 : 256);
	}
	assert_counted(&r, MIB(4), MIB(3));
	fm_fini(&r.fm);
}

static void test_hint__a_driver_that_goes_away_ends_its_round(void **state)
{
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(1), 1);
	for (unsigned int through = 0; through < 2; through++) {
		begin(&r);
		hint(&r, PAGES, MIB(1));
		if (through)
			stop(&r);
		fm_spin(&r.fm);
		r.changes = 0;
		vd_set_status(&r.d, 0);
		assert_false(virtio_balloon_hinting(r.dev));
		assert_false(virtio_balloon_hint_through(r.dev));
		fm_spin(&r.fm);
		assert_int_equal(r.changes, 1);
		assert_false(virtio_balloon_take_hinted(r.dev, MIB(64)));
		assert_int_equal(virtio_balloon_hint(r.dev, &e), -ENOTSUP);
		vb_start(&r, VB_ALL, true, 0);
		assert_int_equal(vb_config(&r, 8), VIRTIO_BALLOON_CMD_ID_STOP);
		hint(&r, PAGES, MIB(1)); /* the next driver has no part in it */
		stop(&r);
		virtio_balloon_hint_end(r.dev);
		assert_int_equal(vb_config(&r, 8), VIRTIO_BALLOON_CMD_ID_STOP);
		assert_counted(&r, (1 + through) * MIB(1), (1 + through) * MIB(1));
	}
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 256);
	begin(&r);
	assert_int_equal(vb_config(&r, 8), 4);
	fm_fini(&r.fm); /* in the middle of one */
}

static void test_hint__a_round_broken_off_takes_nothing_and_the_driver_hears_it(void **state)
{
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	vb_fill(&r, PAGES, MIB(1), 1);
	for (unsigned int at = 0; at < 3; at++) {
		assert_int_equal(virtio_balloon_hint(r.dev, &e), 0);
		if (at > 0)
			assert_true(vb_word(&r, r.q[VB_HINT], vb_config(&r, 8)));
		if (at > 0)
			hint(&r, PAGES, MIB(1));
		if (at > 1)
			stop(&r);
		config_interrupt(&r);
		virtio_balloon_hint_end(r.dev);
		assert_true(config_interrupt(&r));
		assert_int_equal(vb_config(&r, 8), DONE);
		hint(&r, PAGES, MIB(1)); /* what was on its way */
		stop(&r);
		assert_false(virtio_balloon_hint_through(r.dev));
		assert_counted(&r, at * MIB(1), at * MIB(1));
	}
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 256);
	fm_fini(&r.fm);
}

/* A machine saved in the middle of one, by somebody else perhaps: its driver waits for the end. */
static void test_hint__a_restored_machine_tells_its_driver_that_a_round_is_over(void **state)
{
	static const struct virtio_balloon_cfg all = { 1, 1, 1, 1 };
	static uint8_t ram[MIB(2)];
	struct vballoon r, s;
	struct wbuf w;
	struct err e;

	(void)state;
	up(&r, MIB(64), VB_ALL);
	for (unsigned int through = 0; through < 2; through++) {
		begin(&r);
		hint(&r, PAGES, MIB(1));
		if (through)
			stop(&r);
		fm_quiesce(&r.fm);
		fm_save(r.dev, &w);
		vb_make(&s, MIB(64), &all);
		s.fm.interrupted = kvm_model_interrupted;
		assert_int_equal(gmem_read(r.fm.m.mem, MIB(1), ram, sizeof(ram)), 0);
		assert_int_equal(gmem_write(s.fm.m.mem, MIB(1), ram, sizeof(ram)), 0);
		s.fm.brk = r.fm.brk;
		s.d = r.d;
		s.d.fm = &s.fm;
		memcpy(s.q, r.q, sizeof(s.q));
		assert_int_equal(fm_load(s.dev, w.data, w.len, &e), 0);
		wbuf_fini(&w);
		vb_fill(&s, PAGES, MIB(1), 1);
		fm_start(&s.fm);
		assert_true(config_interrupt(&s));
		assert_int_equal(vb_config(&s, 8), DONE);
		stop(&s);
		assert_false(virtio_balloon_hint_through(s.dev));
		assert_int_equal(virtio_balloon_hint(s.dev, &e), 0);
		assert_int_equal(vb_config(&s, 8), vb_config(&r, 8) + 1);
		assert_int_equal(vb_filled(&s, PAGES, MIB(1), 1), 256);
		fm_fini(&s.fm);
		fm_resume(&r.fm);
		assert_true(virtio_balloon_hinting(r.dev));
		virtio_balloon_hint_end(r.dev);
	}
	fm_fini(&r.fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hint__a_round_is_heard_in_its_order_and_ends_with_done),
		cmocka_unit_test(test_hint__what_was_written_to_is_the_guests),
		cmocka_unit_test(test_hint__zeroes_that_were_written_are_taken_and_stay_zeroes),
		cmocka_unit_test(test_hint__whole_pages_only_also_above_4_gib_and_of_a_template),
		cmocka_unit_test(test_hint__poisoned_pages_keep_what_the_driver_expects),
		cmocka_unit_test(test_hint__a_driver_that_goes_away_ends_its_round),
		cmocka_unit_test(
			test_hint__a_round_broken_off_takes_nothing_and_the_driver_hears_it),
		cmocka_unit_test(
			test_hint__a_restored_machine_tells_its_driver_that_a_round_is_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
