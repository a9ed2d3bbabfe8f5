/* SPDX-License-Identifier: MIT */
/*
 * The working set of a seed's forks (src/fork/workset.c): what a first fork writes to, later spares
 * have copies of before they are anybody; whatever a recorder says or does not say, forks work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/fork.h"
#include "fork/spare.h"
#include "fork/workset.h"
#include "mem/gmem.h"
#include "snapshot/snapshot.h"
#include "tests/inject/machine.h"
#include "tests/inject/sweep.h"
#include "tests/lib/tiny_kernel.h"

#define TICK_NS (5 * NS_PER_MS)
#define PATIENCE_TICKS 30000
#define PAGE_EXCLUSIVE (1ull << 56) /* of /proc/PID/pagemap: mapped by nobody else */
#define PAGE_PRESENT (1ull << 63)

enum step { RECORD, LEARN, SPARE, LOOK, USE, END };

struct ctx {
	struct vm *vm;
	struct loop_timer *timer;
	struct machine_files files;
	enum step step;
	unsigned int *gone_on; /* shared with the children */
	unsigned int ticks;
	uint64_t first;
	int parent;
	bool forked;
};

static void must(int ret, const struct err *e)
{
	if (ret)
		sweep_fail("%s", e->msg);
}

/* How a page of another process's guest RAM, which lies where ours does, is mapped there. */
static uint64_t page_of(pid_t pid, struct gmem *gm, uint64_t offset)
{
	uintptr_t at = (uintptr_t)gmem_at_offset(gm, offset, 1);
	uint64_t v = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (pread(fd, &v, sizeof(v), (off_t)(at / GMEM_PAGE * sizeof(v))) != sizeof(v))
		v = 0;
	close(fd);
	return v;
}

static void on_forked(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns)
{
	struct ctx *c = arg;

	(void)n;
	(void)pause_ns;
	if (res->error)
		sweep_fail("%s: %s", res->name, res->msg);
	c->forked = true;
}

static void ask(struct ctx *c, const char *name)
{
	struct vm_child_spec spec = { .paused = false };
	struct vm_fork_request rq = { .specs = &spec,
				      .n = 1,
				      .done = on_forked,
				      .arg = c,
				      .wait = true,
				      .timeout_ms = 120000 };
	char prefix[VM_NAME_MAX + 16];
	struct err e;

	snprintf(spec.id.name, sizeof(spec.id.name), "%.60s", name);
	snprintf(prefix, sizeof(prefix), "child/%s/", name);
	must(machine_grants(c->vm, prefix, &e), &e);
	c->forked = false;
	must(vm_fork(c->vm, &rq, &e), &e);
}

/* The one process that is our child and has no name yet. */
static pid_t spare(void)
{
	char path[64], text[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", getpid(), getpid());
	f = fopen(path, "re");
	if (f) {
		text[fread(text, 1, sizeof(text) - 1, f)] = '\0';
		fclose(f);
	}
	return (pid_t)atoi(text);
}

static void on_tick(void *arg)
{
	const uint64_t other = TINY_COUNTER_GPA + 64 * GMEM_PAGE;
	struct ctx *c = arg;
	struct vm *vm = c->vm;
	enum step was = c->step;
	uint64_t v;

	switch (c->step) {
	case RECORD:
		vm->spares.want = 0;
		ask(c, "recorder");
		c->step = LEARN;
		break;
	case LEARN:
		vm->spares.want = 1;
		/* it has ended by itself: the only child left is the spare */
		if (vm->workset.n && !vm->reapers)
			c->step = SPARE;
		break;
	case SPARE:
		if (vm->spares.n)
			c->step = LOOK;
		break;
	case LOOK:
		v = page_of(spare(), vm->m.mem, TINY_COUNTER_GPA);
		if (v & PAGE_PRESENT && v & PAGE_EXCLUSIVE)
			c->step = USE;
		if (page_of(spare(), vm->m.mem, other) & PAGE_EXCLUSIVE)
			sweep_fail("a page that nobody wrote to is copied");
		break;
	case USE:
		vm->spares.want = 0;
		ask(c, "user");
		if (vm->spares.n)
			sweep_fail("the spare was not used");
		c->step = END;
		break;
	case END:
		if (c->forked && *c->gone_on == 2 && !vm->reapers) {
			loop_stop(vm->m.loop);
			return;
		}
		break;
	}
	c->ticks = c->step == was ? c->ticks + 1 : 0;
	if (c->ticks == PATIENCE_TICKS)
		sweep_fail("step %d never ends", (int)c->step);
	loop_set_timer(c->timer, TICK_NS);
}

/* A child ends when it has told what it recorded, and its guest has moved. */
static void on_child_tick(void *arg)
{
	struct ctx *c = arg;

	if (!c->vm->workset.timer && c->vm->child.report_fd < 0 &&
	    machine_counter(c->vm) > c->first) {
		__atomic_add_fetch(c->gone_on, 1, __ATOMIC_SEQ_CST);
		vm_end(c->vm, VM_END_KILLED, "enough");
		return;
	}
	loop_set_timer(c->timer, TICK_NS);
}

static int serve(void *arg, struct err *e)
{
	struct ctx *c = arg;

	(void)e;
	c->first = machine_counter(c->vm);
	c->timer = loop_add_timer(c->vm->m.loop, on_child_tick, c);
	loop_set_timer(c->timer, TICK_NS);
	return 0;
}

static void load_seed(struct ctx *c)
{
	static const struct vm_files files = { "state", "ram" };
	const struct vm_seed seed = { .working_set = true };
	static struct vm_hooks hooks;
	struct err e;

	assert_true(machine_save(1, &c->files));
	must(machine_create(&c->vm, &e), &e);
	machine_grant_files(c->vm, &c->files, true, true);
	must(vm_load(c->vm, &files, 1, &seed, &e), &e);
	hooks = vm_no_hooks;
	hooks.child_serve = serve;
	c->vm->hooks = &hooks;
	c->vm->hooks_arg = c;
	c->parent = getpid();
}

static void unload(struct ctx *c)
{
	machine_end(c->vm);
	close(c->files.state);
	close(c->files.ram);
	close(c->files.layer);
}

static void test_workset__spares_have_copies_of_what_a_fork_wrote_to(void **state)
{
	struct ctx c = { .step = RECORD };
	struct err e;

	(void)state;
	c.gone_on = mmap(NULL, sizeof(*c.gone_on), PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(c.gone_on != MAP_FAILED);
	machine_share(c.gone_on, sizeof(*c.gone_on));
	load_seed(&c);
	c.timer = loop_add_timer(c.vm->m.loop, on_tick, &c);
	loop_set_timer(c.timer, 1);
	pthread_mutex_unlock(&c.vm->lock);
	must(vm_run(c.vm, &e), &e);
	if (getpid() != c.parent)
		_exit(0);
	pthread_mutex_lock(&c.vm->lock);
	assert_int_equal(*c.gone_on, 2);
	loop_del_timer(c.timer);
	unload(&c);
	munmap(c.gone_on, sizeof(*c.gone_on));
}

/* Our end of a recorder's socket, which the seed listens to. */
static int pretend(struct vm *vm, const char *name)
{
	char grant[128];
	struct err e;
	int fd;

	workset_ask(vm, name);
	snprintf(grant, sizeof(grant), "child/%s/working-set", name);
	fd = grants_take(vm->m.grants, grant, &e);
	if (fd >= 0)
		fdtab_del(vm->m.fds, fd);
	return fd;
}

/* One after the other, with time for the loop to hear of what was said. */
struct script {
	struct vm *vm;
	struct loop_timer *timer;
	void (*const *step)(struct vm *vm); /* to a NULL */
};

static void on_step(void *arg)
{
	struct script *s = arg;

	if (!*s->step) {
		loop_stop(s->vm->m.loop);
		return;
	}
	(*s->step++)(s->vm);
	loop_set_timer(s->timer, 50 * NS_PER_MS);
}

static void play(void (*const *step)(struct vm *vm))
{
	struct ctx c = { 0 };
	struct script s = { .step = step };
	struct err e;

	load_seed(&c);
	s.vm = c.vm;
	s.timer = loop_add_timer(c.vm->m.loop, on_step, &s);
	loop_set_timer(s.timer, 1);
	pthread_mutex_unlock(&c.vm->lock);
	must(vm_run(c.vm, &e), &e);
	pthread_mutex_lock(&c.vm->lock);
	loop_del_timer(s.timer);
	unload(&c);
}

static void dies_without_a_word(struct vm *vm)
{
	int fd = pretend(vm, "a");

	assert_true(fd >= 0);
	assert_int_equal(pretend(vm, "b"), -ENOENT); /* one at a time */
	close(fd);
}

static void says_too_much(struct vm *vm)
{
	static le32 words[2 * WORKSET_PAGES_MAX];
	int fd;

	assert_int_equal(vm->workset.fd, -1);
	assert_int_equal(vm->workset.n, 0);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		words[i] = le32_put(i % 4 ? UINT32_MAX - (uint32_t)i : (uint32_t)i);
	fd = pretend(vm, "c");
	assert_true(fd >= 0);
	assert_int_equal(send(fd, words, sizeof(words), 0), sizeof(words));
	close(fd);
}

static void is_known(struct vm *vm)
{
	assert_int_equal(vm->workset.n, WORKSET_PAGES_MAX / 4);
	for (size_t i = 0; i < vm->workset.n; i++)
		assert_int_equal(vm->workset.pages[i], 4 * i);
	assert_int_equal(pretend(vm, "d"), -ENOENT);
}

static void is_given_up(struct vm *vm)
{
	assert_int_equal(vm->workset.fd, -1);
	assert_int_equal(pretend(vm, "d"), -ENOENT);
}

static void test_workset__a_recorder_is_believed_within_bounds(void **state)
{
	static void (*const steps[])(struct vm * vm) = { dies_without_a_word, says_too_much,
							 is_known, NULL };

	(void)state;
	play(steps);
}

static void test_workset__is_given_up_after_a_few_tries(void **state)
{
	static void (*const steps[])(struct vm * vm) = { dies_without_a_word, dies_without_a_word,
							 dies_without_a_word, is_given_up, NULL };

	(void)state;
	play(steps);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_workset__spares_have_copies_of_what_a_fork_wrote_to),
		cmocka_unit_test(test_workset__a_recorder_is_believed_within_bounds),
		cmocka_unit_test(test_workset__is_given_up_after_a_few_tries),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
