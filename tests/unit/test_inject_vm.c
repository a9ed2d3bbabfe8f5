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

#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "fork/frozen.h"
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

/* ---- chains: a raw full one, and over it one of a machine that has counted on, with zstd ---- */

struct chain_ctx {
	struct vm *vm;
	struct machine_files full, diff, to;
};

static const struct vm_files chain_names[] = { { "on/state", "on/ram" }, { "state", "ram" } };

static void grant_again(struct vm *vm, const char *name, int fd, bool read_only)
{
	char path[64];
	struct err e;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	must(machine_grant(vm, "", name, open(path, (read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC),
			   &e),
	     &e);
}

static void diff_setup(void *arg)
{
	struct chain_ctx *c = arg;
	struct err e;

	must(machine_start(1, &c->vm, &e), &e);
	machine_must_go_on(c->vm);
	machine_grant_files(c->vm, &c->diff, false, false);
	grant_again(c->vm, "on/state", c->full.state, true);
	grant_again(c->vm, "on/ram", c->full.ram, true);
}

static int diff_run(void *arg, struct err *e)
{
	struct chain_ctx *c = arg;
	struct vm_save save = {
		.to = { "state", "ram" }, .base = chain_names, .nr_base = 1, .compress = true
	};
	uint64_t stored;
	int ret = vm_stop_world(c->vm, e);

	if (ret)
		return ret;
	ret = vm_save(c->vm, &save, &stored, e);
	vm_start_world(c->vm);
	return ret;
}

static void diff_after(void *arg, int ret)
{
	struct chain_ctx *c = arg;

	(void)ret;
	machine_must_go_on(c->vm);
	machine_end(c->vm);
}

static void chain_load_setup(void *arg)
{
	struct chain_ctx *c = arg;
	struct err e;

	must(machine_create(&c->vm, &e), &e);
	machine_grant_files(c->vm, &c->diff, true, false);
	grant_again(c->vm, "on/state", c->full.state, true);
	grant_again(c->vm, "on/ram", c->full.ram, true);
}

static int chain_load_run(void *arg, struct err *e)
{
	struct chain_ctx *c = arg;
	int ret = vm_load(c->vm, chain_names, 2, NULL, e);

	if (!ret) {
		ret = vm_resume(c->vm, e);
		if (ret && vm_resume(c->vm, e))
			sweep_fail("resumed again: %s", e->msg);
		machine_must_go_on(c->vm);
	}
	machine_end(c->vm);
	return ret;
}

static void flatten_setup(void *arg)
{
	struct chain_ctx *c = arg;

	chain_load_setup(arg);
	grant_again(c->vm, "flat/state", c->to.state, false);
	grant_again(c->vm, "flat/ram", c->to.ram, false);
}

static int flatten_run(void *arg, struct err *e)
{
	static const struct vm_files to = { "flat/state", "flat/ram" };
	struct chain_ctx *c = arg;
	int ret = vm_flatten(c->vm, chain_names, 2, &to, true, e);

	if (c->vm->state != VM_CONFIGURING)
		sweep_fail("it became a machine");
	machine_end(c->vm);
	return ret;
}

static void test_inject__chains(void **state)
{
	static const struct sweep_op diff = { "diff, zstd", diff_setup, diff_run,
					      diff_after,   false,	10 };
	static const struct sweep_op load = {
		"load of a chain", chain_load_setup, chain_load_run, NULL, false, 100
	};
	static const struct sweep_op flat = {
		"flatten", flatten_setup, flatten_run, NULL, false, 15
	};
	struct chain_ctx c = { .to = { memfd_create("state", MFD_CLOEXEC),
				       memfd_create("ram", MFD_CLOEXEC), -1 } };

	(void)state;
	assert_true(machine_save(1, &c.full));
	assert_true(machine_save(1, &c.diff));
	sweep(&diff, &c); /* the last run failed nowhere: its files are loaded */
	sweep(&load, &c);
	sweep(&flat, &c);
}

/* ---- a live snapshot, in the parent ---- */

struct live_ctx {
	struct vm *vm;
	struct machine_files files;
	struct loop_timer *timer;
	unsigned int done, ticks;
	bool ended, asked;
	int ret, error;
	struct err e;
};

static void on_saved(void *arg, const struct vm_snapshot_result *res)
{
	struct live_ctx *c = arg;

	inject_disarm();
	c->done++;
	c->error = res->error;
	if (res->error && !res->msg[0])
		sweep_fail("it failed with %d and no story", res->error);
}

static void live_tick(void *arg)
{
	static const struct vm_files names = { "state", "ram" };
	struct live_ctx *c = arg;
	siginfo_t si;

	if (!c->asked) {
		const struct vm_snapshot_request rq = { .to = names, .done = on_saved, .arg = c };

		c->asked = true;
		inject_arm(sweep_now->nth, &sweep_now->injected);
		c->ret = vm_snapshot(c->vm, &rq, &c->e);
		c->ended = c->ret != 0;
		if (c->ret)
			inject_disarm();
	}
	if ((c->ended || c->done) && waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT)) {
		loop_stop(c->vm->m.loop);
		return;
	}
	if (++c->ticks == 60000)
		sweep_fail(c->ended || c->done ? "a child is still there" : "it never ends");
	loop_set_timer(c->timer, 2 * NS_PER_MS);
}

static void live_setup(void *arg)
{
	struct live_ctx *c = arg;
	struct err e;

	must(machine_start(1, &c->vm, &e), &e);
	machine_must_go_on(c->vm);
	machine_grant_files(c->vm, &c->files, false, false);
	must(machine_grant(c->vm, "parent/", "disk/root/data", memfd_create("data", MFD_CLOEXEC),
			   &e),
	     &e);
	c->timer = loop_add_timer(c->vm->m.loop, live_tick, c);
	loop_set_timer(c->timer, 1);
}

static int live_run(void *arg, struct err *e)
{
	struct live_ctx *c = arg;
	int ret;

	pthread_mutex_unlock(&c->vm->lock);
	ret = vm_run(c->vm, e);
	pthread_mutex_lock(&c->vm->lock);
	sweep_now->hit = sweep_now->injected.call != NULL;
	if (ret)
		return ret;
	*e = c->e;
	return c->ret;
}

static void live_after(void *arg, int ret)
{
	struct live_ctx *c = arg;

	if (c->done != !ret)
		sweep_fail("it returned %d, and was said to be done %u times", ret, c->done);
	if (c->error && !sweep_now->hit)
		sweep_fail("it failed with %d though no call did", c->error);
	if (c->vm->frozen || c->vm->reapers)
		sweep_fail("something of it is left");
	machine_must_go_on(c->vm);
	loop_del_timer(c->timer);
	machine_end(c->vm);
	if (waitpid(-1, NULL, WNOHANG) >= 0)
		sweep_fail("a child was left behind");
}

static void test_inject__live_snapshot(void **state)
{
	static const struct sweep_op op = { "live snapshot", live_setup, live_run,
					    live_after,	     true,	 15 };
	struct live_ctx c = { .files = { memfd_create("state", MFD_CLOEXEC),
					 memfd_create("ram", MFD_CLOEXEC),
					 memfd_create("layer", MFD_CLOEXEC) } };

	(void)state;
	sweep(&op, &c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__start),
		cmocka_unit_test(test_inject__snapshot_and_load),
		cmocka_unit_test(test_inject__chains),
		cmocka_unit_test(test_inject__live_snapshot),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
