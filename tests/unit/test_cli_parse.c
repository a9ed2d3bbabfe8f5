/* SPDX-License-Identifier: MIT */
/*
 * The CLI's arguments: names, sizes, durations, and what commands say to a command line that makes
 * no sense. Commands are called as main() calls them; none of these reaches a VM.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/balloonopt.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "tests/lib/scratch.h"

/* main.c's table is not in the library. */
const struct command cli_commands[] = {
	{ "run", cmd_run, "boot", cmd_run_usage },
	{ "hidden", cmd_help, NULL, "" },
	{ NULL, NULL, NULL, NULL },
};

/* What a terminal would act on, in each of its forms; other text stays. */
static void test_clean__leaves_text_in_one_line(void **state)
{
	char buf[32];

	(void)state;
	cli_clean("a\x1b]0;x\a\r\nb\x7f", buf, sizeof(buf));
	assert_string_equal(buf, "a ]0;x   b ");
	cli_clean("\xc2\x9b"
		  "31m\xc2\xa7\xc3\x9b",
		  buf, sizeof(buf));
	assert_string_equal(buf, "  31m\xc2\xa7\xc3\x9b");
	cli_clean("abc", buf, 3);
	assert_string_equal(buf, "ab");
}

static void test_name__rules(void **state)
{
	static const char *const good[] = {
		"a", "9", "web-1", "A.b_c-d",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	};
	static const char *const bad[] = {
		"",
		".",
		"..",
		"-a",
		"_a",
		".a",
		"a/b",
		"a b",
		"a\n",
		"\xc3\xa4",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	};
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_true(cli_name_ok(good[i]));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_false(cli_name_ok(bad[i]));
		assert_int_equal(cli_name_check("--name", bad[i], &e), -EINVAL);
	}
}

static void test_name__made_up_ones_are_names(void **state)
{
	char name[65], template[65];

	(void)state;
	memset(template, 't', 64);
	template[64] = '\0';
	for (int i = 0; i < 200; i++) {
		cli_auto_name(NULL, name, sizeof(name));
		assert_true(cli_name_ok(name));
		cli_auto_name(template, name, sizeof(name));
		assert_true(cli_name_ok(name));
	}
}

static void test_size__needs_a_unit(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes; /* 0: refused */
	} cases[] = {
		{ "512M", 512ull << 20 },
		{ "1g", 1ull << 30 },
		{ "2GiB", 2ull << 30 },
		{ "3TB", 3ull << 40 },
		{ "64K", 65536 },
		{ "512", 0 },
		{ "0M", 0 },
		{ "", 0 },
		{ "M", 0 },
		{ "-1M", 0 },
		{ " 1M", 0 },
		{ "1 M", 0 },
		{ "1.5G", 0 },
		{ "1X", 0 },
		{ "1MX", 0 },
		{ "99999999999999999999G", 0 },
		{ "18446744073709551615K", 0 },
	};
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t v = 0;
		int r = cli_parse_size(cases[i].text, &v, &e);

		if (r != (cases[i].bytes ? 0 : -EINVAL) || (!r && v != cases[i].bytes))
			fail_msg("%s: %d, %llu", cases[i].text, r, (unsigned long long)v);
	}
}

static void test_duration__units(void **state)
{
	static const struct {
		const char *text;
		uint64_t ms; /* 0: refused */
	} cases[] = {
		{ "10", 10000 },     { "10s", 10000 },
		{ "500ms", 500 },    { "2m", 120000 },
		{ "24h", 86400000 }, { "25h", 0 },
		{ "0", 0 },	     { "", 0 },
		{ "s", 0 },	     { "-1s", 0 },
		{ "1d", 0 },	     { "1 s", 0 },
		{ "1.5s", 0 },	     { "18446744073709551615h", 0 },
	};
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t v = 0;
		int r = cli_parse_duration(cases[i].text, &v, &e);

		if (r != (cases[i].ms ? 0 : -EINVAL) || (!r && v != cases[i].ms))
			fail_msg("%s: %d, %llu", cases[i].text, r, (unsigned long long)v);
	}
}

static void test_uint__range(void **state)
{
	struct err e;
	uint64_t v;

	(void)state;
	assert_int_equal(cli_parse_uint("64", 1, 64, &v, &e), 0);
	assert_int_equal(v, 64);
	assert_int_equal(cli_parse_uint("65", 1, 64, &v, &e), -EINVAL);
	assert_int_equal(cli_parse_uint("0", 1, 64, &v, &e), -EINVAL);
	assert_int_equal(cli_parse_uint("0x1", 1, 64, &v, &e), -EINVAL);
	assert_int_equal(cli_parse_uint("+1", 1, 64, &v, &e), -EINVAL);
	assert_int_equal(cli_parse_uint("", 0, 64, &v, &e), -EINVAL);
}

static void test_format__sizes_and_ages(void **state)
{
	char buf[32];

	(void)state;
	cli_format_size(0, buf, sizeof(buf));
	assert_string_equal(buf, "0B");
	cli_format_size(1536ull << 20, buf, sizeof(buf));
	assert_string_equal(buf, "1.5G");
	cli_format_size(512ull << 20, buf, sizeof(buf));
	assert_string_equal(buf, "512M");
	cli_format_age("not a time", buf, sizeof(buf));
	assert_string_equal(buf, "");
	cli_format_age("2020-01-01T00:00:00Z", buf, sizeof(buf));
	assert_int_equal(buf[strlen(buf) - 1], 'd');
	cli_format_now(buf, sizeof(buf));
	assert_int_equal(strlen(buf), 20);
}

/* Runs a command line with stderr going to `said`; returns its exit code. */
static int run(int (*fn)(int, char **), const char *line, char *said, size_t n)
{
	int fd = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO), argc = 0, code;
	char *argv[32], *copy = strdup(line), *save;
	ssize_t got;

	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	argv[argc] = NULL;
	optind = 0;
	fflush(stderr);
	dup2(fd, STDERR_FILENO);
	code = fn(argc, argv);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	got = pread(fd, said, n - 1, 0);
	said[got < 0 ? 0 : got] = '\0';
	close(fd);
	close(saved);
	free(copy);
	return code;
}

static void test_command__a_senseless_command_line_is_one_line_and_exit_2(void **state)
{
	static const struct {
		int (*fn)(int, char **);
		const char *line, *says;
	} cases[] = {
		{ cmd_run, "run", "--image" },
		{ cmd_run, "run --image a --kernel b", "--image" },
		{ cmd_run, "run --image a --initrd x", "--initrd" },
		{ cmd_disk, "disk", "create, info, check, export, resize, attach or detach" },
		{ cmd_disk, "disk resize x,format=raw", "SIZE" },
		{ cmd_disk, "disk attach vm", "a VM and a disk" },
		{ cmd_disk, "disk detach vm", "ID" },
		{ cmd_fork, "fork t -n 2 --disk x,format=raw,persistent", "one writer" },
		{ cmd_fork, "fork t --disk x", "format" },
		{ cmd_run, "run --kernel k --bays 9", "--bays" },
		{ cmd_run, "run --kernel k --disk x,format=raw,direct", "persistent" },
		{ cmd_template, "template create t --from x --bays 1", "--bays" },
		{ cmd_run, "run --kernel k --balloon", "--balloon" },
		{ cmd_run, "run --kernel k --balloon big",
		  "'big' is none of none, manual and auto" },
		{ cmd_run, "run --kernel k --balloon none,x=1", "none goes alone, without x=1" },
		{ cmd_run, "run --kernel k --balloon manual,x", "manual goes alone, without x" },
		{ cmd_run, "run --kernel k --balloon auto,idle", "--balloon: auto: idle: it is" },
		{ cmd_template, "template create t --from x --balloon auto", "say auto when you" },
		{ cmd_balloon, "balloon vm --auto=floor=1", "--auto: floor: '1' is not a size" },
		{ cmd_balloon, "balloon vm --auto --manual", "one at a time" },
		{ cmd_balloon, "balloon vm 1M --auto", "one at a time" },
		{ cmd_fork, "fork t --balloon none", "the devices of what it comes out of" },
		{ cmd_restore, "restore s --balloon none", "the devices of what it comes out of" },
		{ cmd_template, "template create t --from x --balloon none", "--image" },
		{ cmd_template, "template inspect -o xml t", "xml" },
		{ cmd_template, "template inspect -o text", "template: inspect: which" },
		{ cmd_template, "template inspect t -o", "-o" },
		{ cmd_template, "template inspect t --output xml", "xml" },
		{ cmd_snapshot, "snapshot inspect s -x", "-x" },
		{ cmd_park, "park --output xml vm", "xml" },
		{ cmd_unpark, "unpark --output json", "which VM" },
		{ cmd_balloon, "balloon", "which VM" },
		{ cmd_balloon, "balloon a 1M 2M", "which VM" },
		{ cmd_balloon, "balloon a 256", "unit" },
		{ cmd_balloon, "balloon a 0M", "0M" },
		{ cmd_balloon, "balloon a 100K", "100K: a balloon has whole MiB" },
		{ cmd_balloon, "balloon a -1M", "-1" },
		{ cmd_balloon, "balloon a 1M --hint", "one at a time" },
		{ cmd_balloon, "balloon a --no-wait", "SIZE" },
		{ cmd_balloon, "balloon a --hint --no-wait", "SIZE" },
		{ cmd_balloon, "balloon a -o xml", "xml" },
		{ cmd_disk, "disk create", "one file" },
		{ cmd_disk, "disk create x", "--size" },
		{ cmd_disk, "disk create x --size 1000", "unit" },
		{ cmd_disk, "disk create x --size 1M --cluster 3K", "none of 512, 1K, 2K" },
		{ cmd_disk, "disk create x --size 1M --format vmdk", "vmdk" },
		{ cmd_disk, "disk create x --size 1M --format raw --cluster 4K", "raw" },
		{ cmd_disk, "disk info", "one disk" },
		{ cmd_disk, "disk export x,format=raw", "new file" },
		{ cmd_disk, "disk check x y", "one qcow2" },
		{ cmd_run, "run --image ../a", "--image" },
		{ cmd_run, "run --kernel k --disk x", "format" },
		{ cmd_run, "run --kernel k --disk x,format=vmdk", "vmdk" },
		{ cmd_run, "run --kernel k --disk x,format=raw,serial=123456789012345678901",
		  "serial" },
		{ cmd_run, "run --kernel k --disk x,format=qcow2,backing=", "backing" },
		{ cmd_run, "run --kernel k --disk x,format=raw,persistent,quota=1M", "quota" },
		{ cmd_run, "run --kernel k --disk x,format=raw,iops=0", "iops" },
		{ cmd_run, "run --kernel k --disk x,raw", "raw" },
		{ cmd_run, "run --kernel k --memory 512", "unit" },
		{ cmd_run, "run --kernel k --memory", "--memory" },
		{ cmd_run, "run --kernel k --cpus 65", "65" },
		{ cmd_run, "run --kernel k --cpus two", "two" },
		{ cmd_run, "run --kernel k --timeout 5y", "5y" },
		{ cmd_run, "run --kernel k --bogus", "--bogus" },
		{ cmd_run, "run --kernel k -x", "-x" },
		{ cmd_run, "run --kernel k command", "command" },
		{ cmd_run, "run --kernel k -o json", "-d" },
		{ cmd_run, "run --kernel k -d -o yaml", "yaml" },
		{ cmd_exec, "exec", "VM" },
		{ cmd_exec, "exec vm", "command" },
		{ cmd_exec, "exec vm --", "command" },
		{ cmd_exec, "exec -e =x vm -- true", "KEY=VALUE" },
		{ cmd_exec, "exec -e PATH vm -- true", "KEY=VALUE" },
		{ cmd_exec, "exec --timeout soon vm -- true", "soon" },
		{ cmd_fork, "fork", "one" },
		{ cmd_fork, "fork -n 0 a", "-n" },
		{ cmd_fork, "fork -n x a", "-n" },
		{ cmd_fork, "fork a b", "one" },
		{ cmd_ls, "ls x", "x" },
		{ cmd_ls, "ls -o xml", "xml" },
		{ cmd_rm, "rm", "VM" },
		{ cmd_rm, "rm --all x", "--all" },
		{ cmd_stop, "stop", "VM" },
		{ cmd_stop, "stop --timeout -1 x", "-1" },
		{ cmd_kill, "kill", "VM" },
		{ cmd_pause, "pause", "VM" },
		{ cmd_resume, "resume -x", "-x" },
		{ cmd_logs, "logs", "VM" },
		{ cmd_logs, "logs a b", "VM" },
		{ cmd_console, "console", "VM" },
		{ cmd_inspect, "inspect", "VM" },
		{ cmd_image, "image", "build" },
		{ cmd_image, "image frob", "build" },
		{ cmd_image, "image build", "debian" },
		{ cmd_image, "image build gentoo", "gentoo" },
		{ cmd_image, "image build debian --kernel tiny", "cloud" },
		{ cmd_image, "image build debian --init upstart", "systemd" },
		{ cmd_image, "image rm", "image" },
		{ cmd_template, "template", "create" },
		{ cmd_template, "template create", "name" },
		{ cmd_template, "template create x", "--image" },
		{ cmd_template, "template verify", "template" },
		{ cmd_completion, "completion", "bash" },
		{ cmd_completion, "completion tcsh", "bash" },
		{ cmd_help, "help frob", "frob" },
		{ cmd_help, "help hidden", "hidden" },
		{ cmd_version, "version -x", "-x" },
		{ cmd_doctor, "doctor x", "x" },
	};
	char said[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int code = run(cases[i].fn, cases[i].line, said, sizeof(said));

		if (code != CLI_USAGE)
			fail_msg("%s: exit %d: %s", cases[i].line, code, said);
		if (strncmp(said, "clone: ", 7) || strchr(said, '\n') != said + strlen(said) - 1)
			fail_msg("%s: not one line: %s", cases[i].line, said);
		if (!strstr(said, cases[i].says))
			fail_msg("%s: says %s", cases[i].line, said);
	}
}

static void test_command__what_is_not_there_is_one_line_and_exit_1(void **state)
{
	static const struct {
		int (*fn)(int, char **);
		const char *line;
	} cases[] = {
		{ cmd_stop, "stop nothere" },
		{ cmd_kill, "kill nothere" },
		{ cmd_pause, "pause nothere" },
		{ cmd_resume, "resume nothere" },
		{ cmd_rm, "rm nothere" },
		{ cmd_logs, "logs nothere" },
		{ cmd_inspect, "inspect nothere" },
		{ cmd_balloon, "balloon nothere" },
		{ cmd_balloon, "balloon nothere 0" },
		{ cmd_balloon, "balloon nothere 64M --no-wait" },
		{ cmd_balloon, "balloon nothere --hint" },
		{ cmd_template, "template inspect nothere" },
		{ cmd_console, "console nothere" },
		{ cmd_fork, "fork nothere" },
		{ cmd_template, "template verify nothere" },
		{ cmd_template, "template rm nothere" },
		{ cmd_image, "image rm nothere" },
		{ cmd_image, "image inspect nothere" },
		{ cmd_run, "run -d --image nothere" },
		{ cmd_template, "template create t --image nothere" },
	};
	char said[1024];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		int code = run(cases[i].fn, cases[i].line, said, sizeof(said));

		if (code != CLI_FAIL || !strstr(said, "nothere") || strncmp(said, "clone: ", 7) ||
		    strchr(said, '\n') != said + strlen(said) - 1)
			fail_msg("%s: exit %d: %s", cases[i].line, code, said);
	}
	assert_int_equal(run(cmd_exec, "exec nothere -- true", said, sizeof(said)),
			 CLI_EXEC_FAILED);
	assert_non_null(strstr(said, "nothere"));
}

static void test_balloon_option__the_last_one_counts(void **state)
{
	struct balloon_option b = { 0 };
	char none[] = "none", manual[] = "manual", other[] = "no",
	     automatic[] = "auto,idle=9s,psi=7%";
	struct err e;

	(void)state;
	assert_int_equal(balloon_option(&b, true, none, &e), 0);
	assert_true(b.none);
	assert_null(b.policy);
	/* one that is refused changes nothing */
	assert_int_equal(balloon_option(&b, true, other, &e), -EINVAL);
	assert_true(b.none);
	assert_int_equal(balloon_option(&b, false, manual, &e), 0);
	assert_false(b.none);
	assert_string_equal(json_string_value(json_object_get(b.policy, "mode")), "manual");
	assert_int_equal(balloon_option(&b, false, automatic, &e), 0);
	assert_string_equal(json_string_value(json_object_get(b.policy, "mode")), "auto");
	assert_int_equal(json_integer_value(json_object_get(b.policy, "idle_s")), 9);
	assert_int_equal(json_integer_value(json_object_get(b.policy, "psi_some")), 7);
	balloon_option_fini(&b);
	assert_null(b.policy);
	/* nothing to say: nobody is asked */
	assert_int_equal(balloon_option_apply(&b, NULL, &e), 0);
}

static void test_error__stays_on_one_line(void **state)
{
	char said[1024];
	struct err e;
	int fd = memfd_create("stderr", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
	ssize_t n;

	(void)state;
	err_set(&e, EIO, "a guest said:\r\n\x1b[2Jowned\x7f");
	fflush(stderr);
	dup2(fd, STDERR_FILENO);
	assert_int_equal(cli_fail(&e), CLI_FAIL);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	n = pread(fd, said, sizeof(said) - 1, 0);
	assert_true(n > 0);
	said[n] = '\0';
	assert_string_equal(said, "clone: a guest said:   [2Jowned \n");
	close(fd);
	close(saved);
}

static void test_json__is_ascii_and_what_it_was(void **state)
{
	static const char key[] = "k\x7f\xc2\x9b", value[] = "\x1b[2J\x7f\xc2\x9b\xc3\xa4\"\\";
	int fd = memfd_create("stdout", MFD_CLOEXEC), saved = dup(STDOUT_FILENO);
	json_t *j = json_pack("{s:s}", key, value);
	char said[256];
	ssize_t n;

	(void)state;
	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	assert_int_equal(cli_print_json(json_incref(j)), CLI_OK);
	dup2(saved, STDOUT_FILENO);
	n = pread(fd, said, sizeof(said) - 1, 0);
	assert_true(n > 0);
	said[n] = '\0';
	assert_string_equal(said, "{\n  \"k\\u007F\\u009B\": "
				  "\"\\u001B[2J\\u007F\\u009B\\u00E4\\\"\\\\\"\n}\n");
	json_decref(j);
	j = json_loads(said, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(j, key)), value);
	json_decref(j);
	close(fd);
	close(saved);
}

/* What bash offers after these words. */
static char *offered(const char *words)
{
	const char *script = scratch_path(getenv("CLONE_STATE_DIR"), "completion");
	char cmd[] = "completion", bash[] = "bash", *argv[] = { cmd, bash, NULL };
	int fd = open(script, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
	    saved = dup(STDOUT_FILENO);

	fflush(stdout);
	dup2(fd, STDOUT_FILENO);
	assert_int_equal(cmd_completion(2, argv), CLI_OK);
	dup2(saved, STDOUT_FILENO);
	close(fd);
	close(saved);
	return scratch_sh("bash -c 'source %s; COMP_WORDS=(%s \"\"); "
			  "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _clone; echo ${COMPREPLY[*]}'",
			  script, words);
}

static void test_completion__offers_what_an_option_takes(void **state)
{
	static const char *const cases[][2] = {
		{ "clone fork web --memory-quota", "none\n" },
		{ "clone template create web --ksm", "none\n" },
		{ "clone run --balloon", "none manual auto\n" },
		{ "clone stats --output", "json text\n" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *out = offered(cases[i][0]);

		assert_string_equal(out, cases[i][1]);
		free(out);
	}
}

static int set_up(void **state)
{
	char *dir = strdup("/tmp/clone-test-cli-XXXXXX"), *run_dir;

	assert_non_null(mkdtemp(dir));
	setenv("CLONE_STATE_DIR", dir, 1);
	assert_true(asprintf(&run_dir, "%s/run", dir) > 0);
	setenv("CLONE_RUN_DIR", run_dir, 1);
	free(run_dir);
	*state = dir;
	return 0;
}

static int tear_down(void **state)
{
	char *cmd;

	assert_true(asprintf(&cmd, "rm -rf '%s'", (char *)*state) > 0);
	assert_int_equal(system(cmd), 0);
	free(cmd);
	free(*state);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_clean__leaves_text_in_one_line),
		cmocka_unit_test(test_name__rules),
		cmocka_unit_test(test_name__made_up_ones_are_names),
		cmocka_unit_test(test_size__needs_a_unit),
		cmocka_unit_test(test_duration__units),
		cmocka_unit_test(test_uint__range),
		cmocka_unit_test(test_format__sizes_and_ages),
		cmocka_unit_test(test_command__a_senseless_command_line_is_one_line_and_exit_2),
		cmocka_unit_test(test_command__what_is_not_there_is_one_line_and_exit_1),
		cmocka_unit_test(test_balloon_option__the_last_one_counts),
		cmocka_unit_test(test_error__stays_on_one_line),
		cmocka_unit_test(test_json__is_ascii_and_what_it_was),
		cmocka_unit_test(test_completion__offers_what_an_option_takes),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
