/* SPDX-License-Identifier: MIT */
/*
 * Making, filling, checking and repairing qcow2 files: QEMU's tools agree.
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
#include "block/qcow2.h"
#include "block/qcow2_tools.h"
#include "block/qcow2_write.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static int fresh(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static int again(const char *dir, const char *name)
{
	int fd = open(scratch_path(dir, name), O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	return fd;
}

static void test_create__is_what_qemu_takes(void **state)
{
	static const struct qcow2_new n[] = {
		{ .size_bytes = 512 },
		{ .size_bytes = GIB(3) + 512 },
		{ .size_bytes = 16ull << 40 },
		{ .size_bytes = GIB(8), .cluster_bits = 9 }, /* an L1 table of 2,048 clusters */
		{ .size_bytes = 1ull << 40, .cluster_bits = 12 },
		{ .size_bytes = 1ull << 40, .cluster_bits = 21 },
	};
	char *dir = scratch_make();
	struct err e;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(n); i++) {
		int fd = fresh(dir, "new");

		if (qcow2_create(fd, &n[i], &e))
			fail_msg("%u: %s", i, e.msg);
		close(fd);
		sh("qemu-img check -q -f qcow2 %s/new", dir);
		sh("[ $(qemu-img info -f qcow2 --output json %s/new | "
		   "grep virtual-size | tr -dc 0-9) = %llu ]",
		   dir, (unsigned long long)n[i].size_bytes);
		/* and what it writes there at the end stays */
		sh("qemu-io -f qcow2 -c 'write -P 7 %llu 512' %s/new >/dev/null && "
		   "qemu-img check -q -f qcow2 %s/new",
		   (unsigned long long)n[i].size_bytes - 512, dir, dir);
	}
	scratch_remove(dir);
}

static void test_create__stands_on_what_it_is_told(void **state)
{
	struct qcow2_new n = { .size_bytes = MIB(4), .backing = "0", .backing_format = "raw" };
	char *dir = scratch_make();
	struct err e;
	int fd;

	(void)state;
	qcow2_make_raw(dir, "0", MIB(4));
	fd = fresh(dir, "new");
	assert_int_equal(qcow2_create(fd, &n, &e), 0);
	close(fd);
	sh("qemu-img compare -q -f qcow2 -F raw %s/new %s/0", dir, dir);
	scratch_remove(dir);
}

static void test_create__what_no_image_can_be_is_refused(void **state)
{
	static const struct qcow2_new bad[] = {
		{ .size_bytes = 0 },
		{ .size_bytes = 1000 },
		{ .size_bytes = (16ull << 40) + 512 },
		{ .size_bytes = MIB(1), .cluster_bits = 8 },
		{ .size_bytes = MIB(1), .cluster_bits = 22 },
		{ .size_bytes = 1ull << 40, .cluster_bits = 9 },
	};
	char *dir = scratch_make(), name[1100];
	struct qcow2_new longname = { .size_bytes = 512, .backing = name, .backing_format = "raw" };
	int fd = fresh(dir, "new");
	struct err e;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(qcow2_create(fd, &bad[i], &e), -EINVAL);
	memset(name, 'a', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(qcow2_create(fd, &longname, &e), -EINVAL);
	close(fd);
	scratch_remove(dir);
}

static bool count_steps(void *arg, uint64_t done)
{
	(void)done;
	return ++*(unsigned int *)arg == 1000000;
}

static bool stop(void *arg, uint64_t done)
{
	(void)arg;
	(void)done;
	return true;
}

static void test_fill__copies_what_a_chain_reads(void **state)
{
	static const unsigned int bits[] = { 16, 9, 12, 21 };
	char *dir = scratch_make();
	struct err e;

	(void)state;
	for (unsigned int packed = 0; packed < 2; packed++) {
		qcow2_chain_make(dir, packed);
		for (unsigned int n = 1; n <= QCOW2_CHAIN; n++) {
			struct source *s = qcow2_chain_open(dir, n);
			struct qcow2_new new = { .size_bytes = source_bytes(s),
						 .cluster_bits = bits[n % ARRAY_SIZE(bits)] };
			unsigned int steps = 0;
			int fd = fresh(dir, "new");

			assert_int_equal(qcow2_create(fd, &new, &e), 0);
			if (qcow2_fill(fd, s, count_steps, &steps, &e))
				fail_msg("%s", e.msg);
			assert_true(steps);
			close(fd);
			source_close(s, NULL);
			qcow2_chain_content(dir, n, "all");
			sh("qemu-img check -q -f qcow2 %s/new && "
			   "qemu-img compare -q -f qcow2 -F raw %s/new %s/all",
			   dir, dir, dir);
		}
	}
	scratch_remove(dir);
}

static void test_fill__can_be_interrupted(void **state)
{
	struct qcow2_new new = { .size_bytes = MIB(4), .cluster_bits = 12 };
	char *dir = scratch_make();
	struct source *s;
	struct err e;
	int fd;

	(void)state;
	qcow2_chain_make(dir, false);
	s = qcow2_chain_open(dir, 1);
	fd = fresh(dir, "new");
	new.size_bytes = source_bytes(s);
	assert_int_equal(qcow2_create(fd, &new, &e), 0);
	assert_int_equal(qcow2_fill(fd, s, stop, NULL, &e), -ECANCELED);
	sh("qemu-img check -q -f qcow2 %s/new", dir);
	close(fd);
	source_close(s, NULL);
	scratch_remove(dir);
}

/* ---- check ---- */

static void poke(const char *dir, uint64_t off, const void *bytes, size_t n)
{
	int fd = again(dir, "a");

	assert_int_equal(fd_pwrite_full(fd, bytes, n, off), 0);
	close(fd);
}

/* What QEMU's checker says: 0 clean, 2 errors, 3 leaks. */
static int qemu_says(const char *dir)
{
	char *out = scratch_sh("qemu-img check -q -f qcow2 %s/a >/dev/null 2>&1; echo $?", dir);
	int r = atoi(out);

	free(out);
	return r;
}

static struct qcow2_report check(const char *dir, bool repair)
{
	struct qcow2_report rep = { 0 };
	int fd = again(dir, "a");
	struct err e;

	if (qcow2_check(fd, repair, &rep, &e))
		fail_msg("%s", e.msg);
	close(fd);
	return rep;
}

/* A header at 0, refcounts at 0x10000 and 0x20000, L1 at 0x30000, L2 at 0x40000, data behind. */
static void make_image(const char *dir)
{
	sh("qemu-img create -q -f qcow2 %s/a 4M && qemu-io -f qcow2 -c 'write -P 7 0 256k' "
	   "-c 'write -c -P 9 1M 64k' %s/a >/dev/null",
	   dir, dir);
}

static void test_check__agrees_with_qemu(void **state)
{
	static const struct {
		uint64_t off;
		uint8_t byte[8];
		size_t n;
		int qemu; /* its verdict, and so ours */
	} hurt[] = {
		{ 0x20000 + 2 * 9, { 0, 2 }, 2, 3 },		     /* counted too often */
		{ 0x20000 + 2 * 5, { 0, 0 }, 2, 2 },		     /* used, not counted */
		{ 0x40000, { 0x80, 0, 0, 0, 0, 0x06, 0, 0 }, 8, 2 }, /* two use one */
		{ 0x40000, { 0, 0, 0, 0, 0, 0x05, 0, 0 }, 8, 2 },    /* not marked as its own */
		{ 0x40000, { 0x80, 0, 0, 0, 0, 0x05, 2, 0 }, 8, 2 }, /* not aligned */
		{ 0x40000, { 0x80, 0, 1, 0, 0, 0x05, 0, 0 }, 8, 2 }, /* not in the file */
		{ 0x30000, { 0x80, 0, 1, 0, 0, 0x04, 0, 0 }, 8, 2 },
		{ 0x30000, { 0x80, 0, 0, 0, 0, 0x03, 0, 0 }, 8, 2 }, /* the L1 table as an L2 */
		{ 0x40000, { 0 }, 8, 3 },			     /* forgotten */
	};
	char *dir = scratch_make();

	(void)state;
	make_image(dir);
	assert_int_equal(qemu_says(dir), 0);
	assert_int_equal(check(dir, false).errors + check(dir, false).leaks, 0);
	assert_int_equal(check(dir, false).data, 4);
	assert_int_equal(check(dir, false).packed, 1);
	for (unsigned int i = 0; i < ARRAY_SIZE(hurt); i++) {
		struct qcow2_report rep;

		make_image(dir);
		poke(dir, hurt[i].off, hurt[i].byte, hurt[i].n);
		rep = check(dir, false);
		assert_int_equal(qemu_says(dir), hurt[i].qemu);
		assert_int_equal(!!rep.errors, hurt[i].qemu == 2);
		assert_int_equal(!!rep.first[0], hurt[i].qemu == 2);
		if (hurt[i].qemu == 3)
			assert_int_equal(rep.leaks, 1);
		/* repair does what it can, and never harm */
		rep = check(dir, true);
		assert_int_equal(rep.repaired, hurt[i].qemu == 3);
		assert_int_equal(qemu_says(dir), hurt[i].qemu == 3 ? 0 : 2);
	}
	scratch_remove(dir);
}

/* 4,194,304 L1 entries that name one table of 512 entries: read once, or this takes minutes. */
static void test_check__a_table_that_is_named_everywhere_is_read_once(void **state)
{
	const uint64_t entries = QCOW2_L1_MAX_BYTES / 8;
	be64 *l1 = malloc(QCOW2_L1_MAX_BYTES);
	struct qcow2_new n = { .size_bytes = entries * 512 * 4096, .cluster_bits = 12 };
	char *dir = scratch_make();
	struct qcow2_head h;
	struct qcow2_report rep;
	struct err e;
	struct stat st;
	int fd = fresh(dir, "a");

	(void)state;
	assert_non_null(l1);
	assert_int_equal(qcow2_create(fd, &n, &e), 0);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(qcow2_read_head(fd, (uint64_t)st.st_size, &h, &e), 0);
	assert_int_equal(h.l1_entries, entries);
	for (uint64_t i = 0; i < entries; i++)
		l1[i] = be64_put((uint64_t)st.st_size | 1ull << 63);
	assert_int_equal(fd_pwrite_full(fd, l1, QCOW2_L1_MAX_BYTES, h.l1_off), 0);
	assert_int_equal(ftruncate(fd, st.st_size + 4096), 0);
	free(l1);
	close(fd);
	rep = check(dir, false);
	assert_true(rep.errors > entries);
	scratch_remove(dir);
}

static void test_check__makes_lazy_refcounts_right_after_a_crash(void **state)
{
	static const unsigned int cluster[] = { 65536, 4096, 512 };
	char *dir = scratch_make();

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(cluster); i++) {
		struct qcow2_report rep;

		/* QEMU, killed: nothing is counted */
		sh("qemu-img create -q -f qcow2 -o lazy_refcounts=on,cluster_size=%u %s/a 8M; "
		   "qemu-io -f qcow2 -c 'write -P 5 0 3M' -c flush -c 'write -z 1M 64k' "
		   "-c 'write -P 6 5M 100k' -c flush -c abort %s/a >/dev/null 2>&1; true",
		   cluster[i], dir, dir);
		rep = check(dir, false);
		assert_true(rep.dirty && !rep.errors);
		rep = check(dir, true);
		assert_true(rep.repaired);
		rep = check(dir, false);
		assert_true(!rep.dirty && !rep.errors && !rep.leaks);
		assert_int_equal(qemu_says(dir), 0);
		sh("qemu-io -f qcow2 -c 'read -P 5 0 1M' -c 'read -P 6 5M 100k' %s/a >/dev/null",
		   dir);
	}
	scratch_remove(dir);
}

static uint64_t all_zero(void *arg, uint64_t cluster)
{
	(void)arg;
	(void)cluster;
	return QWRITER_ZERO;
}

/* Lazy refcounts are not written, but where their table was is used again once it has moved: a
 * crash must not find it there. */
static void
test_writer__moved_refcount_table_is_never_overwritten_where_the_header_says(void **state)
{
	char *dir = scratch_make();
	const be64 rubbish = be64_put(~0ull);
	struct qcow2_head h;
	struct qwriter w;
	struct stat st;
	struct err e;
	bool moved = false;
	uint64_t at;
	int fd;

	(void)state;
	sh("qemu-img create -q -f qcow2 -o cluster_size=512,refcount_bits=64,lazy_refcounts=on "
	   "%s/a 8M",
	   dir);
	fd = again(dir, "a");
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(qcow2_read_head(fd, (uint64_t)st.st_size, &h, &e), 0);
	assert_int_equal(qwriter_open(&w, fd, (uint64_t)st.st_size, &h, &e), 0);
	w.entry = all_zero;
	for (unsigned int k = 0; !moved; k++) {
		assert_int_equal(qrefs_alloc(&w.refs, 60, &at), 0);
		assert_int_equal(qwriter_prepare(&w, k * 64, 1), 0);
		qwriter_dirty(&w, k * 64, 1);
		moved = w.refs.table_moved;
	}
	assert_int_equal(qwriter_sync(&w, fd, false), 0);
	/* whoever gets the old one writes to it */
	assert_true(w.refs.free.nr);
	for (size_t i = 0; i < w.refs.free.nr; i++)
		for (uint64_t c = 0; c < w.refs.free.x[i].n; c++)
			assert_int_equal(fd_pwrite_full(fd, &rubbish, sizeof(rubbish),
							(w.refs.free.x[i].start + c) * 512),
					 0);
	qwriter_fini(&w);
	assert_int_equal(ftruncate(fd, 8 << 20), 0);
	close(fd);
	assert_true(check(dir, true).repaired);
	assert_int_equal(qemu_says(dir), 0);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_writer__moved_refcount_table_is_never_overwritten_where_the_header_says),
		cmocka_unit_test(test_create__is_what_qemu_takes),
		cmocka_unit_test(test_create__stands_on_what_it_is_told),
		cmocka_unit_test(test_create__what_no_image_can_be_is_refused),
		cmocka_unit_test(test_fill__copies_what_a_chain_reads),
		cmocka_unit_test(test_fill__can_be_interrupted),
		cmocka_unit_test(test_check__agrees_with_qemu),
		cmocka_unit_test(test_check__a_table_that_is_named_everywhere_is_read_once),
		cmocka_unit_test(test_check__makes_lazy_refcounts_right_after_a_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
