/* SPDX-License-Identifier: MIT */
/* See quota.h. */
#include "vm/quota.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "cgroup/cgroup.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "vm/vm_private.h"

#define QUIET_NS NS_PER_SEC /* the kernel could say it a hundred times a second */

/* The kernel slows down whoever allocates, with memory.high; how often is all it says. */
static void look(struct vm *vm)
{
	struct vm_quota *q = &vm->quota;
	struct cgroup_events now;
	char detail[160];
	int r = cgroup_events_read(q->events, &now);

	if (r) {
		log_warn("memory quota: its events cannot be read: %s", strerrordesc_np(-r));
		return;
	}
	if (now.high <= q->high)
		return;
	q->high = now.high;
	snprintf(detail, sizeof(detail),
		 "%.64s is at its memory quota of %" PRIu64 " MiB: it is slowed down, then ended",
		 vm->id.name, q->bytes >> 20);
	notices_add(&vm->notices, "memory-quota", vm->id.name, detail);
}

static void on_quiet(void *arg)
{
	struct vm *vm = arg;

	loop_set_io(vm->quota.io, LOOP_READ);
	look(vm); /* at what came meanwhile */
}

static void on_change(void *arg, int fd, unsigned int events)
{
	struct vm *vm = arg;

	(void)fd;
	(void)events;
	look(vm);
	loop_set_io(vm->quota.io, 0);
	loop_set_timer(vm->quota.timer, QUIET_NS);
}

void vm_quota_end(struct vm *vm)
{
	struct vm_quota *q = &vm->quota;

	loop_del_io(q->io);
	if (q->timer)
		loop_del_timer(q->timer);
	fdtab_close(vm->m.fds, &q->watch);
	fdtab_close(vm->m.fds, &q->events);
	*q = (struct vm_quota){ .events = -1, .watch = -1 };
}

int vm_set_quota(struct vm *vm, uint64_t bytes, struct err *e)
{
	struct vm_quota *q = &vm->quota;
	int fd, watch;

	if (!bytes) {
		vm_quota_end(vm);
		return 0;
	}
	if (bytes < CGROUP_QUOTA_MIN)
		return err_set(e, EINVAL,
			       "memory quota: %" PRIu64 " bytes: at least %llu MiB are needed",
			       bytes, CGROUP_QUOTA_MIN >> 20);
	fd = grants_take(vm->m.grants, "cgroup/events", e);
	if (fd < 0)
		return err_wrap(e, fd, "memory quota");
	watch = cgroup_watch(fd, e);
	if (watch < 0) {
		fdtab_close(vm->m.fds, &fd);
		return err_wrap(e, watch, "memory quota");
	}
	vm_quota_end(vm);
	fdtab_set(vm->m.fds, fd, FD_CLOSE);
	fdtab_add(vm->m.fds, watch, FD_CLOSE, "memory quota");
	*q = (struct vm_quota){ .bytes = bytes, .events = fd, .watch = watch };
	q->io = loop_add_io(vm->m.loop, watch, LOOP_READ, on_change, vm);
	q->timer = loop_add_timer(vm->m.loop, on_quiet, vm);
	if (!q->io || !q->timer) {
		vm_quota_end(vm);
		return err_set(e, ENOMEM, "memory quota: out of memory");
	}
	look(vm); /* a change before this is none */
	return 0;
}

uint64_t vm_quota_bytes(const struct vm *vm)
{
	return vm->quota.bytes;
}

void vm_quota_forget(struct vm *vm)
{
	vm->quota =
		(struct vm_quota){ .must_leave = vm->quota.bytes != 0, .events = -1, .watch = -1 };
}

int vm_quota_join(struct vm *vm, struct err *e)
{
	int fd = grants_take(vm->m.grants, "cgroup/gate", NULL), r = 0;
	char byte = 0;
	ssize_t n;

	if (fd < 0 && vm->quota.must_leave)
		return err_set(e, EINVAL,
			       "memory quota: its parent has one, and no cgroup/gate was passed "
			       "for it to leave the parent's group");
	if (fd < 0)
		return 0;
	do
		n = send(fd, &byte, 1, MSG_NOSIGNAL); /* the kernel says who we are */
	while (n < 0 && errno == EINTR);
	while (n == 1 && (n = recv(fd, &byte, 1, 0)) < 0 && errno == EINTR)
		n = 1;
	if (n != 1)
		r = err_set(e, EPIPE, "memory quota: nobody put it into its group");
	fdtab_close(vm->m.fds, &fd);
	return r;
}
