/* SPDX-License-Identifier: MIT */
/*
 * Guest memory pushed out to a file and read back: what goes, what stays, that no byte changes, and
 * what becomes of it when the disk is full, or the file cut or broken.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "mem/gmem.h"
#include "mem/gmem_out.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"

#define RAM MIB(96)
#define PAGES (RAM / GMEM_PAGE)
#define PM_PRESENT (1ull << 63)
#define PM_FILE (1ull << 61)
#define PM_EXCLUSIVE (1ull << 56)

static unsigned int bad_read; /* counts down to one that fails; 0: none does */

ssize_t pread(int fd, void *buf, size_t n, off_t off)
{
	if (!bad_read || --bad_read)
		return syscall(SYS_pread64, fd, buf, n, off);
	errno = EIO;
	return -1;
}

struct world {
	char *dir;
	struct gmem *gm;
	uint8_t *was; /* a copy of RAM */
	int file, pagemap;
	struct gmem_out *out;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;

	w->dir = scratch_make();
	must(gmem_create(RAM, &w->gm, &e), &e);
	w->was = malloc(RAM);
	w->file = open(w->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	w->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	assert_true(w->file >= 0 && w->pagemap >= 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	gmem_out_end(w->out);
	gmem_destroy(w->gm);
	free(w->was);
	close(w->file);
	close(w->pagemap);
	scratch_remove(w->dir);
	free(w);
	return 0;
}

/* A page that no other is like. */
static void fill(struct world *w, uint64_t page, uint64_t seed)
{
	uint64_t *p = gmem_fill(w->gm, page * GMEM_PAGE, GMEM_PAGE);

	for (size_t i = 0; i < GMEM_PAGE / 8; i++)
		p[i] = (seed + 1) * 0x9E3779B97F4A7C15ull + page * 512 + i;
}

static void zero(struct world *w, uint64_t page)
{
	memset(gmem_fill(w->gm, page * GMEM_PAGE, GMEM_PAGE), 0, GMEM_PAGE);
}

static void remember(struct world *w)
{
	for (uint64_t at = 0; at < RAM; at += MIB(2))
		assert_int_equal(gmem_read_offset(w->gm, at, w->was + at, MIB(2)), 0);
}

static void assert_as_it_was(struct world *w)
{
	for (uint64_t at = 0; at < RAM; at += GMEM_PAGE)
		if (memcmp(gmem_at_offset(w->gm, at, GMEM_PAGE), w->was + at, GMEM_PAGE))
			fail_msg("the page at %#llx differs", (unsigned long long)at);
}

static bool is_there(struct world *w, uint64_t page)
{
	uintptr_t p = (uintptr_t)gmem_at_offset(w->gm, page * GMEM_PAGE, GMEM_PAGE);
	uint64_t entry;

	assert_int_equal(fd_pread_full(w->pagemap, &entry, sizeof(entry), p / 4096 * 8), 0);
	return entry & PM_PRESENT;
}

/* Memory that is there for this process alone. */
static uint64_t own_pages(struct world *w)
{
	const uint64_t own = PM_PRESENT | PM_EXCLUSIVE;
	uint64_t entry[512], n = 0;

	for (uint64_t at = 0; at < RAM; at += MIB(2)) {
		uintptr_t p = (uintptr_t)gmem_at_offset(w->gm, at, MIB(2));

		assert_int_equal(fd_pread_full(w->pagemap, entry, sizeof(entry), p / 4096 * 8), 0);
		for (size_t i = 0; i < ARRAY_SIZE(entry); i++)
			n += (entry[i] & own) == own && !(entry[i] & PM_FILE);
	}
	return n;
}

static void begin(struct world *w)
{
	struct err e;

	must(gmem_out_begin(w->gm, w->file, w->pagemap, &w->out, &e), &e);
}

static void push(struct world *w)
{
	struct err e;
	int r;

	begin(w);
	while ((r = gmem_out_step(w->out, &e)) > 0)
		;
	must(r, &e);
	gmem_out_discard(w->out);
}

static void back(struct world *w)
{
	struct err e;

	must(gmem_out_back(w->out, &e), &e);
}

/* Runs of all lengths, from the first page to the last, across windows, with holes and zeroes. */
static uint64_t scatter(struct world *w, uint64_t *zeroes)
{
	uint64_t n = 0, page = 0;

	*zeroes = 0;
	for (uint64_t len = 1; page + len + 2 < PAGES; page += len + 2, len = len % 700 + 37) {
		for (uint64_t i = 0; i < len; i++)
			fill(w, page + i, 1);
		zero(w, page + len);
		n += len;
		++*zeroes;
	}
	fill(w, PAGES - 1, 2);
	return n + 1;
}

/* A template's file in the place of the first 32 MiB. */
static int map_template(struct world *w)
{
	const struct gmem_extent x = { 0, MIB(32) };
	int fd = memfd_create("template", MFD_CLOEXEC);
	struct err e;

	for (uint64_t at = 0; at < x.len; at += GMEM_PAGE)
		assert_int_equal(fd_pwrite_full(fd, "Template", 8, at), 0);
	assert_int_equal(ftruncate(fd, (off_t)x.len), 0);
	must(gmem_map_file(w->gm, fd, &x, 1, &e), &e);
	return fd;
}

static void test_gmem_out__memory_is_gone_and_comes_back_to_the_byte(void **state)
{
	struct world *w = *state;
	uint64_t zeroes, n = scatter(w, &zeroes);

	remember(w);
	push(w);
	assert_int_equal(own_pages(w), 0);
	assert_true(gmem_out_bytes(w->out) == n * GMEM_PAGE);
	assert_true(gmem_out_zero_bytes(w->out) == zeroes * GMEM_PAGE);
	assert_true((uint64_t)lseek(w->file, 0, SEEK_END) == n * GMEM_PAGE);
	back(w);
	assert_int_equal(own_pages(w), n);
	assert_as_it_was(w);
}

static void test_gmem_out__fork_gives_its_own_pages_back_to_the_template(void **state)
{
	struct world *w = *state;
	int fd = map_template(w);

	(void)*(volatile const char *)gmem_at_offset(w->gm, MIB(3), 1); /* read is not written */
	for (uint64_t i = 0; i < 64; i++)
		fill(w, 3 * i, 5);
	zero(w, 1000); /* over what the template has */
	fill(w, PAGES - 7, 5);
	remember(w);
	assert_true(w->was[MIB(3)] == 'T');
	assert_int_equal(own_pages(w), 66);
	push(w);
	assert_true(gmem_out_bytes(w->out) == 65 * GMEM_PAGE);
	assert_true(gmem_out_zero_bytes(w->out) == GMEM_PAGE);
	assert_int_equal(own_pages(w), 0);
	/* where its own pages were, there are the template's */
	assert_int_equal(*(const char *)gmem_at_offset(w->gm, 0, 1), 'T');
	assert_int_equal(*(const char *)gmem_at_offset(w->gm, 1000 * GMEM_PAGE, 1), 'T');
	back(w);
	assert_as_it_was(w);
	close(fd);
}

/* Zeroes come back by themselves but for where a template's page would: only there is looked. */
static void test_gmem_out__zeroes_of_no_template_cost_nothing(void **state)
{
	struct world *w = *state;
	int fd = map_template(w);

	for (uint64_t i = 0; i < 10; i++) {
		zero(w, 1000 + i);
		zero(w, PAGES - 100 + i);
	}
	remember(w);
	push(w);
	assert_true(gmem_out_zero_bytes(w->out) == 20 * GMEM_PAGE);
	back(w);
	for (uint64_t i = 0; i < 10; i++) {
		assert_true(is_there(w, 1000 + i));
		assert_false(is_there(w, PAGES - 100 + i));
	}
	assert_as_it_was(w);
	close(fd);
}

static void test_gmem_out__pages_shared_by_fork_stay(void **state)
{
	struct world *w = *state;
	int p[2], status;
	pid_t pid;
	char c;

	for (uint64_t i = 0; i < 300; i++)
		fill(w, i, 9);
	assert_int_equal(pipe(p), 0);
	pid = fork();
	if (!pid) {
		close(p[1]);
		_exit(read(p[0], &c, 1) != 0);
	}
	for (uint64_t i = 0; i < 20; i++)
		fill(w, i * 10, 10); /* these are our own again */
	remember(w);
	push(w);
	assert_true(gmem_out_bytes(w->out) == 20 * GMEM_PAGE);
	assert_int_equal(own_pages(w), 0);
	for (uint64_t i = 0; i < 300; i++)
		assert_int_equal(is_there(w, i), i % 10 || i >= 200);
	back(w);
	assert_as_it_was(w);
	close(p[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(p[0]);
}

static void test_gmem_out__full_disk_leaves_memory_where_it_is(void **state)
{
	struct world *w = *state;
	uint64_t zeroes, n = scatter(w, &zeroes);
	const char *at = scratch_path(w->dir, "small");
	struct err e;
	int r;

	free(scratch_sh("mkdir %s && mount -t tmpfs -o size=1m none %s", at, at));
	close(w->file);
	w->file = open(at, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	assert_true(w->file >= 0);
	remember(w);
	begin(w);
	while ((r = gmem_out_step(w->out, &e)) > 0)
		;
	close(w->file);
	w->file = -1;
	free(scratch_sh("umount %s", scratch_path(w->dir, "small")));
	assert_int_equal(r, -ENOSPC);
	assert_non_null(strstr(e.msg, "writing RAM out, after 0 MiB: No space left on device"));
	gmem_out_end(take_ptr(w->out));
	assert_int_equal(own_pages(w), n + zeroes);
	assert_as_it_was(w);
	assert_int_equal(gmem_read(w->gm, 0, &r, sizeof(r)), 0); /* and it may be looked at */
}

static void test_gmem_out__given_up_midway_leaves_all(void **state)
{
	struct world *w = *state;
	uint64_t zeroes, n = scatter(w, &zeroes);
	struct err e;
	char c;

	remember(w);
	begin(w);
	assert_int_equal(gmem_out_step(w->out, &e), 1);
	back(w);
	assert_int_equal(gmem_read(w->gm, 0, &c, 1), 0);
	assert_int_equal(own_pages(w), n + zeroes);
	assert_as_it_was(w);
}

/* Rather an end than a guest that goes on with somebody's stale bytes. */
static void test_gmem_out__nobody_looks_at_memory_meanwhile(void **state)
{
	struct world *w = *state;
	int status;

	for (int i = 0; i < 2; i++) {
		pid_t pid;
		char c;

		if (i)
			push(w);
		else
			begin(w);
		pid = fork();
		if (!pid) {
			close(STDERR_FILENO);
			signal(SIGABRT, SIG_DFL);
			gmem_write(w->gm, 0, "x", 1);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		back(w);
		assert_int_equal(gmem_read(w->gm, 0, &c, 1), 0);
		gmem_out_end(take_ptr(w->out));
	}
}

/* What the file lacks is not made up, and when it has it again, all is there. */
static void test_gmem_out__cut_file_is_said_and_mended_it_comes_back(void **state)
{
	struct world *w = *state;
	uint64_t zeroes, n = scatter(w, &zeroes) * GMEM_PAGE, cut = n - GMEM_PAGE;
	uint8_t last[GMEM_PAGE];
	struct err e;

	remember(w);
	push(w);
	assert_int_equal(fd_pread_full(w->file, last, sizeof(last), cut), 0);
	assert_int_equal(ftruncate(w->file, (off_t)cut), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(gmem_out_back(w->out, &e), -ENODATA);
		assert_non_null(strstr(e.msg, "somebody cut it"));
		assert_int_equal(own_pages(w), 0);
	}
	assert_int_equal(fd_pwrite_full(w->file, last, sizeof(last), cut), 0);
	back(w);
	assert_as_it_was(w);
}

/* A disk that fails in the midst of the reading: what was read goes again. */
static void test_gmem_out__read_error_leaves_it_out(void **state)
{
	struct world *w = *state;
	uint64_t zeroes;
	struct err e;

	scatter(w, &zeroes);
	remember(w);
	push(w);
	for (unsigned int n = 1; n < 40; n += 19) {
		bad_read = n;
		assert_int_equal(gmem_out_back(w->out, &e), -EIO);
		assert_int_equal(bad_read, 0);
		assert_non_null(strstr(e.msg, "reading RAM back, after "));
		assert_int_equal(own_pages(w), 0);
	}
	back(w);
	assert_as_it_was(w);
}

static void test_gmem_out__again_and_again_is_the_same(void **state)
{
	struct world *w = *state;
	uint64_t zeroes;

	scatter(w, &zeroes);
	for (uint64_t i = 0; i < 4; i++) {
		fill(w, 11 * i + 1, 20 + i);
		zero(w, 400 + i);
		remember(w);
		push(w);
		back(w);
		assert_as_it_was(w);
		gmem_out_end(take_ptr(w->out));
		assert_int_equal(ftruncate(w->file, 0), 0);
	}
}

/* The bitmap says what was written; being out and back is not a write. */
static void test_gmem_out__dirty_bitmap_is_left_alone(void **state)
{
	struct world *w = *state;
	struct err e;

	for (uint64_t i = 0; i < 100; i++)
		fill(w, i, 3);
	must(gmem_dirty_start(w->gm, &e), &e);
	assert_int_equal(gmem_write(w->gm, 7 * GMEM_PAGE, "x", 1), 0);
	push(w);
	back(w);
	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(gmem_dirty_test(w->gm, i * GMEM_PAGE), i == 7);
}

static void test_gmem_out__odd_files_are_refused(void **state)
{
	struct world *w = *state;
	struct err e;
	int p[2];

	assert_int_equal(pipe(p), 0);
	assert_int_equal(gmem_out_begin(w->gm, p[1], w->pagemap, &w->out, &e), -EINVAL);
	assert_int_equal(write(w->file, "x", 1), 1);
	assert_int_equal(gmem_out_begin(w->gm, w->file, w->pagemap, &w->out, &e), -EINVAL);
	assert_null(w->out);
	assert_int_equal(ftruncate(w->file, 0), 0);
	/* no pagemap, but it has begun: nothing is written, nothing is lost */
	must(gmem_out_begin(w->gm, w->file, p[0], &w->out, &e), &e);
	assert_int_equal(gmem_out_step(w->out, &e), -ESPIPE);
	close(p[0]);
	close(p[1]);
}

/* One that calls everything our own, and it is the template's: still the same bytes. */
static void test_gmem_out__lying_pagemap_does_no_harm(void **state)
{
	struct world *w = *state;
	int fd = map_template(w), liar = memfd_create("liar", MFD_CLOEXEC);
	uint64_t own = 1ull << 63 | 1ull << 56;
	uint64_t first = (uintptr_t)gmem_at_offset(w->gm, 0, 1) / GMEM_PAGE;

	for (uint64_t i = 0; i < PAGES; i++)
		assert_int_equal(fd_pwrite_full(liar, &own, 8, (first + i) * 8), 0);
	fill(w, 5, 5);
	zero(w, 6);
	remember(w);
	close(w->pagemap);
	w->pagemap = liar;
	push(w);
	back(w);
	assert_as_it_was(w);
	close(fd);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_gmem_out__memory_is_gone_and_comes_back_to_the_byte),
		T(test_gmem_out__fork_gives_its_own_pages_back_to_the_template),
		T(test_gmem_out__zeroes_of_no_template_cost_nothing),
		T(test_gmem_out__pages_shared_by_fork_stay),
		T(test_gmem_out__full_disk_leaves_memory_where_it_is),
		T(test_gmem_out__given_up_midway_leaves_all),
		T(test_gmem_out__nobody_looks_at_memory_meanwhile),
		T(test_gmem_out__cut_file_is_said_and_mended_it_comes_back),
		T(test_gmem_out__read_error_leaves_it_out),
		T(test_gmem_out__again_and_again_is_the_same),
		T(test_gmem_out__dirty_bitmap_is_left_alone),
		T(test_gmem_out__odd_files_are_refused),
		T(test_gmem_out__lying_pagemap_does_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
