/* SPDX-License-Identifier: MIT */
/*
 * Running the programs of an image build: what is said when they fail, what they inherit, and that
 * neither a process they leave behind nor the death of the builder makes trouble.
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
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "image/proc.h"
#include "tests/lib/scratch.h"

static int sh(const char *script, struct err *e)
{
	const char *const argv[] = { "sh", "-c", script, NULL };
	const struct proc p = { .argv = argv, .log = -1, .keep_fd = -1 };

	return proc_run(&p, e);
}

static void test_proc__missing_program_is_named(void **state)
{
	static const char *const argv[] = { "no-such-program", NULL };
	const struct proc p = { .argv = argv, .log = -1, .keep_fd = -1 };
	struct err e;
	char *out;

	(void)state;
	assert_int_equal(proc_run(&p, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no-such-program"));
	assert_int_equal(proc_capture(argv, &out, &e), -ENOENT);
	assert_int_equal(proc_have("no-such-program", "its-package", &e), -ENOENT);
	assert_non_null(strstr(e.msg, "apt-get install its-package"));
	assert_int_equal(proc_have("sh", "dash", &e), 0);
}

static void test_proc__failure_tells_the_first_complaint_and_the_end(void **state)
{
	struct err e;

	(void)state;
	assert_int_equal(
		sh("echo start; echo 'E: the reason'; seq 100; echo 'I: cleaning up'; exit 3", &e),
		-EIO);
	assert_string_equal(e.msg, "sh failed with status 3: E: the reason / 99 / 100");
	assert_int_equal(sh("kill -9 $$", &e), -EIO);
	assert_string_equal(e.msg, "sh was killed by signal 9");
	assert_int_equal(sh("head -c 100000 /dev/zero | tr '\\0' x; exit 1", &e), -EIO);
	assert_int_equal(sh("true", &e), 0);
}

static void collect(void *arg, const char *text)
{
	strcat(strcat(arg, text), "|");
}

static void test_proc__lines_are_delivered_and_logged(void **state)
{
	const char *const argv[] = { "sh", "-c",
				     "echo a; echo b >&2; printf 'c\\rd'; echo \"$X $HOME_X\"",
				     NULL };
	static const char *const env[] = { "X=from-env", NULL };
	char *dir = scratch_make(), got[256] = "", *out;
	struct proc p = { .argv = argv, .env = env, .line = collect, .arg = got, .keep_fd = -1 };
	struct err e;

	(void)state;
	setenv("HOME_X", "leaks", 1);
	p.log = open(scratch_path(dir, "log"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	assert_int_equal(proc_run(&p, &e), 0);
	assert_string_equal(got, "a|b|c|dfrom-env |");
	close(p.log);
	out = scratch_sh("wc -l < %s/log", dir);
	assert_int_equal(atoi(out), 3);
	free(out);
	scratch_remove(dir);
}

/* A daemon that keeps the pipe must not keep us. */
static void test_proc__left_behind_process_does_not_hang_us(void **state)
{
	uint64_t start = time_mono_ns();
	struct err e;
	char *out;

	(void)state;
	assert_int_equal(sh("sleep 600 & echo started", &e), 0);
	{
		static const char *const argv[] = { "sh", "-c", "sleep 600 & echo $!", NULL };

		assert_int_equal(proc_capture(argv, &out, &e), 0);
	}
	assert_int_equal(kill(atoi(out), 0), 0);		/* nobody waited for its end, */
	assert_true(time_mono_ns() - start < 600 * NS_PER_SEC); /* nor for the first one's */
	kill(atoi(out), SIGKILL);
	free(out);
}

static void test_proc__output_without_end_is_refused(void **state)
{
	static const char *const argv[] = { "head", "-c", "3000000", "/dev/zero", NULL };
	struct err e;
	char *out;

	(void)state;
	assert_int_equal(proc_capture(argv, &out, &e), -EFBIG);
}

/* Only 0, 1, 2 and the lock are open in the program, and the lock is ours still. */
static void test_proc__only_the_lock_is_inherited(void **state)
{
	char *dir = scratch_make(), got[256] = "";
	const char *const argv[] = { "sh", "-c",
				     "for i in $(seq 0 30); do [ ! -e /proc/$$/fd/$i ] || "
				     "echo $i; done",
				     NULL };
	struct proc p = { .argv = argv, .log = -1, .line = collect, .arg = got };
	int stray = open("/dev/null", O_RDONLY), lock;
	struct err e;

	(void)state;
	lock = open(scratch_path(dir, "lock"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(flock(lock, LOCK_EX), 0);
	p.keep_fd = lock;
	assert_int_equal(proc_run(&p, &e), 0);
	assert_string_equal(got, "0|1|2|3|");
	close(stray);
	close(lock);
	scratch_remove(dir);
}

/* The program runs. */
static void tell(void *arg, const char *line)
{
	if (strcmp(line, "up") || write(*(int *)arg, "r", 1) != 1)
		_exit(1);
}

/* The builder dies by SIGKILL: the program is told, and the lock is free when it has gone. */
static void test_proc__program_ends_with_its_builder(void **state)
{
	char *dir = scratch_make();
	const char *path = scratch_path(dir, "lock");
	int ready[2], lock;
	char c;
	pid_t pid;

	(void)state;
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		const char *const argv[] = { "sh", "-c", "echo up; exec sleep 600", NULL };
		struct proc p = { .argv = argv, .log = -1, .line = tell, .arg = &ready[1] };

		p.keep_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (flock(p.keep_fd, LOCK_EX))
			_exit(1);
		_exit(proc_run(&p, NULL) ? 1 : 0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	lock = open(path, O_RDWR | O_CLOEXEC);
	assert_true(lock >= 0);
	alarm(120);
	assert_int_equal(flock(lock, LOCK_EX), 0);
	alarm(0);
	close(lock);
	close(ready[0]);
	close(ready[1]);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_proc__missing_program_is_named),
		cmocka_unit_test(test_proc__failure_tells_the_first_complaint_and_the_end),
		cmocka_unit_test(test_proc__lines_are_delivered_and_logged),
		cmocka_unit_test(test_proc__left_behind_process_does_not_hang_us),
		cmocka_unit_test(test_proc__output_without_end_is_refused),
		cmocka_unit_test(test_proc__only_the_lock_is_inherited),
		cmocka_unit_test(test_proc__program_ends_with_its_builder),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
