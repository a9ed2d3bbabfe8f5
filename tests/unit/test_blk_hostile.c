/* SPDX-License-Identifier: MIT */
/*
 * Writing to qcow2 files that were made to harm: each is one field of a good image changed by hand.
 * Such a file is refused with a reason, or it is served, to its own harm at worst: requests end,
 * with or without an error, nothing outside the file is touched, and it does not grow beyond
 * measure. Run under the address sanitizer. What is read of such files is in test_source.c; the
 * fuzzer goes on from here.
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

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/blk.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))
#define MOST MIB(256) /* of the file, whatever is written to the disk */

/* Where QEMU puts things in an image of 4 KiB clusters: 4 MiB of disk are two L2 tables. */
#define REFTABLE 0x1000ull
#define REFBLOCK 0x2000ull
#define L1 0x3000ull
#define L2 0x4000ull
#define COPIED (1ull << 63)
#define PACKED (1ull << 62)

struct field {
	uint64_t off;
	unsigned int bytes;
	uint64_t value;
};

struct hostile {
	const char *what;
	struct field f[2];
};

static const struct hostile corpus[] = {
	{ "an L1 entry refers to the refcount table", { { L1, 8, COPIED | REFTABLE } } },
	{ "an L1 entry refers to a refcount block", { { L1, 8, COPIED | REFBLOCK } } },
	{ "an L1 entry refers to the L1 table", { { L1, 8, COPIED | L1 } } },
	{ "both L1 entries refer to one L2 table", { { L1 + 8, 8, COPIED | L2 } } },
	{ "an L1 entry refers beyond the file", { { L1, 8, COPIED | 1ull << 40 } } },
	{ "an L1 entry refers to no cluster's start", { { L1, 8, COPIED | (L2 + 512) } } },
	{ "an L1 entry has reserved bits", { { L1, 8, COPIED | L2 | 1ull << 57 } } },
	{ "an L2 entry refers to the header", { { L2, 8, COPIED | 0 } } },
	{ "an L2 entry refers to the L1 table", { { L2, 8, COPIED | L1 } } },
	{ "an L2 entry refers to its own table", { { L2, 8, COPIED | L2 } } },
	{ "an L2 entry refers to the refcount table", { { L2, 8, COPIED | REFTABLE } } },
	{ "an L2 entry refers to a refcount block", { { L2, 8, COPIED | REFBLOCK } } },
	{ "two L2 entries refer to one cluster", { { L2 + 8, 8, COPIED | 0x5000 } } },
	{ "an L2 entry refers beyond the file", { { L2, 8, COPIED | 1ull << 50 } } },
	{ "an L2 entry refers to the file's end", { { L2, 8, COPIED | 0xfffff000 } } },
	{ "an L2 entry has reserved bits", { { L2, 8, COPIED | 0x5000 | 1ull << 58 } } },
	{ "an L2 entry is zero and reserved", { { L2, 8, 1 | 1ull << 60 } } },
	{ "a zero entry keeps the L1 table", { { L2, 8, COPIED | L1 | 1 } } },
	{ "a compressed cluster lies in the L1 table", { { L2, 8, PACKED | L1 | 7ull << 58 } } },
	{ "a compressed cluster lies beyond the file", { { L2, 8, PACKED | 1ull << 49 } } },
	{ "the refcount table refers to itself", { { REFTABLE, 8, REFTABLE } } },
	{ "the refcount table refers to the L1 table", { { REFTABLE, 8, L1 } } },
	{ "the refcount table refers to an L2 table", { { REFTABLE, 8, L2 } } },
	{ "the refcount table refers to the header", { { REFTABLE + 8, 8, 0 } } },
	{ "the refcount table refers beyond the file", { { REFTABLE, 8, 1ull << 45 } } },
	{ "the refcount table refers to no cluster's start", { { REFTABLE, 8, 0x2200 } } },
	{ "two refcount blocks are one", { { REFTABLE + 8, 8, REFBLOCK } } },
	{ "the header is not counted", { { REFBLOCK, 2, 0 } } },
	{ "the refcount table is not counted", { { REFBLOCK + 2, 2, 0 } } },
	{ "the refcount block is not counted", { { REFBLOCK + 4, 2, 0 } } },
	{ "the L1 table is not counted", { { REFBLOCK + 6, 2, 0 } } },
	{ "an L2 table is not counted", { { REFBLOCK + 8, 2, 0 } } },
	{ "an L2 table is counted twice", { { REFBLOCK + 8, 2, 2 } } },
	{ "data is not counted", { { REFBLOCK + 10, 2, 0 } } },
	{ "data is counted without end", { { REFBLOCK + 10, 2, 0xffff } } },
	{ "clusters beyond the end are counted", { { REFBLOCK + 4000, 8, 0x0001000100010001 } } },
	{ "no refcounts at all", { { REFTABLE, 8, 0 } } },
	{ "the refcount table is the L1 table", { { 48, 8, L1 } } },
	{ "the refcount table is the header", { { 48, 8, 0 } } },
	{ "the refcount table is beyond the file", { { 48, 8, 1ull << 40 } } },
	{ "a refcount table of 4 Gi clusters", { { 56, 4, 0xffffffff } } },
	{ "a refcount table of no cluster", { { 56, 4, 0 } } },
	{ "the L1 table is the refcount block", { { 40, 8, REFBLOCK } } },
	{ "the L1 table is the header", { { 40, 8, 0 } } },
	{ "the L1 table is beyond the file", { { 40, 8, 1ull << 40 } } },
	{ "an L1 table of one entry", { { 36, 4, 1 } } },
	{ "an L1 table of 4 Gi entries", { { 36, 4, 0xffffffff } } },
	{ "a disk of 8 EiB", { { 24, 8, 1ull << 63 } } },
	{ "a disk of 16 EiB less one", { { 24, 8, ~0ull } } },
	{ "clusters of 2^63", { { 20, 4, 63 } } },
	{ "clusters of 2^9 where there were 2^12", { { 20, 4, 9 } } },
	{ "clusters of 2^21 where there were 2^12", { { 20, 4, 21 } } },
	{ "refcounts of 2^63 bits", { { 96, 4, 63 } } },
	{ "refcounts of 64 bits where there were 16", { { 96, 4, 6 } } },
	{ "refcounts of 1 bit where there were 16", { { 96, 4, 0 } } },
	{ "a header of 4 GiB", { { 100, 4, 0xffffffff } } },
	{ "a header of one byte", { { 100, 4, 1 } } },
	{ "snapshots, of which there are none", { { 60, 4, 0xffff }, { 64, 8, L1 } } },
	{ "a backing file's name in the L1 table", { { 8, 8, L1 }, { 16, 4, 8 } } },
	{ "a backing file's name beyond the file", { { 8, 8, 1ull << 40 }, { 16, 4, 8 } } },
	{ "unknown incompatible features", { { 72, 8, 1ull << 40 } } },
	{ "marked as corrupt", { { 72, 8, 2 } } },
	{ "lazy, and not closed", { { 72, 8, 1 }, { 80, 8, 1 } } },
	{ "unknown autoclear features", { { 88, 8, ~0ull } } },
};

static void patch(const char *path, const struct field *f)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint8_t raw[8];

	assert_true(fd >= 0);
	for (unsigned int i = 0; i < f->bytes; i++)
		raw[i] = (uint8_t)(f->value >> 8 * (f->bytes - 1 - i));
	assert_int_equal(fd_pwrite_full(fd, raw, f->bytes, f->off), 0);
	close(fd);
}

static void done(struct blk_req *r, int result)
{
	(void)result;
	r->iov = NULL;
}

/* Requests of all kinds at once, which all end. */
static bool storm(struct blk *b, uint8_t *buf)
{
	struct blk_req r[24];
	struct iovec iov[24];

	memset(r, 0, sizeof(r));
	for (unsigned int i = 0; i < ARRAY_SIZE(r); i++) {
		uint64_t sectors = blk_size(b) / BLK_SECTOR, at = qcow2_random(sectors);

		r[i].op = (enum blk_op)qcow2_random(BLK_ZERO + 1);
		r[i].done = done;
		r[i].offset_bytes = at * BLK_SECTOR;
		r[i].len = (1 + qcow2_random(MIN(sectors - at, 128ull))) * BLK_SECTOR;
		if (r[i].op == BLK_FLUSH)
			r[i].offset_bytes = r[i].len = 0;
		iov[i] = (struct iovec){ buf, r[i].len };
		r[i].iov = &iov[i];
		r[i].niov = r[i].op == BLK_READ || r[i].op == BLK_WRITE;
		if (blk_submit(b, &r[i]))
			return false;
	}
	blk_quiesce(b);
	for (unsigned int i = 0; i < ARRAY_SIZE(r); i++)
		if (r[i].iov)
			return false;
	return true;
}

/* 0: served; else why not. */
static int serve(const char *path, struct err *e)
{
	struct source_file file = { open(path, O_RDONLY | O_CLOEXEC), SOURCE_QCOW2 };
	struct blk_cfg cfg = { .writes = BLK_IN_QCOW2 };
	uint8_t *buf = calloc(128, BLK_SECTOR);
	struct source *s = NULL;
	struct disk d;
	int r = source_open(&file, 1, &s, e), status;
	pid_t pid;

	assert_non_null(buf);
	if (r) {
		free(buf);
		return r;
	}
	disk_open(&d, MIB(1), 0, 1); /* for its loop and table */
	blk_destroy(d.blk);
	d.blk = NULL;
	r = blk_create(&cfg, s, open(path, O_RDWR | O_CLOEXEC), &d.blk, e);
	if (!r) {
		disk_adopt(&d);
		for (unsigned int round = 0; round < 12; round++) {
			assert_true(storm(d.blk, buf));
			if (round != 5 || blk_rotate(d.blk, -1, e))
				continue;
			pid = fork();
			if (pid == 0)
				_exit(disk_child(&d) && storm(d.blk, buf) && storm(d.blk, buf) ? 0
											       : 1);
			assert_int_equal(waitpid(pid, &status, 0), pid);
			assert_int_equal(status, 0);
		}
		blk_finish(d.blk);
	}
	disk_close(&d);
	free(buf);
	return r;
}

static void test_hostile__files_are_refused_or_served_within_bounds(void **state)
{
	char *dir = scratch_make();
	unsigned int served = 0;

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=4096 %s/good 4M && "
	   "qemu-io -f qcow2 -c 'write -P 0x11 0 64k' -c 'write -P 0x22 3M 64k' %s/good >/dev/null",
	   dir, dir);
	for (unsigned int i = 0; i < ARRAY_SIZE(corpus); i++) {
		const struct hostile *h = &corpus[i];
		const char *path = scratch_path(dir, "bad");
		struct err e = { "" };
		struct stat st;
		int r;

		alarm(300); /* a request that never ends */
		sh("cp %s/good %s/bad", dir, dir);
		for (unsigned int k = 0; k < 2; k++)
			if (h->f[k].bytes)
				patch(path, &h->f[k]);
		r = serve(path, &e);
		if (r && strncmp(e.msg, "qcow2: ", 7) != 0)
			fail_msg("%s: refused with %d: '%s'", h->what, r, e.msg);
		served += !r;
		assert_int_equal(stat(path, &st), 0);
		if (st.st_size > (off_t)MOST)
			fail_msg("%s: the file has %lld bytes", h->what, (long long)st.st_size);
	}
	alarm(0);
	/* both happen: this is no test of one path only */
	assert_in_range(served, 10, ARRAY_SIZE(corpus) - 10);
	scratch_remove(dir);
}

/* 8 MiB that name one refcount block a million times: refused at once, not after a look at each. */
static void test_hostile__a_table_of_one_block_is_not_read_for_hours(void **state)
{
	char *dir = scratch_make();
	struct err e = { "" };
	be64 *table = calloc(1 << 20, sizeof(*table));
	int fd;

	(void)state;
	assert_non_null(table);
	sh("qemu-img create -q -f qcow2 -o cluster_size=2M %s/bad 64M", dir);
	fd = open(scratch_path(dir, "bad"), O_RDWR | O_CLOEXEC);
	for (unsigned int i = 0; i < 1 << 20; i++)
		table[i] = be64_put(MIB(4)); /* the block that QEMU made */
	assert_int_equal(fd_pwrite_full(fd, table, MIB(8), MIB(16)), 0);
	free(table);
	close(fd);
	patch(scratch_path(dir, "bad"), &(struct field){ 48, 8, MIB(16) });
	patch(scratch_path(dir, "bad"), &(struct field){ 56, 4, 4 });
	alarm(60);
	assert_int_equal(serve(scratch_path(dir, "bad"), &e), -EINVAL);
	alarm(0);
	assert_non_null(strstr(e.msg, "more refcount blocks than clusters"));
	scratch_remove(dir);
}

static void test_hostile__the_corpus_is_of_the_image_that_it_says(void **state)
{
	char *dir = scratch_make(), *map;
	struct err e = { "" };

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=4096 %s/good 4M && "
	   "qemu-io -f qcow2 -c 'write -P 0x11 0 64k' -c 'write -P 0x22 3M 64k' %s/good >/dev/null",
	   dir, dir);
	map = scratch_sh("od -An -tx1 -j40 -N16 %s/good | tr -d ' \\n'; "
			 "od -An -tx1 -j$((0x1000)) -N8 %s/good | tr -d ' \\n'; "
			 "od -An -tx1 -j$((0x3000)) -N8 %s/good | tr -d ' \\n'",
			 dir, dir, dir);
	assert_string_equal(map, "00000000000030000000000000001000"
				 "0000000000002000"
				 "8000000000004000");
	free(map);
	assert_int_equal(serve(scratch_path(dir, "good"), &e), 0);
	sh("qemu-img check -q -f qcow2 %s/good", dir);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile__the_corpus_is_of_the_image_that_it_says),
		cmocka_unit_test(test_hostile__a_table_of_one_block_is_not_read_for_hours),
		cmocka_unit_test(test_hostile__files_are_refused_or_served_within_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
