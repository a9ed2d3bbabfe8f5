/* SPDX-License-Identifier: MIT */
/*
 * The idea itself: a process with live vCPUs and virtio devices calls fork(2) and the guest goes on
 * in parent and child. Natively, with a guest of four instructions. Every machine proves progress:
 * its counter moves after the fork.
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
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "event/maps.h"
#include "fork/fork.h"
#include "mem/gmem.h"
#include "tests/lib/tiny_kernel.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

#define TICK_NS (20 * NS_PER_MS)
#define MACHINES 16

/* What each machine of a scenario saw, in memory that all share. */
struct scene {
	unsigned int machines; /* next free */
	struct {
		uint64_t first, last; /* the counter when it began here, and at its end */
		uint8_t generation[16];
		char name[VM_NAME_MAX + 1];
		int depth;
	} m[MACHINES];
	int forks_failed;
	char why[800];
	/* of a fork that is to fail: what was said of each child, and its process */
	unsigned int n_failed;
	char said[4][256];
	int error[4], pid[4];
};

/* What goes wrong with one child of a request. */
enum mishap {
	NO_MISHAP,
	NO_DISK,   /* it lacks a descriptor, and fails when it is alive */
	NO_SOCKET, /* it cannot be forked */
};

struct ctx {
	struct scene *s;
	struct vm *vm;
	unsigned int me;
	struct loop_timer *timer;
	int ticks, depth, fan;
	unsigned int vcpus;
	enum mishap mishap;
	bool all;
	struct map_range shared[2]; /* s */
};

#define UNLUCKY 2 /* which child it is */

static uint64_t counter(struct vm *vm)
{
	uint64_t v = 0;

	gmem_read(vm->m.mem, TINY_COUNTER_GPA, &v, sizeof(v));
	return v;
}

static void on_tick(void *arg);

static void begin(struct ctx *c)
{
	c->me = __atomic_fetch_add(&c->s->machines, 1, __ATOMIC_SEQ_CST);
	c->s->m[c->me].first = counter(c->vm);
	c->s->m[c->me].depth = c->depth;
	memcpy(c->s->m[c->me].generation, c->vm->id.generation, 16);
	snprintf(c->s->m[c->me].name, sizeof(c->s->m[0].name), "%s", c->vm->id.name);
	c->ticks = 0;
	c->timer = loop_add_timer(c->vm->m.loop, on_tick, c);
	loop_set_timer(c->timer, TICK_NS);
}

static void on_forked(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns)
{
	struct ctx *c = arg;

	(void)pause_ns;
	if (c->mishap) {
		setrlimit(RLIMIT_NOFILE, &(struct rlimit){ 4096, 4096 });
		for (size_t i = 0; i < n; i++) {
			c->s->n_failed += res[i].error != 0;
			c->s->error[i] = res[i].error;
			c->s->pid[i] = res[i].pid;
			snprintf(c->s->said[i], sizeof(c->s->said[i]), "%s", res[i].msg);
		}
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (!res[i].error && res[i].entered_ns >= res[i].forked_ns)
			continue;
		c->s->forks_failed++;
		snprintf(c->s->why, sizeof(c->s->why), "%s: %s", res[i].name, res[i].msg);
	}
}

static int listener(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (void *)&sun, sizeof(sun.sun_family)), 0); /* autobind */
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static void grant(struct vm *vm, const char *prefix, const char *name, int fd)
{
	char full[256];
	struct err e;

	snprintf(full, sizeof(full), "%s%s", prefix, name);
	assert_true(fd >= 0);
	if (grants_put(vm->m.grants, full, fd, &e))
		fail_msg("%s", e.msg);
}

static void grant_machine(struct vm *vm, const char *prefix)
{
	grant(vm, prefix, "vsock", listener());
	grant(vm, prefix, "console", listener());
	grant(vm, prefix, "console-log", memfd_create("log", MFD_CLOEXEC));
	grant(vm, prefix, "disk/root/data", memfd_create("data", MFD_CLOEXEC));
}

/* No descriptor is left for the unlucky child: each before it leaves the parent with one more, and
 * the disk, which goes on with another file, with one less; the gate has two. */
static void limit_fds(void)
{
	int fds[UNLUCKY + 2], last = 0;

	for (int i = 0; i < UNLUCKY + 2; i++)
		last = fds[i] = dup(0);
	for (int i = 0; i < UNLUCKY + 2; i++)
		close(fds[i]);
	setrlimit(RLIMIT_NOFILE, &(struct rlimit){ (rlim_t)last + 1, 4096 });
}

static void on_tick(void *arg)
{
	struct vm_child_spec spec[4];
	struct vm_fork_request rq = {
		.specs = spec, .done = on_forked, .arg = arg, .wait = true, .timeout_ms = 120000
	};
	struct ctx *c = arg;
	struct err e;

	/* fork what has begun to count, so that "goes on" can be told from "begins again" */
	if (c->ticks || counter(c->vm))
		c->ticks++;
	if (c->ticks == 1 && c->depth > 0) {
		int fan = c->fan;

		memset(spec, 0, sizeof(spec));
		rq.n = (size_t)fan;
		grant(c->vm, "parent/", "disk/root/data", memfd_create("data", MFD_CLOEXEC));
		for (int i = 0; i < fan; i++) {
			char prefix[128];

			snprintf(spec[i].id.name, sizeof(spec[i].id.name), "child-%d-%d", c->depth,
				 i);
			snprintf(prefix, sizeof(prefix), "child/%s/", spec[i].id.name);
			grant_machine(c->vm, prefix);
			if (c->mishap == NO_DISK && i == UNLUCKY) {
				strcat(prefix, "disk/");
				grants_drop(c->vm->m.grants, prefix);
			}
		}
		rq.all = c->all;
		if (c->mishap == NO_SOCKET)
			limit_fds();
		if (vm_fork(c->vm, &rq, &e)) {
			c->s->forks_failed++;
			snprintf(c->s->why, sizeof(c->s->why), "%s", e.msg);
		}
	}
	c->s->m[c->me].last = counter(c->vm);
	/* a machine stays until its children reported and it has moved on itself */
	if (c->ticks > 3 && !c->vm->forks && c->s->m[c->me].last > c->s->m[c->me].first) {
		vm_end(c->vm, VM_END_KILLED, "enough");
		return;
	}
	if (c->ticks > 9000) { /* three minutes: longer than a fork may take */
		vm_end(c->vm, VM_END_ERROR, "no progress");
		return;
	}
	loop_set_timer(c->timer, TICK_NS);
}

static int serve(void *arg, struct err *e)
{
	struct ctx *c = arg;

	(void)e;
	c->depth--;
	begin(c);
	return 0;
}

static void ended(void *arg, enum vm_end how, const char *detail)
{
	struct ctx *c = arg;

	if (how == VM_END_ERROR && !c->mishap && !c->s->why[0]) {
		c->s->forks_failed++;
		snprintf(c->s->why, sizeof(c->s->why), "ended: %s", detail);
	}
}

static const struct vm_hooks *hooks(void)
{
	static struct vm_hooks h;

	h = vm_no_hooks;
	h.child_serve = serve;
	h.ended = ended;
	return &h;
}

static void on_kick(int sig)
{
	(void)sig;
}

/* A VM process: boots the counting guest and plays the scene. Returns its exit status. */
static int machine_main(struct ctx *c)
{
	struct sigaction kick = { .sa_handler = on_kick };
	int base = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[64];
	struct err e = { "" };
	int ret;

	sigaction(SIGUSR1, &kick, NULL);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	if (ftruncate(base, 1 << 20) < 0 || vm_create("tiny", &c->vm, &e))
		return 1;
	c->shared[0] = (struct map_range){ c->s, ROUND_UP(sizeof(*c->s), 4096), true, "scene" };
	c->vm->shared_memory = c->shared;
	c->vm->hooks = hooks();
	c->vm->hooks_arg = c;
	c->vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	fdtab_add(c->vm->m.fds, c->vm->kvm_fd, FD_KEEP, "kvm");
	grant(c->vm, "", "kernel", tiny_kernel_counter());
	grant(c->vm, "", "base", open(path, O_RDONLY | O_CLOEXEC));
	close(base);
	grant_machine(c->vm, "");
	ret = vm_set_machine(c->vm, c->vcpus, 128ull << 20, &e);
	if (!ret)
		ret = vm_set_boot(c->vm, "kernel", NULL, "", &e);
	if (!ret)
		ret = tiny_add_disk(c->vm, &e);
	if (!ret)
		ret = vm_set_vsock(c->vm, 3, &e);
	if (!ret)
		ret = vm_set_entropy(c->vm, &e);
	pthread_mutex_lock(&c->vm->lock);
	if (!ret)
		ret = vm_start(c->vm, &e);
	pthread_mutex_unlock(&c->vm->lock);
	if (ret) {
		snprintf(c->s->why, sizeof(c->s->why), "%s", e.msg);
		return 1;
	}
	begin(c);
	ret = vm_run(c->vm, &e);
	return ret ? 1 : 0;
}

static struct scene *perform(struct ctx *c)
{
	struct scene *s =
		mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int st, pid;

	assert_true(s != MAP_FAILED);
	c->s = s;
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(machine_main(c));
	assert_int_equal(waitpid(pid, &st, 0), pid);
	if (st || s->forks_failed)
		fail_msg("status %#x, %d failed: %s", (unsigned int)st, s->forks_failed, s->why);
	return s;
}

static void play(int depth, int fan, unsigned int vcpus, unsigned int expect)
{
	struct ctx c = { .depth = depth, .fan = fan, .vcpus = vcpus };
	struct scene *s = perform(&c);
	unsigned int n;

	/* grandchildren may outlive their parents: give them the time that a tick needs */
	for (int i = 0; i < 9000; i++) {
		n = 0;
		for (unsigned int j = 0; j < s->machines; j++)
			n += s->m[j].last > s->m[j].first;
		if (n >= expect)
			break;
		usleep(20000);
	}
	assert_int_equal(s->machines, expect);
	for (unsigned int j = 0; j < expect; j++) {
		assert_true(s->m[j].last > s->m[j].first);
		if (s->m[j].depth < depth)
			assert_true(s->m[j].first > 0); /* it went on; it did not boot again */
		for (unsigned int k = 0; k < j; k++)
			assert_memory_not_equal(s->m[j].generation, s->m[k].generation, 16);
	}
	munmap(s, sizeof(*s));
}

static void test_vm_fork__guest_goes_on_in_parent_and_child(void **state)
{
	(void)state;
	play(1, 1, 1, 2);
}

static void test_vm_fork__four_children_at_once(void **state)
{
	(void)state;
	play(1, 4, 1, 5);
}

static void test_vm_fork__nests(void **state)
{
	(void)state;
	play(8, 1, 1, 9);
}

static void test_vm_fork__smp(void **state)
{
	(void)state;
	play(2, 1, 4, 3);
}

/* Four children, of which the third has a mishap: what became of each, and what the last said. */
static void play_mishap(enum mishap what, bool all, const int *error, const char *said_by_last)
{
	struct ctx c = { .depth = 1, .fan = 4, .vcpus = 1, .mishap = what, .all = all };
	struct scene *s = perform(&c);

	assert_int_equal(s->n_failed, all ? 4 : 1);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(s->error[i], error[i]);
		/* what was killed may outlive its parent by a little */
		for (int k = 0; error[i] && s->pid[i] && !kill(s->pid[i], 0); k++) {
			assert_true(k < 9000);
			usleep(20000);
		}
	}
	assert_string_equal(s->said[3], said_by_last);
	/* the parent goes on */
	assert_true(s->m[0].last > s->m[0].first);
	munmap(s, sizeof(*s));
}

static void test_vm_fork__one_childs_failure_is_its_own(void **state)
{
	(void)state;
	play_mishap(NO_DISK, false, (int[]){ 0, 0, -ENOENT, 0 }, "");
}

static void test_vm_fork__all_or_none(void **state)
{
	(void)state;
	play_mishap(NO_DISK, true, (int[]){ -ECANCELED, -ECANCELED, -ENOENT, -ECANCELED },
		    "not without child-1-2: root: root: no descriptor was passed for "
		    "'disk/root/data'");
}

static void test_vm_fork__all_or_none_when_fork_itself_fails(void **state)
{
	(void)state;
	play_mishap(NO_SOCKET, true, (int[]){ -ECANCELED, -ECANCELED, -EMFILE, -ECANCELED },
		    "not without child-1-2: fork: socketpair: Too many open files");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_vm_fork__guest_goes_on_in_parent_and_child),
		cmocka_unit_test(test_vm_fork__four_children_at_once),
		cmocka_unit_test(test_vm_fork__nests),
		cmocka_unit_test(test_vm_fork__smp),
		cmocka_unit_test(test_vm_fork__one_childs_failure_is_its_own),
		cmocka_unit_test(test_vm_fork__all_or_none),
		cmocka_unit_test(test_vm_fork__all_or_none_when_fork_itself_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
