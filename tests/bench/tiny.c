/* SPDX-License-Identifier: MIT */
/*
 * Clocks that need no guest of any size: fork(2) and exec(2) of /bin/true, and the warm fork of a
 * tiny guest with every device and the whole jail, on the machine that we run on (any /dev/kvm will
 * do). Prints one JSON object a line: name, clock, unit, and every sample in "values".
 *
 * usage: tiny SCRATCH-DIRECTORY. It is also its own VM process (`tiny vm FD`), as clone is.
 */
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/seed.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_seed.h"
#include "vm/vm.h"

#define SAMPLES 100
#define WARMUP 5
#define APART_US 250000

static _Noreturn void die(const char *what, const struct err *e)
{
	fprintf(stderr, "tiny: %s: %s\n", what, e ? e->msg : "failed");
	exit(1);
}

/* Takes over the values. */
static void report(const char *name, const char *clock, const char *peer, json_t *values)
{
	json_t *j = json_pack("{s:s, s:s, s:s, s:s*, s:o}", "name", name, "clock", clock, "unit",
			      "ns", "peer", peer, "values", values);

	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(j);
}

static void add(json_t *values, uint64_t from, uint64_t to)
{
	json_array_append_new(values, json_integer((json_int_t)(to - from)));
}

static void bench_true(void)
{
	json_t *values = json_array();

	for (int i = 0; i < SAMPLES; i++) {
		uint64_t t0 = time_mono_ns();
		pid_t pid = fork();
		int status;

		if (pid == 0) {
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
			die("/bin/true", NULL);
		add(values, t0, time_mono_ns());
	}
	report("native_true", "fork(2) called to waitpid(2) returned", NULL, values);
}

/* The child's own clock of its first exit: the guest has run by then. */
static uint64_t first_exit(const struct vmdir *d)
{
	json_t *reply = NULL;
	struct client *c;
	uint64_t ns = 0;
	struct err e;

	if (client_open(d->fd, &c, &e))
		die("child", &e);
	while (!ns) {
		if (client_request(c, "GET", "/stats", NULL, TINY_MS, &reply, &e))
			die("stats", &e);
		ns = (uint64_t)json_integer_value(
			json_object_get(json_object_get(reply, "clocks"), "first_exit_ns"));
		json_decref(reply);
	}
	client_close(c);
	return ns;
}

static void end_child(struct vmdir *d, pid_t pid)
{
	struct err e;

	kill(pid, SIGKILL);
	if (vmdir_wait_end(d, TINY_MS, -1, &e) || vmdir_remove(d, &e))
		die("end", &e);
	vmdir_close(d);
}

/* One fork at a time, as far apart as a seed needs to make its spares again. */
static void bench_fork(const struct tiny_snapshot *f, unsigned int spares, const char *name,
		       const char *clock)
{
	json_t *request = json_array(), *whole = json_array();
	struct tiny_seed seed;
	char prepared[64];
	struct err e;

	/* as the CLI asks for it, where the host has huge pages */
	if (tiny_seed_start("tiny", f, spares, spares > 0, &seed, &e))
		die("seed", &e);
	for (int i = -WARMUP; i < SAMPLES; i++) {
		struct fork_child_info c = { .name = "child" };
		uint64_t t0 = time_mono_ns(), ran;
		struct vmdir d;

		if (tiny_seed_fork(&seed, &c, 1, &e))
			die("fork", &e);
		if (vmdir_open(PLACE_VM, c.name, &d, &e))
			die("child", &e);
		ran = first_exit(&d);
		if (i >= 0) {
			add(request, c.sent_ns, ran);
			add(whole, t0, ran);
		}
		end_child(&d, (pid_t)json_integer_value(json_object_get(c.clocks, "pid")));
		json_decref(c.clocks);
		usleep(APART_US);
	}
	report(name, clock, "native_true", request);
	snprintf(prepared, sizeof(prepared), "%s_prepared", name);
	report(prepared, "the same, from before its directory, sockets and descriptors were made",
	       "native_true", whole);
	tiny_seed_end(&seed);
}

int main(int argc, char **argv)
{
	struct tiny_snapshot f;
	char run[PATH_MAX];
	struct err e;
	int kernel;

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	if (argc != 2 || chdir(argv[1])) {
		fprintf(stderr, "usage: tiny SCRATCH-DIRECTORY\n");
		return 2;
	}
	snprintf(run, sizeof(run), "%s/run", argv[1]);
	setenv("CLONE_RUN_DIR", run, 1);
	bench_true();
	kernel = tiny_kernel_counter();
	if (tiny_snapshot_make(".", kernel, &f, &e))
		die("snapshot", &e);
	close(kernel);
	bench_fork(
		&f, SEED_SPARES, "native_tiny_fork",
		"fork request sent to the seed, to the child's first instructions done; the seed "
		"has a spare");
	bench_fork(&f, 0, "native_tiny_fork_no_spare",
		   "the same, with fork(2) and all of the child's making in it");
	return 0;
}
