/* SPDX-License-Identifier: MIT */
/*
 * Which mirror a build uses, from source lists as hosts really have them.
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
#include "image/debsrc.h"
#include "tests/lib/scratch.h"

#define KEY "[signed-by=" DEBSRC_KEYRING "] "

static void expect(const char *release, const char *mirror, const char *etc, const char *want)
{
	cleanup_free char *got = NULL;
	struct err e;

	if (debsrc_lines(release, mirror, etc, &got, &e))
		fail_msg("%s", e.msg);
	assert_string_equal(got, want);
}

static void expect_host(const char *etc, const char *main_uri, const char *security_uri)
{
	char want[2048];

	snprintf(want, sizeof(want),
		 "deb " KEY "%s bookworm main\ndeb " KEY "%s bookworm-updates main\n"
		 "deb " KEY "%s bookworm-security main\n",
		 main_uri, main_uri, security_uri);
	expect("bookworm", NULL, etc, want);
}

static void test_debsrc__default_without_lists(void **state)
{
	char *dir = scratch_make();

	(void)state;
	expect_host(dir, "http://deb.debian.org/debian", "http://deb.debian.org/debian-security");
	scratch_remove(dir);
}

static void test_debsrc__one_line_format(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "sources.list",
		     "# deb http://old.example/debian bookworm main\n"
		     "deb-src http://src.example/debian bookworm main\n"
		     "deb http://m.example/debian bullseye main\n"
		     "deb [arch=amd64 signed-by=/k] https://download.docker.com/linux/debian "
		     "bookworm stable\n"
		     "deb https://packages.example/php bookworm main\n"
		     "deb file:/srv/debian bookworm main\n"
		     "deb [ arch=amd64 ] http://ftp.example/debian/ bookworm main contrib\n"
		     "deb http://sec.example/debian-security bookworm-security main\n");
	expect_host(dir, "http://ftp.example/debian", "http://sec.example/debian-security");
	scratch_remove(dir);
}

static void test_debsrc__stanza_format(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "sources.list.d/off.sources",
		     "Types: deb\nURIs: http://off.example/debian\nSuites: bookworm\n"
		     "Components: main\nEnabled: no\n");
	scratch_text(dir, "sources.list.d/debian.sources",
		     "Types: deb\n# a comment\nURIs: http://on.example/debian\n"
		     "Suites: bookworm\n bookworm-updates\nComponents: main\n\n"
		     "types: deb\nuris: http://on.example/debian-security\n"
		     "suites: bookworm-security\ncomponents: main");
	scratch_text(dir, "sources.list.d/ignored.save",
		     "deb http://x.example/debian bookworm main\n");
	expect_host(dir, "http://on.example/debian", "http://on.example/debian-security");
	scratch_remove(dir);
}

static void test_debsrc__given_mirror_wins(void **state)
{
	char *dir = scratch_make();

	(void)state;
	scratch_text(dir, "sources.list", "deb http://ftp.example/debian bookworm main\n");
	expect("trixie", "http://my.example/debian/", dir,
	       "deb " KEY "http://my.example/debian trixie main\n"
	       "deb " KEY "http://my.example/debian trixie-updates main\n"
	       "deb " KEY "http://my.example/debian-security trixie-security main\n");
	expect("bookworm", "http://my.example/frozen", dir,
	       "deb " KEY "http://my.example/frozen bookworm main\n"
	       "deb " KEY "http://my.example/frozen bookworm-updates main\n");
	expect("sid", "http://my.example/debian", dir,
	       "deb " KEY "http://my.example/debian sid main\n");
	scratch_remove(dir);
}

static void test_debsrc__bad_release_or_mirror_is_refused(void **state)
{
	static const char *const releases[] = { "",
						"a b",
						"a\nb",
						"../x",
						"Bookworm",
						"x]",
						"abcdefghijklmnopqrstuvwxyzabcdefghijklmnop" };
	static const char *const mirrors[] = {
		"ftp://x/debian", "http://x/a b", "http://x/\ndeb evil", "file:/x", "", "http://x/'"
	};
	char *out;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(releases); i++)
		assert_int_equal(debsrc_lines(releases[i], NULL, "/nonexistent", &out, &e),
				 -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(mirrors); i++)
		assert_int_equal(debsrc_lines("bookworm", mirrors[i], "/nonexistent", &out, &e),
				 -EINVAL);
}

/* Lists are root's, but a broken one must not stop a build. */
static void test_debsrc__rubbish_in_lists_is_skipped(void **state)
{
	char *dir = scratch_make(), junk[5000];

	(void)state;
	memset(junk, 'x', sizeof(junk));
	scratch_write(dir, "sources.list", junk, sizeof(junk));
	scratch_write(dir, "sources.list.d/a.sources", junk, sizeof(junk));
	scratch_text(dir, "sources.list.d/b.list", "deb\ndeb \ndeb [\ndeb []\ndeb [x] http://\n");
	scratch_text(dir, "sources.list.d/c.sources",
		     ":\nURIs\n URIs:\nSuites: bookworm\n\n\nURIs: x\n");
	expect_host(dir, "http://deb.debian.org/debian", "http://deb.debian.org/debian-security");
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_debsrc__default_without_lists),
		cmocka_unit_test(test_debsrc__one_line_format),
		cmocka_unit_test(test_debsrc__stanza_format),
		cmocka_unit_test(test_debsrc__given_mirror_wins),
		cmocka_unit_test(test_debsrc__bad_release_or_mirror_is_refused),
		cmocka_unit_test(test_debsrc__rubbish_in_lists_is_skipped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
