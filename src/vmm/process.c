/* SPDX-License-Identifier: MIT */
/*
 * The VM process: `clone vm FD`. Takes its descriptors from the privileged caller, jails itself,
 * serves its control socket and runs until the VM ends. Everything it ever opens arrives by
 * descriptor. Main thread.
 */
#include <errno.h>
#include <jansson.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "control/control.h"
#include "control/json.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "jail/jail.h"
#include "vm/vm.h"
#include "vm/vm_private.h"

#define BOOT_MSG_MAX 16384

struct process {
	struct vm *vm;
	struct control *control;
	struct jail_filters *filters;
	struct jail_cfg jail;
	int exit_fd;
	uint64_t linger_ns; /* a seed without work ends after this; 0: never */
	struct loop_timer *linger;
	bool privileged; /* our caller was root: children get uids of their own */
};

static const char *end_name(enum vm_end how)
{
	switch (how) {
	case VM_END_POWEROFF:
		return "poweroff";
	case VM_END_RESET:
		return "reset";
	case VM_END_PANIC:
		return "panic";
	case VM_END_KILLED:
		return "killed";
	case VM_END_ERROR:
		break;
	}
	return "error";
}

static void on_ended(void *arg, enum vm_end how, const char *detail)
{
	struct process *p = arg;
	json_t *rec = json_pack("{s:s, s:s, s:i}", "reason", end_name(how), "detail", detail,
				"code", (int)how);
	char *text = rec ? json_text(rec, JSON_COMPACT) : NULL;

	if (how == VM_END_ERROR)
		log_warn("the VM ended: %s", detail);
	if (p->exit_fd >= 0 && text && !ftruncate(p->exit_fd, 0))
		(void)fd_pwrite_full(p->exit_fd, text, strlen(text), 0);
	free(text);
	json_decref(rec);
}

/* Takes one of our own grants out of the table's care, never to be inherited. */
static int take(struct process *p, const char *name, struct err *e)
{
	int fd = grants_take(vm_grants(p->vm), name, e);

	/* a fork's child got it as something to keep: its own children must not, least of all the
	 * lock */
	if (fd >= 0)
		fdtab_set(vm_machine(p->vm)->fds, fd, FD_CLOSE);
	return fd;
}

static int serve(struct process *p, struct err *e)
{
	struct machine *m = vm_machine(p->vm);
	int api = take(p, "api", e), fd, lock;

	if (api < 0)
		return api;
	fd = take(p, "fd", e);
	if (fd < 0)
		return fd;
	lock = take(p, "lock", e); /* held for life: its flock is how others see that we live */
	if (lock < 0)
		return lock;
	p->exit_fd = take(p, "exit", e);
	if (p->exit_fd < 0)
		return p->exit_fd;
	return control_open(p->vm, m->loop, m->fds, api, fd, &p->control, e);
}

static void child_forget(void *arg)
{
	struct process *p = arg;

	p->linger = NULL;
	p->linger_ns = 0;
	control_forget(p->control);
	p->control = NULL;
	p->exit_fd = -1;
}

static int child_enter(void *arg, const struct vm_child_spec *spec, struct err *e)
{
	struct process *p = arg;
	int log, dir;

	log = take(p, "log", NULL);
	if (log >= 0) {
		dup2(log, STDERR_FILENO);
		dup2(log, STDOUT_FILENO);
		fdtab_del(vm_machine(p->vm)->fds, log);
		close(log);
	}
	dir = take(p, "dir", e);
	if (dir < 0)
		return dir;
	p->jail.dir_fd = dir;
	p->jail.uid = p->jail.seed ? spec->uid : 0;
	p->jail.gid = p->jail.seed ? spec->gid : 0;
	p->jail.chroot = p->jail.chroot && p->jail.seed;
	p->jail.seed = false;
	return jail_child(&p->jail, e);
}

static int child_serve(void *arg, struct err *e)
{
	return serve(arg, e);
}

static int vcpu_enter(void *arg, struct err *e)
{
	struct process *p = arg;

	return jail_enter_vcpu(p->filters, e);
}

static int vcpu_follow(void *arg, struct err *e)
{
	struct process *p = arg;

	return jail_child_thread(&p->jail, e);
}

static const struct vm_hooks process_hooks = {
	.child_forget = child_forget,
	.child_enter = child_enter,
	.child_serve = child_serve,
	.vcpu_enter = vcpu_enter,
	.vcpu_follow = vcpu_follow,
	.ended = on_ended,
};

static void on_linger(void *arg)
{
	struct process *p = arg;
	uint64_t idle = time_mono_ns() - control_last_ns(p->control);

	if (!control_busy(p->control) && idle >= p->linger_ns) {
		vm_end(p->vm, VM_END_KILLED, "no fork was asked for");
		return;
	}
	loop_set_timer(p->linger, idle < p->linger_ns ? p->linger_ns - idle : p->linger_ns);
}

static void on_kick(int sig)
{
	(void)sig; /* only interrupts KVM_RUN */
}

static void set_signals(void)
{
	struct sigaction kick = { .sa_handler = on_kick }, ignore = { .sa_handler = SIG_IGN };

	sigaction(SIGUSR1, &kick, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	/* the terminal of whoever started us is not our business */
	sigaction(SIGINT, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
}

/* Each fork and each connection is a few descriptors: use all that we may. */
static void raise_limits(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = MIN(rl.rlim_max, (rlim_t)1 << 20);
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	rl = (struct rlimit){ 0, 0 };
	setrlimit(RLIMIT_CORE, &rl); /* a core would hold the guest's secrets */
}

/* Receives the boot message; its descriptors become grants. */
static int receive_boot(int sock, struct process *p, json_t **out, struct err *e)
{
	int fds[FD_PASS_MAX];
	size_t nfds = 0, i, taken = 0;
	const char *name;
	char buf[BOOT_MSG_MAX];
	json_t *msg, *names, *v;
	ssize_t n = fd_recv(sock, buf, sizeof(buf), fds, FD_PASS_MAX, &nfds);
	int ret = 0;

	if (n <= 0)
		return err_set(e, EPIPE, "no boot message");
	msg = json_loadb(buf, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
	names = json_object_get(msg, "fds");
	name = json_string_value(json_object_get(msg, "name"));
	if (!name || json_array_size(names) != nfds) {
		ret = err_set(e, EINVAL, "malformed boot message");
		goto out;
	}
	ret = vm_create(name, &p->vm, e);
	if (ret)
		goto out;
	json_array_foreach(names, i, v)
	{
		const char *s = json_string_value(v);

		taken = i + 1;
		ret = grants_put(vm_grants(p->vm), s ? s : "", fds[i], e);
		if (ret)
			goto out;
	}
out:
	while (taken < nfds)
		close(fds[taken++]);
	if (ret)
		json_decref(msg);
	else
		*out = msg;
	return ret;
}

static int start(int sock, struct process *p, struct err *e)
{
	json_t *msg = NULL;
	json_int_t linger;
	int ret = receive_boot(sock, p, &msg, e), kvm;

	if (ret)
		return ret;
	p->jail = (struct jail_cfg){
		.uid = (uint32_t)json_integer_value(json_object_get(msg, "uid")),
		.gid = (uint32_t)json_integer_value(json_object_get(msg, "gid")),
		.chroot = json_is_true(json_object_get(msg, "chroot")),
		.seed = json_is_true(json_object_get(msg, "seed")),
	};
	linger = json_integer_value(json_object_get(msg, "linger_ms"));
	json_decref(msg);
	p->vm->hooks = &process_hooks;
	p->vm->hooks_arg = p;
	kvm = take(p, "kvm", e);
	if (kvm < 0)
		return kvm;
	p->vm->kvm_fd = kvm;
	fdtab_set(vm_machine(p->vm)->fds, kvm, FD_KEEP);
	p->jail.dir_fd = take(p, "dir", e);
	if (p->jail.dir_fd < 0)
		return p->jail.dir_fd;
	ret = jail_prepare(&p->filters, e);
	if (!ret)
		ret = jail_privileges(&p->jail, e);
	if (!ret)
		ret = jail_enter_main(p->filters, e);
	if (!ret)
		ret = serve(p, e);
	if (!ret && linger > 0 && p->jail.seed) {
		p->linger_ns = (uint64_t)linger * NS_PER_MS;
		p->linger = loop_add_timer(vm_machine(p->vm)->loop, on_linger, p);
		if (!p->linger)
			return err_set(e, ENOMEM,
				       "a seed that cannot end when idle: out of memory");
		loop_set_timer(p->linger, p->linger_ns);
	}
	return ret;
}

static void answer(int sock, const struct err *e)
{
	json_t *msg = e ? json_pack("{s:s}", "error", e->msg) : json_pack("{s:b}", "ok", 1);
	char *text = json_text(msg, JSON_COMPACT);

	if (text)
		(void)fd_send(sock, text, strlen(text), NULL, 0);
	free(text);
	json_decref(msg);
}

/*
 * One heap for all threads. Others than main allocate little, and an arena for each would be pages
 * that every fork copies; and libc, once it has eight, asks for the processors to know how many it
 * may have, which a vCPU thread's filter forbids. A packet's buffer and more is not of the heap,
 * always: what is freed there stays with the process, and libc would come to prefer that. Nothing
 * is kept at the heap's end for later: a fork would keep its copy of it.
 */
static void one_heap(void)
{
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_MMAP_THRESHOLD, 64 * 1024);
	mallopt(M_TRIM_THRESHOLD, 32 * 1024);
	mallopt(M_TOP_PAD, 0);
}

int vm_process_main(int argc, char **argv)
{
	struct process p = { .exit_fd = -1 };
	char *end = NULL;
	long sock = argc == 2 ? strtol(argv[1], &end, 10) : -1;
	struct err e;
	int ret;

	if (sock < 3 || sock > 65535 || !end || *end) {
		log_warn("vm: internal command, not for people");
		return VM_END_ERROR;
	}
	set_signals();
	raise_limits();
	one_heap();
	fd_set_cloexec((int)sock, true);
	ret = start((int)sock, &p, &e);
	answer((int)sock, ret ? &e : NULL);
	close((int)sock);
	if (ret)
		return VM_END_ERROR;
	ret = vm_run(p.vm, &e);
	if (ret) {
		log_warn("%s", e.msg);
		return VM_END_ERROR;
	}
	vm_finish_disks(p.vm);
	/* The kernel tears a VM down faster than we could, and off everybody's critical path. */
	return p.vm->end;
}
