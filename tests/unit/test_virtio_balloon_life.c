/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon over time: targets, statistics and their buffer; and what a pause, a snapshot, a
 * fork or another driver does to each of them. (Rounds of hinting: test_virtio_balloon_hint.c.)
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vballoon.h"

#define P(gpa) (uint32_t)((gpa) / GMEM_PAGE)
#define PAGES MIB(8)
#define CONFIG_MSG VD_MSI_DATA

static void hooks(struct vballoon *r)
{
	r->fm.taken = kvm_model_taken;
	r->fm.interrupted = kvm_model_interrupted;
}

static void up(struct vballoon *r)
{
	vb_up(r, MIB(64), VB_ALL);
	hooks(r);
}

static bool config_interrupt(struct vballoon *r)
{
	return kvm_model_interrupted(&r->fm, CONFIG_MSG);
}

/* A machine that was saved as `from` is now, and loaded: its memory, and its driver's. */
static void restore(struct vballoon *from, struct vballoon *to)
{
	static const struct virtio_balloon_cfg all = { 1, 1, 1, 1 };
	static uint8_t ram[MIB(2)];
	struct wbuf w;
	struct err e;

	fm_save(from->dev, &w);
	vb_make(to, MIB(64), &all);
	hooks(to);
	BUG_ON(gmem_read(from->fm.m.mem, MIB(1), ram, sizeof(ram)) ||
	       gmem_write(to->fm.m.mem, MIB(1), ram, sizeof(ram)));
	to->fm.brk = from->fm.brk;
	to->d = from->d;
	to->d.fm = &to->fm;
	memcpy(to->q, from->q, sizeof(to->q));
	if (fm_load(to->dev, w.data, w.len, &e))
		fail_msg("%s", e.msg);
	wbuf_fini(&w);
	fm_start(&to->fm);
	fm_spin(&to->fm);
}

static void test_balloon__the_driver_is_told_of_a_new_target(void **state)
{
	struct vballoon r, s;
	struct err e;

	(void)state;
	up(&r);
	assert_false(config_interrupt(&r));
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(16), &e), 0);
	assert_true(config_interrupt(&r));
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(16) + 4095, &e), 0);
	assert_false(config_interrupt(&r)); /* the same */
	for (int i = 0; i < 2; i++) {	    /* said twice, and news once */
		fm_write(&r.fm, r.d.config + 4, 4, P(MIB(16)));
		fm_spin(&r.fm);
	}
	assert_int_equal(r.changes, 1);
	assert_int_equal(vb_view(&r).actual_bytes, MIB(16));
	/* a target that was set in a pause is heard of after it, in whichever machine */
	fm_quiesce(&r.fm);
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(8), &e), 0);
	fm_assert_valid(r.dev);
	restore(&r, &s);
	assert_true(config_interrupt(&s));
	assert_int_equal(vb_view(&s).target_bytes, MIB(8));
	assert_int_equal(vb_view(&s).actual_bytes, MIB(16));
	assert_true(vb_view(&s).driver);
	fm_resume(&r.fm);
	assert_true(config_interrupt(&r));
	/* another driver begins with nothing in it, and is asked for the same */
	vb_start(&r, VB_ALL, false, 0);
	assert_int_equal(vb_view(&r).actual_bytes, 0);
	assert_int_equal(vb_config(&r, 0), P(MIB(8)));
	fm_fini(&s.fm);
	fm_fini(&r.fm);
}

static const uint16_t tags[] = { VIRTIO_BALLOON_S_MEMTOT, 0xffff, VIRTIO_BALLOON_S_MEMFREE, 16 };

/* The driver's answer: this much memory is free. */
static void answer(struct vballoon *r, uint64_t mem_free)
{
	const uint64_t vals[] = { MIB(60), 1, mem_free, 2 };

	vb_stats(r, tags, vals, 4);
}

static void assert_free(struct vballoon *r, uint64_t mem_free)
{
	struct virtio_balloon_view v = vb_view(r);

	assert_int_equal(v.stats_known,
			 1 << VIRTIO_BALLOON_S_MEMTOT | 1 << VIRTIO_BALLOON_S_MEMFREE);
	assert_int_equal(v.stat[VIRTIO_BALLOON_S_MEMFREE], mem_free);
	assert_int_equal(v.stat[VIRTIO_BALLOON_S_MEMTOT], MIB(60));
	assert_true(v.stats_ns && v.stats_ns <= time_mono_ns());
}

static bool asked(struct vballoon *r)
{
	return vd_used_idx(&r->d, (unsigned int)r->q[VB_STATS]) != r->d.q[r->q[VB_STATS]].last_used;
}

static bool is_asked(void *arg)
{
	return asked(arg);
}

/* Takes the buffer that is the question. */
static void take(struct vballoon *r)
{
	assert_true(vd_wait_used(&r->d, (unsigned int)r->q[VB_STATS], NULL, NULL));
}

static void test_balloon__statistics_are_asked_for_once_and_answered(void **state)
{
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r);
	assert_int_equal(vb_view(&r).stats_ns, 0);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	answer(&r, 1000); /* the first buffer */
	assert_free(&r, 1000);
	assert_int_equal(r.changes, 1);
	assert_false(asked(&r)); /* it is held */
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	take(&r);
	/* no second question before the answer */
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	assert_false(asked(&r));
	assert_free(&r, 1000);
	answer(&r, 2000);
	assert_free(&r, 2000);
	assert_int_equal(r.changes, 2);
	fm_spin(&r.fm);
	assert_false(asked(&r));
	/* a driver that says less says less */
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	take(&r);
	vb_stats(&r, tags, (const uint64_t[]){ 5 }, 1);
	assert_int_equal(vb_view(&r).stats_known, 1 << VIRTIO_BALLOON_S_MEMTOT);
	fm_fini(&r.fm);
}

static void test_balloon__polling_goes_on_in_its_period_until_it_is_ended(void **state)
{
	const struct timespec nap = { .tv_nsec = 5000000 };
	struct vballoon r;
	struct err e;

	(void)state;
	up(&r);
	answer(&r, 1);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 2, &e), 0);
	for (uint64_t i = 2; i < 6; i++) {
		assert_true(fm_until(&r.fm, is_asked, &r));
		take(&r);
		answer(&r, i);
		assert_free(&r, i);
	}
	/* not while it stands still, and on afterwards */
	assert_true(fm_until(&r.fm, is_asked, &r));
	take(&r);
	answer(&r, 9);
	while (asked(&r)) { /* its next period was over meanwhile */
		take(&r);
		answer(&r, 9);
	}
	fm_quiesce(&r.fm);
	nanosleep(&nap, NULL);
	fm_spin(&r.fm);
	assert_false(asked(&r));
	fm_resume(&r.fm);
	assert_true(fm_until(&r.fm, is_asked, &r));
	take(&r);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	answer(&r, 10);
	nanosleep(&nap, NULL);
	fm_spin(&r.fm);
	assert_false(asked(&r));
	fm_fini(&r.fm);
}

static void test_balloon__the_held_buffer_is_there_after_pause_save_and_reset(void **state)
{
	struct vballoon r, s;
	struct err e;

	(void)state;
	up(&r);
	answer(&r, 1000);
	fm_quiesce(&r.fm);
	fm_resume(&r.fm);
	assert_int_equal(r.changes, 1); /* it was not read again */
	fm_quiesce(&r.fm);
	fm_assert_valid(r.dev);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0); /* of nobody */
	assert_false(asked(&r));
	restore(&r, &s);
	assert_int_equal(vb_view(&s).stats_ns, 0);
	assert_int_equal(virtio_balloon_poll_stats(s.dev, 0, &e), 0);
	take(&s);
	answer(&s, 3000);
	assert_free(&s, 3000);
	fm_resume(&r.fm);
	assert_free(&r, 1000);
	take(&r); /* what was asked for in the pause */
	answer(&r, 2000);
	assert_free(&r, 2000);
	fm_quiesce(&r.fm);
	fm_resume(&r.fm);
	assert_false(asked(&r));
	/* another driver's queue has nothing of this one's */
	vb_start(&r, VB_ALL, true, 0);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	assert_false(asked(&r));
	answer(&r, 4000);
	assert_free(&r, 4000);
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	take(&r);
	fm_fini(&s.fm);
	fm_fini(&r.fm);
}

/* The record ends with six numbers of 4 bytes (the target first) and two of 1. */
static void test_balloon__a_state_that_cannot_be_is_refused(void **state)
{
	static const struct {
		unsigned int from_end, len;
		uint32_t val;
		const char *what;
	} bad[] = {
		{ 26, 4, P(MIB(64)) + 1, "balloon of 16385 pages, RAM has 16384" },
		{ 18, 4, 3, "hinting as 3, the last was 2" },
		{ 2, 1, 2, "hinting 2, statistics 1, every 0 ms" },
		{ 1, 1, 2, "hinting 1, statistics 2, every 0 ms" },
		{ 6, 4, 1, "hinting 1, statistics 1, every 1 ms" },
		{ 6, 4, 999, "hinting 1, statistics 1, every 999 ms" },
		{ 6, 4, 86400001, "hinting 1, statistics 1, every 86400001 ms" },
	};
	static const uint32_t good_ms[] = { 1000, 86400000, 0 };
	struct vballoon r;
	struct wbuf w;
	struct err e;

	(void)state;
	up(&r);
	answer(&r, 1);
	assert_int_equal(virtio_balloon_hint(r.dev, &e), 0);
	assert_true(vb_word(&r, r.q[VB_HINT], 2));
	fm_quiesce(&r.fm);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		fm_save(r.dev, &w);
		bus_put(w.data + w.len - bad[i].from_end, bad[i].len, bad[i].val);
		assert_int_equal(fm_load(r.dev, w.data, w.len, &e), -EINVAL);
		if (!strstr(e.msg, bad[i].what))
			fail_msg("%s", e.msg);
		wbuf_fini(&w);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good_ms); i++) {
		fm_save(r.dev, &w);
		bus_put(w.data + w.len - 6, 4, good_ms[i]);
		assert_int_equal(fm_load(r.dev, w.data, w.len, &e), 0);
		assert_int_equal(vb_view(&r).stats_period_ms, good_ms[i]);
		wbuf_fini(&w);
	}
	fm_fini(&r.fm);
}

/* 2 million page numbers, and a pause every now and then: it ends, and each page was given. */
static void test_balloon__a_long_array_survives_a_pause_and_a_save(void **state)
{
	struct vd_buf b = { MIB(16), (uint32_t)MIB(8), false };
	struct vballoon r, s;
	unsigned int q;

	(void)state;
	up(&r);
	q = (unsigned int)r.q[VB_INFLATE];
	vb_fill(&r, 0, 8192, 1);
	vd_submit(&r.d, q, &b, 1, false);
	fm_spin(&r.fm);
	assert_int_equal(vd_used_idx(&r.d, q), 0);
	fm_quiesce(&r.fm);
	assert_int_equal(((struct virtio_dev *)r.dev)->q[q].in_flight, 0);
	fm_assert_valid(r.dev);
	restore(&r, &s);
	vb_fill(&s, 0, 8192, 1);
	assert_true(vd_wait_used(&s.d, q, NULL, NULL));
	assert_int_equal(vb_view(&s).inflated_bytes, MIB(2) * 4096);
	fm_resume(&r.fm);
	assert_true(vd_wait_used(&r.d, q, NULL, NULL));
	assert_int_equal(vb_zero(&r, 0, 8192), 1);
	fm_fini(&s.fm);
	fm_fini(&r.fm);
}

/* In the child: its exit status. */
static int child(struct vballoon *r)
{
	const struct identity id = { .renew = true, .generation = { 2 } };
	const uint32_t pfn = P(PAGES) + 1;
	struct err e;
	bool told;

#define CHECK(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "child: line %d: %s\n", __LINE__, #cond);                  \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)
	fm_child(&r->fm, &id);
	fm_resume(&r->fm);
	told = config_interrupt(r);
	CHECK(vb_view(r).target_bytes == MIB(4) && vb_view(r).actual_bytes == 4096);
	CHECK(vb_view(r).inflated_bytes == 0 && vb_view(r).stats_ns == 0);
	CHECK(vb_pfns(r, r->q[VB_INFLATE], &pfn, 1));
	CHECK(vb_view(r).inflated_bytes == 4096);
	CHECK(vb_zero(r, PAGES, MIB(1)) == 2 && vb_filled(r, PAGES, MIB(1), 1) == 254);
	CHECK(!virtio_balloon_poll_stats(r->dev, 0, &e));
	CHECK(vd_wait_used(&r->d, (unsigned int)r->q[VB_STATS], NULL, NULL));
	answer(r, 77);
	CHECK(vb_view(r).stat[VIRTIO_BALLOON_S_MEMFREE] == 77);
	/* a round is its parent's, and the driver hears that it is over */
	CHECK(!virtio_balloon_hinting(r->dev) && told);
	CHECK(vb_config(r, 8) == VIRTIO_BALLOON_CMD_ID_DONE);
	CHECK(vb_word(r, r->q[VB_HINT], 0) && !virtio_balloon_hint_through(r->dev));
	return 0;
}

static void test_balloon__a_fork_keeps_it_and_both_go_on_apart(void **state)
{
	const uint32_t pfn = P(PAGES);
	struct vballoon r;
	struct err e;
	pid_t pid;
	int st;

	(void)state;
	up(&r);
	vb_fill(&r, PAGES, MIB(1), 1);
	answer(&r, 1000);
	assert_true(vb_pfns(&r, r.q[VB_INFLATE], &pfn, 1));
	assert_int_equal(virtio_balloon_set_target(r.dev, MIB(4), &e), 0);
	assert_int_equal(virtio_balloon_hint(r.dev, &e), 0);
	assert_true(vb_word(&r, r.q[VB_HINT], 2));
	assert_int_equal(r.changes, 1);
	fm_write(&r.fm, r.d.config + 4, 4, 1); /* news that the owner has not had */
	fm_quiesce(&r.fm);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child(&r));
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFEXITED(st));
	assert_int_equal(WEXITSTATUS(st), 0);
	fm_resume(&r.fm);
	fm_spin(&r.fm);
	assert_int_equal(r.changes, 2);
	/* what the child gave is not the parent's */
	assert_int_equal(vb_zero(&r, PAGES, MIB(1)), 1);
	assert_int_equal(vb_filled(&r, PAGES, MIB(1), 1), 255);
	assert_free(&r, 1000);
	assert_true(virtio_balloon_hinting(r.dev));
	assert_int_equal(virtio_balloon_poll_stats(r.dev, 0, &e), 0);
	take(&r);
	fm_fini(&r.fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_balloon__the_driver_is_told_of_a_new_target),
		cmocka_unit_test(test_balloon__statistics_are_asked_for_once_and_answered),
		cmocka_unit_test(test_balloon__polling_goes_on_in_its_period_until_it_is_ended),
		cmocka_unit_test(test_balloon__the_held_buffer_is_there_after_pause_save_and_reset),
		cmocka_unit_test(test_balloon__a_state_that_cannot_be_is_refused),
		cmocka_unit_test(test_balloon__a_long_array_survives_a_pause_and_a_save),
		cmocka_unit_test(test_balloon__a_fork_keeps_it_and_both_go_on_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
