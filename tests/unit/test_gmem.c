/* SPDX-License-Identifier: MIT */
/*
 * Guest memory: bounds, the hole, atomic ring indices, extents, template mappings, huge pages.
 * Long, because gmem.h is one contract, and each sentence of it a row here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
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
	uint64_t pages[256] = { 0 };
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
	/* all at once: added to what is there, and cleared */
	pages[0] = 1;
	assert_int_equal(gmem_write(gm, 8190, "abcd", 4), 0);
	assert_int_equal(gmem_write(gm, MIB(64) - 1, "a", 1), 0);
	gmem_dirty_add(gm, pages);
	assert_int_equal(pages[0], 7);
	assert_int_equal(pages[255], 1ull << 63);
	for (unsigned int i = 1; i < 255; i++)
		assert_int_equal(pages[i], 0);
	pages[0] = 0;
	gmem_dirty_add(gm, pages);
	assert_int_equal(pages[0], 0);
	gmem_destroy(gm);
}

static void test_gmem__pages_never_touched_are_known_to_be_zero(void **state)
{
	struct gmem *gm = make(MIB(64));
	unsigned char vec[256];

	(void)state;
	assert_false(gmem_resident(gm, MIB(10), MIB(1), vec));
	gmem_write(gm, MIB(10) + 4096, "a", 1);
	gmem_write(gm, MIB(11) - 1, "b", 1);
	assert_true(gmem_resident(gm, MIB(10), MIB(1), vec));
	for (size_t i = 0; i < 256; i++)
		assert_int_equal(vec[i], i == 1 || i == 255);
	gmem_forget(gm, MIB(10), MIB(1));
	assert_false(gmem_resident(gm, MIB(10), MIB(1), vec));
	assert_true(gmem_page_is_zero(gmem_at_offset(gm, MIB(11) - 4096, 4096)));
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

/* Of a range that is a template's in the middle: across it, and where zeroes were mapped over it.
 */
static void test_gmem__discarding_to_zero_leaves_a_templates_pages_as_they_are(void **state)
{
	const struct gmem_extent x = { MIB(2), 8 * 4096 }, z = { MIB(2) + 2 * 4096, 4096 };
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct gmem *gm = make(MIB(64));
	struct err e;
	uint64_t given = 1;
	char buf[2];

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)MIB(64)), 0);
	assert_int_equal(gmem_map_file(gm, fd, &x, 1, &e), 0);
	assert_int_equal(gmem_map_zero(gm, &z, &e), 0);
	for (uint64_t at = MIB(2) - 4096; at < MIB(2) + 10 * 4096; at += 4096)
		assert_int_equal(gmem_write(gm, at, "x", 1), 0);
	assert_int_equal(gmem_dirty_start(gm, &e), 0);
	assert_int_equal(gmem_discard_zero(gm, MIB(2) - 4096, 10 * 4096, &given), 0);
	assert_int_equal(given, 3 * 4096);
	for (uint64_t at = MIB(2) - 4096, i = 0; i < 11; i++, at += 4096) {
		bool zeroed = i == 0 || i == 3 || i == 9;

		assert_int_equal(gmem_read(gm, at, buf, 1), 0);
		assert_int_equal(buf[0], zeroed ? 0 : 'x');
		assert_int_equal(gmem_dirty_test(gm, at), zeroed);
	}
	assert_int_equal(gmem_discard_zero(gm, MIB(2) + 1, 4096, &given), -EFAULT);
	assert_int_equal(gmem_discard_zero(gm, MIB(64) - 4096, 8192, &given), -EFAULT);
	assert_int_equal(given, 0);
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

/* A RAM file by blocks of 2 MiB: one whole, one three quarters in two pieces, one a quarter. */
static const struct gmem_extent layout[] = {
	{ MIB(4), MIB(2) },
	{ MIB(8), MIB(1) },
	{ MIB(9) + KIB(512), KIB(512) },
	{ MIB(12), KIB(512) },
};
#define WHOLE MIB(4)
#define MOST MIB(8)
#define HOLE_IN_MOST (MIB(9) + KIB(4))
#define QUARTER MIB(12)

/* Each word of the file holds its own offset, and a bit so that none is zero. */
static uint64_t word_at(uint64_t offset)
{
	return offset | 1;
}

static void fill(int fd, uint64_t offset, uint64_t len)
{
	uint64_t buf[512];

	for (uint64_t at = offset; at < offset + len; at += sizeof(buf)) {
		for (size_t i = 0; i < ARRAY_SIZE(buf); i++)
			buf[i] = word_at(at + i * sizeof(buf[0]));
		assert_int_equal(fd_pwrite_full(fd, buf, sizeof(buf), at), 0);
	}
}

static uint64_t ram_word(struct gmem *gm, uint64_t gpa)
{
	uint64_t v;

	assert_int_equal(gmem_read(gm, gpa, &v, sizeof(v)), 0);
	return v;
}

static uint64_t file_word(int fd, uint64_t offset)
{
	uint64_t v;

	assert_int_equal(fd_pread_full(fd, &v, sizeof(v), offset), 0);
	return v;
}

/* A machine of such a file, with a plan. What the extents leave out of the file is no zeroes. */
static struct gmem *make_planned(int *fd)
{
	struct gmem *gm = make(MIB(64));
	struct err e;

	*fd = memfd_create("ram", 0);
	fill(*fd, 0, MIB(64));
	assert_int_equal(gmem_map_file(gm, *fd, layout, ARRAY_SIZE(layout), &e), 0);
	assert_int_equal(gmem_huge_begin(gm, *fd, layout, ARRAY_SIZE(layout), &e), 0);
	return gm;
}

/* To the plan's end: how many blocks were made. */
static int step_all(struct gmem *gm)
{
	struct err e;
	int n = 0, r;

	while ((r = gmem_huge_step(gm, &e)) == 1)
		n++;
	if (r)
		fail_msg("%s", e.msg);
	assert_int_equal(gmem_huge_step(gm, &e), 0);
	return n;
}

/* The caller's to free. */
static char *copy_of_ram(struct gmem *gm, uint64_t offset, uint64_t len)
{
	char *copy = malloc(len);

	assert_non_null(copy);
	assert_int_equal(gmem_read_offset(gm, offset, copy, len), 0);
	return copy;
}

/* What was said of huge pages for the mapping at p: "hg", "nh", or "" for nothing. */
static const char *huge_advice(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	const char *said = "";
	bool here = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx", &from, &to) == 2)
			here = from <= (uintptr_t)p && (uintptr_t)p < to;
		if (here && !strncmp(line, "VmFlags:", 8))
			said = strstr(line, " hg") ? "hg" : strstr(line, " nh") ? "nh" : "";
	}
	fclose(f);
	return said;
}

static void test_gmem_huge__a_child_says_no_to_more_of_them(void **state)
{
	struct gmem *gm = make(GIB(4));
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(gm, r);

	(void)state;
	assert_int_equal(n, 2);
	for (size_t i = 0; i < n; i++)
		assert_string_equal(huge_advice(r[i].hva), "");
	gmem_huge_child(gm);
	for (size_t i = 0; i < n; i++)
		assert_string_equal(huge_advice(r[i].hva), "nh");
	gmem_destroy(gm);
}

static void test_gmem_huge__ram_reads_as_before(void **state)
{
	int fd;
	struct gmem *gm = make_planned(&fd);
	char *before = copy_of_ram(gm, 0, MIB(64)), *after;

	(void)state;
	assert_int_equal(step_all(gm), 2);
	after = copy_of_ram(gm, 0, MIB(64));
	assert_int_equal(memcmp(before, after, MIB(64)), 0);
	/* and that was not nothing */
	assert_int_equal(ram_word(gm, WHOLE), word_at(WHOLE));
	assert_int_equal(ram_word(gm, HOLE_IN_MOST), 0);
	free(before);
	free(after);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__blocks_leave_the_file_and_others_stay_in_it(void **state)
{
	int fd;
	struct gmem *gm = make_planned(&fd);
	uint64_t given;

	(void)state;
	assert_int_equal(step_all(gm), 2);
	/* never done to a template's: it shows which pages of RAM are the file's own */
	for (size_t i = 0; i < ARRAY_SIZE(layout); i++)
		assert_int_equal(fd_pwrite_full(fd, "changed", 8, layout[i].offset), 0);
	assert_int_equal(ram_word(gm, WHOLE), word_at(WHOLE));
	assert_int_equal(ram_word(gm, MOST), word_at(MOST));
	assert_int_equal(ram_word(gm, layout[2].offset), word_at(layout[2].offset));
	assert_memory_equal(gmem_at_offset(gm, QUARTER, 8), "changed", 8);
	/* what is given back of a block falls to zero, and not to the file */
	assert_int_equal(gmem_discard_zero(gm, WHOLE, MIB(2), &given), 0);
	assert_int_equal(given, MIB(2));
	assert_int_equal(ram_word(gm, WHOLE), 0);
	assert_int_equal(gmem_discard_zero(gm, QUARTER, GMEM_PAGE, &given), 0);
	assert_int_equal(given, 0);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__write_does_not_reach_the_file(void **state)
{
	static const uint64_t at[] = { WHOLE, MOST, HOLE_IN_MOST, QUARTER };
	const uint64_t ours = 0xdeadbeef;
	int fd;
	struct gmem *gm = make_planned(&fd);

	(void)state;
	assert_int_equal(step_all(gm), 2);
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		assert_int_equal(gmem_write(gm, at[i], &ours, sizeof(ours)), 0);
		assert_int_equal(ram_word(gm, at[i]), ours);
		assert_int_equal(file_word(fd, at[i]), word_at(at[i]));
	}
	gmem_destroy(gm);
	close(fd);
}

/* In a fork's child; its exit status is where it went wrong. */
static int child_of_huge(struct gmem *gm, int go)
{
	const uint64_t ours = 0xc0ffee;
	char c;

	for (uint64_t at = WHOLE; at <= QUARTER; at += MIB(4)) {
		uint64_t v = 0;

		if (gmem_read(gm, at, &v, sizeof(v)) || v != word_at(at))
			return 1;
		if (gmem_write(gm, at, &ours, sizeof(ours)))
			return 2;
	}
	/* the parent has written the words behind ours */
	if (read(go, &c, 1) != 1)
		return 3;
	for (uint64_t at = WHOLE; at <= QUARTER; at += MIB(4)) {
		uint64_t v[2] = { 0, 0 };

		if (gmem_read(gm, at, v, sizeof(v)) || v[0] != ours || v[1] != word_at(at + 8))
			return 4;
	}
	return 0;
}

static void test_gmem_huge__fork_diverges_both_ways(void **state)
{
	const uint64_t ours = 0xdad;
	int fd, go[2], st;
	struct gmem *gm = make_planned(&fd);
	pid_t pid;

	(void)state;
	assert_int_equal(step_all(gm), 2);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		close(go[1]);
		_exit(child_of_huge(gm, go[0]));
	}
	for (uint64_t at = WHOLE; at <= QUARTER; at += MIB(4))
		assert_int_equal(gmem_write(gm, at + 8, &ours, sizeof(ours)), 0);
	assert_int_equal(write(go[1], "", 1), 1);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	for (uint64_t at = WHOLE; at <= QUARTER; at += MIB(4)) {
		assert_int_equal(ram_word(gm, at), word_at(at));
		assert_int_equal(ram_word(gm, at + 8), ours);
	}
	close(go[0]);
	close(go[1]);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__truncated_file_ends_the_plan_and_spares_ram(void **state)
{
	/* in the first block, and between it and the second */
	static const struct {
		uint64_t size;
		int made;
	} cut[] = { { WHOLE + MIB(1), 0 }, { WHOLE + MIB(2), 1 }, { MOST + KIB(4), 1 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cut); i++) {
		int fd;
		struct gmem *gm = make_planned(&fd);
		char *before = copy_of_ram(gm, 0, cut[i].size), *after;
		struct err e = { "" };

		assert_int_equal(ftruncate(fd, (off_t)cut[i].size), 0);
		for (int k = 0; k < cut[i].made; k++)
			assert_int_equal(gmem_huge_step(gm, &e), 1);
		assert_true(gmem_huge_step(gm, &e) < 0);
		assert_true(strlen(e.msg) > 0);
		assert_int_equal(gmem_huge_step(gm, &e), 0);
		/* beyond are pages that no file has any more: SIGBUS, with a plan or without */
		after = copy_of_ram(gm, 0, cut[i].size);
		assert_int_equal(memcmp(before, after, cut[i].size), 0);
		free(before);
		free(after);
		gmem_destroy(gm);
		close(fd);
	}
}

static void test_gmem_huge__unreadable_file_leaves_ram_alone(void **state)
{
	int fd, closed;
	struct gmem *gm = make_planned(&fd);
	char *before = copy_of_ram(gm, 0, MIB(64)), *after;
	struct err e;

	(void)state;
	closed = dup(fd);
	close(closed);
	assert_int_equal(gmem_huge_begin(gm, closed, layout, ARRAY_SIZE(layout), &e), 0);
	assert_int_equal(gmem_huge_step(gm, &e), -EBADF);
	assert_int_equal(gmem_huge_step(gm, &e), 0);
	after = copy_of_ram(gm, 0, MIB(64));
	assert_int_equal(memcmp(before, after, MIB(64)), 0);
	free(before);
	free(after);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__makes_512_mib_at_most(void **state)
{
	const struct gmem_extent all = { 0, MIB(640) };
	struct gmem *gm = make(MIB(640));
	int fd = memfd_create("ram", 0);
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)all.len), 0);
	assert_int_equal(gmem_map_file(gm, fd, &all, 1, &e), 0);
	assert_int_equal(gmem_huge_begin(gm, fd, &all, 1, &e), 0);
	assert_int_equal(step_all(gm), 256);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__ended_plan_makes_nothing(void **state)
{
	int fd;
	struct gmem *gm = make_planned(&fd);
	struct err e;

	(void)state;
	gmem_huge_end(gm);
	assert_int_equal(gmem_huge_step(gm, &e), 0);
	assert_int_equal(gmem_huge_begin(gm, fd, layout, ARRAY_SIZE(layout), &e), 0);
	assert_int_equal(gmem_huge_step(gm, &e), 1);
	gmem_huge_end(gm);
	assert_int_equal(gmem_huge_step(gm, &e), 0);
	gmem_huge_end(gm);
	/* and one that is destroyed half done leaks nothing: the sanitizer looks */
	assert_int_equal(gmem_huge_begin(gm, fd, layout, ARRAY_SIZE(layout), &e), 0);
	gmem_destroy(gm);
	close(fd);
}

static void test_gmem_huge__ram_above_the_hole(void **state)
{
	/* three quarters of a block on either side of the hole, and the last block there is */
	static const struct gmem_extent x[] = {
		{ GIB(3) - MIB(1) - KIB(512), MIB(3) },
		{ GIB(5) - MIB(2), MIB(2) },
	};
	static const uint64_t window[] = { GIB(3) - MIB(4), GIB(3), GIB(5) - MIB(4) };
	struct gmem *gm = make(GIB(5));
	int fd = memfd_create("ram", 0);
	char *before[ARRAY_SIZE(window)];
	struct err e;

	(void)state;
	assert_int_equal(ftruncate(fd, (off_t)GIB(5)), 0);
	for (size_t i = 0; i < ARRAY_SIZE(window); i++)
		fill(fd, window[i], MIB(4));
	assert_int_equal(gmem_map_file(gm, fd, x, 2, &e), 0);
	assert_int_equal(gmem_huge_begin(gm, fd, x, 2, &e), 0);
	for (size_t i = 0; i < ARRAY_SIZE(window); i++)
		before[i] = copy_of_ram(gm, window[i], MIB(4));
	assert_int_equal(step_all(gm), 3);
	for (size_t i = 0; i < ARRAY_SIZE(window); i++) {
		char *after = copy_of_ram(gm, window[i], MIB(4));

		assert_int_equal(memcmp(before[i], after, MIB(4)), 0);
		free(after);
		free(before[i]);
	}
	assert_int_equal(ram_word(gm, GMEM_HOLE_START - 8), word_at(GIB(3) - 8));
	assert_int_equal(ram_word(gm, GMEM_HOLE_END), word_at(GIB(3)));
	assert_int_equal(ram_word(gm, GIB(6) - 8), word_at(GIB(5) - 8));
	gmem_destroy(gm);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gmem__bad_sizes_are_refused),
		cmocka_unit_test(test_gmem__access_outside_ram_copies_nothing),
		cmocka_unit_test(test_gmem__ram_above_3_gib_lies_above_the_hole),
		cmocka_unit_test(test_gmem__ring_index_must_be_aligned),
		cmocka_unit_test(test_gmem__writes_mark_dirty_once),
		cmocka_unit_test(test_gmem__pages_never_touched_are_known_to_be_zero),
		cmocka_unit_test(test_gmem__template_is_shared_and_never_written),
		cmocka_unit_test(
			test_gmem__discarding_to_zero_leaves_a_templates_pages_as_they_are),
		cmocka_unit_test(test_gmem__hostile_extents_are_refused),
		cmocka_unit_test(test_gmem__fork_diverges_both_ways),
		cmocka_unit_test(test_gmem_huge__a_child_says_no_to_more_of_them),
		cmocka_unit_test(test_gmem_huge__ram_reads_as_before),
		cmocka_unit_test(test_gmem_huge__blocks_leave_the_file_and_others_stay_in_it),
		cmocka_unit_test(test_gmem_huge__write_does_not_reach_the_file),
		cmocka_unit_test(test_gmem_huge__fork_diverges_both_ways),
		cmocka_unit_test(test_gmem_huge__truncated_file_ends_the_plan_and_spares_ram),
		cmocka_unit_test(test_gmem_huge__unreadable_file_leaves_ram_alone),
		cmocka_unit_test(test_gmem_huge__makes_512_mib_at_most),
		cmocka_unit_test(test_gmem_huge__ended_plan_makes_nothing),
		cmocka_unit_test(test_gmem_huge__ram_above_the_hole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
