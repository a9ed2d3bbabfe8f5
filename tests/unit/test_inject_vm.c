/* SPDX-License-Identifier: MIT */
/*
 * Whatever fails while a machine is made, started, saved or loaded: an error with a story, nothing
 * left behind, and a machine that was running runs on.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/kvm.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "snapshot/snapshot.h"
#include "tests/inject/machine.h"
#include "tests/inject/sweep.h"

struct ctx {
	struct vm *vm;
	unsigned int vcpus;
	struct machine_files files;
	const struct vm_seed *seed;
};

static int start_run(void *arg, struct err *e)
{
	struct ctx *c = arg;
	int ret = machine_start(c->vcpus, &c->vm, e);

	if (!ret)
		machine_must_go_on(c->vm);
	machine_end(c->vm);
	return ret;
}

static void test_inject__start(void **state)
{
	static const struct sweep_op one = { .name = "start", .run = start_run, .min = 100 };
	static const struct sweep_op smp = { .name = "start of 3 vCPUs",
					     .run = start_run,
					     .min = 130 };
	struct ctx c = { .vcpus = 1 };

	(void)state;
	sweep(&one, &c);
	c.vcpus = 3;
	sweep(&smp, &c);
}

static void must(int ret, const struct err *e)
{
	if (ret)
		sweep_fail("set-up: %s", e->msg);
}

static void snapshot_setup(void *arg)
{
	struct ctx *c = arg;
	struct err e;

	must(machine_start(c->vcpus, &c->vm, &e), &e);
	machine_must_go_on(c->vm);
	machine_grant_files(c->vm, &c->files, false, false);
}

static int snapshot_run(void *arg, struct err *e)
{
	return machine_snapshot(((struct ctx *)arg)->vm, e);
}

/* A rate that the host does not know, and a line that is low already, are no state. */
static bool unread(void)
{
	const struct injected *o = &sweep_now->injected;

	return sweep_now->hit && !strcmp(o->call, "ioctl") && o->arg != KVM_GET_TSC_KHZ &&
	       o->arg != KVM_IRQ_LINE;
}

static void snapshot_after(void *arg, int ret)
{
	struct ctx *c = arg;

	if (!ret && unread())
		sweep_fail("a state that could not be read is in the snapshot");
	if (c->vm->event_posted)
		sweep_fail("the machine is about to end: %s", c->vm->pending_detail);
	if (c->vm->state != VM_RUNNING)
		sweep_fail("the machine is in state %d", (int)c->vm->state);
	machine_must_go_on(c->vm);
	machine_end(c->vm);
}

static void load_setup(void *arg)
{
	struct ctx *c = arg;
	struct err e;

	must(machine_create(&c->vm, &e), &e);
	machine_grant_files(c->vm, &c->files, true, c->seed);
}

static int load_run(void *arg, struct err *e)
{
	struct ctx *c = arg;
	static const struct vm_files files = { "state", "ram" };
	int ret = vm_load(c->vm, &files, 1, c->seed, e);

	if (!ret && !c->seed) {
		ret = vm_resume(c->vm, e);
		/* a failure has changed nothing: it can be asked again */
		if (ret && vm_resume(c->vm, e))
			sweep_fail("resumed again: %s", e->msg);
		machine_must_go_on(c->vm);
	}
	machine_end(c->vm);
	return ret;
}

static void test_inject__snapshot_and_load(void **state)
{
	static const struct sweep_op save = { .name = "snapshot",
					      .setup = snapshot_setup,
					      .run = snapshot_run,
					      .after = snapshot_after,
					      .min = 5 };
	static const struct sweep_op load = {
		.name = "load", .setup = load_setup, .run = load_run, .min = 100
	};
	static const struct sweep_op seed = {
		.name = "load of a seed", .setup = load_setup, .run = load_run, .min = 100
	};
	static const struct vm_seed huge = { .huge_pages = true };
	struct ctx c = { .vcpus = 2 };

	(void)state;
	assert_true(machine_save(c.vcpus, &c.files));
	sweep(&save, &c);
	sweep(&load, &c); /* what the last run, which failed nowhere, has saved */
	c.seed = &huge;
	sweep(&seed, &c);
	close(c.files.state);
	close(c.files.ram);
	close(c.files.layer);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__start),
		cmocka_unit_test(test_inject__snapshot_and_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
