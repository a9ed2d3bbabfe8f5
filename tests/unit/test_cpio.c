/* SPDX-License-Identifier: MIT */
/*
 * The cpio writer, judged by cpio(1): what it lists and unpacks is what was put in.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/util.h"
#include "image/cpio.h"
#include "tests/lib/scratch.h"

static void save(struct cpio *c, const char *dir)
{
	struct err e;

	assert_int_equal(cpio_end(c, &e), 0);
	scratch_write(dir, "a.cpio", c->out.data, c->out.len);
	cpio_fini(c);
}

static void test_cpio__lists_as_written(void **state)
{
	static const char want[] = "drwxr-xr-x 0 0 dev\n"
				   "crw------- 0 0 dev/console\n"
				   "-rwxr-xr-x 0 0 init\n"
				   "lrwxrwxrwx 0 0 sh\n"
				   "-rw-r--r-- 0 0 empty\n";
	char *dir = scratch_make(), *out;
	struct cpio c;
	struct err e;

	(void)state;
	cpio_init(&c, MIB(1));
	assert_int_equal(cpio_dir(&c, "dev", 0755, &e), 0);
	assert_int_equal(cpio_chardev(&c, "dev/console", 0600, 5, 1, &e), 0);
	assert_int_equal(cpio_file(&c, "init", 0755, "hello", 5, &e), 0);
	assert_int_equal(cpio_link(&c, "sh", "busybox", &e), 0);
	assert_int_equal(cpio_file(&c, "empty", 0644, "", 0, &e), 0);
	save(&c, dir);

	out = scratch_sh("cpio -itvn --quiet < %s/a.cpio | sed -E 's/ -> .*//' | "
			 "awk '{ print $1, $3, $4, $NF }'",
			 dir);
	assert_string_equal(out, want);
	free(out);
	out = scratch_sh("cpio -itvn --quiet < %s/a.cpio | grep -E '5, +1 .*dev/console' | wc -l",
			 dir);
	assert_string_equal(out, "1\n");
	free(out);
	out = scratch_sh("cpio -itvn --quiet < %s/a.cpio | grep -c 'sh -> busybox$'", dir);
	assert_string_equal(out, "1\n");
	free(out);
	scratch_remove(dir);
}

/* Every length of name and of data around the padding to 4 bytes. */
static void test_cpio__unpacks_to_the_same_bytes(void **state)
{
	char *dir = scratch_make(), name[16], *out;
	uint8_t data[16];
	struct cpio c;
	struct err e;

	(void)state;
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(0xf0 + i);
	cpio_init(&c, MIB(1));
	for (size_t i = 1; i < sizeof(name); i++) {
		memset(name, 'a', sizeof(name));
		name[i] = '\0';
		assert_int_equal(cpio_file(&c, name, 0644, data, i, &e), 0);
		scratch_write(dir, name, data, i);
		free(scratch_sh("mkdir -p %s/want && mv %s/%s %s/want/", dir, dir, name, dir));
	}
	save(&c, dir);
	out = scratch_sh(
		"mkdir %s/got && cd %s/got && cpio -i --quiet < ../a.cpio && diff -r . ../want"
		" && ls | wc -l",
		dir, dir);
	assert_string_equal(out, "15\n");
	free(out);
	scratch_remove(dir);
}

static void test_cpio__adds_a_host_file(void **state)
{
	char *dir = scratch_make(), *out;
	uint8_t *big = malloc(300001);
	struct cpio c;
	struct err e;

	(void)state;
	assert_non_null(big);
	for (size_t i = 0; i < 300001; i++)
		big[i] = (uint8_t)(i * 7 >> 3);
	scratch_write(dir, "big", big, 300001);
	free(big);
	cpio_init(&c, MIB(1));
	assert_int_equal(cpio_add(&c, "copy", 0755, scratch_path(dir, "big"), &e), 0);
	assert_int_equal(cpio_add(&c, "none", 0755, scratch_path(dir, "none"), &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/none"));
	assert_int_equal(cpio_add(&c, "dir", 0755, dir, &e), -EINVAL);
	save(&c, dir);
	out = scratch_sh("cd %s && cpio -i --quiet < a.cpio && cmp big copy && stat -c %%a copy && "
			 "cpio -it --quiet < a.cpio",
			 dir);
	assert_string_equal(out, "755\ncopy\n");
	free(out);
	scratch_remove(dir);
}

static void test_cpio__same_input_same_bytes(void **state)
{
	struct cpio c[2];
	struct err e;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		cpio_init(&c[i], MIB(1));
		assert_int_equal(cpio_dir(&c[i], "d", 0700, &e), 0);
		assert_int_equal(cpio_file(&c[i], "d/f", 0644, "xyz", 3, &e), 0);
		assert_int_equal(cpio_end(&c[i], &e), 0);
	}
	assert_int_equal(c[0].out.len, c[1].out.len);
	assert_memory_equal(c[0].out.data, c[1].out.data, c[0].out.len);
	cpio_fini(&c[0]);
	cpio_fini(&c[1]);
}

static void test_cpio__bad_paths_are_refused(void **state)
{
	static const char *const bad[] = { "",	     "/init", "a/",  "a//b",	  "..",
					   "a/../b", "./a",   "a/.", "TRAILER!!!" };
	char huge[5000];
	struct cpio c;
	struct err e;

	(void)state;
	cpio_init(&c, MIB(1));
	memset(huge, 'x', sizeof(huge));
	huge[sizeof(huge) - 1] = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(cpio_file(&c, bad[i], 0644, "x", 1, &e), -EINVAL);
		assert_int_equal(cpio_dir(&c, bad[i], 0755, &e), -EINVAL);
	}
	assert_int_equal(cpio_file(&c, huge, 0644, "x", 1, &e), -EINVAL);
	assert_int_equal(cpio_link(&c, "l", "", &e), -EINVAL);
	assert_int_equal(cpio_link(&c, "l", huge, &e), -EINVAL);
	assert_int_equal(c.out.len, 0);
	assert_int_equal(cpio_file(&c, "..a/b..", 0644, "x", 1, &e), 0);
	cpio_fini(&c);
}

static void test_cpio__limit_is_kept(void **state)
{
	uint8_t data[1000] = { 0 };
	struct cpio c;
	struct err e;

	(void)state;
	cpio_init(&c, 1200);
	assert_int_equal(cpio_file(&c, "a", 0644, data, sizeof(data), &e), 0);
	assert_int_equal(cpio_file(&c, "b", 0644, data, 200, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "1200"));
	assert_true(c.out.len <= 1200);
	assert_int_equal(cpio_end(&c, &e), -EFBIG);
	cpio_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cpio__lists_as_written),
		cmocka_unit_test(test_cpio__unpacks_to_the_same_bytes),
		cmocka_unit_test(test_cpio__adds_a_host_file),
		cmocka_unit_test(test_cpio__same_input_same_bytes),
		cmocka_unit_test(test_cpio__bad_paths_are_refused),
		cmocka_unit_test(test_cpio__limit_is_kept),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
