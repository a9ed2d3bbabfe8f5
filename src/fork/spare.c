/* SPDX-License-Identifier: MIT */
/*
 * Spare children: a list of sockets in the seed, and one message that makes a spare somebody. Both
 * ends are the same program's, and no guest has run in either. What else a seed makes when it is
 * idle (huge pages) goes by the same timer. See spare.h. Main thread.
 */
#include "fork/spare.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fork/fork.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/spawn.h"
#include "mem/gmem.h"
#include "vm/vm_private.h"

#define QUIET_NS (200 * NS_PER_MS) /* whoever was just forked goes first */
#define GRANT_SHORT 64

struct spare {
	struct vm *vm;
	struct spare *next;
	int pid, sock;
	struct loop_io *io; /* hears of its end */
};

/* What a spare is told; the names' descriptors travel with it. Sent up to the last name. */
struct message {
	struct vm_child_spec spec;
	uint32_t timeout_ms;
	bool wait;
	bool squeeze; /* the balloon's policy, which may be another than when it was forked */
	struct squeeze_cfg squeeze_cfg;
	uint32_t n;
	char names[FD_PASS_MAX][GRANT_SHORT];
};

static void drop(struct spare *s)
{
	struct spare **pp = &s->vm->spares.first;

	while (*pp != s)
		pp = &(*pp)->next;
	*pp = s->next;
	s->vm->spares.n--;
	loop_del_io(s->io);
	fdtab_del(s->vm->m.fds, s->sock);
	free(s);
}

/* A spare says nothing before it is used: it has died. */
static void on_spare(void *arg, int fd, unsigned int events)
{
	struct spare *s = arg;
	struct vm *vm = s->vm;
	struct err e;

	(void)events;
	log_warn("a spare child (pid %d) died", s->pid);
	vm->spares.died = true;
	(void)child_reap(vm, s->pid, NULL, &e); /* one way or the other it is */
	drop(s);
	close(fd);
}

static int add(struct vm *vm, struct err *e)
{
	struct child_start start = { .spare = true };
	struct spare *s = calloc(1, sizeof(*s));
	int ret;

	if (!s)
		return err_set(e, ENOMEM, "spare: out of memory");
	s->vm = vm;
	ret = child_spawn(vm, &start, &s->pid, &s->sock, e);
	if (ret) {
		free(s);
		return ret;
	}
	s->io = loop_add_io(vm->m.loop, s->sock, LOOP_READ, on_spare, s);
	if (!s->io) {
		/* it ends when its socket does */
		fdtab_del(vm->m.fds, s->sock);
		close(s->sock);
		(void)child_reap(vm, s->pid, NULL, e);
		free(s);
		return err_set(e, ENOMEM, "spare: out of memory");
	}
	s->next = vm->spares.first;
	vm->spares.first = s;
	vm->spares.n++;
	return 0;
}

static void huge_step(struct vm *vm)
{
	struct err e;
	int r = gmem_huge_step(vm->m.mem, &e);

	if (r > 0)
		return;
	if (r < 0)
		log_warn("%s", e.msg);
	fdtab_del(vm->m.fds, vm->seed_ram_fd);
	close(take_fd(&vm->seed_ram_fd));
}

/* One block or one child at a time, so that a request never waits for more. */
static void work(void *arg)
{
	struct vm *vm = arg;
	struct err e;

	if (vm->forks)
		return;
	if (vm->seed_ram_fd >= 0) {
		huge_step(vm);
	} else if (vm->spares.n >= vm->spares.want || vm->spares.died) {
		return;
	} else if (add(vm, &e)) {
		log_warn("%s", e.msg);
		return;
	}
	loop_set_timer(vm->spares.timer, NS_PER_MS);
}

void spares_later(struct vm *vm)
{
	if (vm->state != VM_SEED)
		return;
	if (!vm->spares.timer)
		vm->spares.timer = loop_add_timer(vm->m.loop, work, vm);
	vm->spares.died = false;
	if (vm->spares.timer)
		loop_set_timer(vm->spares.timer, QUIET_NS);
}

struct parcel {
	struct message msg;
	int fds[FD_PASS_MAX];
	bool fits;
};

static bool pack(void *arg, const char *name, int fd)
{
	struct parcel *p = arg;

	p->fits = p->msg.n < FD_PASS_MAX && strlen(name) < GRANT_SHORT;
	if (!p->fits)
		return false;
	snprintf(p->msg.names[p->msg.n], GRANT_SHORT, "%s", name);
	p->fds[p->msg.n++] = fd;
	return true;
}

bool spare_use(struct vm *vm, const struct vm_child_spec *spec, const struct vm_fork_request *rq,
	       int *pid, int *report_fd)
{
	char prefix[VM_NAME_MAX + 16];
	struct parcel p = { .fits = true };
	bool sent = false;
	struct err e;
	size_t bytes;

	if (!vm->spares.first)
		return false;
	p.msg.spec = *spec;
	p.msg.timeout_ms = rq->timeout_ms;
	p.msg.wait = rq->wait;
	p.msg.squeeze = vm->squeeze.on;
	p.msg.squeeze_cfg = vm->squeeze.cfg;
	snprintf(prefix, sizeof(prefix), "child/%s/", spec->id.name);
	grants_each(vm->m.grants, prefix, pack, &p);
	bytes = offsetof(struct message, names) + p.msg.n * sizeof(p.msg.names[0]);
	while (p.fits && !sent && vm->spares.first) {
		struct spare *s = vm->spares.first;

		*pid = s->pid;
		*report_fd = s->sock;
		drop(s);
		sent = fd_send(*report_fd, &p.msg, bytes, p.fds, p.msg.n) == 0;
		if (!sent) {
			close(*report_fd);
			(void)child_reap(vm, *pid, NULL, &e);
		}
	}
	return sent;
}

/* Nobody knows of them: they end at once. */
static void end_all(struct vm *vm)
{
	while (vm->spares.first) {
		int pid = vm->spares.first->pid, sock = vm->spares.first->sock;

		drop(vm->spares.first);
		close(sock);
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
}

void spares_end(struct vm *vm)
{
	end_all(vm);
	loop_del_timer(vm->spares.timer);
	vm->spares.timer = NULL;
}

void spares_renew(struct vm *vm)
{
	end_all(vm);
	spares_later(vm);
}

void spares_forget(struct vm *vm)
{
	while (vm->spares.first) {
		struct spare *s = vm->spares.first;

		vm->spares.first = s->next;
		free(s);
	}
	vm->spares = (struct spares){ 0 };
}

int spare_wait(struct vm *vm, struct err *e)
{
	struct message msg;
	int fds[FD_PASS_MAX];
	size_t nfds = 0;
	ssize_t n = fd_recv(vm->child.report_fd, &msg, sizeof(msg), fds, FD_PASS_MAX, &nfds);
	int ret = 0;

	if (n <= 0)
		_exit(VM_END_KILLED); /* the seed has ended; nobody knows of us */
	vm->stats.forked_ns = time_mono_ns();
	BUG_ON((size_t)n != offsetof(struct message, names) + nfds * sizeof(msg.names[0]) ||
	       msg.n != nfds);
	for (size_t i = 0; i < nfds; i++) {
		if (ret)
			close(fds[i]);
		else
			ret = grants_put(vm->m.grants, msg.names[i], fds[i], e);
	}
	vm->child.spec = msg.spec;
	vm->child.wait = msg.wait;
	vm->child.timeout_ms = msg.timeout_ms;
	vm->squeeze.on = msg.squeeze;
	vm->squeeze.cfg = msg.squeeze_cfg;
	return ret;
}
