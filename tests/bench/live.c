/* SPDX-License-Identifier: MIT */
/*
 * What a fork of a running machine costs its parent, beside fork(2) of as much memory and nothing
 * else. Natively: the guest is tiny, and its RAM is touched by us, every page of it, in small pages
 * or in huge ones. Children end at once, so that only the parent's side is measured. Prints one
 * JSON object a line, as tiny.c does; all values in ns, for a whole request of N children.
 *
 * usage: live [--quick]
 */
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/fork.h"
#include "mem/gmem.h"
#include "tests/lib/tiny_kernel.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

#define ROUNDS_MAX 16
#define APART_NS (30 * NS_PER_MS)

struct shape {
	uint64_t mib;
	bool huge;
	unsigned int n, cpus, rounds;
};

/* In memory that the machine's process shares with us. */
struct result {
	unsigned int rounds;
	uint64_t pause_ns[ROUNDS_MAX], fork_ns[ROUNDS_MAX];
};

struct ctx {
	const struct shape *s;
	struct result *r;
	struct vm *vm;
	struct loop_timer *timer;
};

static _Noreturn void die(const char *what, const struct err *e)
{
	fprintf(stderr, "live: %s: %s\n", what, e ? e->msg : "failed");
	_exit(1);
}

static void report(const struct shape *s, const char *name, const char *clock, const char *peer,
		   const uint64_t *v, unsigned int n)
{
	char full[96], peer_full[96] = "";
	json_t *values = json_array(), *j;

	snprintf(full, sizeof(full), "%s_%lluM_%s_n%u_c%u", name, (unsigned long long)s->mib,
		 s->huge ? "huge" : "4k", s->n, s->cpus);
	if (peer)
		snprintf(peer_full, sizeof(peer_full), "%s_%lluM_%s_n%u_c%u", peer,
			 (unsigned long long)s->mib, s->huge ? "huge" : "4k", s->n, s->cpus);
	for (unsigned int i = 0; i < n; i++)
		json_array_append_new(values, json_integer((json_int_t)v[i]));
	j = json_pack("{s:s, s:s, s:s, s:s*, s:o}", "name", full, "clock", clock, "unit", "ns",
		      "peer", peer ? peer_full : NULL, "values", values);
	json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(j);
}

static void touch(char *p, uint64_t bytes, bool huge)
{
	if (madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE) && huge)
		die("this host has no huge pages", NULL);
	for (uint64_t at = 0; at < bytes; at += 4096)
		p[at] = 1;
}

/* ---- fork(2) and nothing else ---- */

static void plain_main(const struct shape *s, struct result *r)
{
	uint64_t bytes = MIB(s->mib);
	char *p = mmap(NULL, bytes + MIB(2), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	pid_t pid[64];

	if (p == MAP_FAILED)
		die("mmap", NULL);
	touch((char *)ROUND_UP((uintptr_t)p, MIB(2)), bytes, s->huge);
	for (r->rounds = 0; r->rounds < s->rounds; r->rounds++) {
		uint64_t t0 = time_mono_ns();

		for (unsigned int i = 0; i < s->n; i++) {
			pid[i] = fork();
			if (!pid[i])
				_exit(0);
			if (pid[i] < 0)
				die("fork", NULL);
		}
		r->pause_ns[r->rounds] = time_mono_ns() - t0;
		for (unsigned int i = 0; i < s->n; i++)
			waitpid(pid[i], NULL, 0);
		usleep(APART_NS / 1000);
	}
}

/* ---- a machine ---- */

static void grant(struct vm *vm, const char *name, int fd)
{
	struct err e;

	if (fd < 0 || grants_put(vm->m.grants, name, fd, &e))
		die(name, fd < 0 ? NULL : &e);
}

static int listener(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (bind(fd, (void *)&sun, sizeof(sun.sun_family)) || listen(fd, 8)) /* autobind */
		die("socket", NULL);
	return fd;
}

/* The children are gone, which is a failure to everybody else. */
static void on_forked(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns)
{
	struct ctx *c = arg;

	(void)res;
	(void)n;
	c->r->pause_ns[c->r->rounds] = pause_ns;
	c->r->fork_ns[c->r->rounds] = c->vm->stats.last_fork_ns;
	if (++c->r->rounds == c->s->rounds)
		vm_end(c->vm, VM_END_KILLED, "enough");
	else
		loop_set_timer(c->timer, APART_NS);
}

static void on_tick(void *arg)
{
	static struct vm_child_spec spec[64];
	struct vm_fork_request rq = {
		.specs = spec, .done = on_forked, .arg = arg, .timeout_ms = 60000
	};
	struct ctx *c = arg;
	struct err e;

	for (rq.n = 0; rq.n < c->s->n; rq.n++)
		snprintf(spec[rq.n].id.name, sizeof(spec[0].id.name), "child-%zu", rq.n);
	grant(c->vm, "parent/disk/root/data", memfd_create("data", MFD_CLOEXEC));
	if (vm_fork(c->vm, &rq, &e))
		die("fork", &e);
}

static void child_forget(void *arg)
{
	(void)arg;
	_exit(0);
}

static void on_kick(int sig)
{
	(void)sig;
}

static void start(struct ctx *c)
{
	int base = open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	struct vm *vm = c->vm;
	struct err e;
	char path[64];

	vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	fdtab_add(vm->m.fds, vm->kvm_fd, FD_KEEP, "kvm");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", base);
	if (base < 0 || ftruncate(base, MIB(64)))
		die("disk", NULL);
	grant(vm, "kernel", tiny_kernel_counter());
	grant(vm, "base", open(path, O_RDONLY | O_CLOEXEC));
	grant(vm, "vsock", listener());
	grant(vm, "console", listener());
	grant(vm, "console-log", memfd_create("log", MFD_CLOEXEC));
	grant(vm, "disk/root/data", memfd_create("data", MFD_CLOEXEC));
	close(base);
	if (vm_set_machine(vm, c->s->cpus, MIB(c->s->mib), &e) ||
	    vm_set_boot(vm, "kernel", NULL, "", &e) || tiny_add_disk(vm, &e) ||
	    vm_set_vsock(vm, 3, &e) || vm_set_entropy(vm, &e))
		die("machine", &e);
	pthread_mutex_lock(&vm->lock);
	if (vm_start(vm, &e))
		die("start", &e);
	pthread_mutex_unlock(&vm->lock);
}

static void machine_main(const struct shape *s, struct result *r)
{
	struct sigaction kick = { .sa_handler = on_kick };
	struct vm_hooks hooks = vm_no_hooks;
	struct gmem_region reg[GMEM_MAX_REGIONS];
	struct ctx c = { .s = s, .r = r };
	struct err e;

	sigaction(SIGUSR1, &kick, NULL);
	if (vm_create("live", &c.vm, &e))
		die("vm", &e);
	hooks.child_forget = child_forget;
	c.vm->hooks = &hooks;
	c.vm->hooks_arg = &c;
	start(&c);
	for (size_t i = 0, n = gmem_regions(c.vm->m.mem, reg); i < n; i++)
		touch(reg[i].hva, reg[i].size_bytes, s->huge);
	c.timer = loop_add_timer(c.vm->m.loop, on_tick, &c);
	loop_set_timer(c.timer, APART_NS);
	if (vm_run(c.vm, &e))
		die("run", &e);
}

static void in_a_process(void (*fn)(const struct shape *, struct result *), const struct shape *s,
			 struct result *r)
{
	pid_t pid;
	int status;

	r->rounds = 0;
	pid = fork();
	if (!pid) {
		fn(s, r);
		_exit(0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status || r->rounds != s->rounds)
		die("a machine", NULL);
}

static void measure(const struct shape *s, struct result *r)
{
	in_a_process(plain_main, s, r);
	report(s, "plain_fork", "fork(2) N times of a process with as much memory", NULL,
	       r->pause_ns, r->rounds);
	in_a_process(machine_main, s, r);
	report(s, "live_pause", "vCPUs told to stop, to vCPUs told to go on", "plain_fork",
	       r->pause_ns, r->rounds);
	report(s, "live_fork2", "of it in fork(2)", "plain_fork", r->fork_ns, r->rounds);
}

int main(int argc, char **argv)
{
	static const struct shape shapes[] = {
		{ 128, false, 1, 1, 16 },  { 128, false, 16, 1, 8 },  { 128, false, 64, 1, 4 },
		{ 128, true, 1, 1, 16 },   { 128, true, 16, 1, 8 },   { 128, true, 64, 1, 4 },
		{ 1024, false, 1, 1, 8 },  { 1024, false, 16, 1, 4 }, { 1024, true, 1, 1, 16 },
		{ 1024, true, 16, 1, 8 },  { 1024, true, 64, 1, 4 },  { 1024, true, 1, 4, 16 },
		{ 1024, true, 1, 16, 16 }, { 8192, false, 1, 1, 4 },  { 8192, true, 1, 1, 8 },
		{ 8192, true, 16, 1, 4 },  { 8192, true, 1, 16, 8 },
	};
	bool quick = argc == 2 && !strcmp(argv[1], "--quick");
	struct result *r =
		mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (r == MAP_FAILED)
		die("mmap", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		if (!quick || shapes[i].mib <= 128)
			measure(&shapes[i], r);
	return 0;
}
