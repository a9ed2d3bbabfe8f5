/* SPDX-License-Identifier: MIT */
/*
 * fork(2) and waitpid(2) of VM processes. See spawn.h. Main thread.
 */
#include "fork/spawn.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"

/* Waits for a child's end: outlives the request that made it. */
struct reaper {
	struct vm *vm;
	struct reaper *next;
	int pid, pidfd;
	struct loop_io *io;
	char grant[VM_NAME_MAX + 16]; /* its pidfd's name, "" for none */
};

static void drop_grant(struct reaper *r)
{
	int claim = r->grant[0] ? grants_take(r->vm->m.grants, r->grant, NULL) : -1;

	r->grant[0] = '\0';
	if (claim < 0)
		return;
	fdtab_del(r->vm->m.fds, claim);
	close(claim);
}

static void reaper_free(struct reaper *r)
{
	drop_grant(r);
	loop_del_io(r->io);
	fdtab_del(r->vm->m.fds, r->pidfd);
	close(r->pidfd);
	free(r);
}

static void on_child_end(void *arg, int fd, unsigned int events)
{
	struct reaper *r = arg, **pp = &r->vm->reapers;

	(void)events;
	(void)fd;
	waitpid(r->pid, NULL, WNOHANG);
	while (*pp != r)
		pp = &(*pp)->next;
	*pp = r->next;
	reaper_free(r);
}

/* A child of that name before this one is dead, or the name would not be free: its pidfd goes. */
static void free_name(struct vm *vm, const char *grant)
{
	for (struct reaper *r = vm->reapers; r; r = r->next)
		if (!strcmp(r->grant, grant))
			drop_grant(r);
}

/* Its pidfd, whose owner is r, under the child's name, for the caller to claim. */
static int grant_pidfd(struct reaper *r, const char *name, struct err *e)
{
	int claim = dup(r->pidfd), ret;
	char grant[sizeof(r->grant)];

	if (claim < 0)
		return err_sys(e, errno, "fork: its pidfd");
	snprintf(grant, sizeof(grant), "pidfd/%s", name);
	free_name(r->vm, grant);
	ret = grants_put(r->vm->m.grants, grant, claim, e);
	if (!ret)
		memcpy(r->grant, grant, sizeof(grant));
	return ret;
}

static int watch_end(struct vm *vm, int pid, const char *name, struct err *e)
{
	struct reaper *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_set(e, ENOMEM, "fork: out of memory");
	*r = (struct reaper){ .vm = vm, .pid = pid };
	r->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (r->pidfd < 0) {
		ret = err_sys(e, errno, "fork: pidfd_open");
		free(r);
		return ret;
	}
	fdtab_add(vm->m.fds, r->pidfd, FD_CLOSE, "pidfd");
	r->io = loop_add_io(vm->m.loop, r->pidfd, LOOP_READ, on_child_end, r);
	ret = r->io ? 0 : err_set(e, ENOMEM, "fork: out of memory");
	if (!ret && name)
		ret = grant_pidfd(r, name, e);
	if (ret) {
		reaper_free(r);
		return ret;
	}
	r->next = vm->reapers;
	vm->reapers = r;
	return 0;
}

int child_reap(struct vm *vm, int pid, const char *name, struct err *e)
{
	int ret = watch_end(vm, pid, name, e);

	if (!ret)
		return 0;
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return ret;
}

void child_kill(struct vm *vm, int pid)
{
	for (struct reaper *r = vm->reapers; r; r = r->next)
		if (r->pid == pid)
			kill(pid, SIGKILL);
}

int child_spawn(struct vm *vm, const struct child_start *start, int *pid, int *report_fd,
		struct err *e)
{
	int pair[2], ret;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, errno, "fork: socketpair");
	ret = fork();
	if (ret == 0) {
		vm->child = *start;
		vm->child.report_fd = pair[1];
		vm->stats = (struct vm_stats){ .forked_ns = time_mono_ns(),
					       .fork_depth = vm->stats.fork_depth + 1 };
		siglongjmp(vm->child_env, 1);
	}
	close(pair[1]);
	if (ret < 0) {
		ret = errno;
		close(pair[0]);
		return err_sys(e, ret, "fork%s",
			       ret == ENOMEM ? " (vm.overcommit_memory=2 on this host?)" : "");
	}
	*pid = ret;
	*report_fd = pair[0];
	fdtab_add(vm->m.fds, pair[0], FD_CLOSE, "fork report");
	return 0;
}
