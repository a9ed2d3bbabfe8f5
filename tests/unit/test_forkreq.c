/* SPDX-License-Identifier: MIT */
/*
 * Forks as their caller asks for them, of a running VM: real processes, jailed, with a guest of a
 * few instructions. How many are of one instant, what one that fails means for the others, what is
 * given.
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
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/forkreq.h"
#include "cli/userdata.h"
#include "control/json.h"
#include "fork/fork.h"
#include "guest/proto.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_kernel.h"
#include "tests/lib/tiny_seed.h"
#include "vm/vm.h"

#define MANY 40 /* more than a template's forks in one request */

struct world {
	char *run_dir;
	struct tiny_snapshot snapshot;
	struct tiny_seed vm;
};

static json_int_t stat_of(const char *name, const char *key)
{
	cleanup_json json_t *reply = NULL;
	char why[300] = "";
	struct vmdir d;
	struct err e;

	if (tiny_vm_get(name, "/stats", &reply, &e)) {
		if (!vmdir_open(PLACE_VM, name, &d, NULL))
			vmdir_end_text(&d, why, sizeof(why));
		fail_msg("%s: %s (%s)", name, e.msg, why);
	}
	return json_integer_value(json_object_get(json_object_get(reply, "vm"), key));
}

static void must_run(const char *name)
{
	uint64_t until = time_mono_ns() + TINY_MS * NS_PER_MS;
	json_int_t before = stat_of(name, "exits_total");

	while (stat_of(name, "exits_total") <= before) {
		assert_true(time_mono_ns() < until);
		usleep(1000);
	}
}

static void end(const struct fork_child_info *c)
{
	struct vmdir d;
	struct err e;

	assert_int_equal(vmdir_open(PLACE_VM, c->name, &d, &e), 0);
	kill((pid_t)json_integer_value(json_object_get(c->clocks, "pid")), SIGKILL);
	if (vmdir_wait_end(&d, TINY_MS, -1, &e) || vmdir_remove(&d, &e))
		fail_msg("%s", e.msg);
	vmdir_close(&d);
}

static struct fork_child_info *name_them(size_t n)
{
	struct fork_child_info *c = calloc(n, sizeof(*c));

	for (size_t i = 0; i < n; i++)
		snprintf(c[i].name, sizeof(c[i].name), "kid-%zu", i);
	return c;
}

static int fork_them_for(const struct world *w, struct fork_child_info *c, size_t n, bool all,
			 uint64_t timeout_ms, struct err *e)
{
	const struct fork_source src = { .dir = &w->vm.proc.dir, .live = true, .info = w->vm.info };
	const struct fork_how how = {
		.wait = true, .all = all, .userdata_fd = -1, .timeout_ms = timeout_ms
	};
	uint64_t pause_ns = 0;

	return fork_request(&src, c, n, &how, -1, &pause_ns, e);
}

static int fork_them(const struct world *w, struct fork_child_info *c, size_t n, bool all,
		     struct err *e)
{
	return fork_them_for(w, c, n, all, TINY_MS, e);
}

static void must_not_exist(const char *name)
{
	struct vmdir d;

	assert_int_equal(vmdir_open(PLACE_VM, name, &d, NULL), -ENOENT);
}

static void test_forkreq__all_of_a_running_vm_are_of_one_instant(void **state)
{
	struct fork_child_info *c = name_them(MANY);
	struct world *w = *state;
	struct err e;

	if (fork_them(w, c, MANY, false, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(stat_of("parent", "forks"), MANY);
	assert_int_equal(stat_of("parent", "last_forks"), MANY);
	for (size_t i = 0; i < MANY; i++) {
		if (!c[i].ok)
			fail_msg("%s: %s", c[i].name, c[i].why);
		must_run(c[i].name);
	}
	must_run("parent");
	for (size_t i = 0; i < MANY; i++)
		end(&c[i]);
	fork_child_info_free(c, MANY);
}

static void test_forkreq__a_guest_without_an_agent_outlives_the_wait_for_one(void **state)
{
	struct fork_child_info *c = name_them(1);
	struct world *w = *state;
	struct err e;

	if (fork_them_for(w, c, 1, false, 200, &e))
		fail_msg("%s", e.msg);
	if (!c->ok)
		fail_msg("%s", c->why);
	usleep(600000);
	must_run("kid-0");
	end(c);
	fork_child_info_free(c, 1);
}

static void test_forkreq__a_taken_name_fails_that_fork_alone(void **state)
{
	struct fork_child_info *c = name_them(3);
	struct world *w = *state;
	struct vmdir taken;
	struct err e;

	vmdir_init(&taken);
	assert_int_equal(vmdir_create(PLACE_VM, "kid-1", 0, &taken, &e), 0);
	if (fork_them(w, c, 3, false, &e))
		fail_msg("%s", e.msg);
	assert_true(c[0].ok && !c[1].ok && c[2].ok);
	assert_non_null(strstr(c[1].why, "the name kid-1 is taken"));
	must_run("kid-0");
	must_run("kid-2");
	end(&c[0]);
	end(&c[2]);
	fork_child_info_free(c, 3);

	/* all or none, also when the last cannot be prepared */
	for (size_t n = 2; n <= 3; n++) {
		c = name_them(n);
		assert_int_equal(fork_them(w, c, n, true, &e), 0);
		for (size_t i = 0; i < n; i++) {
			assert_false(c[i].ok);
			assert_non_null(strstr(c[i].why, "the name kid-1 is taken"));
		}
		must_not_exist("kid-0");
		must_not_exist("kid-2");
		fork_child_info_free(c, n);
	}
	must_run("parent");
	if (taken.lock_fd >= 0)
		close(take_fd(&taken.lock_fd));
	assert_int_equal(vmdir_remove(&taken, &e), 0);
	vmdir_close(&taken);
}

static void test_forkreq__more_than_one_request_takes_is_refused(void **state)
{
	struct fork_child_info *c = name_them(VM_FORK_MAX + 1);
	struct world *w = *state;
	struct err e;

	assert_int_equal(fork_them(w, c, VM_FORK_MAX + 1, false, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "at most 256"));
	must_not_exist("kid-0");
	must_run("parent");
	fork_child_info_free(c, VM_FORK_MAX + 1);
}

static void test_forkreq__user_data_is_a_copy_that_nobody_changes(void **state)
{
	struct world *w = *state;
	char path[256], buf[PROTO_MAX_USERDATA + 1] = "for all";
	struct err e;
	int fd, file;

	snprintf(path, sizeof(path), "%s/userdata", w->run_dir);
	file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(file, buf, 7), 7);
	fd = userdata_open(path, &e);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(file, "changed", 7, 0), 7);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), 7);
	assert_string_equal(buf, "for all");
	assert_int_equal(pwrite(fd, "x", 1, 0), -1);
	assert_int_equal(ftruncate(fd, 0), -1);
	close(fd);
	assert_int_equal(ftruncate(file, PROTO_MAX_USERDATA), 0);
	fd = userdata_open(path, &e);
	assert_int_equal(pread(fd, buf, sizeof(buf), 0), PROTO_MAX_USERDATA);
	close(fd);
	assert_int_equal(ftruncate(file, PROTO_MAX_USERDATA + 1), 0);
	assert_int_equal(userdata_open(path, &e), -EFBIG);
	assert_non_null(strstr(e.msg, "at most 16384 bytes"));
	assert_int_equal(userdata_open("/nowhere", &e), -ENOENT);
	close(file);
	unlink(path);
}

static int make_world(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	int kernel = tiny_kernel_counter();
	struct err e;

	w->run_dir = scratch_make();
	setenv("CLONE_RUN_DIR", w->run_dir, 1);
	if (tiny_files_make(w->run_dir, &w->snapshot, &e) ||
	    tiny_vm_start("parent", kernel, w->snapshot.base, &w->vm, &e)) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	close(kernel);
	*state = w;
	return 0;
}

static int end_world(void **state)
{
	struct world *w = *state;

	tiny_seed_end(&w->vm);
	tiny_snapshot_close(&w->snapshot);
	scratch_remove(w->run_dir);
	free(w);
	return 0;
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, make_world, end_world)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_forkreq__all_of_a_running_vm_are_of_one_instant),
		CASE(test_forkreq__a_guest_without_an_agent_outlives_the_wait_for_one),
		CASE(test_forkreq__a_taken_name_fails_that_fork_alone),
		CASE(test_forkreq__more_than_one_request_takes_is_refused),
		CASE(test_forkreq__user_data_is_a_copy_that_nobody_changes),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
