/* SPDX-License-Identifier: MIT */
/*
 * Live snapshots of real, jailed VM processes with real KVM and a guest of a few instructions that
 * counts: what is saved is one instant of it, and whatever becomes of the writer, the VM goes on.
 * As root. This program is its own VM process, and the reaper of what a dead VM leaves.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "snapshot/ram.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_world.h"
#include "vm/vm.h"

#define LIMIT_NS (120 * NS_PER_SEC)
#define FILES 5
#define DIED "snapshot: its writer died"
#define CANCELED "snapshot: given up, as was asked for"
#define GROWN                                                                                      \
	"snapshot: the VM wrote to more than 0 MiB while it was being written: allow more, or "    \
	"pause the VM"
#define BUSY "snapshot: one is being written: wait for its end"

struct world {
	char *dir;
	struct tiny_snapshot f[FILES]; /* f[0].base is the disk of all */
	struct vmproc p;
};

static void turn(uint64_t until, const char *what)
{
	if (time_mono_ns() > until)
		fail_msg("%s: not in %llu s", what, LIMIT_NS / NS_PER_SEC);
	usleep(2000);
}

/* ---- the VM ---- */

static void put(struct vmproc *p, const char *method, const char *path, const char *key,
		const char *value)
{
	cleanup_json json_t *body = key ? json_pack("{s:s}", key, value) : json_object();
	struct err e;

	must(vmproc_request(p, method, path, body, TINY_MS, NULL, &e), &e);
}

static json_int_t exits(struct vmproc *p)
{
	cleanup_json json_t *reply = tiny_get(p, "/stats");

	return json_integer_value(json_object_get(json_object_get(reply, "vm"), "exits_pio"));
}

static void assert_counts(struct vmproc *p)
{
	uint64_t until = time_mono_ns() + LIMIT_NS;
	json_int_t first = exits(p);

	while (exits(p) < first + 100)
		turn(until, "the guest counts on");
}

/* Its children, zombies too. */
static size_t children(struct vmproc *p)
{
	cleanup_free char *text = scratch_sh("cat /proc/%d/task/%d/children", p->pid, p->pid);
	size_t n = 0;

	for (char *c = text; *c; c++)
		n += *c == ' ';
	return n;
}

static void assert_childless(struct vmproc *p)
{
	uint64_t until = time_mono_ns() + LIMIT_NS;

	while (children(p))
		turn(until, "the writer ends and is reaped");
}

static int count_fds(struct vmproc *p)
{
	cleanup_free char *n = scratch_sh("ls /proc/%d/fd | wc -l", p->pid);

	return atoi(n);
}

/* GET /snapshot says exactly these keys of a failure. */
static void assert_failed(struct vmproc *p, const char *why)
{
	cleanup_json json_t *s = tiny_get(p, "/snapshot");

	assert_string_equal(json_string_value(json_object_get(s, "state")), "failed");
	assert_string_equal(json_string_value(json_object_get(s, "error")), why);
	assert_int_equal(json_object_size(s), 4);
}

static void save(struct world *w, struct vmproc *p, size_t to, size_t nr_base, bool compress)
{
	struct tiny_save s = { .to = &w->f[to],
			       .base = w->f,
			       .nr_base = nr_base,
			       .compress = compress,
			       .wait = true };
	struct err e;

	must(tiny_vm_save(p, &s, &e), &e);
}

/* It has the writer's name, which it takes when it has made itself end with its VM. */
static bool is_writing(pid_t pid)
{
	char path[64], name[16] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (f && !fgets(name, sizeof(name), f))
		name[0] = '\0';
	if (f)
		fclose(f);
	return !strcmp(name, "snapshot\n");
}

/* It runs no more: stopped, or ended. */
static bool is_still(pid_t pid)
{
	cleanup_free char *s =
		scratch_sh("sed 's/.*) //' /proc/%d/stat 2>/dev/null | cut -c1", pid);

	return !*s || strchr("TZX", *s);
}

/* Begins one and stops its writer at work. One that was done sooner is begun again. */
static pid_t catch_writer(struct world *w, long max_growth_bytes)
{
	struct tiny_save s = { .to = &w->f[0], .max_growth_bytes = max_growth_bytes };
	uint64_t until = time_mono_ns() + LIMIT_NS;
	struct err e;
	pid_t pid;

	for (;; turn(until, "a writer caught at work")) {
		must(tiny_vm_save(&w->p, &s, &e), &e);
		if (tiny_children(w->p.pid, &pid, 1) == 1 && is_writing(pid) &&
		    !kill(pid, SIGSTOP)) {
			cleanup_json json_t *now = NULL;

			while (!is_still(pid))
				turn(until, "the writer stops");
			now = tiny_get(&w->p, "/snapshot");
			if (!strcmp(json_string_value(json_object_get(now, "state")), "writing"))
				return pid;
			/* it had just been given up, or it has said its last word */
			kill(pid, SIGCONT);
			if (max_growth_bytes && json_object_get(now, "error"))
				return 0;
		}
		while (tiny_children(w->p.pid, &pid, 1))
			turn(until, "the writer's end");
	}
}

/* ---- what was saved ---- */

static void open_layers(const struct tiny_snapshot *f, size_t n, struct ram_layer *l)
{
	for (size_t i = 0; i < n; i++)
		tiny_ram_open(&f[i], &l[i]);
}

static void close_layers(struct ram_layer *l, size_t n)
{
	while (n)
		ram_layer_close(&l[--n]);
}

static void window_of(struct ram_layer *l, size_t n, uint64_t window, uint8_t *buf)
{
	struct err e;

	must(ram_chain_read(l, n, window, buf, &e), &e);
}

static uint64_t counter(const struct tiny_snapshot *f, size_t n)
{
	cleanup_free uint8_t *buf = malloc(RAM_WINDOW);
	struct ram_layer l[FILES];
	uint64_t v;

	open_layers(f, n, l);
	window_of(l, n, TINY_COUNTER_GPA / RAM_WINDOW * RAM_WINDOW, buf);
	memcpy(&v, buf + TINY_COUNTER_GPA % RAM_WINDOW, sizeof(v));
	close_layers(l, n);
	return v;
}

static void assert_same_ram(const struct tiny_snapshot *a, size_t na, const struct tiny_snapshot *b,
			    size_t nb)
{
	cleanup_free uint8_t *x = malloc(RAM_WINDOW), *y = malloc(RAM_WINDOW);
	struct ram_layer la[FILES], lb[FILES];

	open_layers(a, na, la);
	open_layers(b, nb, lb);
	assert_true(la[0].ix.size_bytes == lb[0].ix.size_bytes);
	for (uint64_t at = 0; at < la[0].ix.size_bytes; at += RAM_WINDOW) {
		window_of(la, na, at, x);
		window_of(lb, nb, at, y);
		if (memcmp(x, y, RAM_WINDOW))
			fail_msg("the windows at %#llx differ", (unsigned long long)at);
	}
	close_layers(la, na);
	close_layers(lb, nb);
}

/* A VM out of it counts on from there: its counter moves by one for each write to the port. */
static void assert_goes_on(struct world *w, const struct tiny_snapshot *chain, size_t n)
{
	struct tiny_save s = { .to = &w->f[FILES - 1], .wait = true };
	uint64_t from = counter(chain, n), to;
	struct vmproc p;
	json_int_t wrote;
	struct err e;

	must(tiny_vm_restore("back", chain, n, &p, &e), &e);
	assert_int_equal(exits(&p), 0);
	put(&p, "PATCH", "/vm", "state", "Resumed");
	assert_counts(&p);
	put(&p, "PATCH", "/vm", "state", "Paused");
	wrote = exits(&p);
	must(tiny_vm_save(&p, &s, &e), &e);
	vmproc_abort(&p);
	to = counter(s.to, 1);
	/* it may have been stopped between the counter and the port, both times */
	assert_in_range(to - from, (uint64_t)wrote - 1, (uint64_t)wrote + 1);
}

/* ---- tests ---- */

static void test_live__vm_counts_on_and_each_snapshot_is_later(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *none = tiny_get(&w->p, "/snapshot"), *done = NULL, *want = NULL;
	uint64_t last = 0;

	want = json_pack("{s:s}", "state", "none");
	assert_true(json_equal(none, want));
	for (int i = 0; i < 3; i++) {
		save(w, &w->p, 0, 0, i == 1);
		assert_true(counter(w->f, 1) > last);
		last = counter(w->f, 1);
		assert_counts(&w->p);
	}
	done = tiny_get(&w->p, "/snapshot");
	assert_string_equal(json_string_value(json_object_get(done, "state")), "done");
	assert_int_equal(json_integer_value(json_object_get(done, "number")), 3);
	assert_true(json_integer_value(json_object_get(done, "stored_bytes")) >=
		    (json_int_t)TINY_LARGE_BYTES);
	assert_true(json_integer_value(json_object_get(done, "pause_ns")) >=
		    json_integer_value(json_object_get(done, "fork_ns")));
	assert_int_equal(json_object_size(done), 7);
	assert_goes_on(w, w->f, 1);
}

static void test_live__chain_goes_on_and_flattens_to_the_same_bytes(void **state)
{
	struct world *w = *state;
	struct err e;

	save(w, &w->p, 0, 0, false);
	assert_counts(&w->p);
	save(w, &w->p, 1, 1, false);
	assert_counts(&w->p);
	save(w, &w->p, 2, 2, true);
	assert_true(counter(w->f, 1) < counter(w->f, 2));
	assert_true(counter(w->f, 2) < counter(w->f, 3));
	for (size_t n = 1; n <= 3; n++)
		assert_goes_on(w, w->f, n);
	for (int zstd = 0; zstd < 2; zstd++) {
		/* what was in the files is cut off */
		struct tiny_snapshot flat = w->f[3];

		flat.layer = w->f[2].layer;
		must(tiny_flatten(w->f, 3, &flat, zstd, &e), &e);
		assert_same_ram(w->f, 3, &flat, 1);
		assert_goes_on(w, &flat, 1);
	}
}

static void test_live__paused_vm_stays_paused(void **state)
{
	struct world *w = *state;
	cleanup_json json_t *done = NULL, *root = NULL;
	json_int_t before;

	put(&w->p, "PATCH", "/vm", "state", "Paused");
	before = exits(&w->p);
	save(w, &w->p, 0, 0, false);
	save(w, &w->p, 1, 1, false);
	assert_int_equal(exits(&w->p), before);
	root = tiny_get(&w->p, "/");
	assert_string_equal(json_string_value(json_object_get(root, "state")), "Paused");
	done = tiny_get(&w->p, "/snapshot");
	assert_int_equal(json_integer_value(json_object_get(done, "pause_ns")), 0);
	assert_int_equal(json_integer_value(json_object_get(done, "stored_bytes")), 0);
	put(&w->p, "PATCH", "/vm", "state", "Resumed");
	assert_counts(&w->p);
}

static void test_live__one_at_a_time_and_canceled_by_number(void **state)
{
	struct world *w = *state;
	struct tiny_save again = { .to = &w->f[1], .wait = true };
	cleanup_json json_t *now = NULL, *other = NULL;
	pid_t writer = catch_writer(w, 0);
	json_int_t number;
	struct err e;

	now = tiny_get(&w->p, "/snapshot");
	number = json_integer_value(json_object_get(now, "number"));
	assert_int_equal(json_integer_value(json_object_get(now, "total_bytes")), MIB(128));
	assert_int_equal(json_object_size(now), 5);
	assert_int_equal(tiny_vm_save(&w->p, &again, &e), -EREMOTEIO);
	assert_string_equal(e.msg, BUSY);
	assert_counts(&w->p);
	/* not this one */
	other = json_pack("{s:I}", "number", number + 1);
	must(vmproc_request(&w->p, "PUT", "/snapshot/cancel", other, TINY_MS, NULL, &e), &e);
	assert_int_equal(kill(writer, 0), 0);
	assert_int_equal(children(&w->p), 1);
	/* paused and resumed meanwhile */
	put(&w->p, "PATCH", "/vm", "state", "Paused");
	put(&w->p, "PATCH", "/vm", "state", "Resumed");
	json_object_set_new(other, "number", json_integer(number));
	must(vmproc_request(&w->p, "PUT", "/snapshot/cancel", other, TINY_MS, NULL, &e), &e);
	assert_failed(&w->p, CANCELED);
	assert_childless(&w->p);
	/* nothing to cancel is fine */
	put(&w->p, "PUT", "/snapshot/cancel", NULL, NULL);
	assert_failed(&w->p, CANCELED);
	assert_counts(&w->p);
}

static void test_live__growth_beyond_the_limit_gives_up(void **state)
{
	struct world *w = *state;
	uint64_t until = time_mono_ns() + LIMIT_NS;

	for (bool over = !catch_writer(w, 4096); !over;) {
		cleanup_json json_t *now = tiny_get(&w->p, "/snapshot");

		over = strcmp(json_string_value(json_object_get(now, "state")), "writing") != 0;
		turn(until, "it is given up");
	}
	assert_failed(&w->p, GROWN);
	assert_childless(&w->p);
	assert_counts(&w->p);
	save(w, &w->p, 0, 0, false);
	assert_goes_on(w, w->f, 1);
}

static void test_live__writers_death_is_no_harm(void **state)
{
	struct world *w = *state;
	uint64_t until = time_mono_ns() + LIMIT_NS;
	bool over = false;

	kill(catch_writer(w, 0), SIGKILL);
	while (!over) {
		cleanup_json json_t *now = tiny_get(&w->p, "/snapshot");

		over = strcmp(json_string_value(json_object_get(now, "state")), "writing") != 0;
		turn(until, "it is heard of");
	}
	assert_failed(&w->p, DIED);
	assert_childless(&w->p);
	assert_counts(&w->p);
	save(w, &w->p, 0, 0, false);
}

/* The writer is stopped: it cannot find out by itself. */
static void test_live__vms_death_is_its_writers(void **state)
{
	struct world *w = *state;
	pid_t writer = catch_writer(w, 0);
	uint64_t until = time_mono_ns() + LIMIT_NS;
	int status;

	vmproc_abort(&w->p);
	while (!waitpid(writer, &status, WNOHANG))
		turn(until, "the writer ends with its VM");
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
}

static void test_live__files_that_cannot_be_written_are_said(void **state)
{
	struct world *w = *state;
	struct tiny_snapshot odd = w->f[0];
	struct tiny_save s = { .to = &odd, .wait = true };
	int p[2];
	struct err e;

	assert_int_equal(pipe(p), 0);
	odd.ram = p[1];
	assert_int_equal(tiny_vm_save(&w->p, &s, &e), -EREMOTEIO);
	assert_string_equal(e.msg, "snapshot: RAM file: emptying it: Invalid argument");
	odd.ram = p[0];
	assert_int_equal(tiny_vm_save(&w->p, &s, &e), -EREMOTEIO);
	odd = w->f[0];
	odd.state = w->p.dir.fd;
	assert_int_equal(tiny_vm_save(&w->p, &s, &e), -EREMOTEIO);
	odd = w->f[0];
	s.base = &odd; /* it would differ from what is no snapshot */
	odd.state = p[0];
	s.nr_base = 1;
	s.to = &w->f[1];
	assert_int_equal(tiny_vm_save(&w->p, &s, &e), -EREMOTEIO);
	assert_string_equal(e.msg, "snapshot: state: 0 bytes is no size for it");
	close(p[0]);
	close(p[1]);
	assert_childless(&w->p);
	assert_counts(&w->p);
	save(w, &w->p, 0, 0, false);
}

static void test_live__forks_child_has_taken_none(void **state)
{
	cleanup_json json_t *info =
		json_pack("{s:[{s:s, s:b}]}", "disks", "id", "root", "read_only", 0);
	cleanup_json json_t *none = json_pack("{s:s}", "state", "none"), *is = NULL;
	struct world *w = *state;
	struct fork_source src = { .dir = &w->p.dir, .live = true, .info = info };
	const struct fork_how how = { .userdata_fd = -1, .timeout_ms = TINY_MS };
	struct fork_child_info c = { .name = "child" };
	struct vmproc child;
	uint64_t pause_ns;
	pid_t writer;
	struct err e;

	save(w, &w->p, 0, 0, false);
	/* also while another one is written */
	writer = catch_writer(w, 0);
	must(fork_request(&src, &c, 1, &how, -1, &pause_ns, &e), &e);
	assert_true(c.ok);
	json_decref(c.clocks);
	must(vmproc_attach("child", -1, &child, &e), &e);
	is = tiny_get(&child, "/snapshot");
	assert_true(json_equal(is, none));
	save(w, &child, 1, 0, false);
	assert_counts(&child);
	vmproc_abort(&child);
	kill(writer, SIGCONT);
	assert_goes_on(w, &w->f[1], 1);
	assert_counts(&w->p);
}

static void test_live__fifty_leave_nothing(void **state)
{
	struct world *w = *state;
	int fds = 0;

	for (size_t i = 0; i <= 50; i++) {
		save(w, &w->p, i % 2, i % 2, false);
		assert_childless(&w->p);
		if (!i)
			fds = count_fds(&w->p);
	}
	assert_int_equal(count_fds(&w->p), fds);
	assert_counts(&w->p);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int fd = tiny_kernel_large(); /* so much that a writer can be caught at it */
	struct err e;

	assert_non_null(w);
	assert_int_equal(geteuid(), 0);
	assert_int_equal(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), 0);
	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", w->dir, 1);
	for (size_t i = 0; i < FILES; i++)
		must(tiny_files_make(w->dir, &w->f[i], &e), &e);
	must(tiny_vm_boot("vm", fd, w->f[0].base, &w->p, &e), &e);
	close(fd);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	vmproc_abort(&w->p);
	tiny_end_children();
	for (size_t i = 0; i < FILES; i++)
		tiny_snapshot_close(&w->f[i]);
	scratch_remove(w->dir);
	free(w);
	return 0;
}

#define LIVE_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		LIVE_TEST(test_live__vm_counts_on_and_each_snapshot_is_later),
		LIVE_TEST(test_live__chain_goes_on_and_flattens_to_the_same_bytes),
		LIVE_TEST(test_live__paused_vm_stays_paused),
		LIVE_TEST(test_live__one_at_a_time_and_canceled_by_number),
		LIVE_TEST(test_live__growth_beyond_the_limit_gives_up),
		LIVE_TEST(test_live__writers_death_is_no_harm),
		LIVE_TEST(test_live__vms_death_is_its_writers),
		LIVE_TEST(test_live__files_that_cannot_be_written_are_said),
		LIVE_TEST(test_live__forks_child_has_taken_none),
		LIVE_TEST(test_live__fifty_leave_nothing),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
