/* SPDX-License-Identifier: MIT */
/*
 * The module index: order, names, soft dependencies, what is built in; damaged and hostile indexes;
 * compressed modules.
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

#include "base/util.h"
#include "image/modules.h"
#include "tests/lib/scratch.h"

/* Loads `names` (separated by blanks) and compares the order, paths separated by blanks. */
static int resolve(const char *dir, const char *names, char *got, size_t n, struct err *e)
{
	cleanup_free char *copy = strdup(names);
	struct modules *m = NULL;
	struct module_list l;
	char *rest = copy, *name;
	size_t used = 0;
	int r = modules_open(dir, &m, e);

	got[0] = '\0';
	if (r)
		return r;
	module_list_init(&l, m);
	while (!r && (name = strsep(&rest, " ")))
		r = module_list_add(&l, name, e);
	for (size_t i = 0; i < l.count && used < n; i++)
		used += (size_t)snprintf(got + used, n - used, "%s%s", i ? " " : "", l.path[i]);
	module_list_fini(&l);
	modules_close(m);
	return r;
}

static void expect(const char *dir, const char *names, const char *want)
{
	char got[4096];
	struct err e;

	if (resolve(dir, names, got, sizeof(got), &e))
		fail_msg("%s", e.msg);
	assert_string_equal(got, want);
}

static void expect_error(const char *dir, const char *names, int error, const char *story)
{
	char got[4096];
	struct err e = { "" };

	assert_int_equal(resolve(dir, names, got, sizeof(got), &e), error);
	if (!strstr(e.msg, story))
		fail_msg("'%s' does not say '%s'", e.msg, story);
}

static const char dep[] = "kernel/v/virtio.ko: kernel/v/virtio_ring.ko\n"
			  "kernel/v/virtio_ring.ko:\n"
			  "kernel/v/virtio_pci.ko: kernel/v/virtio-modern.ko kernel/v/virtio.ko "
			  "kernel/v/virtio_ring.ko\n"
			  "kernel/v/virtio-modern.ko:\n"
			  "kernel/c/virtio-rng.ko.xz: kernel/v/virtio.ko kernel/v/virtio_ring.ko\n";

static void test_modules__what_is_needed_comes_first_and_once(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep", dep);
	expect(dir, "virtio_pci",
	       "kernel/v/virtio_ring.ko kernel/v/virtio.ko "
	       "kernel/v/virtio-modern.ko kernel/v/virtio_pci.ko");
	expect(dir, "virtio_rng virtio_pci virtio_rng",
	       "kernel/v/virtio_ring.ko kernel/v/virtio.ko kernel/c/virtio-rng.ko.xz "
	       "kernel/v/virtio-modern.ko kernel/v/virtio_pci.ko");
	scratch_remove(dir);
}

static void test_modules__dash_and_underscore_are_the_same(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep", dep);
	scratch_text(dir, "modules.builtin", "kernel/fs/some-fs.ko\n");
	expect(dir, "virtio_modern", "kernel/v/virtio-modern.ko");
	expect(dir, "virtio-modern", "kernel/v/virtio-modern.ko");
	expect(dir, "some_fs some-fs", "");
	scratch_remove(dir);
}

static void test_modules__built_in_needs_nothing(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep", "kernel/a.ko: kernel/ext4.ko\n");
	scratch_text(dir, "modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/lib/x.ko\n");
	expect(dir, "ext4 a x", "kernel/a.ko");
	scratch_remove(dir);
}

static void test_modules__missing_one_is_named(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep", dep);
	expect_error(dir, "virtio_pci nosuch", -ENOENT, "nosuch");
	expect_error(dir, "nosuch", -ENOENT, dir);
	expect_error(dir, "", -ENOENT, "not built in");
	expect_error(dir, "../virtio", -ENOENT, "../virtio");
	scratch_remove(dir);
}

static void test_modules__soft_dependencies_are_followed(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep",
		     "k/ext4.ko: k/jbd2.ko\nk/jbd2.ko:\nk/crc32c_generic.ko:\n"
		     "k/crc32c-intel.ko: k/jbd2.ko\nk/late.ko: k/ext4.ko\n");
	scratch_text(dir, "modules.softdep",
		     "# comment\nsoftdep ext4 pre: crypto-crc32c gone "
		     "post: late\nsoftdep other pre: late\n");
	scratch_text(dir, "modules.alias",
		     "alias crypto-crc32c crc32c_generic\n"
		     "alias pci:v1d* nothing\nalias crypto_crc32c "
		     "crc32c_intel\n");
	expect(dir, "ext4", "k/crc32c_generic.ko k/jbd2.ko k/crc32c-intel.ko k/ext4.ko k/late.ko");
	scratch_remove(dir);
}

static void test_modules__circle_is_an_error(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "modules.dep",
		     "k/a.ko: k/b.ko\nk/b.ko: k/c.ko\nk/c.ko: k/a.ko\nk/d.ko: k/d.ko\n");
	expect_error(dir, "a", -ELOOP, "needs itself");
	expect_error(dir, "d", -ELOOP, "line 4");
	scratch_remove(dir);
}

static void test_modules__long_chain_is_an_error(void **state)
{
	char *dir = scratch_make(), text[8192];
	size_t used = 0;

	(void)state;
	for (int i = 0; i < 200; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "k/m%d.ko: k/m%d.ko\n",
					 i, i + 1);
	snprintf(text + used, sizeof(text) - used, "k/m200.ko:\n");
	scratch_text(dir, "modules.dep", text);
	expect_error(dir, "m0", -ELOOP, "modules.dep");
	expect(dir, "m199", "k/m200.ko k/m199.ko");
	scratch_remove(dir);
}

static void test_modules__malformed_index_is_refused(void **state)
{
	static const struct {
		const char *text, *story;
	} bad[] = {
		{ "k/a.ko:\nk/b.ko\n", "line 2: no colon" },
		{ "/etc/passwd.ko:\n", "line 1" },
		{ "../../a.ko:\n", "line 1" },
		{ "k/../../a.ko:\n", "line 1" },
		{ "k/a.ko:\nk/a.txt:\n", "line 2" },
		{ "k/.ko:\n", "line 1" },
		{ "k/a.kopy:\n", "line 1" },
		{ ":\n", "line 1" },
		{ "k/a.ko:\nx/a.ko:\n", "lines 1 and 2" },
		{ "k/0123456789012345678901234567890123456789012345678901234567890123456789.ko:\n",
		  "line 1" },
	};
	char *dir = scratch_make();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		scratch_text(dir, "modules.dep", bad[i].text);
		expect_error(dir, "a", -EBADMSG, bad[i].story);
	}
	scratch_write(dir, "modules.dep", "k/a.ko:\0\n", 9);
	expect_error(dir, "a", -EBADMSG, "NUL");
	scratch_text(dir, "modules.dep", "k/a.ko: k/gone.ko\n");
	expect_error(dir, "a", -EBADMSG, "k/gone.ko");
	scratch_text(dir, "modules.dep", "k/a.ko: nonsense\n");
	expect_error(dir, "a", -EBADMSG, "nonsense");
	scratch_text(dir, "modules.dep", "k/a.ko:\n");
	scratch_text(dir, "modules.builtin", "rubbish\n");
	expect_error(dir, "a", -EBADMSG, "modules.builtin: line 1");
	scratch_remove(dir);
}

static void test_modules__no_index_says_depmod(void **state)
{
	char *dir = scratch_make();

	(void)state;
	expect_error(dir, "a", -ENOENT, "depmod");
	scratch_text(dir, "modules.dep", "");
	expect_error(dir, "a", -ENOENT, "no module a");
	scratch_remove(dir);
}

static int read_module(const char *dir, const char *name, struct wbuf *w, struct err *e)
{
	wbuf_init(w, MODULE_MAX_BYTES);
	return module_read(dir, name, w, e);
}

static void test_modules__every_compression_gives_the_same(void **state)
{
	static const char *const names[] = { "m.ko", "m.ko.xz", "m.ko.zst", "m.ko.gz" };
	uint8_t *elf = malloc(700000);
	char *dir = scratch_make();
	struct wbuf w;
	struct err e;

	(void)state;
	assert_non_null(elf);
	for (size_t i = 0; i < 700000; i++)
		elf[i] = (uint8_t)(i * i >> 9);
	memcpy(elf, "\177ELF", 4);
	scratch_write(dir, "m.ko", elf, 700000);
	free(scratch_sh("cd %s && xz -k m.ko && zstd -q m.ko && gzip -k m.ko", dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (read_module(dir, names[i], &w, &e))
			fail_msg("%s", e.msg);
		assert_int_equal(w.len, 700000);
		assert_memory_equal(w.data, elf, 700000);
		wbuf_fini(&w);
	}
	free(elf);
	scratch_remove(dir);
}

/* Three ways to ruin a file: cut it, overwrite some of it, empty it. */
static void ruin(const char *dir, const char *name, int how)
{
	if (how == 0)
		free(scratch_sh("cd %s && truncate -s 40 %s", dir, name));
	else if (how == 1)
		free(scratch_sh("cd %s && printf '\\377\\377\\377\\377\\377\\377\\377\\377' | "
				"dd of=%s bs=1 seek=20 conv=notrunc status=none",
				dir, name));
	else
		free(scratch_sh("cd %s && truncate -s 0 %s", dir, name));
}

static void test_modules__damaged_or_cut_module_is_refused(void **state)
{
	static const char *const names[] = { "m.ko.xz", "m.ko.zst", "m.ko.gz" };
	char *dir = scratch_make();
	uint8_t elf[4096] = "\177ELF";
	struct wbuf w;
	struct err e;

	(void)state;
	for (size_t i = 4; i < sizeof(elf); i++)
		elf[i] = (uint8_t)(i * 2654435761u >> 13);
	for (int how = 0; how < 3; how++) {
		scratch_write(dir, "m.ko", elf, sizeof(elf));
		free(scratch_sh("cd %s && xz -kf m.ko && zstd -qf m.ko && gzip -kf m.ko", dir));
		for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
			ruin(dir, names[i], how);
			assert_int_equal(read_module(dir, names[i], &w, &e), -EBADMSG);
			assert_non_null(strstr(e.msg, names[i]));
			assert_int_equal(w.len, 0);
			wbuf_fini(&w);
		}
	}
	scratch_remove(dir);
}

static void test_modules__bomb_is_refused(void **state)
{
	static const char *const names[] = { "b.ko.xz", "b.ko.zst", "b.ko.gz" };
	char *dir = scratch_make();
	struct wbuf w;
	struct err e;

	(void)state;
	free(scratch_sh(
		"cd %s && truncate -s 70M b.ko && xz -1k b.ko && zstd -q b.ko && gzip -1k b.ko",
		dir));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		wbuf_init(&w, MIB(256));
		assert_int_equal(module_read(dir, names[i], &w, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "larger than 64 MiB"));
		wbuf_fini(&w);
	}
	scratch_remove(dir);
}

static void test_modules__no_elf_is_refused(void **state)
{
	char *dir = scratch_make(), junk[100];
	struct wbuf w;
	struct err e;

	(void)state;
	memset(junk, 'x', sizeof(junk));
	scratch_write(dir, "m.ko", junk, sizeof(junk));
	assert_int_equal(read_module(dir, "m.ko", &w, &e), -EBADMSG);
	wbuf_fini(&w);
	assert_int_equal(read_module(dir, "none.ko", &w, &e), -ENOENT);
	wbuf_fini(&w);
	free(scratch_sh("mkfifo %s/f.ko", dir));
	assert_int_equal(read_module(dir, "f.ko", &w, &e), -EBADMSG);
	wbuf_fini(&w);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_modules__what_is_needed_comes_first_and_once),
		cmocka_unit_test(test_modules__dash_and_underscore_are_the_same),
		cmocka_unit_test(test_modules__built_in_needs_nothing),
		cmocka_unit_test(test_modules__missing_one_is_named),
		cmocka_unit_test(test_modules__soft_dependencies_are_followed),
		cmocka_unit_test(test_modules__circle_is_an_error),
		cmocka_unit_test(test_modules__long_chain_is_an_error),
		cmocka_unit_test(test_modules__malformed_index_is_refused),
		cmocka_unit_test(test_modules__no_index_says_depmod),
		cmocka_unit_test(test_modules__every_compression_gives_the_same),
		cmocka_unit_test(test_modules__damaged_or_cut_module_is_refused),
		cmocka_unit_test(test_modules__bomb_is_refused),
		cmocka_unit_test(test_modules__no_elf_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
