/* SPDX-License-Identifier: MIT */
/*
 * Disks that are written in place, qcow2 and raw: what we write QEMU reads, what it wrote we
 * change, and its checker finds nothing wrong.
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static int rw(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void live(const char *dir, const char *options, bool below, uint64_t unit, uint64_t bytes)
{
	struct disk d;

	if (below)
		sh("qemu-img create -q -f qcow2 -o %s -b below -F raw %s/top %llu", options, dir,
		   (unsigned long long)bytes);
	else
		sh("qemu-img create -q -f qcow2 -o %s %s/top %llu", options, dir,
		   (unsigned long long)bytes);
	for (uint64_t round = 1; round <= 4; round++) {
		if (round > 1)
			qcow2_scribble(scratch_path(dir, "top"), bytes, 6);
		qcow2_top_open(&d, dir, below, unit, round);
		for (unsigned int k = 0; k < 30; k++)
			if (!disk_storm(&d, 1 + (unsigned int)disk_random(&d, 32)))
				fail_msg("%s, round %llu", options, (unsigned long long)round);
		assert_true(disk_matches(&d));
		qcow2_top_close(&d, dir);
	}
}

static void test_blk_qcow2__what_is_written_is_what_qemu_reads(void **state)
{
	static const unsigned int cluster[] = { 512, 4096, 65536, 2097152 };
	static const char *const more[] = { "refcount_bits=16", "lazy_refcounts=on",
					    "refcount_bits=1", "refcount_bits=64",
					    "compression_type=zstd" };
	char *dir = scratch_make(), options[96];
	unsigned int kind = 0;

	(void)state;
	qcow2_make_raw(dir, "below", MIB(3) + 512 * 3);
	for (unsigned int c = 0; c < ARRAY_SIZE(cluster); c++) {
		snprintf(options, sizeof(options), "compat=0.10,cluster_size=%u", cluster[c]);
		live(dir, options, false, cluster[c], MIB(4) + 512 * 7);
		for (unsigned int below = 0; below < 2; below++) {
			for (unsigned int i = 0; i < 2; i++) {
				snprintf(options, sizeof(options), "cluster_size=%u,%s", cluster[c],
					 more[kind++ % ARRAY_SIZE(more)]);
				live(dir, options, below, cluster[c], MIB(4) + 512 * 7);
			}
		}
	}
	scratch_remove(dir);
}

/* More changed tables than are kept: they are flushed when nobody asks, in the midst of requests.
 */
static void test_blk_qcow2__much_that_is_not_flushed_is_written_all_the_same(void **state)
{
	const uint64_t step = 32768; /* of the disk: one L2 table of 512-byte clusters */
	char *dir = scratch_make();
	uint8_t buf[1024];
	struct disk d;

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=512 %s/top 32M", dir);
	qcow2_top_open(&d, dir, false, 512, 1);
	for (unsigned int round = 0; round < 3; round++) {
		for (uint64_t at = 0; at < d.size; at += step) {
			enum blk_op op = round == 2 && at / step % 3 == 0 ? BLK_ZERO : BLK_WRITE;

			memset(buf, op == BLK_ZERO ? 0 : (int)(at / step + round), sizeof(buf));
			memcpy(d.model + at, buf, sizeof(buf));
			assert_int_equal(
				disk_do(&d, op, at, op == BLK_ZERO ? NULL : buf, sizeof(buf)), 0);
		}
	}
	assert_true(disk_matches(&d));
	qcow2_top_close(&d, dir);
	scratch_remove(dir);
}

/* A qcow2 over a qcow2 with smaller clusters: a cluster of the one is many places of the other. */
static void open_over_qcow2(struct disk *d, const char *dir, uint64_t unit)
{
	struct source_file files[2] = {
		{ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC), SOURCE_QCOW2 },
		{ open(scratch_path(dir, "below"), O_RDONLY | O_CLOEXEC), SOURCE_QCOW2 },
	};
	struct source *s = NULL;
	struct err e;

	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	if (source_open(files, 2, &s, &e))
		fail_msg("%s", e.msg);
	disk_open_in(d, BLK_IN_QCOW2, s, rw(dir, "top"), scratch_path(dir, "all"), unit, 1);
}

static void test_blk_qcow2__over_smaller_clusters(void **state)
{
	char *dir = scratch_make();
	struct disk d;
	struct err e;

	(void)state;
	/* zero at first, but not all of it */
	sh("qemu-img create -q -f qcow2 -o cluster_size=4096 %s/below 1M && "
	   "qemu-io -f qcow2 -c 'write -P 0x77 4k 60k' %s/below >/dev/null && "
	   "qemu-img create -q -f qcow2 -b below -F qcow2 %s/top 1M",
	   dir, dir, dir);
	open_over_qcow2(&d, dir, 65536);
	assert_int_equal(disk_do(&d, BLK_ZERO, 0, NULL, 65536), 0);
	memset(d.model, 0, 65536);
	qcow2_top_close(&d, dir);
	for (unsigned int i = 0; i < 4; i++) {
		qcow2_make_raw(dir, "raw", MIB(3));
		sh("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 %s/raw %s/below && "
		   "qemu-img create -q -f qcow2 -b below -F qcow2 %s/top 3M",
		   dir, dir, dir);
		open_over_qcow2(&d, dir, 65536);
		for (unsigned int k = 0; k < 4; k++) {
			assert_true(disk_storm(&d, 20));
			if (k == i)
				assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
		}
		assert_true(disk_matches(&d));
		qcow2_top_close(&d, dir);
	}
	scratch_remove(dir);
}

static void test_blk_qcow2__a_guest_that_never_flushes_takes_no_more_and_more(void **state)
{
	static uint8_t buf[4096] = { 5 };
	char *dir = scratch_make();
	struct stat st;
	struct disk d;

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=4096 %s/top 1M", dir);
	qcow2_top_open(&d, dir, false, 4096, 1);
	for (unsigned int k = 0; k < 20000; k++) {
		/* two that do not lie side by side when they are given back */
		assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, 4096), 0);
		assert_int_equal(disk_do(&d, BLK_WRITE, 4096, buf, 4096), 0);
		assert_int_equal(disk_do(&d, BLK_DISCARD, 4096, NULL, 4096), 0);
		assert_int_equal(disk_do(&d, BLK_DISCARD, 0, NULL, 4096), 0);
	}
	assert_int_equal(stat(scratch_path(dir, "top"), &st), 0);
	assert_in_range(st.st_size, 0, MIB(40));
	assert_in_range(d.blk->w->refs.released.nr, 0, 5000);
	memset(d.model, 0, 8192);
	qcow2_top_close(&d, dir);
	scratch_remove(dir);
}

/* A directory on a file system that has direct I/O: this one's, since /tmp may be memory. */
static char *direct_dir(void)
{
	char *dir = strdup("build/direct-XXXXXX");

	assert_non_null(mkdtemp(dir));
	return dir;
}

static int open_direct(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_DIRECT | O_CLOEXEC);

	if (fd < 0)
		fail_msg("%s: its file system must have direct I/O for this test", dir);
	return fd;
}

/* Requests with aligned memory go past the cache, all others do not, and nobody sees a difference.
 */
static bool aligned_storm(struct disk *d, uint8_t *buf)
{
	for (unsigned int i = 0; i < 20; i++) {
		uint64_t n = (1 + disk_random(d, 32)) * 512;
		uint64_t at = disk_random(d, (d->size - n) / 512) * 512;

		memset(buf, (int)disk_random(d, 255) + 1, n);
		if (disk_random(d, 2)) {
			memcpy(d->model + at, buf, n);
			if (disk_do(d, BLK_WRITE, at, buf, n))
				return false;
		} else if (disk_do(d, BLK_READ, at, buf, n) || memcmp(buf, d->model + at, n)) {
			return false;
		}
	}
	return disk_storm(d, 20) && disk_matches(d);
}

static unsigned long cached_pages(const char *path)
{
	struct stat st;
	unsigned char *vec;
	unsigned long n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	void *at;

	assert_int_equal(fstat(fd, &st), 0);
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	vec = calloc(1, (size_t)st.st_size / 4096 + 1);
	assert_true(at != MAP_FAILED && vec);
	assert_int_equal(mincore(at, (size_t)st.st_size, vec), 0);
	for (off_t i = 0; i < (st.st_size + 4095) / 4096; i++)
		n += vec[i] & 1;
	munmap(at, (size_t)st.st_size);
	free(vec);
	close(fd);
	return n;
}

static void test_blk_direct__is_as_good_and_leaves_the_cache_alone(void **state)
{
	uint8_t *buf = aligned_alloc(4096, MIB(1));
	char *dir = direct_dir();
	struct disk d;
	struct err e;

	(void)state;
	qcow2_make_raw(dir, "raw", MIB(4) + 512 * 5);
	disk_open_in(&d, BLK_IN_RAW, NULL, rw(dir, "raw"), scratch_path(dir, "raw"), BLK_BLOCK, 3);
	assert_int_equal(blk_set_direct(d.blk, open_direct(dir, "raw"), &e), 0);
	for (unsigned int k = 0; k < 10; k++)
		assert_true(aligned_storm(&d, buf));
	assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
	sh("sync %s/raw && dd if=%s/raw iflag=nocache count=0 status=none", dir, dir);
	for (uint64_t at = 0; at < MIB(4); at += MIB(1)) {
		memset(buf, 0x5a, MIB(1));
		memset(d.model + at, 0x5a, MIB(1));
		assert_int_equal(disk_do(&d, BLK_WRITE, at, buf, MIB(1)), 0);
		assert_int_equal(disk_do(&d, BLK_READ, at, buf, MIB(1)), 0);
	}
	assert_in_range(cached_pages(scratch_path(dir, "raw")), 0, 16);
	assert_true(disk_matches(&d));
	disk_close(&d);

	for (unsigned int i = 0; i < 2; i++) {
		sh("qemu-img create -q -f qcow2 -o cluster_size=%u %s/top 4M", i ? 65536 : 4096,
		   dir);
		qcow2_scribble(scratch_path(dir, "top"), MIB(4), 6);
		qcow2_top_open(&d, dir, false, i ? 65536 : 4096, i + 1);
		assert_int_equal(blk_set_direct(d.blk, open_direct(dir, "top"), &e), 0);
		for (unsigned int k = 0; k < 10; k++) {
			assert_true(aligned_storm(&d, buf));
			if (k == 5)
				assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
		}
		qcow2_top_close(&d, dir);
	}
	/* what it is not for */
	sh("qemu-img create -q -f qcow2 -o cluster_size=512 %s/top 1M", dir);
	qcow2_top_open(&d, dir, false, 512, 1);
	assert_int_equal(blk_set_direct(d.blk, open_direct(dir, "top"), &e), -ENOTSUP);
	assert_int_equal(blk_set_direct(d.blk, open_direct(dir, "raw"), &e), -EINVAL);
	assert_int_equal(blk_set_direct(d.blk, rw(dir, "top"), &e), -EINVAL);
	qcow2_top_close(&d, dir);
	free(buf);
	scratch_remove(dir);
}

struct reader {
	struct blk_req r;
	struct iovec iov;
	uint8_t buf[512];
	bool busy;
};

static bool zeroed;

static void read_done(struct blk_req *r, int result)
{
	assert_int_equal(result, 0);
	container_of(r, struct reader, r)->busy = false;
}

/* Reads 512 bytes somewhere in [from, from + n): each may evict a part of the map. */
static void read_somewhere(struct blk *blk, struct reader *q, uint64_t from, uint64_t n)
{
	q->busy = true;
	q->iov = (struct iovec){ q->buf, sizeof(q->buf) };
	q->r = (struct blk_req){ .op = BLK_READ,
				 .offset_bytes = from + qcow2_random(n / 512) * 512,
				 .len = 512,
				 .iov = &q->iov,
				 .niov = 1,
				 .done = read_done };
	assert_int_equal(blk_submit(blk, &q->r), 0);
}

static void zero_done(struct blk_req *r, int result)
{
	(void)r;
	assert_int_equal(result, 0);
	zeroed = true;
}

static void test_blk_qcow2__map_may_forget_what_is_being_zeroed(void **state)
{
	struct reader *reader = calloc(100, sizeof(*reader));
	struct source_file file;
	char *dir = scratch_make();
	struct source *s = NULL;
	uint8_t buf[512] = { 1 };
	struct disk d;
	struct err e;

	(void)state;
	assert_non_null(reader);
	/* the map holds 256 MiB of such clusters; what is read collides with what is zeroed */
	sh("qemu-img create -q -f qcow2 -o cluster_size=512 %s/top 512M && truncate -s 512M %s/all",
	   dir, dir);
	file = (struct source_file){ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
				     SOURCE_QCOW2 };
	assert_int_equal(source_open(&file, 1, &s, &e), 0);
	disk_open_in(&d, BLK_IN_QCOW2, s, rw(dir, "top"), scratch_path(dir, "all"), 512, 1);
	for (unsigned int round = 0; round < 3; round++) {
		struct blk_req zero = { .op = BLK_ZERO, .len = MIB(250), .done = zero_done };

		/* something to punch, so that the zeroing takes a while */
		for (uint64_t at = 0; at < MIB(250); at += MIB(5))
			assert_int_equal(disk_do(&d, BLK_WRITE, at, buf, sizeof(buf)), 0);
		zeroed = false;
		assert_int_equal(blk_submit(d.blk, &zero), 0);
		while (!zeroed) {
			for (unsigned int i = 0; i < 100; i++)
				if (!reader[i].busy)
					read_somewhere(d.blk, &reader[i], MIB(256), MIB(250));
			blk_poll(d.blk);
		}
		blk_quiesce(d.blk);
	}
	free(reader);
	blk_destroy(d.blk);
	d.blk = NULL;
	sh("qemu-img check -q -f qcow2 %s/top || [ $? = 3 ]", dir);
	sh("qemu-img compare -q -f qcow2 -F raw %s/top %s/all", dir, dir);
	disk_close(&d);
	scratch_remove(dir);
}

static void test_blk_qcow2__another_file_or_size_than_what_is_read_is_refused(void **state)
{
	struct blk_cfg cfg = { .writes = BLK_IN_QCOW2 };
	char *dir = scratch_make();

	(void)state;
	sh("qemu-img create -q -f qcow2 %s/top 1M && cp %s/top %s/copy", dir, dir, dir);
	for (unsigned int i = 0; i < 3; i++) {
		struct source_file file = { open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
					    SOURCE_QCOW2 };
		struct source *s = NULL;
		struct blk *b = NULL;
		struct err e;

		assert_int_equal(source_open(&file, 1, &s, &e), 0);
		cfg.size_bytes = MIB(1) + (i == 1 ? BLK_SECTOR : 0);
		assert_int_equal(blk_create(&cfg, s, rw(dir, i ? "top" : "copy"), &b, &e),
				 i == 2 ? 0 : -EINVAL);
		blk_destroy(b);
	}
	scratch_remove(dir);
}

static void test_blk_qcow2__what_cannot_be_written_is_refused_by_name(void **state)
{
	static const struct {
		const char *make, *says;
		int error;
	} bad[] = {
		{ "qemu-img create -q -f qcow2 top 1M && qemu-img snapshot -c s top",
		  "has 1 internal snapshots", -ENOTSUP },
		{ "qemu-img create -q -f qcow2 top 1M && qemu-img bitmap --add top b",
		  "has dirty bitmaps", -ENOTSUP },
		{ "qemu-img create -q -f qcow2 -o lazy_refcounts=on top 1M && "
		  "printf '\\0\\0\\0\\0\\0\\0\\0\\1' | dd of=top bs=1 seek=72 conv=notrunc "
		  "status=none",
		  "was not closed cleanly", -EUCLEAN },
		{ "qemu-img create -q -f qcow2 top 1M && qemu-io -c 'write 0 64k' top >/dev/null "
		  "&& "
		  "printf '\\0\\2' | dd of=top bs=1 seek=$((0x20000 + 2 * 4)) conv=notrunc "
		  "status=none",
		  "L2 table 0 at 262144 is not its own", -EINVAL },
		{ "truncate -s 1M below && qemu-img create -q -f qcow2 -o compat=0.10 -b below -F "
		  "raw top 1M",
		  "version 2", -ENOTSUP },
	};
	char *dir = scratch_make();

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		struct source_file files[2] = { { -1, SOURCE_QCOW2 }, { -1, SOURCE_RAW } };
		struct blk_cfg cfg = { .writes = BLK_IN_QCOW2 };
		struct source *s = NULL;
		struct err e = { "" };
		struct blk *b = NULL;

		sh("cd %s && rm -f top below && %s", dir, bad[i].make);
		files[0].fd = open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC);
		files[1].fd = open(scratch_path(dir, "below"), O_RDONLY | O_CLOEXEC);
		assert_int_equal(source_open(files, files[1].fd < 0 ? 1 : 2, &s, &e), 0);
		assert_int_equal(blk_create(&cfg, s, rw(dir, "top"), &b, &e), bad[i].error);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("'%s' does not say '%s'", e.msg, bad[i].says);
	}
	scratch_remove(dir);
}

static void test_blk_raw__is_written_in_place(void **state)
{
	char *dir = scratch_make();
	struct disk d;
	uint8_t *got;
	int fd;

	(void)state;
	qcow2_make_raw(dir, "raw", MIB(4) + 512 * 5);
	disk_open_in(&d, BLK_IN_RAW, NULL, rw(dir, "raw"), scratch_path(dir, "raw"), BLK_BLOCK, 3);
	for (unsigned int k = 0; k < 60; k++)
		assert_true(disk_storm(&d, 1 + (unsigned int)disk_random(&d, 32)));
	assert_true(disk_matches(&d));
	got = malloc(d.size);
	fd = rw(dir, "raw");
	assert_int_equal(fd_pread_full(fd, got, d.size, 0), 0);
	assert_memory_equal(got, d.model, d.size);
	free(got);
	close(fd);
	disk_close(&d);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_blk_raw__is_written_in_place),
		cmocka_unit_test(test_blk_qcow2__what_is_written_is_what_qemu_reads),
		cmocka_unit_test(test_blk_qcow2__much_that_is_not_flushed_is_written_all_the_same),
		cmocka_unit_test(test_blk_qcow2__another_file_or_size_than_what_is_read_is_refused),
		cmocka_unit_test(test_blk_qcow2__what_cannot_be_written_is_refused_by_name),
		cmocka_unit_test(test_blk_direct__is_as_good_and_leaves_the_cache_alone),
		cmocka_unit_test(test_blk_qcow2__over_smaller_clusters),
		cmocka_unit_test(test_blk_qcow2__a_guest_that_never_flushes_takes_no_more_and_more),
		cmocka_unit_test(test_blk_qcow2__map_may_forget_what_is_being_zeroed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
