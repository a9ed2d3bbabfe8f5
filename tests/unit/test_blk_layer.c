/* SPDX-License-Identifier: MIT */
/*
 * A snapshot's layer: what was saved is what is loaded; every cut and every flipped bit of its
 * header and table is refused and leaves the disk as it was; so are tables that lie.
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/fd.h"
#include "base/util.h"
#include "tests/lib/disk.h"

#define HEADER 56u
#define EXTENT 20u

/* A second disk over a's base that takes up what was saved of a. */
static int load(struct disk *b, const struct disk *a, int fd, struct err *e)
{
	disk_open_again(b, a);
	return blk_load_layer(b->blk, disk_reopen(fd), e);
}

static void test_layer__what_was_saved_is_loaded(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 12; seed++) {
		uint64_t base = seed % 3 ? MIB(2) + 512 * seed : 0;
		struct blk_stats sa, sb;
		struct disk a, b;
		int fd = disk_file();
		struct err e;

		disk_open(&a, MIB(4) + 512 * seed, base, seed);
		for (unsigned int k = 0; k < seed; k++) {
			assert_true(disk_storm(&a, 20));
			if (k % 2)
				assert_int_equal(blk_rotate(a.blk, disk_file(), &e), 0);
		}
		assert_int_equal(blk_save_layer(a.blk, fd, &e), 0);
		assert_true(disk_matches(&a)); /* saving changes nothing */
		assert_int_equal(load(&b, &a, fd, &e), 0);
		disk_adopt(&b);
		memcpy(b.model, a.model, a.size);
		assert_true(disk_matches(&b));
		blk_stats(a.blk, &sa);
		blk_stats(b.blk, &sb);
		assert_int_equal(sa.overlay_blocks, sb.overlay_blocks);
		for (unsigned int k = 0; k < 10; k++)
			assert_true(disk_storm(&b, 20));
		assert_true(disk_matches(&b));
		disk_close(&b);
		/* the layer is as it was saved */
		assert_int_equal(load(&b, &a, fd, &e), 0);
		disk_adopt(&b);
		memcpy(b.model, a.model, a.size);
		assert_true(disk_matches(&b));
		disk_close(&b);
		disk_close(&a);
		close(fd);
	}
}

static void test_layer__saved_by_a_forked_child_is_the_moment_of_the_fork(void **state)
{
	int fd = disk_file(), st;
	cleanup_free uint8_t *then = malloc(MIB(2));
	struct disk a, b;
	struct err e;
	pid_t pid;

	(void)state;
	disk_open(&a, MIB(2), MIB(1), 3);
	assert_true(disk_storm(&a, 60));
	fdtab_add(a.fds, fd, FD_KEEP, "test layer");
	assert_int_equal(blk_rotate(a.blk, disk_file(), &e), 0);
	memcpy(then, a.model, a.size);
	pid = fork();
	if (pid == 0) {
		fdtab_child(a.fds);
		usleep(20000);
		_exit(blk_save_layer(a.blk, fd, &e) ? 1 : 0);
	}
	for (unsigned int i = 0; i < 10; i++)
		assert_true(disk_storm(&a, 60));
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	assert_int_equal(load(&b, &a, fd, &e), 0);
	disk_adopt(&b);
	memcpy(b.model, then, a.size);
	assert_true(disk_matches(&b));
	disk_close(&b);
	disk_close(&a);
	close(fd);
}

/* A small disk with data and zero extents, and its layer's bytes. */
struct sample {
	struct disk d;
	uint8_t *raw;
	size_t len, table;
	int fd; /* of a scratch file with those bytes */
};

static void sample_make(struct sample *s)
{
	uint8_t buf[8192];
	struct stat st;
	struct err e;

	disk_open(&s->d, KIB(96) + 512, KIB(64), 7);
	memset(buf, 0x5a, sizeof(buf));
	assert_int_equal(disk_do(&s->d, BLK_WRITE, 4096, buf, 8192), 0);
	assert_int_equal(disk_do(&s->d, BLK_WRITE, KIB(80), buf, 4096), 0);
	assert_int_equal(disk_do(&s->d, BLK_WRITE, KIB(96), buf, 512), 0);
	assert_int_equal(disk_do(&s->d, BLK_ZERO, KIB(40), NULL, 4096), 0);
	assert_int_equal(disk_do(&s->d, BLK_ZERO, KIB(12), NULL, 8192), 0);
	s->fd = memfd_create("layer", MFD_CLOEXEC); /* ext4 writes back what was truncated */
	assert_int_equal(blk_save_layer(s->d.blk, s->fd, &e), 0);
	assert_int_equal(fstat(s->fd, &st), 0);
	s->len = (size_t)st.st_size;
	s->table = 5 * EXTENT;
	s->raw = malloc(s->len);
	assert_non_null(s->raw);
	assert_int_equal(fd_pread_full(s->fd, s->raw, s->len, 0), 0);
	assert_int_equal(s->len, 4096 + 4096 + 4 * 4096);
}

static void sample_free(struct sample *s)
{
	disk_close(&s->d);
	free(s->raw);
	close(s->fd);
}

/* Loads the scratch file; a refusal must leave the disk as it was. Returns blk_load_layer's. */
static int try_load(struct sample *s)
{
	struct blk_cfg cfg = { .size_bytes = s->d.size };
	struct err e = { "" };
	struct blk_stats st;
	struct blk *b;
	int r;

	assert_int_equal(blk_create(&cfg, disk_base(disk_reopen(s->d.base_fd)), -1, &b, &e), 0);
	r = blk_load_layer(b, disk_reopen(s->fd), &e);
	if (r) {
		assert_true(e.msg[0]);
		blk_stats(b, &st);
		assert_int_equal(st.overlay_blocks, 0);
		assert_int_equal(st.layers, 0);
	}
	blk_destroy(b);
	return r;
}

static void test_layer__every_truncation_is_refused(void **state)
{
	struct sample s;

	(void)state;
	sample_make(&s);
	assert_int_equal(try_load(&s), 0);
	for (size_t len = 0; len < s.len; len += len < 4300 ? 1 : 61) {
		assert_int_equal(ftruncate(s.fd, 0), 0);
		assert_int_equal(fd_pwrite_full(s.fd, s.raw, len, 0), 0);
		assert_int_equal(try_load(&s), -EINVAL);
	}
	assert_int_equal(fd_pwrite_full(s.fd, s.raw, s.len, 0), 0);
	assert_int_equal(try_load(&s), 0);
	assert_int_equal(fd_pwrite_full(s.fd, "", 1, s.len), 0); /* and one byte too many */
	assert_int_equal(try_load(&s), -EINVAL);
	sample_free(&s);
}

static void test_layer__every_flipped_bit_of_header_and_table_is_refused(void **state)
{
	struct sample s;

	(void)state;
	sample_make(&s);
	for (size_t i = 0; i < 4096 + s.table; i++)
		for (unsigned int bit = 0; bit < 8; bit++) {
			bool padding = i >= HEADER && i < 4096;
			uint8_t c = s.raw[i] ^ (uint8_t)(1u << bit);

			if (padding && bit != i % 8)
				continue; /* one bit of each byte will do */
			assert_int_equal(fd_pwrite_full(s.fd, &c, 1, i), 0);
			assert_int_equal(try_load(&s), -EINVAL);
			assert_int_equal(fd_pwrite_full(s.fd, &s.raw[i], 1, i), 0);
		}
	assert_int_equal(try_load(&s), 0);
	sample_free(&s);
}

struct lie {
	const char *what;
	uint64_t ext[3][3]; /* first, number, kind; number 0 and kind 0 end the list */
	uint64_t blocks;    /* as the header claims */
};

/* A file whose checksums are right and whose table is not. */
static void write_lie(struct sample *s, const struct lie *l, size_t n)
{
	struct wbuf t, h;
	uint32_t crc;

	wbuf_init(&t, 4096);
	for (size_t i = 0; i < n; i++) {
		wbuf_u64(&t, l->ext[i][0]);
		wbuf_u64(&t, l->ext[i][1]);
		wbuf_u32(&t, (uint32_t)l->ext[i][2]);
	}
	wbuf_init(&h, HEADER);
	wbuf_bytes(&h, s->raw, 32); /* magic, version, sizes */
	wbuf_u64(&h, n);
	wbuf_u64(&h, l->blocks);
	wbuf_u32(&h, crc32c(0, t.data, t.len));
	crc = crc32c(0, h.data, h.len);
	wbuf_u32(&h, crc);
	assert_int_equal(ftruncate(s->fd, 0), 0);
	assert_int_equal(ftruncate(s->fd, (off_t)(8192 + l->blocks * 4096)), 0);
	assert_int_equal(fd_pwrite_full(s->fd, h.data, h.len, 0), 0);
	assert_int_equal(fd_pwrite_full(s->fd, t.data, t.len, 4096), 0);
	wbuf_fini(&t);
	wbuf_fini(&h);
}

static void test_layer__lying_tables_with_right_checksums_are_refused(void **state)
{
	static const struct lie lies[] = {
		{ "overlap", { { 1, 4, 1 }, { 4, 2, 1 } }, 6 },
		{ "descending", { { 8, 1, 1 }, { 2, 1, 1 } }, 2 },
		{ "twice", { { 8, 1, 1 }, { 8, 1, 1 } }, 2 },
		{ "unknown kind", { { 1, 1, 2 } }, 0 },
		{ "empty extent", { { 1, 0, 1 }, { 3, 1, 1 } }, 1 },
		{ "beyond the disk", { { 24, 2, 1 } }, 2 },
		{ "zero beyond the base", { { 16, 1, 0 } }, 0 },
		{ "overflow", { { 2, UINT64_MAX, 1 } }, 1 },
		{ "overflow of zeroes", { { 2, UINT64_MAX - 1, 0 } }, 0 },
		{ "far out", { { UINT64_MAX, 1, 1 } }, 1 },
		{ "more blocks than the file", { { 1, 8, 1 } }, 7 },
		{ "fewer blocks than the file", { { 1, 6, 1 } }, 7 },
	};
	static const struct lie truth = { "true", { { 1, 2, 1 }, { 3, 1, 0 }, { 20, 5, 1 } }, 7 };
	struct sample s;

	(void)state;
	sample_make(&s);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		size_t n = 0;

		while (n < 3 && (lies[i].ext[n][0] || lies[i].ext[n][1]))
			n++;
		write_lie(&s, &lies[i], n);
		if (try_load(&s) != -EINVAL)
			fail_msg("'%s' was taken", lies[i].what);
	}
	write_lie(&s, &truth, 3);
	assert_int_equal(try_load(&s), 0);
	sample_free(&s);
}

static void test_layer__another_disks_layer_is_refused(void **state)
{
	struct disk other, b;
	struct sample s;
	struct err e;

	(void)state;
	sample_make(&s);
	disk_open(&other, KIB(96), KIB(64), 7);
	assert_int_equal(load(&b, &other, s.fd, &e), -EINVAL);
	disk_close(&b);
	disk_close(&other);
	disk_open(&other, KIB(96) + 512, KIB(32), 7);
	assert_int_equal(load(&b, &other, s.fd, &e), -EINVAL);
	disk_close(&b);
	disk_close(&other);
	sample_free(&s);
}

static void test_layer__only_an_untouched_disk_takes_one_and_only_read_only(void **state)
{
	struct sample s;
	struct disk b;
	struct err e;

	(void)state;
	sample_make(&s);
	assert_int_equal(blk_load_layer(s.d.blk, disk_reopen(s.fd), &e), -EBUSY);
	disk_open_again(&b, &s.d);
	assert_int_equal(blk_load_layer(b.blk, dup(s.fd), &e), -EINVAL);
	assert_int_equal(blk_load_layer(b.blk, disk_reopen(s.fd), &e), 0);
	assert_int_equal(blk_load_layer(b.blk, disk_reopen(s.fd), &e), -EBUSY);
	disk_close(&b);
	sample_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_layer__what_was_saved_is_loaded),
		cmocka_unit_test(test_layer__saved_by_a_forked_child_is_the_moment_of_the_fork),
		cmocka_unit_test(test_layer__every_truncation_is_refused),
		cmocka_unit_test(test_layer__every_flipped_bit_of_header_and_table_is_refused),
		cmocka_unit_test(test_layer__lying_tables_with_right_checksums_are_refused),
		cmocka_unit_test(test_layer__another_disks_layer_is_refused),
		cmocka_unit_test(test_layer__only_an_untouched_disk_takes_one_and_only_read_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
