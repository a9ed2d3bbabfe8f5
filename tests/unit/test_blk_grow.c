/* SPDX-License-Identifier: MIT */
/*
 * Disks that grow while they are used: what is new reads as zeroes, whatever was left behind the
 * old end, also to forks and to who opens the file afterwards.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static bool storms(struct disk *d, unsigned int n)
{
	while (n--)
		if (!disk_storm(d, 1 + (unsigned int)disk_random(d, 24)))
			return false;
	return disk_matches(d);
}

/* A fork that grows on its own: true when all was as its model says, there too. */
static bool fork_grows(struct disk *d, int data_fd)
{
	struct err e;
	int status;
	pid_t pid;

	if (blk_rotate(d->blk, data_fd, &e)) {
		fprintf(stderr, "rotate: %s\n", e.msg);
		return false;
	}
	pid = fork();
	if (pid == 0)
		_exit(disk_child(d) && disk_matches(d) && !disk_grow(d, d->size + 512 * 999) &&
				      storms(d, 4)
			      ? 0
			      : 1);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

static void test_blk_grow__an_overlay(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 6; seed++) {
		struct disk d;

		/* ends within a block, whose rest may hold what a freed block left there */
		disk_open(&d, MIB(1) + 512 * seed, seed % 2 ? MIB(1) + 512 * seed : MIB(1) / 2,
			  seed);
		for (unsigned int k = 0; k < 5; k++) {
			assert_true(storms(&d, 4));
			assert_int_equal(disk_grow(&d, d.size + 512 * (1 + disk_random(&d, 3000))),
					 0);
			assert_true(disk_matches(&d));
			if (k % 2)
				assert_true(fork_grows(&d, disk_file()));
		}
		assert_true(storms(&d, 4));
		disk_close(&d);
	}
}

/* A base whose last bytes are no whole sector: they are not of the disk, before and after. */
static void test_blk_grow__over_a_base_that_ends_within_a_sector(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, MIB(1), MIB(1) + 100, 1);
	assert_int_equal(disk_grow(&d, MIB(2)), 0);
	assert_true(disk_matches(&d));
	assert_true(storms(&d, 4));
	disk_close(&d);
}

/* Also beyond what the L1 table has, so that it moves; and with forks that read the file. */
static void test_blk_grow__a_qcow2_file(void **state)
{
	static const struct {
		unsigned int cluster;
		const char *more;
		bool below;
	} kind[] = { { 512, "refcount_bits=16", false }, { 512, "lazy_refcounts=on", false },
		     { 512, "refcount_bits=1", true },	 { 4096, "compat=0.10", false },
		     { 4096, "refcount_bits=64", true }, { 65536, "lazy_refcounts=on", false } };
	char *dir = scratch_make();

	(void)state;
	qcow2_make_raw(dir, "below", MIB(1));
	for (unsigned int i = 0; i < ARRAY_SIZE(kind); i++) {
		uint64_t bytes = MIB(1) + 512 * 7;
		struct disk d;

		sh("qemu-img create -q -f qcow2 -o cluster_size=%u,%s %s %s/top %llu",
		   kind[i].cluster, kind[i].more, kind[i].below ? "-b below -F raw" : "", dir,
		   (unsigned long long)bytes);
		for (unsigned int round = 0; round < 2; round++) {
			qcow2_scribble(scratch_path(dir, "top"), bytes, 6);
			qcow2_top_open(&d, dir, kind[i].below, kind[i].cluster, i + round + 1);
			for (unsigned int k = 0; k < 6; k++) {
				assert_true(storms(&d, 4));
				bytes += 512 * (1 + disk_random(&d, k == 2 ? 40000 : 300));
				assert_int_equal(disk_grow(&d, bytes), 0);
				assert_true(disk_matches(&d));
				if (round && k % 2)
					assert_true(fork_grows(&d, -1));
			}
			assert_true(storms(&d, 4));
			qcow2_top_close(&d, dir);
		}
	}
	scratch_remove(dir);
}

static int rw(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void test_blk_grow__a_raw_file(void **state)
{
	char *dir = scratch_make();
	struct stat st;
	struct disk d;

	(void)state;
	qcow2_make_raw(dir, "raw", MIB(1) + 512 * 3);
	disk_open_in(&d, BLK_IN_RAW, NULL, rw(dir, "raw"), scratch_path(dir, "raw"), BLK_BLOCK, 1);
	for (unsigned int k = 0; k < 4; k++) {
		assert_true(storms(&d, 4));
		assert_int_equal(disk_grow(&d, d.size + 512 * (1 + disk_random(&d, 3000))), 0);
		assert_true(disk_matches(&d));
	}
	assert_true(storms(&d, 4));
	assert_int_equal(stat(scratch_path(dir, "raw"), &st), 0);
	assert_int_equal(st.st_size, d.size);
	disk_close(&d);
	scratch_remove(dir);
}

static void test_blk_grow__what_cannot_is_refused_and_stays(void **state)
{
	char *dir = scratch_make();
	struct disk d;

	(void)state;
	disk_open(&d, MIB(1), 0, 1);
	assert_int_equal(disk_grow(&d, MIB(1) - 512), -EINVAL);
	assert_int_equal(disk_grow(&d, MIB(1) + 511), -EINVAL);
	assert_int_equal(disk_grow(&d, BLK_MAX_BYTES + 512), -EINVAL);
	assert_int_equal(disk_grow(&d, MIB(1)), 0);
	assert_int_equal(blk_size(d.blk), MIB(1));
	assert_true(storms(&d, 2));
	disk_close(&d);

	/* what it stands on would come to light */
	qcow2_make_raw(dir, "below", MIB(2));
	sh("qemu-img create -q -f qcow2 -b below -F raw %s/top 1M", dir);
	qcow2_top_open(&d, dir, true, 65536, 1);
	assert_int_equal(disk_grow(&d, MIB(3)), -ENOTSUP);
	assert_true(storms(&d, 2));
	qcow2_top_close(&d, dir);

	/* and so would clusters behind the end: the header is made to say less than there is */
	sh("qemu-img create -q -f qcow2 %s/top 2M && qemu-io -c 'write -P 7 1M 64K' %s/top && "
	   "printf '\\0\\0\\0\\0\\0\\20\\0\\0' | dd of=%s/top bs=1 seek=24 conv=notrunc "
	   "status=none",
	   dir, dir, dir);
	qcow2_top_open(&d, dir, false, 65536, 1);
	assert_int_equal(d.size, MIB(1));
	assert_int_equal(disk_grow(&d, MIB(3)), -EINVAL);
	assert_true(storms(&d, 2));
	qcow2_top_close(&d, dir);

	/* 512-byte clusters: 4 Mi L2 tables of 64 entries */
	sh("qemu-img create -q -f qcow2 -o cluster_size=512 %s/top 1M", dir);
	qcow2_top_open(&d, dir, false, 512, 1);
	assert_int_equal(disk_grow(&d, GIB(256)), -EFBIG);
	assert_true(storms(&d, 2));
	qcow2_top_close(&d, dir);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blk_grow__an_overlay),
		cmocka_unit_test(test_blk_grow__over_a_base_that_ends_within_a_sector),
		cmocka_unit_test(test_blk_grow__a_qcow2_file),
		cmocka_unit_test(test_blk_grow__a_raw_file),
		cmocka_unit_test(test_blk_grow__what_cannot_is_refused_and_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
