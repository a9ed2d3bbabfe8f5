/* SPDX-License-Identifier: MIT */
/*
 * Forks by the thousand, one after another, of a running VM and of a seed: real processes, jailed,
 * with a guest of a few instructions that must run in each fork. Nothing may grow: descriptors,
 * threads, processes, sockets, files, memory. Prints the trend. SOAK_ROUNDS says how many; `make
 * soak` asks for 10,000, and tests/soak does the same with guests that answer commands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_seed.h"
#include "vm/vm.h"

#ifdef CLONE_DEBUG
#define ROUNDS 200 /* sanitizers: each fork is many times slower, and freed memory is kept */
#else
#define ROUNDS 1000
#endif
#define SAMPLES 10
/* Less than a word a fork: what the heap's layout may move by. */
#define MEMORY_SLACK_KIB 128

struct sample {
	size_t fds, threads, children, files, own_fds;
	size_t rss_kib, data_kib;
};

static size_t entries(const char *dir)
{
	DIR *d = opendir(dir);
	size_t n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n - 2; /* . and .. */
}

static size_t entries_of(pid_t pid, const char *what)
{
	char dir[64];

	snprintf(dir, sizeof(dir), "/proc/%d/%s", pid, what);
	return entries(dir);
}

/* The number behind a name in /proc/PID/status. */
static size_t status_kib(pid_t pid, const char *name)
{
	char path[64], line[256];
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, name, strlen(name)))
			n = strtoul(line + strlen(name), NULL, 10);
	fclose(f);
	return n;
}

/* Zombies are children, too. */
static size_t children_of(pid_t pid)
{
	char path[64];
	size_t n = 0;
	int child;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = fopen(path, "re");
	assert_non_null(f);
	while (fscanf(f, "%d", &child) == 1)
		n++;
	fclose(f);
	return n;
}

static struct sample take(const struct tiny_seed *src)
{
	pid_t pid = src->proc.pid;
	char vms[512];

	snprintf(vms, sizeof(vms), "%s/vms", getenv("CLONE_RUN_DIR"));
	return (struct sample){
		.fds = entries_of(pid, "fd"),
		.threads = entries_of(pid, "task"),
		.children = children_of(pid),
		.files = entries(vms),
		.own_fds = entries("/proc/self/fd"),
		.rss_kib = status_kib(pid, "VmRSS:"),
		.data_kib = status_kib(pid, "VmData:"),
	};
}

/* Its guest has run: a fork that does not is none. */
static void must_run(const struct vmdir *d)
{
	uint64_t until = time_mono_ns() + TINY_MS * NS_PER_MS;
	json_t *reply = NULL;
	struct client *c;
	struct err e;

	if (client_open(d->fd, &c, &e))
		fail_msg("%s", e.msg);
	for (json_int_t ns = 0; !ns;) {
		assert_true(time_mono_ns() < until);
		if (client_request(c, "GET", "/stats", NULL, TINY_MS, &reply, &e))
			fail_msg("%s", e.msg);
		ns = json_integer_value(
			json_object_get(json_object_get(reply, "clocks"), "first_exit_ns"));
		json_decref(reply);
	}
	client_close(c);
}

static void fork_once(const struct tiny_seed *src)
{
	struct fork_child_info c = { .name = "child" };
	struct vmdir d;
	struct err e;

	if (tiny_seed_fork(src, &c, 1, &e) || vmdir_open(PLACE_VM, c.name, &d, &e))
		fail_msg("%s", e.msg);
	must_run(&d);
	kill((pid_t)json_integer_value(json_object_get(c.clocks, "pid")), SIGKILL);
	if (vmdir_wait_end(&d, TINY_MS, -1, &e) || vmdir_remove(&d, &e))
		fail_msg("%s", e.msg);
	vmdir_close(&d);
	json_decref(c.clocks);
}

/* The source reaps its child and makes its spares when it comes to it: then it is as it was first.
 */
static struct sample settled(const struct tiny_seed *src, size_t children,
			     const struct sample *first)
{
	uint64_t until = time_mono_ns() + TINY_MS * NS_PER_MS;
	struct sample s = take(src);

	while (s.children != children ||
	       (first->fds && (s.fds != first->fds || s.threads != first->threads))) {
		if (time_mono_ns() > until)
			fail_msg("%zu children, %zu descriptors, %zu threads", s.children, s.fds,
				 s.threads);
		usleep(20000);
		s = take(src);
	}
	return s;
}

/* The connections it was started by: idle, they would end after a minute, in the midst. */
static void hang_up(struct tiny_seed *src)
{
	client_close(src->proc.api);
	src->proc.api = NULL;
	close(take_fd(&src->proc.fdsock));
}

static void soak(const char *name, struct tiny_seed *src, size_t children)
{
	const char *asked = getenv("SOAK_ROUNDS");
	unsigned long rounds = asked ? strtoul(asked, NULL, 10) : ROUNDS;
	struct sample first = { 0 };

	hang_up(src);
	print_message("%s\n%8s %5s %8s %9s %6s %8s %9s %9s\n", name, "forks", "fds", "threads",
		      "children", "files", "our fds", "RSS KiB", "data KiB");
	for (unsigned long i = 1; i <= rounds; i++) {
		struct sample s;

		fork_once(src);
		if (i % (rounds / SAMPLES))
			continue;
		if (!first.fds)
			sleep(1); /* until what is done once is done */
		s = settled(src, children, &first);
		print_message("%8lu %5zu %8zu %9zu %6zu %8zu %9zu %9zu\n", i, s.fds, s.threads,
			      s.children, s.files, s.own_fds, s.rss_kib, s.data_kib);
		if (!first.fds)
			first = s;
		assert_int_equal(s.files, first.files);
		assert_int_equal(s.own_fds, first.own_fds);
#ifndef CLONE_DEBUG
		assert_true(s.data_kib <= first.data_kib + MEMORY_SLACK_KIB);
		assert_true(s.rss_kib <= first.rss_kib + MEMORY_SLACK_KIB);
#endif
	}
}

static void test_soak__forks_of_a_running_vm(void **state)
{
	int kernel = tiny_kernel_counter();
	struct tiny_snapshot *f = *state;
	struct tiny_seed vm;
	struct err e;

	if (tiny_vm_start("parent", kernel, f->base, &vm, &e))
		fail_msg("%s", e.msg);
	close(kernel);
	soak("forks of a running VM", &vm, 0);
	tiny_seed_end(&vm);
}

static void test_soak__forks_of_a_seed(void **state)
{
	struct tiny_seed seed;
	struct err e;

	if (tiny_seed_start("seed", *state, 2, true, &seed, &e))
		fail_msg("%s", e.msg);
	soak("forks of a seed", &seed, 2);
	tiny_seed_end(&seed);
}

static char *run_dir;

static int make_world(void **state)
{
	static struct tiny_snapshot f;
	int kernel = tiny_kernel_counter();
	struct err e;

	run_dir = scratch_make();
	setenv("CLONE_RUN_DIR", run_dir, 1);
	if (tiny_snapshot_make(run_dir, kernel, &f, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	close(kernel);
	*state = &f;
	return 0;
}

static int end_world(void **state)
{
	tiny_snapshot_close(*state);
	scratch_remove(run_dir);
	return 0;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_soak__forks_of_a_running_vm),
		cmocka_unit_test(test_soak__forks_of_a_seed),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, make_world, end_world);
}
