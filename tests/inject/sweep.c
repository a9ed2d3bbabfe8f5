/* SPDX-License-Identifier: MIT */
/*
 * Sweeps, see sweep.h. What a run's process says is kept and shown when it failed, with the call
 * that was made to fail and where from (addresses for addr2line).
 */
#include "tests/inject/sweep.h"

#include "tests/inject/machine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <dirent.h>
#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"

#define RUN_SECONDS 30
#define CALLS_MAX 20000
#define SAID_MAX 20000
#define FAILURES_SHOWN 8

/*
 * Where the process ends by design when there is no memory: nothing can be told to anybody there.
 */
static const char *const ends_by_design[] = {
	/* a few bytes a descriptor; its callers have opened something already and would only leak
	   it */
	"BUG at src/event/fdtab.c:",
	"!s\n",
	/* a few bytes of libevent's or of the kernel's; without them somebody waits for ever */
	"BUG at src/event/loop.c:",
	"event_add(",
	"BUG at src/event/loop.c:",
	"watch(",
};

int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

struct sweep_now *sweep_now;

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void list_fds(void)
{
	fflush(stdout);
	if (system("ls -l /proc/$PPID/fd >&2"))
		fprintf(stderr, "(no list)\n");
}

_Noreturn void sweep_fail(const char *fmt, ...)
{
	va_list ap;

	inject_disarm();
	va_start(ap, fmt);
	vsnprintf(sweep_now->why, sizeof(sweep_now->why), fmt, ap);
	va_end(ap);
	_exit(1);
}

static _Noreturn void run_one(const struct sweep_op *op, void *arg)
{
	int fds = count_fds(), now;
	struct err e = { "" };

	alarm(RUN_SECONDS);
	if (op->setup)
		op->setup(arg);
	if (!op->arms)
		inject_arm(sweep_now->nth, &sweep_now->injected);
	sweep_now->ret = op->run(arg, &e);
	if (!op->arms)
		sweep_now->hit = inject_disarm();
	memcpy(sweep_now->msg, e.msg, sizeof(sweep_now->msg));
	if (op->after)
		op->after(arg, sweep_now->ret);
	if (sweep_now->ret > 0)
		sweep_fail("it returned %d, which is no -errno", sweep_now->ret);
	if (sweep_now->ret && !e.msg[0])
		sweep_fail("it returned %d and told no story", sweep_now->ret);
	if (sweep_now->ret && !sweep_now->hit)
		sweep_fail("it failed though no call of it did");
	now = count_fds();
	if (now != fds) {
		list_fds();
		sweep_fail("%d descriptors were open before, %d after", fds, now);
	}
	if (__lsan_do_recoverable_leak_check && __lsan_do_recoverable_leak_check())
		sweep_fail("memory was lost");
	sweep_now->done = true;
	_exit(0);
}

static bool by_design(const char *said)
{
	for (size_t i = 0; i < ARRAY_SIZE(ends_by_design); i += 2) {
		const char *at = strstr(said, ends_by_design[i]);

		if (at && strstr(at, ends_by_design[i + 1]))
			return true;
	}
	return false;
}

static void show(const struct sweep_op *op, int status, const char *said)
{
	const struct injected *o = &sweep_now->injected;

	print_error("---- %s, call %u (%s %#lx): ", op->name, sweep_now->nth,
		    o->call ? o->call : "none failed", o->arg);
	if (WIFSIGNALED(status))
		print_error("signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		print_error("exit %d: %s (returned %d: %s)\n", WEXITSTATUS(status), sweep_now->why,
			    sweep_now->ret, sweep_now->msg);
	if (o->call)
		backtrace_symbols_fd(o->frames, o->nr_frames, STDERR_FILENO);
	print_error("%s", said);
}

/* One run in a process of its own. true: it went as it must. */
static bool run_nth(const struct sweep_op *op, void *arg, unsigned int nth)
{
	int said_fd = memfd_create("said", MFD_CLOEXEC), status;
	static char said[SAID_MAX + 1];
	bool ok;
	pid_t pid;
	ssize_t n;

	assert_true(said_fd >= 0);
	memset(sweep_now, 0, sizeof(*sweep_now));
	sweep_now->nth = nth;
	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		dup2(said_fd, STDERR_FILENO);
		dup2(said_fd, STDOUT_FILENO);
		close(said_fd);
		run_one(op, arg);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	n = pread(said_fd, said, SAID_MAX, 0);
	said[MAX(n, 0)] = '\0';
	close(said_fd);
	ok = sweep_now->done && !status;
	if (!ok && by_design(said)) {
		return true;
	}
	if (!ok)
		show(op, status, said);
	return ok;
}

void sweep(const struct sweep_op *op, void *arg)
{
	unsigned int failures = 0, none = 0, n;

	inject_init();
	if (!sweep_now)
		sweep_now = mmap(NULL, sizeof(*sweep_now), PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(sweep_now != MAP_FAILED);
	machine_share(sweep_now, sizeof(*sweep_now));
	for (n = 1; n < CALLS_MAX; n++) {
		if (!run_nth(op, arg, n) && ++failures == FAILURES_SHOWN)
			break;
		/* threads do not always make as many calls */
		none = sweep_now->injected.call ? 0 : none + 1;
		if (none == 3)
			break;
	}
	n -= MIN(n, 2);
	print_message("%s: %u calls failed\n", op->name, n - 1);
	if (failures)
		fail_msg("%s: %u runs went wrong", op->name, failures);
	if (sweep_now->ret)
		fail_msg("%s: %s", op->name, sweep_now->msg);
	if (n <= op->min)
		fail_msg("%s: only %u calls could fail", op->name, n - 1);
}
