/* SPDX-License-Identifier: MIT */
/*
 * Which files a disk's image may have opened: those under the directory that its owner named, and
 * no other, whatever the image says.
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
#include <unistd.h>

#include "base/util.h"
#include "block/source.h"
#include "cli/diskfiles.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

/* A qcow2 file that says it stands on `name` of that format, without looking for it. */
static void point(const char *file, const char *name, const char *format)
{
	sh("qemu-img create -q -f qcow2 -u -b '%s' -F %s %s 1M", name, format, file);
}

static void refused(const char *file, const char *dir, int error, const char *says)
{
	struct disk_files d = { 0 };
	struct err e = { "" };

	assert_int_equal(disk_files_open(file, true, dir, &d, &e), error);
	if (!strstr(e.msg, says))
		fail_msg("says: %s", e.msg);
	assert_int_equal(d.n, 0);
}

static void test_disk_files__chain_is_opened_from_the_top_down(void **state)
{
	char *dir = scratch_make(), *at;
	struct disk_files d;
	struct err e;

	(void)state;
	qcow2_chain_make(dir, false);
	at = realpath(dir, NULL);
	assert_int_equal(disk_files_open(scratch_path(dir, "5"), true, dir, &d, &e), 0);
	assert_int_equal(d.n, QCOW2_CHAIN);
	for (size_t i = 0; i < d.n; i++) {
		char want[300];

		snprintf(want, sizeof(want), "%s/%zu", at, QCOW2_CHAIN - 1 - i);
		assert_string_equal(d.file[i].path, want);
		assert_int_equal(d.file[i].qcow2, i < QCOW2_CHAIN - 1);
	}
	disk_files_close(&d);
	/* a raw file is one file, whatever is in it */
	assert_int_equal(disk_files_open(scratch_path(dir, "5"), false, NULL, &d, &e), 0);
	assert_int_equal(d.n, 1);
	disk_files_close(&d);
	free(at);
	scratch_remove(dir);
}

static void test_disk_files__backing_files_need_to_be_allowed(void **state)
{
	char *dir = scratch_make(), *in;
	const char *top;

	(void)state;
	sh("mkdir %s/in %s/inside %s/out && truncate -s 1M %s/in/base %s/inside/base %s/out/base",
	   dir, dir, dir, dir, dir, dir);
	in = strdup(scratch_path(dir, "in"));
	top = scratch_path(dir, "in/top");
	point(top, "base", "raw");
	refused(top, NULL, -EACCES, "stands on backing file 'base'; if that may be opened");
	refused(top, scratch_path(dir, "out"), -EACCES, "is not under");
	point(top, "/etc/shadow", "raw");
	refused(top, in, -EACCES, "its backing file /etc/shadow is not under");
	point(top, "../../../../../../../../etc/shadow", "raw");
	refused(top, in, -EACCES, "is not under");
	point(top, "../inside/base", "raw"); /* its name begins like the directory's */
	refused(top, in, -EACCES, "is not under");
	sh("ln -s ../out/base %s/link", in);
	point(top, "link", "raw");
	refused(top, in, -EACCES, "out/base is not under");
	point(top, "nbd://127.0.0.1/x", "raw");
	refused(top, in, -EACCES, "is no file's name");
	point(top, "json:{\"driver\":\"raw\",\"file\":{\"filename\":\"/etc/shadow\"}}", "raw");
	refused(top, in, -EACCES, "is no file's name");
	point(top, "gone", "raw");
	refused(top, in, -ENOENT, "gone");
	sh("mkfifo %s/fifo", in);
	point(top, "fifo", "raw");
	refused(top, in, -EINVAL, "neither a file nor a block device");
	free(in);
	scratch_remove(dir);
}

static void test_disk_files__format_is_never_guessed(void **state)
{
	char *dir = scratch_make();
	const char *top = scratch_path(dir, "top");

	(void)state;
	sh("truncate -s 1M %s/base", dir);
	point(top, "base", "vmdk");
	refused(top, dir, -EINVAL, "the format of its backing file is 'vmdk'");
	/* the extension that says it, taken out */
	point(top, "base", "raw");
	sh("printf '\\0\\0\\0\\0\\0\\0\\0\\0' | dd of=%s bs=1 seek=112 conv=notrunc status=none",
	   top);
	refused(top, dir, -EINVAL, "the format of its backing file is ''");
	scratch_remove(dir);
}

static void test_disk_files__loops_end(void **state)
{
	char *dir = scratch_make();

	(void)state;
	point(scratch_path(dir, "a"), "b", "qcow2");
	point(scratch_path(dir, "b"), "c", "qcow2");
	point(scratch_path(dir, "c"), "a", "qcow2");
	refused(scratch_path(dir, "a"), dir, -ELOOP, "comes back to");
	point(scratch_path(dir, "a"), "a", "qcow2");
	refused(scratch_path(dir, "a"), dir, -ELOOP, "comes back to");
	scratch_remove(dir);
}

static void test_disk_files__chain_has_a_bound(void **state)
{
	char *dir = scratch_make(), name[32], next[32];
	struct disk_files d;
	struct err e;

	(void)state;
	for (unsigned int i = 0; i <= SOURCE_FILES; i++) {
		snprintf(name, sizeof(name), "%u", i);
		snprintf(next, sizeof(next), "%u", i + 1);
		point(scratch_path(dir, name), next, "qcow2");
	}
	refused(scratch_path(dir, "0"), dir, -EINVAL, "a chain of more than 256 files");
	snprintf(name, sizeof(name), "%u", SOURCE_FILES);
	sh("qemu-img create -q -f qcow2 %s/%s 1M", dir, name);
	assert_int_equal(disk_files_open(scratch_path(dir, "1"), true, dir, &d, &e), 0);
	assert_int_equal(d.n, SOURCE_FILES);
	disk_files_close(&d);
	scratch_remove(dir);
}

/* What forks of a writer have of its file: the descriptor that it reads by. */
static void test_disk_files__nobody_writes_what_forks_read(void **state)
{
	char *dir = scratch_make();
	struct disk_files d, other;
	struct err e;
	int fd, fork_fd;

	(void)state;
	sh("qemu-img create -q -f qcow2 %s/a 1M", dir);
	assert_int_equal(disk_files_open(scratch_path(dir, "a"), true, NULL, &d, &e), 0);
	fd = disk_files_writable(&d, &e);
	assert_true(fd >= 0);
	fork_fd = dup(d.file[0].fd);
	assert_int_equal(disk_files_open(scratch_path(dir, "a"), true, NULL, &other, &e), -EBUSY);
	close(fd);
	disk_files_close(&d);
	/* the writer is gone: who only reads may, who writes may not */
	assert_int_equal(disk_files_open(scratch_path(dir, "a"), true, NULL, &d, &e), 0);
	assert_int_equal(disk_files_writable(&d, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "read by forks"));
	disk_files_close(&d);
	close(fork_fd);
	assert_int_equal(disk_files_open(scratch_path(dir, "a"), true, NULL, &d, &e), 0);
	fd = disk_files_writable(&d, &e);
	assert_true(fd >= 0);
	close(fd);
	disk_files_close(&d);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_disk_files__chain_is_opened_from_the_top_down),
		cmocka_unit_test(test_disk_files__backing_files_need_to_be_allowed),
		cmocka_unit_test(test_disk_files__format_is_never_guessed),
		cmocka_unit_test(test_disk_files__loops_end),
		cmocka_unit_test(test_disk_files__chain_has_a_bound),
		cmocka_unit_test(test_disk_files__nobody_writes_what_forks_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
