/* SPDX-License-Identifier: MIT */
/*
 * Whatever fails during a fork, in the parent or in the child: the parent hears of it and goes on, with no child
 * and no descriptor too many; a child that is called ready goes on too.
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
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/grants.h"
#include "fork/fork.h"
#include "event/loop.h"
#include "tests/inject/machine.h"
#include "tests/inject/sweep.h"

#define CHILDREN 2
#define TICK_NS (2 * NS_PER_MS)
#define PATIENCE_TICKS 5000

/* What the children say for themselves. */
struct shared {
	unsigned int gone_on;
};

struct ctx {
	struct vm *vm;
	struct shared *shared;
	struct loop_timer *timer;
	bool in_child; /* where calls fail */
	size_t n; /* children */
	int parent;
	unsigned int ticks;
	uint64_t first; /* a child's counter when it began */
	bool asked, done;
	int ret;
	struct err e;
	struct vm_child_result res[CHILDREN];
};

static void on_forked(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns)
{
	struct ctx *c = arg;

	(void)pause_ns;
	inject_disarm();
	memcpy(c->res, res, n * sizeof(*res));
	c->done = true;
}

static void ask(struct ctx *c)
{
	struct vm_child_spec spec[CHILDREN];
	struct vm_fork_request rq = { .specs = spec,
				      .n = c->n,
				      .done = on_forked,
				      .arg = c,
				      .wait = true,
				      .timeout_ms = 8000 };

	memset(spec, 0, sizeof(spec));
	for (size_t i = 0; i < c->n; i++)
		snprintf(spec[i].id.name, sizeof(spec[i].id.name), "child-%zu", i);
	c->asked = true;
	if (c->in_child)
		inject_arm_child(sweep_now->nth, &sweep_now->injected);
	else
		inject_arm(sweep_now->nth, &sweep_now->injected);
	c->ret = vm_fork(c->vm, &rq, &c->e);
	if (!c->ret)
		return;
	inject_disarm();
	c->done = true;
}

/* The parent: asks, and stays until its children have ended and were waited for. */
static void on_tick(void *arg)
{
	struct ctx *c = arg;
	bool left = !c->done;

	if (!c->asked)
		ask(c);
	for (size_t i = 0; i < c->n; i++)
		left |= c->res[i].pid > 0 && !kill(c->res[i].pid, 0);
	if (!left) {
		loop_stop(c->vm->m.loop);
		return;
	}
	if (++c->ticks == PATIENCE_TICKS)
		sweep_fail(c->done ? "a child is still there" : "the fork never ends");
	loop_set_timer(c->timer, TICK_NS);
}

/* A child ends when it has reported and its guest has moved. */
static void on_child_tick(void *arg)
{
	struct ctx *c = arg;

	if (c->vm->child.report_fd < 0) {
		inject_disarm();
		if (machine_counter(c->vm) > c->first) {
			__atomic_add_fetch(&c->shared->gone_on, 1, __ATOMIC_SEQ_CST);
			vm_end(c->vm, VM_END_KILLED, "enough");
			return;
		}
	}
	loop_set_timer(c->timer, TICK_NS);
}

static int nothing_spec(void *arg, const struct vm_child_spec *spec, struct err *e)
{
	(void)arg;
	(void)spec;
	(void)e;
	return 0;
}

static void forget_nothing(void *arg)
{
	(void)arg;
}

static int nothing(void *arg, struct err *e)
{
	(void)arg;
	(void)e;
	return 0;
}

static int serve(void *arg, struct err *e)
{
	struct ctx *c = arg;

	(void)e;
	inject_hold();
	c->first = machine_counter(c->vm);
	c->timer = loop_add_timer(c->vm->m.loop, on_child_tick, c);
	loop_set_timer(c->timer, TICK_NS);
	inject_release();
	return 0;
}

static void ended(void *arg, enum vm_end how, const char *detail)
{
	(void)arg;
	(void)how;
	(void)detail;
}

static const struct vm_hooks hooks = {
	.child_forget = forget_nothing,
	.child_enter = nothing_spec,
	.child_serve = serve,
	.vcpu_enter = nothing,
	.ended = ended,
};

static void must(int ret, const struct err *e)
{
	if (ret)
		sweep_fail("set-up: %s", e->msg);
}

static void setup(void *arg)
{
	struct ctx *c = arg;
	struct err e;

	must(machine_start(1, &c->vm, &e), &e);
	c->vm->hooks = &hooks;
	c->vm->hooks_arg = c;
	machine_must_go_on(c->vm);
	must(machine_grant(c->vm, "parent/", "disk/root/data", memfd_create("data", MFD_CLOEXEC), &e),
	     &e);
	for (size_t i = 0; i < c->n; i++) {
		char prefix[64];

		snprintf(prefix, sizeof(prefix), "child/child-%zu/", i);
		must(machine_grants(c->vm, prefix, &e), &e);
	}
	c->timer = loop_add_timer(c->vm->m.loop, on_tick, c);
	loop_set_timer(c->timer, 1);
	c->shared->gone_on = 0;
	c->parent = getpid();
}

static int run(void *arg, struct err *e)
{
	struct ctx *c = arg;
	int ret;

	pthread_mutex_unlock(&c->vm->lock);
	ret = vm_run(c->vm, e);
	if (getpid() != c->parent)
		_exit(0);
	pthread_mutex_lock(&c->vm->lock);
	sweep_now->hit = sweep_now->injected.call != NULL;
	if (ret)
		return ret;
	*e = c->e;
	return c->ret;
}

static void after(void *arg, int ret)
{
	struct ctx *c = arg;
	unsigned int ready = 0;

	for (size_t i = 0; i < c->n && !ret; i++) {
		const struct vm_child_result *r = &c->res[i];

		ready += !r->error;
		if (!r->error)
			continue;
		if (r->error > 0 || !r->msg[0])
			sweep_fail("%s: error %d without a story", r->name, r->error);
		if (r->error == -ETIMEDOUT)
			sweep_fail("%s failed by waiting only", r->name);
		/* it is to say why: it did not if it crashed */
		if (!sweep_now->hit || strstr(r->msg, "died before"))
			sweep_fail("%s: %s", r->name, r->msg);
	}
	if (c->shared->gone_on != ready)
		sweep_fail("%u children of %u that were ready went on", c->shared->gone_on, ready);
	if (waitpid(-1, NULL, WNOHANG) >= 0)
		sweep_fail("a child was left behind");
	machine_must_go_on(c->vm);
	loop_del_timer(c->timer);
	machine_end(c->vm);
}

static void forks(const struct sweep_op *op, bool in_child, size_t n)
{
	struct ctx c = { .in_child = in_child, .n = n };

	c.shared = mmap(NULL, sizeof(*c.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
			0);
	assert_true(c.shared != MAP_FAILED);
	sweep(op, &c);
	munmap(c.shared, sizeof(*c.shared));
}

static void test_inject__fork_in_the_parent(void **state)
{
	static const struct sweep_op op = { "fork, in the parent", setup, run, after, true, 30 };

	(void)state;
	forks(&op, false, 2);
}

static void test_inject__fork_in_the_child(void **state)
{
	static const struct sweep_op op = { "fork, in the child", setup, run, after, true, 60 };

	(void)state;
	forks(&op, true, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__fork_in_the_parent),
		cmocka_unit_test(test_inject__fork_in_the_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
