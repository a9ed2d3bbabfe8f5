/* SPDX-License-Identifier: MIT */
/*
 * The parent's side of a fork: stop the world (or find it stopped: a seed), fork(2) each child, go
 * on, and gather the children's reports. Forking a seed and forking a running VM are the same code.
 * Main thread, device lock held.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/fork.h"
#include "fork/report.h"
#include "fork/spare.h"
#include "fork/spawn.h"
#include "fork/workset.h"
#include "virtio/blk.h"
#include "vm/park.h"
#include "vm/vm_private.h"

/* A child's own time for its guest begins later than ours, and it knows what was late. */
#define REPORT_MS 5000

struct fork_child {
	struct fork_op *op;
	struct vm_child_result res;
	int report_fd; /* -1 once it reported or died */
	struct loop_io *io;
};

/* One request, until every child reported. */
struct fork_op {
	struct vm *vm;
	struct fork_op *next;
	size_t n, left;
	bool all;
	uint64_t pause_ns;
	struct loop_timer *timer;
	void (*done)(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns);
	void *arg;
	struct vm_child_result *res; /* for done: had before there is anybody to lose */
	struct fork_child c[];
};

static void finish_op(struct fork_op *op)
{
	struct fork_op **pp = &op->vm->forks;

	while (*pp != op)
		pp = &(*pp)->next;
	*pp = op->next;
	loop_del_timer(op->timer);
	for (size_t i = 0; i < op->n; i++)
		op->res[i] = op->c[i].res;
	op->done(op->arg, op->res, op->n, op->pause_ns);
	spares_later(op->vm);
	free(op->res);
	free(op);
}

static void stop_listening(struct fork_child *c)
{
	loop_del_io(c->io);
	c->io = NULL;
	fdtab_del(c->op->vm->m.fds, c->report_fd);
	close(c->report_fd);
	c->report_fd = -1;
}

/* All or none, and one has failed: whatever the others said or will say, they end. */
static void fail_all(struct fork_op *op)
{
	const struct fork_child *why = op->c;

	while (!why->res.error)
		why++;
	for (size_t i = 0; i < op->n; i++) {
		struct fork_child *c = &op->c[i];

		if (c->report_fd >= 0)
			stop_listening(c);
		if (c->res.error)
			continue;
		if (c->res.pid)
			child_kill(op->vm, c->res.pid);
		c->res.error = -ECANCELED;
		snprintf(c->res.msg, sizeof(c->res.msg), "not without %s: %.160s", why->res.name,
			 why->res.msg);
	}
	finish_op(op);
}

static void child_reported(struct fork_child *c)
{
	struct fork_op *op = c->op;

	stop_listening(c);
	op->left--;
	if (op->all && c->res.error)
		fail_all(op);
	else if (!op->left)
		finish_op(op);
}

static void on_report(void *arg, int fd, unsigned int events)
{
	struct fork_child *c = arg;
	int ret = report_recv(fd, &c->res);

	(void)events;
	if (ret == -EAGAIN)
		return;
	if (ret) {
		c->res.error = -ECHILD;
		snprintf(c->res.msg, sizeof(c->res.msg), "the child died before it was ready");
	}
	child_reported(c);
}

/* A child that does not report in time has failed: it is killed, because a fork fails closed. */
static void on_timeout(void *arg)
{
	struct fork_op *op = arg;
	size_t n = op->n;

	for (size_t i = 0; i < n; i++) {
		struct fork_child *c = &op->c[i];
		bool last = op->all || op->left == 1;

		if (c->report_fd < 0)
			continue;
		child_kill(op->vm, c->res.pid);
		c->res.error = -ETIMEDOUT;
		snprintf(c->res.msg, sizeof(c->res.msg), "the child was not ready in time");
		child_reported(c);
		if (last)
			return; /* op is gone */
	}
}

/* Each child has its own result: one that could not be made does not stop the others, unless all
 * were asked for. */
static int fork_one(struct vm *vm, struct fork_child *c, const struct vm_fork_request *rq,
		    const struct vm_child_spec *spec)
{
	struct child_start start = { .spec = *spec,
				     .wait = rq->wait,
				     .timeout_ms = rq->timeout_ms };
	struct err e;

	workset_ask(vm, spec->id.name);
	if (spare_use(vm, spec, rq, &c->res.pid, &c->report_fd)) {
		fdtab_add(vm->m.fds, c->report_fd, FD_CLOSE, "fork report");
	} else {
		c->res.error = child_spawn(vm, &start, &c->res.pid, &c->report_fd, &e);
		if (c->res.error)
			snprintf(c->res.msg, sizeof(c->res.msg), "%.255s", e.msg);
	}
	if (c->res.error)
		return c->res.error;
	vm->stats.forks++;
	vm->stats.last_forks++;
	return 0;
}

static int check_request(struct vm *vm, const struct vm_fork_request *rq, struct err *e)
{
	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED && vm->state != VM_PARKED &&
	    vm->state != VM_SEED)
		return err_set(e, EINVAL, "fork: the VM is not running, paused or a seed");
	if (rq->n < 1 || rq->n > VM_FORK_MAX)
		return err_set(e, EINVAL, "fork: %zu children: 1 to %d in one request", rq->n,
			       VM_FORK_MAX);
	for (size_t i = 0; i < rq->n; i++)
		for (size_t j = 0; j < i; j++)
			if (!strcmp(rq->specs[i].id.name, rq->specs[j].id.name))
				return err_set(e, EINVAL, "fork: two children are named '%s'",
					       rq->specs[i].id.name);
	return 0;
}

/* The file that a disk of the parent's goes on with. It was granted with what else the request
 * needs, because requests may come at the same time; or on its own. */
static int take_own(struct vm *vm, const char *prefix, const char *disk, const char *what,
		    struct err *e)
{
	char name[GRANT_NAME_MAX];
	int fd;

	snprintf(name, sizeof(name), "%sparent/disk/%s/%s", prefix, disk, what);
	fd = grants_take(vm->m.grants, name, NULL);
	if (fd >= 0)
		return fd;
	snprintf(name, sizeof(name), "parent/disk/%s/%s", disk, what);
	return grants_take(vm->m.grants, name, e);
}

int fork_rotate_disks(struct vm *vm, const char *prefix, struct err *e)
{
	for (uint32_t i = 0; i < vm->cfg.nr_disks; i++) {
		const struct disk_cfg *d = &vm->cfg.disks[i];
		struct device *dev = vm_find_device(vm, "virtio-blk", d->id);
		int fd, ret;

		if (d->read_only || !d->size_bytes || vm->state == VM_SEED)
			continue;
		fd = take_own(vm, prefix, d->id, "data", e);
		if (fd < 0)
			return err_wrap(e, fd, "fork");
		ret = virtio_blk_rotate(dev, fd, e);
		if (ret)
			return err_wrap(e, ret, "fork: %s", d->id);
		fd = take_own(vm, prefix, d->id, "data-ro", NULL);
		if (fd >= 0) {
			fdtab_del(vm->m.fds, fd);
			virtio_blk_set_reader(dev, fd);
		}
	}
	return 0;
}

static struct fork_op *op_new(struct vm *vm, const struct vm_fork_request *rq)
{
	struct fork_op *op = calloc(1, sizeof(*op) + rq->n * sizeof(op->c[0]));

	if (!op)
		return NULL;
	op->res = calloc(rq->n, sizeof(*op->res));
	op->timer = op->res ? loop_add_timer(vm->m.loop, on_timeout, op) : NULL;
	if (!op->timer) {
		free(op->res);
		free(op);
		return NULL;
	}
	op->vm = vm;
	op->n = op->left = rq->n;
	op->all = rq->all;
	op->done = rq->done;
	op->arg = rq->arg;
	for (size_t i = 0; i < rq->n; i++) {
		op->c[i].op = op;
		op->c[i].report_fd = -1;
		snprintf(op->c[i].res.name, sizeof(op->c[i].res.name), "%s", rq->specs[i].id.name);
	}
	return op;
}

/* A child that we cannot hear of has failed: it is killed, because a fork fails closed. */
static int listen_to(struct vm *vm, struct fork_child *c)
{
	struct err e;
	int ret = child_reap(vm, c->res.pid, c->res.name, &e);

	if (!ret) {
		c->io = loop_add_io(vm->m.loop, c->report_fd, LOOP_READ, on_report, c);
		if (c->io)
			return 0;
		child_kill(vm, c->res.pid);
		ret = err_set(&e, ENOMEM, "fork: out of memory");
	}
	c->res.error = ret;
	snprintf(c->res.msg, sizeof(c->res.msg), "%.255s", e.msg);
	fdtab_del(vm->m.fds, c->report_fd);
	close(c->report_fd);
	c->report_fd = -1;
	return ret;
}

int vm_fork(struct vm *vm, const struct vm_fork_request *rq, struct err *e)
{
	char prefix[VM_NAME_MAX + 16];
	struct fork_op *op;
	uint64_t t0;
	size_t failed = 0;
	int ret = check_request(vm, rq, e);
	bool live;

	if (!ret) {
		ret = vm_disks_can_fork(vm, e);
		if (ret)
			err_wrap(e, ret, "fork");
	}
	if (!ret) /* last: it may have to read all of its memory */
		ret = vm_unpark(vm, "fork", e);
	if (ret)
		return ret;
	live = vm->state == VM_RUNNING;
	op = op_new(vm, rq);
	if (!op)
		return err_set(e, ENOMEM, "fork: out of memory");
	t0 = time_mono_ns();
	if (live)
		ret = vm_stop_world(vm, e);
	if (!ret) {
		snprintf(prefix, sizeof(prefix), "child/%s/", rq->specs[0].id.name);
		ret = fork_rotate_disks(vm, prefix, e);
		grants_drop(vm->m.grants, "parent/");
		if (ret && live)
			vm_start_world(vm);
	}
	if (ret) {
		loop_del_timer(op->timer);
		free(op->res);
		free(op);
		return ret;
	}
	if (live && rq->n > 1)
		child_gate_close(vm);
	vm->stats.last_fork_ns = vm->stats.last_forks = 0;
	for (size_t i = 0; i < rq->n && !(rq->all && failed); i++)
		failed += fork_one(vm, &op->c[i], rq, &rq->specs[i]) != 0;
	if (live)
		vm_start_world(vm);
	child_gate_open(vm);
	op->pause_ns = time_mono_ns() - t0;
	vm->stats.last_pause_ns = live ? op->pause_ns : 0;
	failed = 0;

	op->next = vm->forks;
	vm->forks = op;
	for (size_t i = 0; i < rq->n; i++) {
		struct fork_child *c = &op->c[i];

		/* the child has its own copies of its descriptors now */
		snprintf(prefix, sizeof(prefix), "child/%s/", c->res.name);
		grants_drop(vm->m.grants, prefix);
		if (c->report_fd < 0 || listen_to(vm, c))
			failed++;
	}
	op->left -= failed;
	loop_set_timer(op->timer, (rq->timeout_ms + REPORT_MS) * NS_PER_MS);
	if (op->all && failed)
		fail_all(op);
	else if (!op->left)
		finish_op(op);
	return 0;
}
