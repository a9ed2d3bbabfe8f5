/* SPDX-License-Identifier: MIT */
/*
 * A disk's requests: contents, order, errors, space, descriptors. Forks are in test_blk_fork.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "tests/lib/disk.h"

static unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static void test_blk__random_requests_match_a_plain_array(void **state)
{
	static const struct {
		uint64_t size, base;
	} shape[] = {
		{ MIB(6) + 1536, MIB(3) + 2560 }, /* ragged ends, more than one leaf */
		{ MIB(5), 0 },
		{ MIB(2), MIB(4) }, /* the base is longer */
		{ 512, 512 },
		{ 3584, 1024 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(shape); i++) {
		struct disk d;

		disk_open(&d, shape[i].size, shape[i].base, 77 + i);
		assert_true(disk_matches(&d));
		for (unsigned int k = 0; k < 150; k++) {
			assert_true(disk_storm(&d, 1 + (unsigned int)disk_random(&d, 64)));
			if (k % 10 == 0)
				assert_true(disk_matches(&d));
		}
		assert_true(disk_matches(&d));
		disk_close(&d);
	}
}

static void test_blk__contents_survive_rotations(void **state)
{
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(4), MIB(2), 5);
	for (unsigned int k = 0; k < 60; k++) {
		assert_true(disk_storm(&d, 20));
		assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
		assert_true(disk_matches(&d));
	}
	disk_close(&d);
}

static void test_blk__thousand_rotations_hold_few_descriptors(void **state)
{
	unsigned int before = open_fds();
	struct blk_stats st;
	uint8_t buf[4096];
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(64), 0, 5);
	for (unsigned int k = 0; k < 1000; k++) {
		uint64_t at = disk_random(&d, MIB(64) / 4096) * 4096;

		memset(buf, (int)k, sizeof(buf));
		memcpy(d.model + at, buf, sizeof(buf));
		assert_int_equal(disk_do(&d, BLK_WRITE, at, buf, sizeof(buf)), 0);
		assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	}
	blk_stats(d.blk, &st);
	assert_true(st.layers <= BLK_SMALL_LAYERS + 1);
	assert_true(open_fds() - before < BLK_SMALL_LAYERS + 16);
	assert_true(disk_matches(&d));
	disk_close(&d);
	assert_int_equal(open_fds(), before);
}

static void test_blk__superseded_layer_is_closed(void **state)
{
	struct blk_stats st;
	uint8_t buf[8192];
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), 0, 5);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	blk_stats(d.blk, &st);
	assert_int_equal(st.layers, 1);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, 4096), 0);
	assert_int_equal(disk_do(&d, BLK_DISCARD, 4096, NULL, 4096), 0);
	blk_stats(d.blk, &st);
	assert_int_equal(st.layers, 0);
	assert_int_equal(st.own_bytes, 4096);
	disk_close(&d);
}

static void test_blk__rotate_without_writes_keeps_the_file(void **state)
{
	unsigned int before;
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	before = open_fds();
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	assert_int_equal(open_fds(), before);
	disk_close(&d);
}

static void test_blk__discard_gives_space_back_and_uses_it_again(void **state)
{
	cleanup_free uint8_t *buf = malloc(MIB(1));
	struct blk_cfg cfg = { .size_bytes = MIB(4) };
	struct stat st;
	struct disk d;
	struct err e;
	int data = disk_file(), mine = dup(data);

	(void)state;
	disk_open(&d, MIB(4), 0, 5);
	blk_destroy(d.blk);
	assert_int_equal(blk_create(&cfg, NULL, data, &d.blk, &e), 0);
	disk_adopt(&d);
	memset(buf, 7, MIB(1));
	for (unsigned int i = 0; i < 20; i++) {
		assert_int_equal(disk_do(&d, BLK_WRITE, MIB(1) * (i % 4), buf, MIB(1)), 0);
		assert_int_equal(fstat(mine, &st), 0);
		assert_true(st.st_size <= (off_t)MIB(1));
		assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, MIB(4)), 0);
		assert_int_equal(fstat(mine, &st), 0);
		assert_true(st.st_blocks * 512 <= 65536);
	}
	assert_true(disk_matches(&d));
	close(mine);
	disk_close(&d);
}

struct order {
	struct blk_req r;
	struct iovec iov;
	uint8_t buf[4096];
	unsigned int *next, at;
	int result;
};

static void order_done(struct blk_req *r, int result)
{
	struct order *o = container_of(r, struct order, r);

	o->result = result;
	o->at = (*o->next)++;
}

static void test_blk__129th_request_is_refused_and_overlaps_keep_order(void **state)
{
	struct order *o = calloc(BLK_DEPTH + 1, sizeof(*o));
	unsigned int next = 0;
	struct disk d;

	(void)state;
	assert_non_null(o);
	disk_open(&d, MIB(1), MIB(1), 5);
	for (unsigned int i = 0; i <= BLK_DEPTH; i++) {
		o[i].iov = (struct iovec){ o[i].buf, sizeof(o[i].buf) };
		o[i].next = &next;
		o[i].r = (struct blk_req){ .op = i % 2 ? BLK_READ : BLK_WRITE,
					   .offset_bytes = 2048,
					   .len = 4096,
					   .iov = &o[i].iov,
					   .niov = 1,
					   .done = order_done };
		memset(o[i].buf, (int)i, sizeof(o[i].buf));
		assert_int_equal(blk_submit(d.blk, &o[i].r), i < BLK_DEPTH ? 0 : -EAGAIN);
	}
	assert_int_equal(blk_in_flight(d.blk), BLK_DEPTH);
	blk_quiesce(d.blk);
	assert_int_equal(blk_in_flight(d.blk), 0);
	for (unsigned int i = 0; i < BLK_DEPTH; i++) {
		assert_int_equal(o[i].result, 0);
		assert_int_equal(o[i].at, i);
		assert_int_equal(o[i].buf[17], i & ~1u);
		assert_int_equal(o[i].buf[4095], i & ~1u);
	}
	disk_close(&d);
	free(o);
}

static void stop_when_all(void *arg)
{
	struct disk *d = arg;

	if (!blk_in_flight(d->blk))
		loop_stop(d->loop);
}

static void test_blk__completions_arrive_on_the_loop(void **state)
{
	struct order o[8];
	unsigned int next = 0;
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	blk_on_batch(d.blk, stop_when_all, &d);
	for (unsigned int i = 0; i < ARRAY_SIZE(o); i++) {
		o[i].iov = (struct iovec){ o[i].buf, sizeof(o[i].buf) };
		o[i].next = &next;
		o[i].r = (struct blk_req){ .op = BLK_READ,
					   .offset_bytes = i * 4096,
					   .len = 4096,
					   .iov = &o[i].iov,
					   .niov = 1,
					   .done = order_done };
		assert_int_equal(blk_submit(d.blk, &o[i].r), 0);
	}
	blk_kick(d.blk);
	assert_int_equal(loop_run(d.loop, &e), 0);
	assert_int_equal(next, ARRAY_SIZE(o));
	for (unsigned int i = 0; i < ARRAY_SIZE(o); i++) {
		assert_int_equal(o[i].result, 0);
		assert_memory_equal(o[i].buf, d.model + i * 4096, 4096);
	}
	disk_close(&d);
}

static void test_blk__bad_requests_fail_and_change_nothing(void **state)
{
	uint8_t buf[8192] = { 0 };
	struct disk d;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	assert_int_equal(disk_do(&d, BLK_WRITE, MIB(1) - 4096, buf, 8192), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_WRITE, UINT64_MAX - 511, buf, 512), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_WRITE, 100, buf, 512), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_READ, 0, buf, 100), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_ZERO, MIB(1), NULL, 512), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_DISCARD, 512, NULL, MIB(1)), -EINVAL);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, NULL, 512), -EINVAL); /* no memory given */
	assert_int_equal(disk_do(&d, BLK_READ, MIB(1), buf, 0), 0);
	assert_true(disk_matches(&d));
	disk_close(&d);
}

static void test_blk__failed_writes_leave_the_old_content(void **state)
{
	struct blk_cfg cfg = { .size_bytes = MIB(1) };
	uint8_t buf[16384];
	struct blk_stats st;
	struct disk d;
	struct err e;
	int data;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	blk_destroy(d.blk);
	data = memfd_create("full", MFD_ALLOW_SEALING);
	assert_int_equal(fcntl(data, F_ADD_SEALS, F_SEAL_GROW), 0); /* a disk that is full */
	assert_int_equal(blk_create(&cfg, disk_base(disk_reopen(d.base_fd)), data, &d.blk, &e), 0);
	disk_adopt(&d);
	memset(buf, 9, sizeof(buf));
	assert_int_equal(disk_do(&d, BLK_WRITE, 4096, buf, 16384), -EPERM);
	assert_int_equal(disk_do(&d, BLK_WRITE, 512, buf, 6000 / 512 * 512), -EPERM);
	assert_int_equal(disk_do(&d, BLK_ZERO, 512, NULL, 1024), -EPERM);
	assert_true(disk_matches(&d));
	blk_stats(d.blk, &st);
	assert_int_equal(st.own_bytes, 0);
	assert_int_equal(st.writes, 0);
	/* what needs no space still works */
	assert_int_equal(disk_do(&d, BLK_ZERO, 8192, NULL, 8192), 0);
	memset(d.model + 8192, 0, 8192);
	assert_true(disk_matches(&d));
	disk_close(&d);
}

static void expect_refused(const struct blk_cfg *cfg, int data)
{
	unsigned int before = open_fds() - (data >= 0);
	struct blk *b = NULL;
	struct err e = { "" };

	assert_int_equal(blk_create(cfg, NULL, data, &b, &e), -EINVAL);
	assert_null(b);
	assert_true(e.msg[0]);
	assert_int_equal(open_fds(), before);
}

static void count_done(struct blk_req *r, int result)
{
	(void)r;
	assert_true(!result || result == -EDQUOT);
}

static void test_blk__quota_bounds_what_an_overlay_holds(void **state)
{
	struct blk_cfg cfg = { .size_bytes = MIB(1), .quota_bytes = 16 * 4096 + 4095 };
	struct blk_cfg tiny = { .size_bytes = MIB(1), .quota_bytes = 4095 };
	struct blk_req many[40];
	struct iovec iov;
	struct blk_stats st;
	uint8_t buf[8192];
	struct disk d;
	struct err e;

	(void)state;
	expect_refused(&tiny, disk_file());
	disk_open(&d, MIB(1), MIB(1), 5);
	blk_destroy(d.blk);
	assert_int_equal(
		blk_create(&cfg, disk_base(disk_reopen(d.base_fd)), disk_file(), &d.blk, &e), 0);
	disk_adopt(&d);
	/* all at once: no more pass than may */
	memset(buf, 9, sizeof(buf));
	iov = (struct iovec){ buf, 4096 };
	for (unsigned int i = 0; i < ARRAY_SIZE(many); i++) {
		many[i] = (struct blk_req){ .op = BLK_WRITE,
					    .offset_bytes = i * 4096ull,
					    .len = 4096,
					    .iov = &iov,
					    .niov = 1,
					    .done = count_done };
		assert_int_equal(blk_submit(d.blk, &many[i]), 0);
	}
	blk_quiesce(d.blk);
	blk_stats(d.blk, &st);
	assert_int_equal(st.writes, 16);
	assert_int_equal(st.overlay_bytes, 16 * 4096);
	assert_int_equal(st.errors, ARRAY_SIZE(many) - 16);
	assert_int_equal(st.no_space, ARRAY_SIZE(many) - 16);
	/* what is there may be changed, also after a fork */
	assert_int_equal(disk_do(&d, BLK_WRITE, 8192, buf, 8192), 0);
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	assert_int_equal(disk_do(&d, BLK_WRITE, 8192, buf, 8192), 0);
	assert_int_equal(disk_do(&d, BLK_WRITE, 512 * 1024, buf, 512), -EDQUOT);
	/* a block that is zeroed in part is held; zeroes are not, though they are not the base's */
	assert_int_equal(disk_do(&d, BLK_ZERO, 512 * 1024, NULL, 512), -EDQUOT);
	assert_int_equal(disk_do(&d, BLK_READ, 512 * 1024, buf, 512), 0);
	assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, MIB(1)), 0);
	blk_stats(d.blk, &st);
	assert_int_equal(st.overlay_bytes, 0);
	for (unsigned int i = 0; i < 17; i++)
		assert_int_equal(disk_do(&d, BLK_WRITE, i * 8192ull, buf, 4096),
				 i < 16 ? 0 : -EDQUOT);
	disk_close(&d);
}

static void test_blk__shrunk_base_is_an_error_not_zeroes(void **state)
{
	uint8_t buf[8192];
	struct disk d;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	assert_int_equal(ftruncate(d.base_fd, 4096), 0);
	assert_int_equal(disk_do(&d, BLK_READ, 0, buf, 4096), 0);
	assert_int_equal(disk_do(&d, BLK_READ, 0, buf, 8192), -EIO);
	disk_close(&d);
}

static void test_blk__read_only_disk_refuses_changes(void **state)
{
	struct blk_cfg cfg = { .read_only = true };
	uint8_t buf[4096] = { 0 };
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	blk_destroy(d.blk);
	assert_int_equal(blk_create(&cfg, disk_base(disk_reopen(d.base_fd)), -1, &d.blk, &e), 0);
	disk_adopt(&d);
	assert_int_equal(blk_size(d.blk), MIB(1));
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, 4096), -EROFS);
	assert_int_equal(disk_do(&d, BLK_ZERO, 0, NULL, 4096), -EROFS);
	assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, 4096), -EROFS);
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
	assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), -EINVAL);
	assert_true(disk_matches(&d));
	disk_close(&d);
}

static void test_blk__seed_without_data_file_reads_and_cannot_write(void **state)
{
	struct blk_cfg cfg = { .size_bytes = MIB(1) };
	uint8_t buf[4096] = { 0 };
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 5);
	blk_destroy(d.blk);
	assert_int_equal(blk_create(&cfg, disk_base(disk_reopen(d.base_fd)), -1, &d.blk, &e), 0);
	disk_adopt(&d);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, 4096), -ENOSPC);
	assert_true(disk_matches(&d));
	disk_close(&d);
}

static void test_blk__wrong_descriptors_and_sizes_are_refused(void **state)
{
	struct blk_cfg cfg = { .size_bytes = MIB(1) }, bad = { .size_bytes = 1000 };
	struct blk_cfg huge = { .size_bytes = BLK_MAX_BYTES + 512 }, none = { 0 };
	struct blk_cfg ro = { .size_bytes = MIB(1), .read_only = true };
	int p[2], full = disk_file(), plain = disk_file(), append = disk_file();

	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(ftruncate(full, 512), 0);
	assert_int_equal(fcntl(append, F_SETFL, O_APPEND), 0);
	expect_refused(&cfg, disk_reopen(plain)); /* data is not */
	expect_refused(&cfg, full);
	expect_refused(&cfg, append);
	expect_refused(&cfg, p[1]);
	expect_refused(&bad, disk_file());
	expect_refused(&huge, disk_file());
	expect_refused(&none, disk_file());
	expect_refused(&ro, disk_file());
	close(plain);
	close(p[0]);
}

static void test_blk__closing_leaves_no_descriptor_and_an_empty_table(void **state)
{
	unsigned int before = open_fds();
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(4), MIB(2), 5);
	for (unsigned int k = 0; k < 5; k++) {
		assert_true(disk_storm(&d, 10));
		assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	}
	disk_close(&d);
	assert_int_equal(open_fds(), before);
}

static void test_blk__16_tib_disk_is_cheap_to_have_and_to_discard(void **state)
{
	struct blk_cfg cfg = { .size_bytes = BLK_MAX_BYTES };
	uint8_t buf[4096], got[4096];
	struct blk_stats st;
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), 0, 5);
	blk_destroy(d.blk);
	assert_int_equal(blk_create(&cfg, NULL, disk_file(), &d.blk, &e), 0);
	disk_adopt(&d);
	memset(buf, 3, sizeof(buf));
	assert_int_equal(disk_do(&d, BLK_WRITE, BLK_MAX_BYTES - 4096, buf, 4096), 0);
	assert_int_equal(disk_do(&d, BLK_WRITE, GIB(5), buf, 4096), 0);
	assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, GIB(100)), 0);
	assert_int_equal(disk_do(&d, BLK_READ, BLK_MAX_BYTES - 4096, got, 4096), 0);
	assert_memory_equal(got, buf, 4096);
	blk_stats(d.blk, &st);
	assert_int_equal(st.overlay_blocks, 1);
	disk_close(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blk__random_requests_match_a_plain_array),
		cmocka_unit_test(test_blk__contents_survive_rotations),
		cmocka_unit_test(test_blk__thousand_rotations_hold_few_descriptors),
		cmocka_unit_test(test_blk__superseded_layer_is_closed),
		cmocka_unit_test(test_blk__rotate_without_writes_keeps_the_file),
		cmocka_unit_test(test_blk__discard_gives_space_back_and_uses_it_again),
		cmocka_unit_test(test_blk__129th_request_is_refused_and_overlaps_keep_order),
		cmocka_unit_test(test_blk__completions_arrive_on_the_loop),
		cmocka_unit_test(test_blk__bad_requests_fail_and_change_nothing),
		cmocka_unit_test(test_blk__failed_writes_leave_the_old_content),
		cmocka_unit_test(test_blk__quota_bounds_what_an_overlay_holds),
		cmocka_unit_test(test_blk__shrunk_base_is_an_error_not_zeroes),
		cmocka_unit_test(test_blk__read_only_disk_refuses_changes),
		cmocka_unit_test(test_blk__seed_without_data_file_reads_and_cannot_write),
		cmocka_unit_test(test_blk__wrong_descriptors_and_sizes_are_refused),
		cmocka_unit_test(test_blk__closing_leaves_no_descriptor_and_an_empty_table),
		cmocka_unit_test(test_blk__16_tib_disk_is_cheap_to_have_and_to_discard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
