/* SPDX-License-Identifier: MIT */
/*
 * A live snapshot, in the parent and in the frozen child. See frozen.h.
 *
 * What the VM writes while the child writes is copied by the kernel, page by page, and the old page
 * is the child's alone until it has been stored. So the memory that a snapshot costs is bounded by
 * the page faults of the VM since, which the parent counts; it gives the snapshot up at a limit.
 */
#include "fork/frozen.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "fork/child.h"
#include "fork/spawn.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"
#include "vm/park.h"
#include "vm/vm_private.h"

#define GUARD_NS (20 * NS_PER_MS)
#define TELL_NS (50 * NS_PER_MS)
#define PREFIX "frozen/" /* what the child keeps of the grants */

struct frozen_op {
	struct vm *vm;
	int pid, fd;
	struct loop_io *io;
	struct loop_timer *guard;
	uint64_t max_growth_bytes, faults_before, written_from_ns, done_bytes;
	bool compress;
	size_t nr_base;
	uint64_t number;
	struct vm_snapshot_result res;
	void (*done)(void *arg, const struct vm_snapshot_result *res);
	void *arg;
};

/* What the child says: how far it is, or (last) how it ended. */
struct word {
	le64 done_bytes, stored_bytes;
	le32 last, error;
	char msg[256];
};

/* ---- the child ---- */

struct teller {
	int fd;
	uint64_t next_ns;
};

static void tell(int fd, const struct word *w, int flags)
{
	ssize_t n = send(fd, w, sizeof(*w), MSG_NOSIGNAL | flags);

	if (n < 0 && errno != EAGAIN)
		_exit(VM_END_KILLED); /* the VM has ended: nobody waits for this file */
}

static void on_progress(void *arg, uint64_t done)
{
	struct teller *t = arg;
	struct word w = { .done_bytes = le64_put(done) };
	uint64_t now = time_mono_ns();

	if (now < t->next_ns)
		return;
	t->next_ns = now + TELL_NS;
	tell(t->fd, &w, MSG_DONTWAIT);
}

void frozen_main(struct vm *vm)
{
	const struct frozen_op *op = vm->child.frozen;
	struct teller teller = { .fd = vm->child.report_fd };
	struct vm_files base[RAM_LAYERS_MAX];
	char names[RAM_LAYERS_MAX][2][32];
	struct vm_save save = { .to = { "state", "ram" },
				.base = base,
				.nr_base = op->nr_base,
				.compress = op->compress,
				.frozen = true,
				.progress = on_progress,
				.arg = &teller };
	struct word w = { .last = le32_put(1) };
	uint64_t stored = 0;
	struct err e = { "" };
	int ret;

	/* a disk's layer or a window of a base may be long in the writing: with the VM at once */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "snapshot");
	child_sweep(vm, PREFIX);
	tell(teller.fd, &(struct word){ .done_bytes = le64_put(0) }, MSG_DONTWAIT);
	for (size_t i = 0; i < op->nr_base; i++) {
		snprintf(names[i][0], sizeof(names[i][0]), "base/%zu/state", i);
		snprintf(names[i][1], sizeof(names[i][1]), "base/%zu/ram", i);
		base[i] = (struct vm_files){ names[i][0], names[i][1] };
	}
	ret = vm_save(vm, &save, &stored, &e);
	w.error = le32_put((uint32_t)-ret);
	w.stored_bytes = le64_put(stored);
	if (ret)
		snprintf(w.msg, sizeof(w.msg), "%.255s", e.msg);
	tell(teller.fd, &w, 0);
	_exit(0);
}

/* ---- the parent ---- */

static uint64_t faults(void)
{
	struct rusage ru;

	return getrusage(RUSAGE_SELF, &ru) ? 0 : (uint64_t)ru.ru_minflt;
}

static uint64_t growth(const struct frozen_op *op)
{
	return (faults() - op->faults_before) * GMEM_PAGE;
}

static void op_free(struct frozen_op *op)
{
	loop_del_io(op->io);
	loop_del_timer(op->guard);
	if (op->fd >= 0) {
		fdtab_del(op->vm->m.fds, op->fd);
		close(op->fd);
	}
	free(op);
}

static void finish(struct frozen_op *op, int error, const char *msg)
{
	struct vm *vm = op->vm;

	/* it has nothing more to do, whatever it thinks: its memory goes back */
	child_kill(vm, op->pid);
	op->res.error = error;
	snprintf(op->res.msg, sizeof(op->res.msg), "%.255s", msg);
	op->res.growth_bytes = growth(op);
	op->res.write_ns = time_mono_ns() - op->written_from_ns;
	vm->frozen = NULL;
	vm->snapshot_done = true;
	vm->last_snapshot = op->res;
	vm->last_snapshot_number = op->number;
	if (op->done)
		op->done(op->arg, &op->res);
	op_free(op);
}

static void on_word(void *arg, int fd, unsigned int events)
{
	struct frozen_op *op = arg;
	struct word w;
	ssize_t n = recv(fd, &w, sizeof(w), MSG_DONTWAIT);

	(void)events;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n != sizeof(w)) {
		finish(op, -ECHILD, "snapshot: its writer died");
		return;
	}
	if (!le32_get(w.last)) {
		op->done_bytes = MIN(le64_get(w.done_bytes), gmem_size(op->vm->m.mem));
		return;
	}
	/* jailed it is, but it has run a guest: believed are its numbers only */
	w.msg[sizeof(w.msg) - 1] = '\0';
	for (char *p = w.msg; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	op->res.stored_bytes = MIN(le64_get(w.stored_bytes), gmem_size(op->vm->m.mem));
	if (le32_get(w.error) && !w.msg[0])
		snprintf(w.msg, sizeof(w.msg), "snapshot: its writer failed and did not say why");
	finish(op, -(int)MIN(le32_get(w.error), 4095u), w.msg);
}

static void on_guard(void *arg)
{
	struct frozen_op *op = arg;
	char why[200];

	if (!op->max_growth_bytes || growth(op) <= op->max_growth_bytes) {
		loop_set_timer(op->guard, GUARD_NS);
		return;
	}
	snprintf(why, sizeof(why),
		 "snapshot: the VM wrote to more than %llu MiB while it was being written: allow "
		 "more, or pause the VM",
		 (unsigned long long)(op->max_growth_bytes >> 20));
	vm_snapshot_cancel(op->vm, why);
}

static int rename_grant(struct vm *vm, const char *from, const char *to, struct err *e)
{
	char name[GRANT_NAME_MAX];
	int fd = grants_take(vm->m.grants, from, e);

	if (fd < 0)
		return fd;
	fdtab_del(vm->m.fds, fd);
	snprintf(name, sizeof(name), PREFIX "%s", to);
	return grants_put(vm->m.grants, name, fd, e);
}

/* The files under names that the child knows them by. */
static int gather(struct vm *vm, const struct vm_snapshot_request *rq, const char *folder,
		  struct err *e)
{
	int ret = rename_grant(vm, rq->to.state, "state", e);
	char from[GRANT_NAME_MAX + 64], to[64];

	if (!ret)
		ret = rename_grant(vm, rq->to.ram, "ram", e);
	for (uint32_t i = 0; i < vm->cfg.nr_disks && !ret; i++) {
		if (vm->cfg.disks[i].read_only || !vm->cfg.disks[i].size_bytes)
			continue;
		snprintf(to, sizeof(to), "layer/%s", vm->cfg.disks[i].id);
		snprintf(from, sizeof(from), "%s%s", folder, to);
		ret = rename_grant(vm, from, to, e);
	}
	for (size_t i = 0; i < rq->nr_base && !ret; i++) {
		snprintf(to, sizeof(to), "base/%zu/state", i);
		ret = rename_grant(vm, rq->base[i].state, to, e);
		snprintf(to, sizeof(to), "base/%zu/ram", i);
		if (!ret)
			ret = rename_grant(vm, rq->base[i].ram, to, e);
	}
	return ret;
}

static int freeze(struct vm *vm, struct frozen_op *op, const char *folder, struct err *e)
{
	struct child_start start = { .frozen = op };
	uint64_t t0 = time_mono_ns(), t1;
	bool live = vm->state == VM_RUNNING;
	int ret = live ? vm_stop_world(vm, e) : 0;

	if (ret)
		return ret;
	ret = fork_rotate_disks(vm, folder, e);
	op->faults_before = faults();
	t1 = time_mono_ns();
	if (!ret)
		ret = child_spawn(vm, &start, &op->pid, &op->fd, e);
	op->res.fork_ns = time_mono_ns() - t1;
	if (live)
		vm_start_world(vm);
	op->written_from_ns = time_mono_ns();
	op->res.pause_ns = live ? op->written_from_ns - t0 : 0;
	return ret;
}

int vm_snapshot(struct vm *vm, const struct vm_snapshot_request *rq, struct err *e)
{
	char folder[GRANT_NAME_MAX], *slash;
	struct frozen_op *op;
	int ret;

	if (vm->state != VM_RUNNING && vm->state != VM_PAUSED && vm->state != VM_PARKED)
		return err_set(e, EINVAL, "snapshot: the VM is not running or paused");
	if (vm->frozen)
		return err_set(e, EBUSY, "snapshot: one is being written: wait for its end");
	ret = vm_disks_can_be_saved(vm, e);
	if (ret)
		return err_wrap(e, ret, "snapshot");
	if (rq->nr_base >= RAM_LAYERS_MAX)
		return err_set(e, E2BIG,
			       "snapshot: it would be number %zu of a chain of at most %d: flatten "
			       "what it stands on",
			       rq->nr_base + 1, RAM_LAYERS_MAX);
	ret = vm_unpark(vm, "snapshot", e); /* last: it may have to read all of its memory */
	if (ret)
		return err_wrap(e, ret, "snapshot");
	op = calloc(1, sizeof(*op));
	if (!op)
		return err_set(e, ENOMEM, "snapshot: out of memory");
	*op = (struct frozen_op){ .vm = vm,
				  .fd = -1,
				  .max_growth_bytes = rq->max_growth_bytes,
				  .compress = rq->compress,
				  .nr_base = rq->nr_base,
				  .done = rq->done,
				  .arg = rq->arg };
	op->guard = loop_add_timer(vm->m.loop, on_guard, op);
	snprintf(folder, sizeof(folder), "%s", rq->to.state);
	slash = strrchr(folder, '/');
	slash = slash ? slash + 1 : folder;
	*slash = '\0';
	ret = op->guard ? gather(vm, rq, folder, e) : err_set(e, ENOMEM, "out of memory");
	if (!ret)
		ret = freeze(vm, op, folder, e);
	grants_drop(vm->m.grants, PREFIX);
	if (!ret) {
		ret = child_reap(vm, op->pid, NULL, e);
		op->io = ret ? NULL : loop_add_io(vm->m.loop, op->fd, LOOP_READ, on_word, op);
		if (!ret && !op->io) {
			child_kill(vm, op->pid);
			ret = err_set(e, ENOMEM, "out of memory");
		}
	}
	if (ret) {
		op_free(op);
		return err_wrap(e, ret, "snapshot");
	}
	loop_set_timer(op->guard, GUARD_NS);
	op->number = ++vm->snapshots;
	vm->frozen = op;
	return 0;
}

void vm_snapshot_state(const struct vm *vm, struct vm_snapshot_state *out)
{
	const struct frozen_op *op = vm->frozen;

	*out = (struct vm_snapshot_state){ .done = vm->snapshot_done,
					   .last = vm->last_snapshot,
					   .number = vm->last_snapshot_number };
	if (!op)
		return;
	out->writing = true;
	out->number = op->number;
	out->done_bytes = op->done_bytes;
	out->total_bytes = gmem_size(vm->m.mem);
	out->growth_bytes = growth(op);
}

void vm_snapshot_cancel(struct vm *vm, const char *why)
{
	if (!vm->frozen)
		return;
	finish(vm->frozen, -ECANCELED, why);
}
