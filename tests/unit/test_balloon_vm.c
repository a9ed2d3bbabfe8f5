/* SPDX-License-Identifier: MIT */
/*
 * The balloon of real, jailed VM processes whose guest has no driver for it: it is there in a VM, a
 * fork and a restored one, and what cannot be done is refused with the reason. As root. This
 * program is its own VM process.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/util.h"
#include "control/json.h"
#include "snapshot/format.h"
#include "tests/lib/must.h"
#include "tests/lib/tiny_world.h"
#include "vm/vm.h"

static void refused(struct vmproc *p, const char *method, const char *path, const char *text,
		    const char *says)
{
	struct err e = { "" };

	assert_int_equal(tiny_send(p, method, path, text, &e), -EREMOTEIO);
	assert_string_equal(e.msg, says);
}

static void assert_idle_balloon(struct vmproc *p)
{
	cleanup_json json_t *b = tiny_get(p, "/balloon"), *s = tiny_get(p, "/balloon/statistics");

	assert_int_equal(json_integer_value(json_object_get(b, "amount_mib")), 0);
	assert_true(json_is_true(json_object_get(b, "deflate_on_oom")));
	assert_int_equal(json_integer_value(json_object_get(b, "stats_polling_interval_s")), 0);
	assert_true(json_is_false(json_object_get(s, "driver")));
	assert_true(json_is_false(json_object_get(s, "hinting")));
	assert_int_equal(json_integer_value(json_object_get(s, "actual_bytes")), 0);
}

#define NO_DRIVER(name)                                                                            \
	"the guest of VM " name " has no driver for its balloon, or has not started it yet"

static void test_balloon__what_has_no_driver_is_refused(void **state)
{
	static const char paused[] =
		"VM tiny is paused: its guest does nothing until it is resumed";
	struct tiny_world *w = *state;
	struct err e;

	assert_idle_balloon(&w->p);
	for (int i = 0; i < 2; i++) {
		const char *why = i ? paused : NO_DRIVER("tiny");

		refused(&w->p, "PATCH", "/balloon", "{\"amount_mib\":16}", why);
		refused(&w->p, "PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\":1}",
			why);
		refused(&w->p, "PATCH", "/balloon/hinting/start", "{}", why);
		must(tiny_send(&w->p, "PATCH", "/vm", "{\"state\":\"Paused\"}", &e), &e);
	}
	refused(&w->p, "PUT", "/balloon", "{\"amount_mib\":0,\"deflate_on_oom\":true}",
		"the balloon can only be set before the VM starts");
	assert_idle_balloon(&w->p);
}

static void test_balloon__a_restored_vm_has_it_and_a_fork_too(void **state)
{
	struct tiny_world *w = *state;
	struct fork_child_info c = { .name = "child" };
	struct tiny_seed vm = { .live = true };
	struct vmproc p;
	struct err e;

	must(tiny_vm_save(&w->p,
			  &(struct tiny_save){ .to = &w->f, .wait = true, .max_growth_bytes = 0 },
			  &e),
	     &e);
	must(tiny_vm_restore("again", &w->f, 1, &p, &e), &e);
	assert_idle_balloon(&p);
	vmproc_abort(&p);
	must(tiny_vm_start("parent", w->kernel, w->f.base, &vm, &e), &e);
	must(tiny_seed_fork(&vm, &c, 1, &e), &e);
	must(vmproc_attach("child", -1, &p, &e), &e);
	assert_idle_balloon(&p);
	refused(&p, "PATCH", "/balloon", "{\"amount_mib\":16}", NO_DRIVER("child"));
	vmproc_abort(&p);
	json_decref(c.clocks);
	tiny_seed_end(&vm);
}

/* It is behind all others, in the order of which snapshots are made, too. */
static void test_balloon__is_the_last_device(void **state)
{
	struct tiny_world *w = *state;
	struct snap_file s;
	struct err e;

	must(tiny_vm_save(&w->p, &(struct tiny_save){ .to = &w->f, .wait = true }, &e), &e);
	must(snap_open(w->f.state, &s, &e), &e);
	assert_string_equal(s.rec[s.n - 1].name, "virtio-balloon");
	assert_string_equal(s.rec[s.n - 1].id, "balloon");
	assert_string_equal(s.rec[s.n - 3].name, "virtio-vsock");
	snap_close(&s);
}

static void test_balloon__more_than_ram_does_not_start(void **state)
{
	struct tiny_world *w = *state;
	struct vmproc p;
	struct err e;

	must(vmproc_start(PLACE_VM, "fat", 0, -1, &p, &e), &e);
	must(tiny_send(&p, "PUT", "/balloon", "{\"amount_mib\":129,\"deflate_on_oom\":true}", &e),
	     &e);
	must(client_grant(p.fdsock, (const char *const[]){ "k" }, &w->kernel, 1, &e), &e);
	must(tiny_send(&p, "PUT", "/boot-source", "{\"kernel_image_path\":\"k\"}", &e), &e);
	refused(&p, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}",
		"start: balloon: balloon: 135266304 bytes are more than RAM, which has 134217728");
	vmproc_abort(&p);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, tiny_world_setup, tiny_world_teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		CASE(test_balloon__what_has_no_driver_is_refused),
		CASE(test_balloon__a_restored_vm_has_it_and_a_fork_too),
		CASE(test_balloon__is_the_last_device),
		CASE(test_balloon__more_than_ram_does_not_start),
	};

	if (argc >= 3 && !strcmp(argv[1], "vm"))
		return vm_process_main(argc - 1, argv + 1);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
