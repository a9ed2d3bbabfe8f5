/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy in real, jailed VM processes: it looks at its guest (which has no driver and
 * no agent) again and again, a live fork's child does too, by the same thresholds; a restored VM
 * does not. As root. This program is also the VM process that is started.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "control/json.h"
#include "tests/lib/must.h"
#include "tests/lib/tiny_world.h"
#include "vm/vm.h"

static bool looks(struct vmproc *p, const char *why)
{
	cleanup_json json_t *j = tiny_get(p, "/balloon/policy");
	const json_t *last = json_object_get(j, "last");

	return !strcmp(json_string_value(json_object_get(j, "mode")), "auto") &&
	       json_is_object(last) &&
	       !strcmp(json_string_value(json_object_get(last, "reason")), why) &&
	       json_integer_value(json_object_get(last, "age_ms")) < 1500;
}

/* It has looked a short while ago, at three times a second and a half apart. */
static void assert_looks(struct vmproc *p, const char *why)
{
	for (int i = 0; i < 3; i++) {
		uint64_t end = time_mono_ns() + 120 * NS_PER_SEC;
		bool seen;

		usleep(1500 * 1000);
		while (!(seen = looks(p, why)) && time_mono_ns() < end)
			usleep(50 * 1000);
		assert_true(seen);
	}
}

static int64_t threshold(struct vmproc *p, const char *name)
{
	cleanup_json json_t *j = tiny_get(p, "/balloon/policy");

	return json_integer_value(json_object_get(j, name));
}

static void assert_manual(struct vmproc *p)
{
	cleanup_json json_t *j = tiny_get(p, "/balloon/policy");

	assert_string_equal(json_string_value(json_object_get(j, "mode")), "manual");
	assert_string_equal(json_string_value(json_object_get(j, "state")), "off");
	assert_true(json_is_null(json_object_get(j, "last")));
	assert_int_equal(json_integer_value(json_object_get(j, "idle_s")), 30);
}

static const char quick[] = "{\"mode\":\"auto\",\"period_s\":1,\"idle_s\":7}";

static void test_policy__looks_at_its_guest_until_it_is_switched_off(void **state)
{
	struct tiny_world *w = *state;
	struct err e;

	assert_manual(&w->p);
	must(tiny_send(&w->p, "PUT", "/balloon/policy", quick, &e), &e);
	assert_looks(&w->p, "no-driver");
	must(tiny_send(&w->p, "PUT", "/balloon/policy", "{\"mode\":\"manual\"}", &e), &e);
	usleep(1500 * 1000);
	assert_manual(&w->p);
}

static void test_policy__a_fork_has_its_parents_and_a_restored_vm_none(void **state)
{
	struct tiny_world *w = *state;
	struct fork_child_info c = { .name = "child" };
	struct tiny_seed vm = { .live = true };
	struct vmproc p, parent;
	struct err e;

	must(tiny_send(&w->p, "PUT", "/balloon/policy", quick, &e), &e);
	must(tiny_vm_save(&w->p, &(struct tiny_save){ .to = &w->f, .wait = true }, &e), &e);
	must(tiny_vm_restore("again", &w->f, 1, &p, &e), &e);
	assert_manual(&p);
	vmproc_abort(&p);
	must(tiny_vm_start("parent", w->kernel, w->f.base, &vm, &e), &e);
	must(vmproc_attach("parent", -1, &parent, &e), &e);
	must(tiny_send(&parent, "PUT", "/balloon/policy", quick, &e), &e);
	assert_looks(&parent, "no-driver");
	must(tiny_seed_fork(&vm, &c, 1, &e), &e);
	must(vmproc_attach("child", -1, &p, &e), &e);
	assert_looks(&p, "no-driver");
	assert_int_equal(threshold(&p, "idle_s"), 7);
	assert_int_equal(threshold(&p, "period_s"), 1);
	assert_looks(&parent, "no-driver");
	/* each has its own from then on */
	must(tiny_send(&p, "PUT", "/balloon/policy", "{\"mode\":\"manual\"}", &e), &e);
	assert_manual(&p);
	assert_looks(&parent, "no-driver");
	vmproc_abort(&p);
	vmproc_close(&parent);
	json_decref(c.clocks);
	tiny_seed_end(&vm);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, tiny_world_setup, tiny_world_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_policy__looks_at_its_guest_until_it_is_switched_off),
		CASE(test_policy__a_fork_has_its_parents_and_a_restored_vm_none),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
