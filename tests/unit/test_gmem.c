/* SPDX-License-Identifier: MIT */
/*
 * Guest memory: bounds, the hole, atomic ring indices, extents and template mappings.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "mem/gmem.h"

static struct gmem *make(uint64_t size)
{
	struct gmem *gm = NULL;
	struct err e;

	assert_int_equal(gmem_create(size, &gm, &e), 0);
	return gm;
}

static void test_gmem__bad_sizes_are_refused(void **state)
{
	static const uint64_t bad[] = { 0, MIB(62), MIB(64) + 4096, GIB(1025), UINT64_MAX };
	struct gmem *gm = NULL;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(gmem_create(bad[i], &gm, &e), -EINVAL);
		assert_null(gm);
	}
}

static void test_gmem__access_outside_ram_copies_nothing(void **state)
{
	struct gmem *gm = make(MIB(64));
	char buf[16] = "unchanged", big[2] = { 0 };

	(void)state;
	assert_int_equal(gmem_read(gm, MIB(64) - 8, buf, 16), -EFAULT);
	assert_string_equal(buf, "unchanged");
	assert_int_equal(gmem_write(gm, MIB(64) - 8, buf, 9), -EFAULT);
	assert_int_equal(gmem_read(gm, MIB(64) - 8, big, 1), 0);
	assert_int_equal(big[0], 0);
	assert_int_equal(gmem_read(gm, UINT64_MAX - 3, buf, 8), -EFAULT);
	assert_null(gmem_pin(gm, MIB(64) - 1, 2, false));
	assert_int_equal(gmem_pins(gm), 0);
	gmem_destroy(gm);
}

static void test_gmem__ram_above_3_gib_lies_above_the_hole(void **state)
{
	struct gmem *gm = make(GIB(5));
	struct gmem_region r[GMEM_MAX_REGIONS];
	uint32_t v = 0xfeedface, w = 0;

	(void)state;
	assert_int_equal(gmem_regions(gm, r), 2);
	assert_int_equal(r[1].gpa, GMEM_HOLE_END);
	assert_int_equal(r[1].size_bytes, GIB(2));
	assert_int_equal(r[1].offset, GIB(3));
	assert_false(gmem_valid(gm, GMEM_HOLE_START, 1));
	assert_false(gmem_valid(gm, GMEM_HOLE_START - 1, 2));
	assert_int_equal(gmem_write(gm, GIB(6) - 4, &v, 4), 0);
	assert_int_equal(gmem_read_offset(gm, GIB(5) - 4, &w, 4), 0);
	assert_int_equal(w, v);
	assert_false(gmem_valid(gm, GIB(6) - 3, 4));
	gmem_destroy(gm);
}

static void test_gmem__ring_index_must_be_aligned(void **state)
{
	struct gmem *gm = make(MIB(64));
	uint16_t v = 7;

	(void)state;
	assert_int_equal(gmem_store16(gm, 4096, 0x1234), 0);
	assert_int_equal(gmem_load16(gm, 4096, &v), 0);
	assert_int_equal(v, 0x1234);
	assert_int_equal(gmem_load16(gm, 4097, &v), -EFAULT);
	assert_int_equal(gmem_store16(gm, MIB(64), 1), -EFAULT);
	gmem_destroy(gm);
}

static void test_gmem__writes_mark_dirty_once(void **state)
{
	struct gmem *gm = make(MIB(64));
	struct err e;
	void *p;

	(void)state;
	assert_int_equal(gmem_dirty_start(gm, &e), 0);
	assert_int_equal(gmem_write(gm, 8190, "abcd", 4), 0);
	assert_true(gmem_dirty_test(gm, 4096));
	assert_true(gmem_dirty_test(gm, 8192));
	assert_false(gmem_dirty_test(gm, 4096));
	p = gmem_pin(gm, MIB(1), 10, true);
	assert_non_null(p);
	assert_int_equal(gmem_pins(gm), 1);
	assert_false(gmem_dirty_test(gm, MIB(1)));
	gmem_unpin(gm, MIB(1), 10, true);
	assert_true(gmem_dirty_test(gm, MIB(1)));
	assert_int_equal(gmem_pins(gm), 0);
	gmem_destroy(gm);
}

static void test_gmem__extents_hold_all_data_and_merge_small_gaps(void **state)
{
	struct gmem *gm = make(MIB(64));
	struct gmem_extent *x = NULL;
	struct err e;
	size_t n;

	(void)state;
	gmem_write(gm, 4096, "a", 1);
	gmem_write(gm, 3 * 4096, "b", 1);
	gmem_write(gm, MIB(10) + 5, "c", 1);
	assert_int_equal(gmem_find_data(gm, 0, 100, &x, &n, &e), 0);
	assert_int_equal(n, 3);
	free(x);
	assert_int_equal(gmem_find_data(gm, 65536, 100, &x, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_int_equal(x[0].offset, 4096);
	assert_int_equal(x[0].len, 3 * 4096);
	assert_int_equal(x[1].offset, MIB(10));
	assert_int_equal(x[1].len, 4096);
	free(x);
	assert_int_equal(gmem_find_data(gm, 0, 1, &x, &n, &e), 0);
	assert_int_equal(n, 1);
	assert_int_equal(x[0].len, MIB(10));
	free(x);
	gmem_destroy(gm);
}

static void test_gmem__template_is_shared_and_never_written(void **state)
{
	int fd = memfd_create("ram", 0);
	struct gmem_extent x[2] = { { MIB(2), 4096 }, { GIB(3) - 4096, 8192 } };
	struct gmem *gm = make(GIB(4));
	char buf[4];
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)GIB(4)), 0);
	assert_int_equal(fd_pwrite_full(fd, "one", 4, MIB(2)), 0);
	assert_int_equal(fd_pwrite_full(fd, "two", 4, GIB(3)), 0);
	assert_int_equal(gmem_map_file(gm, fd, x, 2, &e), 0);
	assert_int_equal(gmem_read(gm, MIB(2), buf, 4), 0);
	assert_string_equal(buf, "one");
	assert_int_equal(gmem_read(gm, GMEM_HOLE_END, buf, 4), 0);
	assert_string_equal(buf, "two");
	assert_int_equal(gmem_write(gm, MIB(2), "own", 4), 0);
	assert_int_equal(fd_pread_full(fd, buf, 4, MIB(2)), 0);
	assert_string_equal(buf, "one");
	assert_int_equal(gmem_discard(gm, MIB(2), 4096), 0);
	assert_int_equal(gmem_read(gm, MIB(2), buf, 4), 0);
	assert_string_equal(buf, "one");
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem__hostile_extents_are_refused(void **state)
{
	struct gmem_extent bad[][2] = {
		{ { 1, 4096 }, { MIB(2), 4096 } },
		{ { 0, 100 }, { MIB(2), 4096 } },
		{ { 0, 0 }, { MIB(2), 4096 } },
		{ { MIB(4), 4096 }, { MIB(2), 4096 } },
		{ { 0, 8192 }, { 4096, 4096 } },
		{ { 0, 4096 }, { MIB(64), 4096 } },
		{ { 0, 4096 }, { MIB(2), UINT64_MAX & ~4095ull } },
	};
	int fd = memfd_create("ram", 0);
	struct gmem *gm = make(MIB(64));
	struct gmem_extent ok = { MIB(2), 4096 };
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)MIB(64)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(gmem_map_file(gm, fd, bad[i], 2, &e), -EINVAL);
	assert_int_equal(ftruncate(fd, (off_t)MIB(2)), 0);
	assert_int_equal(gmem_map_file(gm, fd, &ok, 1, &e), -EINVAL);
	assert_string_equal(e.msg, "RAM file is truncated: 2097152 bytes, needs 2101248");
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem__fork_diverges_both_ways(void **state)
{
	struct gmem *gm = make(MIB(64));
	char buf[8];
	int st;
	pid_t pid;

	(void)state;
	gmem_write(gm, 0, "before", 7);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		gmem_write(gm, 0, "child!", 7);
		_exit(gmem_read(gm, 0, buf, 7) || strcmp(buf, "child!"));
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	assert_int_equal(gmem_read(gm, 0, buf, 7), 0);
	assert_string_equal(buf, "before");
	gmem_destroy(gm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gmem__bad_sizes_are_refused),
		cmocka_unit_test(test_gmem__access_outside_ram_copies_nothing),
		cmocka_unit_test(test_gmem__ram_above_3_gib_lies_above_the_hole),
		cmocka_unit_test(test_gmem__ring_index_must_be_aligned),
		cmocka_unit_test(test_gmem__writes_mark_dirty_once),
		cmocka_unit_test(test_gmem__extents_hold_all_data_and_merge_small_gaps),
		cmocka_unit_test(test_gmem__template_is_shared_and_never_written),
		cmocka_unit_test(test_gmem__hostile_extents_are_refused),
		cmocka_unit_test(test_gmem__fork_diverges_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
