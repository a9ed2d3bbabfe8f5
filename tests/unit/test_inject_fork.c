/* SPDX-License-Identifier: MIT */
/*
 * Whatever fails during a fork, in the parent or in the child: the parent hears of it and goes on,
 * with no child and no descriptor too many; a child that is called ready goes on too.
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
#include "snapshot/snapshot.h"
#include "event/loop.h"
#include "fork/spare.h"
#include "tests/inject/machine.h"
#include "tests/inject/sweep.h"

#define CHILDREN 2
#define TICK_NS (2 * NS_PER_MS)
#define PATIENCE_TICKS 75000 /* longer than a fork may take */

/* What the children say for themselves. */
struct shared {
	unsigned int gone_on;
};

/* Where calls fail, from when on. */
struct scene {
	size_t n;   /* children */
	bool seed;  /* of a seed, else of a running machine */
	bool spare; /* a spare child has been made before the fork is asked for */
	enum { MAKING_SPARE, FORKING } during;
	bool in_child;
};

struct ctx {
	struct vm *vm;
	struct shared *shared;
	struct loop_timer *timer;
	const struct scene *scene;
	struct machine_files files; /* a seed's */
	size_t n;		    /* children */
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

static void arm(const struct ctx *c)
{
	if (c->scene->in_child)
		inject_arm_child(sweep_now->nth, &sweep_now->injected);
	else
		inject_arm(sweep_now->nth, &sweep_now->injected);
}

/* The first time: has one made, without the quiet before. true once it is there, or cannot be. */
static bool have_spare(struct ctx *c)
{
	if (!c->vm->spares.timer) {
		if (c->scene->during == MAKING_SPARE)
			arm(c);
		spares_later(c->vm);
		if (c->vm->spares.timer)
			loop_set_timer(c->vm->spares.timer, 1);
		return !c->vm->spares.timer;
	}
	return c->vm->spares.n || sweep_now->injected.call;
}

static void ask(struct ctx *c)
{
	struct vm_child_spec spec[CHILDREN];
	struct vm_fork_request rq = { .specs = spec,
				      .n = c->n,
				      .done = on_forked,
				      .arg = c,
				      .wait = true,
				      .timeout_ms = 120000 };

	memset(spec, 0, sizeof(spec));
	for (size_t i = 0; i < c->n; i++)
		snprintf(spec[i].id.name, sizeof(spec[i].id.name), "child-%zu", i);
	c->asked = true;
	c->vm->spares.want = 0; /* no more of them */
	if (c->scene->during == FORKING)
		arm(c);
	else if (!c->scene->in_child)
		inject_disarm();
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
	siginfo_t si;
	bool left;

	if (!c->asked && (!c->scene->spare || have_spare(c)))
		ask(c);
	left = !c->done ||
	       (!c->vm->spares.n && !waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT));
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

static const struct vm_hooks *hooks(void)
{
	static struct vm_hooks h;

	h = vm_no_hooks;
	h.child_serve = serve;
	return &h;
}

static void must(int ret, const struct err *e)
{
	if (ret)
		sweep_fail("set-up: %s", e->msg);
}

static void setup(void *arg)
{
	struct ctx *c = arg;
	struct err e;

	if (c->scene->seed) {
		static const struct vm_files files = { "state", "ram" };
		const struct vm_seed seed = { .spares = c->scene->spare };

		must(machine_create(&c->vm, &e), &e);
		machine_grant_files(c->vm, &c->files, true, true);
		must(vm_load(c->vm, &files, 1, &seed, &e), &e);
	} else {
		must(machine_start(1, &c->vm, &e), &e);
		machine_must_go_on(c->vm);
		must(machine_grant(c->vm, "parent/", "disk/root/data",
				   memfd_create("data", MFD_CLOEXEC), &e),
		     &e);
	}
	c->vm->hooks = hooks();
	c->vm->hooks_arg = c;
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
	/* one that we could not hear of may have gone on until it was killed */
	if (c->shared->gone_on < ready)
		sweep_fail("%u children of %u that were ready went on", c->shared->gone_on, ready);
	if (!c->scene->seed)
		machine_must_go_on(c->vm);
	loop_del_timer(c->timer);
	machine_end(c->vm);
	if (waitpid(-1, NULL, WNOHANG) >= 0)
		sweep_fail("a child was left behind");
}

static void forks(const char *name, const struct scene *scene, unsigned int min)
{
	const struct sweep_op op = { name, setup, run, after, true, min };
	struct ctx c = { .scene = scene, .n = scene->n };

	c.shared = mmap(NULL, sizeof(*c.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	assert_true(c.shared != MAP_FAILED);
	machine_share(c.shared, sizeof(*c.shared));
	if (scene->seed)
		assert_true(machine_save(1, &c.files));
	sweep(&op, &c);
	munmap(c.shared, sizeof(*c.shared));
}

static void test_inject__fork_in_the_parent(void **state)
{
	static const struct scene running = { .n = 2, .during = FORKING };
	static const struct scene seed = { .n = 2, .seed = true, .during = FORKING };

	(void)state;
	forks("fork, in the parent", &running, 30);
	forks("fork of a seed, in the parent", &seed, 20);
}

static void test_inject__fork_in_the_child(void **state)
{
	static const struct scene running = { .n = 1, .during = FORKING, .in_child = true };
	static const struct scene seed = {
		.n = 1, .seed = true, .during = FORKING, .in_child = true
	};

	(void)state;
	forks("fork, in the child", &running, 50);
	forks("fork of a seed, in the child", &seed, 50);
}

static void test_inject__spare_children(void **state)
{
	static const struct scene making = { .n = 1, .seed = true, .spare = true };
	static const struct scene being = { .n = 1, .seed = true, .spare = true, .in_child = true };
	static const struct scene using = {
		.n = 1, .seed = true, .spare = true, .during = FORKING
	};

	(void)state;
	forks("making a spare", &making, 5);
	forks("being a spare", &being, 50);
	forks("using a spare", &using, 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__fork_in_the_parent),
		cmocka_unit_test(test_inject__fork_in_the_child),
		cmocka_unit_test(test_inject__spare_children),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
