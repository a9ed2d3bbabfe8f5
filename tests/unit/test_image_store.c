/* SPDX-License-Identifier: MIT */
/*
 * The image store: names, staging and publishing, manifests that lie, removal, and what killed
 * builds leave behind.
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
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "image/store.h"
#include "tests/lib/scratch.h"

static void write_parts(const struct stage *s)
{
	scratch_text(s->image, "rootfs.ext4", "root file system");
	scratch_text(s->image, "vmlinuz", "kernel");
	scratch_text(s->image, "modules/lib/modules/6.1/modules.dep", "");
}

static int publish(const char *name, struct err *e)
{
	struct image img = { .distribution = "debian",
			     .release = "bookworm",
			     .kernel_version = "6.1.0-1-amd64",
			     .cmdline = "console=ttyS0 \"a b\"",
			     .root_device = "/dev/vda",
			     .root_fstype = "ext4",
			     .init = "/sbin/init" };
	struct stage s;
	int r = stage_begin(name, &s, e);

	if (!r) {
		write_parts(&s);
		r = stage_publish(&s, &img, e);
	}
	return stage_end(&s, r, e);
}

static void must_publish(const char *name)
{
	struct err e;

	if (publish(name, &e))
		fail_msg("%s", e.msg);
}

static bool exists(const char *dir, const char *path)
{
	struct stat st;

	return !lstat(scratch_path(dir, path), &st);
}

static void test_store__names_are_checked_everywhere(void **state)
{
	static const char *const bad[] = { "",	  ".",	 "..",	".hidden", "-x",      "_x",
					   "a/b", "a b", "a\n", "../etc",  "\xc3\xa4" };
	char longest[70];
	struct image img;
	struct stage s;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(image_name_ok(bad[i]));
		assert_int_equal(image_open(bad[i], &img, &e), -EINVAL);
		assert_int_equal(image_rm(bad[i], &e), -EINVAL);
		assert_int_equal(stage_begin(bad[i], &s, &e), -EINVAL);
		stage_end(&s, -EINVAL, NULL);
	}
	memset(longest, 'a', sizeof(longest));
	longest[64] = '\0';
	assert_true(image_name_ok(longest));
	longest[64] = 'a';
	longest[65] = '\0';
	assert_false(image_name_ok(longest));
	assert_true(image_name_ok("Debian-12.5_x"));
}

static void test_store__what_was_published_is_read_back(void **state)
{
	struct image img;
	struct err e;
	char want[256];

	must_publish("deb");
	if (image_open("deb", &img, &e))
		fail_msg("%s", e.msg);
	assert_string_equal(img.name, "deb");
	assert_string_equal(img.cmdline, "console=ttyS0 \"a b\"");
	assert_string_equal(img.kernel_version, "6.1.0-1-amd64");
	assert_int_equal(img.size_bytes, strlen("root file system"));
	assert_int_equal(strlen(img.created), 20);
	/* printf 'kernel' | sha256sum */
	free(scratch_sh("test $(sha256sum < %s | cut -c1-64) = %s", img.kernel, img.kernel_sha256));
	snprintf(want, sizeof(want), "%s/images/deb/rootfs.ext4", (char *)*state);
	assert_string_equal(img.rootfs, want);
	assert_int_equal(image_verify(&img, &e), 0);
	assert_false(exists(*state, "images/.build-deb"));
	assert_false(exists(*state, "images/deb/lock"));
}

static void test_store__list_is_sorted_and_leaves_out_the_damaged(void **state)
{
	struct image *list;
	struct err e;
	size_t n;

	assert_int_equal(image_list(&list, &n, &e), 0);
	assert_int_equal(n, 0);
	assert_null(list);
	must_publish("b");
	must_publish("a");
	must_publish("c");
	scratch_text(*state, "images/b/image.json", "{}");
	assert_int_equal(image_list(&list, &n, &e), 0);
	assert_int_equal(n, 2);
	assert_string_equal(list[0].name, "a");
	assert_string_equal(list[1].name, "c");
	free(list);
}

static void test_store__taken_name_is_refused_and_kept(void **state)
{
	struct err e;

	must_publish("deb");
	scratch_text(*state, "images/deb/mark", "first");
	assert_int_equal(publish("deb", &e), -EEXIST);
	assert_non_null(strstr(e.msg, "deb"));
	assert_true(exists(*state, "images/deb/mark"));
	assert_false(exists(*state, "images/.build-deb"));
}

/* Somebody else publishes the name while we build. */
static void test_store__name_taken_meanwhile_is_not_replaced(void **state)
{
	struct image img = { .distribution = "x" };
	struct stage s;
	struct err e;

	assert_int_equal(stage_begin("deb", &s, &e), 0);
	write_parts(&s);
	scratch_text(*state, "images/deb/mark", "other");
	assert_int_equal(stage_publish(&s, &img, &e), -EEXIST);
	stage_end(&s, -EEXIST, &e);
	assert_true(exists(*state, "images/deb/mark"));
	assert_false(exists(*state, "images/deb/vmlinuz"));
}

static void test_store__one_build_of_a_name_at_a_time(void **state)
{
	struct stage a, b;
	struct err e;

	assert_int_equal(stage_begin("deb", &a, &e), 0);
	assert_int_equal(stage_begin("deb", &b, &e), -EBUSY);
	stage_end(&b, -EBUSY, NULL);
	assert_true(exists(*state, "images/.build-deb/lock"));
	assert_int_equal(stage_begin("other", &b, &e), 0);
	assert_int_equal(stage_end(&b, 0, &e), 0);
	assert_true(exists(*state, "images/.build-deb/lock"));
	stage_end(&a, 0, &e);
	assert_false(exists(*state, "images/.build-deb"));
}

static void test_store__killed_build_is_cleaned_by_the_next_command(void **state)
{
	struct image *list;
	struct stage s;
	struct err e;
	size_t n;
	pid_t pid = fork();

	if (!pid) {
		if (!stage_begin("deb", &s, &e)) {
			write_parts(&s);
			raise(SIGKILL);
		}
		_exit(1);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(exists(*state, "images/.build-deb/image/vmlinuz"));
	assert_int_equal(image_list(&list, &n, &e), 0);
	assert_int_equal(n, 0);
	assert_false(exists(*state, "images/.build-deb"));
	scratch_text(*state, "images/.rm-gone/rootfs.ext4", "half removed");
	scratch_text(*state, "images/.build-nolock/image/x", "killed before it had its lock");
	must_publish("deb");
	assert_false(exists(*state, "images/.rm-gone"));
	assert_false(exists(*state, "images/.build-nolock"));
}

static void test_store__running_build_is_not_cleaned(void **state)
{
	struct image *list;
	int ready[2], go[2];
	struct stage s;
	struct err e;
	size_t n;
	char c;
	pid_t pid;

	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		c = (char)stage_begin("deb", &s, &e);
		if (write(ready[1], &c, 1) != 1 || read(go[0], &c, 1) != 1)
			_exit(1);
		_exit(stage_end(&s, 0, &e) ? 1 : 0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_int_equal(image_list(&list, &n, &e), 0);
	assert_true(exists(*state, "images/.build-deb/image"));
	assert_int_equal(write(go[1], "g", 1), 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(exists(*state, "images/.build-deb"));
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(go[i]);
	}
}

static void test_store__failed_build_keeps_its_log(void **state)
{
	struct err e = { "the reason" };
	struct stage s;

	assert_int_equal(stage_begin("deb", &s, NULL), 0);
	assert_int_equal(write(s.log, "output\n", 7), 7);
	assert_int_equal(stage_end(&s, -EIO, &e), -EIO);
	assert_non_null(strstr(e.msg, "the reason (log: "));
	assert_non_null(strstr(e.msg, ".failed-deb.log"));
	assert_true(exists(*state, "images/.failed-deb.log"));
	must_publish("deb");
	assert_false(exists(*state, "images/.failed-deb.log"));
}

static void test_store__removed_image_is_gone(void **state)
{
	struct image img;
	struct err e;
	int fd;

	assert_int_equal(image_rm("deb", &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no such image"));
	must_publish("deb");
	assert_int_equal(image_open("deb", &img, &e), 0);
	fd = open(img.rootfs, O_RDONLY | O_CLOEXEC);
	assert_int_equal(image_rm("deb", &e), 0);
	assert_int_equal(image_open("deb", &img, &e), -ENOENT);
	assert_false(exists(*state, "images/deb"));
	assert_false(exists(*state, "images/.rm-deb"));
	assert_int_equal(lseek(fd, 0, SEEK_END), strlen("root file system")); /* still readable */
	close(fd);
	must_publish("deb");
	scratch_text(*state, "images/deb/image.json", "damaged");
	assert_int_equal(image_rm("deb", &e), 0);
}

static void test_store__changed_byte_is_found(void **state)
{
	struct image img;
	struct err e;

	must_publish("deb");
	assert_int_equal(image_open("deb", &img, &e), 0);
	scratch_text(*state, "images/deb/rootfs.ext4", "root file systeM");
	assert_int_equal(image_verify(&img, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "rootfs.ext4"));
	scratch_text(*state, "images/deb/rootfs.ext4", "root file system");
	scratch_text(*state, "images/deb/vmlinuz", "Kernel");
	assert_int_equal(image_verify(&img, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "vmlinuz"));
}

static void test_store__lying_manifest_is_refused(void **state)
{
	static const struct {
		const char *sed, *story;
	} bad[] = {
		{ "s/\"name\": \"deb\"/\"name\": \"evil\"/", "'evil'" },
		{ "s/\"format\": 1/\"format\": 2/", "another version" },
		{ "s/\"size_bytes\": 16/\"size_bytes\": 17/", "16 bytes" },
		{ "s/\"size_bytes\": 16/\"size_bytes\": -1/", "size_bytes" },
		{ "s/\"size_bytes\": 16/\"size_bytes\": \"16\"/", "size_bytes" },
		{ "s/\"release\": \"bookworm\",//", "release" },
		{ "s/bookworm/a\\\\u0007b/", "control" },
		{ "s/bookworm/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/", "longer than 31" },
		{ "s/\"vmlinuz\": \"../\"vmlinuz\": \"/", "digest" },
		{ "s/\"vmlinuz\": \"./\"vmlinuz\": \"Z/", "digest" },
		{ "s/\"sha256\": {/\"sha256\": 1, \"x\": {/", "rootfs.ext4" },
		{ "s/\"init\":/\"name\":/", "duplicate" },
		{ "s/}//", "line" },
		{ "1s/^/[1]/", "line" },
	};
	struct image img;
	struct err e;

	must_publish("deb");
	free(scratch_sh("cp %s/images/deb/image.json %s/good", (char *)*state, (char *)*state));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		free(scratch_sh("cd %s && sed '%s' good > images/deb/image.json && "
				"! cmp -s good images/deb/image.json",
				(char *)*state, bad[i].sed));
		memset(&e, 0, sizeof(e));
		assert_int_equal(image_open("deb", &img, &e), -EBADMSG);
		if (!strstr(e.msg, bad[i].story))
			fail_msg("'%s' does not say '%s'", e.msg, bad[i].story);
	}
	free(scratch_sh("cd %s && cp good images/deb/image.json && rm images/deb/vmlinuz",
			(char *)*state));
	assert_int_equal(image_open("deb", &img, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "vmlinuz"));
	free(scratch_sh("rm %s/images/deb/image.json", (char *)*state));
	assert_int_equal(image_open("deb", &img, &e), -EBADMSG);
}

/* Truncated anywhere, the manifest is refused and nothing is read beyond it. */
static void test_store__truncated_manifest_is_refused(void **state)
{
	struct image img;
	struct err e;
	char path[512];
	struct stat st;

	must_publish("deb");
	snprintf(path, sizeof(path), "%s/images/deb/image.json", (char *)*state);
	assert_int_equal(stat(path, &st), 0);
	for (off_t n = st.st_size - 2; n >= 0; n -= 3) {
		assert_int_equal(truncate(path, n), 0);
		assert_int_equal(image_open("deb", &img, &e), -EBADMSG);
	}
}

static void test_store__state_dir_must_be_absolute(void **state)
{
	char buf[256];
	struct err e;

	setenv("CLONE_STATE_DIR", "relative", 1);
	assert_int_equal(image_state_dir(buf, sizeof(buf), &e), -EINVAL);
	assert_non_null(strstr(e.msg, "CLONE_STATE_DIR"));
	setenv("CLONE_STATE_DIR", *state, 1);
	assert_int_equal(image_state_dir(buf, sizeof(buf), &e), 0);
	assert_string_equal(buf, *state);
	assert_int_equal(image_state_dir(buf, 3, &e), -ENAMETOOLONG);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, scratch_state_setup, scratch_state_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_store__names_are_checked_everywhere),
		CASE(test_store__what_was_published_is_read_back),
		CASE(test_store__list_is_sorted_and_leaves_out_the_damaged),
		CASE(test_store__taken_name_is_refused_and_kept),
		CASE(test_store__name_taken_meanwhile_is_not_replaced),
		CASE(test_store__one_build_of_a_name_at_a_time),
		CASE(test_store__killed_build_is_cleaned_by_the_next_command),
		CASE(test_store__running_build_is_not_cleaned),
		CASE(test_store__failed_build_keeps_its_log),
		CASE(test_store__removed_image_is_gone),
		CASE(test_store__changed_byte_is_found),
		CASE(test_store__lying_manifest_is_refused),
		CASE(test_store__truncated_manifest_is_refused),
		CASE(test_store__state_dir_must_be_absolute),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
