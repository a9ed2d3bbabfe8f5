/* SPDX-License-Identifier: MIT */
/*
 * What a flush promises of disks that are written in place, on a model of the ring: what was
 * written before it is on the medium, and who asks is told of every failure, once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>

#include "block/blk_int.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/ring_model.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static int rw(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void open_qcow2(struct disk *d, const char *dir, const char *size)
{
	struct source_file f;
	struct source *s;
	struct err e;

	sh("qemu-img create -q -f qcow2 -o cluster_size=512 %s/top %s && truncate -s %s %s/all",
	   dir, size, size, dir);
	f = (struct source_file){ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
				  SOURCE_QCOW2 };
	assert_int_equal(source_open(&f, 1, &s, &e), 0);
	model_begin();
	world.fd = rw(dir, "top");
	disk_open_in(d, BLK_IN_QCOW2, s, world.fd, scratch_path(dir, "all"), 512, 1);
	model_settled();
}

static void test_flush__puts_a_raw_disk_on_the_medium(void **state)
{
	uint8_t *want = malloc(MIB(1));
	char *dir = scratch_make();
	struct disk d;

	(void)state;
	assert_non_null(want);
	qcow2_make_raw(dir, "raw", MIB(1));
	model_begin();
	world.fd = rw(dir, "raw");
	disk_open_in(&d, BLK_IN_RAW, NULL, world.fd, scratch_path(dir, "raw"), BLK_BLOCK, 7);
	model_settled();
	for (unsigned int round = 0; round < 20; round++) {
		assert_true(disk_storm(&d, 10));
		assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
		assert_memory_equal(world.medium, d.model, MIB(1));
	}
	/* and without one it is not there yet */
	memset(want, 0xee, 512);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, want, 512), 0);
	assert_memory_not_equal(world.medium, want, 512);
	world.fail_syncs = 1;
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), -EIO);
	disk_close(&d);
	model_end();
	free(want);
	scratch_remove(dir);
}

/* The kernel tells of a failed write once: what nobody waited for is owed to who asks next. */
static void test_flush__that_began_by_itself_and_failed_is_told_of(void **state)
{
	static uint8_t buf[512] = { 9 };
	char *dir = scratch_make();
	struct disk d;
	struct err e;

	(void)state;
	for (unsigned int frozen = 0; frozen < 2; frozen++) {
		open_qcow2(&d, dir, "12M");
		if (frozen)
			assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
		world.fail_syncs = 1;
		for (unsigned int k = 0; k < 300; k++)
			assert_int_equal(disk_do(&d, BLK_WRITE, k * 32768, buf, 512), 0);
		assert_int_equal(world.failed, 1);
		assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), -EIO);
		assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(blk_finish(d.blk), 0);
		disk_close(&d);
		model_end();
	}
	/* nobody asks until the end */
	open_qcow2(&d, dir, "12M");
	world.fail_syncs = 1;
	for (unsigned int k = 0; k < 300; k++)
		assert_int_equal(disk_do(&d, BLK_WRITE, k * 32768, buf, 512), 0);
	assert_int_equal(blk_finish(d.blk), -EIO);
	disk_close(&d);
	model_end();
	scratch_remove(dir);
}

static void test_flush__without_memory_fails_once_and_the_next_does_it(void **state)
{
	static uint8_t buf[512] = { 9 };
	char *dir = scratch_make();
	struct disk d;

	(void)state;
	open_qcow2(&d, dir, "1M");
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, 512), 0);
	d.blk->w->batch[Q_LINKS].bad = true;
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), -ENOMEM);
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
	memcpy(d.model, buf, 512);
	assert_true(disk_matches(&d));
	qcow2_top_close(&d, dir);
	model_end();
	scratch_remove(dir);
}

/* A flush that failed is gone on with by whatever comes next, growing too. */
static void test_flush__that_failed_is_no_harm_to_growing(void **state)
{
	static uint8_t buf[512] = { 9 };
	char *dir = scratch_make();
	struct disk d;

	(void)state;
	open_qcow2(&d, dir, "1M");
	assert_int_equal(disk_do(&d, BLK_WRITE, 512, buf, 512), 0);
	memcpy(d.model + 512, buf, 512);
	world.fail_syncs = 1;
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), -EIO);
	assert_int_equal(disk_grow(&d, MIB(4)), 0);
	assert_int_equal(disk_do(&d, BLK_WRITE, MIB(3), buf, 512), 0);
	memcpy(d.model + MIB(3), buf, 512);
	assert_true(disk_matches(&d));
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
	qcow2_top_close(&d, dir);
	model_end();
	scratch_remove(dir);
}

/* A discard that waits for a flush is not who asked for one. */
static void test_flush__whose_failure_met_a_discard_is_told_of(void **state)
{
	static uint8_t buf[512] = { 9 };
	char *dir = scratch_make();
	struct disk d;
	struct err e;

	(void)state;
	open_qcow2(&d, dir, "20M");
	for (uint64_t at = 0; at < d.size; at += 32768) /* tables that a fork reads */
		assert_int_equal(disk_do(&d, BLK_WRITE, at, buf, 512), 0);
	assert_int_equal(blk_finish(d.blk), 0);
	disk_close(&d);
	model_end();
	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	model_begin();
	world.fd = rw(dir, "top");
	{
		struct source_file f = { open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
					 SOURCE_QCOW2 };
		struct source *s;

		assert_int_equal(source_open(&f, 1, &s, &e), 0);
		disk_open_in(&d, BLK_IN_QCOW2, s, world.fd, scratch_path(dir, "all"), 512, 1);
	}
	model_settled();
	assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	world.fail_syncs = 1;
	assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, d.size), -EIO);
	assert_int_equal(world.failed, 1);
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), -EIO);
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
	disk_close(&d);
	model_end();
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flush__puts_a_raw_disk_on_the_medium),
		cmocka_unit_test(test_flush__that_began_by_itself_and_failed_is_told_of),
		cmocka_unit_test(test_flush__that_failed_is_no_harm_to_growing),
		cmocka_unit_test(test_flush__whose_failure_met_a_discard_is_told_of),
		cmocka_unit_test(test_flush__without_memory_fails_once_and_the_next_does_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
