/* SPDX-License-Identifier: MIT */
/*
 * The child's side of a fork: everything that does not survive fork(2) is made anew, in this order:
 * descriptors swept, loop, KVM, vCPUs (prepare), vCPU threads, which park (a spare waits here for
 * its name), jail, devices (adopt), control sockets; then the guest learns who it is, and the
 * parent that we are ready. Any failure is reported and ends us.
 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "agent/agent.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "event/maps.h"
#include "fork/child.h"
#include "fork/fork.h"
#include "fork/report.h"
#include "fork/spare.h"
#include "fork/workset.h"
#include "kvm/kvm.h"
#include "mem/gmem.h"
#include "vm/vm_private.h"

#define STACK_BYTES KIB(64) /* what is deeper stays */

/* What it took to get here is free now, in pages that are this fork's alone: of the heap, and of
 * main's stack below this frame, which must be its own, and those that it calls. Below a stack is
 * nothing else so near. */
static __attribute__((noinline)) void give_back(void)
{
	char *frame = (char *)ROUND_DOWN((uintptr_t)__builtin_frame_address(0), GMEM_PAGE);

	malloc_trim(0);
	(void)madvise(frame - GMEM_PAGE - STACK_BYTES, STACK_BYTES, MADV_DONTNEED);
}

static void report(struct vm *vm, int error, const char *msg)
{
	struct vm_child_result r = { .error = error,
				     .forked_ns = vm->stats.forked_ns,
				     .adopted_ns = vm->stats.adopted_ns,
				     .entered_ns = vm->stats.entered_ns,
				     .first_exit_ns = vm->stats.first_exit_ns,
				     .ready_ns = error ? 0 : time_mono_ns() };
	int fd = take_fd(&vm->child.report_fd); /* vm_end comes here too */

	if (fd < 0)
		return;
	vm->stats.ready_ns = r.ready_ns;
	snprintf(r.msg, sizeof(r.msg), "%s", msg);
	/* Whoever asked has been told that the fork failed if our parent is gone: fail closed. */
	if (report_send(fd, &r))
		vm_end(vm, VM_END_ERROR, "the parent died before the fork was complete");
	fdtab_close(vm->m.fds, &fd);
	give_back();
}

static void fail(struct vm *vm, int error, const char *msg)
{
	report(vm, error, msg);
	vm_end(vm, VM_END_ERROR, msg);
}

static void on_identity(void *arg, const struct agent_reply *r)
{
	struct vm *vm = arg;

	/* one without an agent was ready when it ran, and may run on */
	if (r->ret && vm->child.wait && vm->child.report_fd >= 0) {
		fail(vm, r->ret, r->e.msg);
		return;
	}
	if (r->ret)
		log_warn("identity: %s", r->e.msg);
	report(vm, 0, "");
}

void fork_child_entered(struct vm *vm)
{
	if (vm->child.report_fd < 0)
		return;
	/* nobody to wait for: the guest runs, that is all there is to know */
	if (!vm->child.wait || !vm->agent || !agent_present(vm->agent))
		report(vm, 0, "");
}

void fork_child_ended(struct vm *vm, const char *detail)
{
	char msg[192];

	snprintf(msg, sizeof(msg), "the guest ended before it was ready: %s", detail);
	report(vm, -ECHILD, msg);
}

/* Debug builds: the table is the truth, of what is open and of what is not. */
static void check_descriptors(const struct vm *vm)
{
#ifdef CLONE_DEBUG
	struct err e = { "" };

	if (!fdtab_unknown(vm->m.fds, &e) && !fdtab_stale(vm->m.fds, &e))
		return;
	log_warn("fork: %s", e.msg);
	BUG_ON("a child's descriptors are not what the table says");
#else
	(void)vm;
#endif
}

/* Debug builds: what is the parent's is gone, and before anything is our own nothing is shared. A
 * jailed process cannot know. */
static void check_mappings(const struct vm *vm)
{
#ifdef CLONE_DEBUG
	struct map_range known[GMEM_MAX_REGIONS + 4];
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(vm->m.mem, r);
	struct err e = { "" };

	for (size_t i = 0; i < n; i++)
		known[i] = (struct map_range){ r[i].hva, r[i].size_bytes, false, "guest RAM" };
	for (const struct map_range *s = vm->shared_memory; s && s->len; s++) {
		BUG_ON(n == ARRAY_SIZE(known));
		known[n++] = *s;
	}
	if (maps_unknown(known, n, &e) <= 0)
		return;
	log_warn("fork: %s", e.msg);
	BUG_ON("a child has memory of its parent's");
#else
	(void)vm;
#endif
}

void child_sweep(struct vm *vm, const char *prefix)
{
	grants_child(vm->m.grants, prefix);
	fdtab_add(vm->m.fds, vm->child.report_fd, FD_KEEP, "fork report");
	fdtab_child(vm->m.fds);
	check_descriptors(vm);
	fdtab_set(vm->m.fds, vm->child.report_fd, FD_CLOSE);
	vm->hooks->child_forget(vm->hooks_arg);
	notices_clear(&vm->notices);
	squeeze_run_forget(vm);
	vm_quota_forget(vm);
	vm->ksm_fd = -1;
	barrier_child(vm->m.barrier);
	pthread_mutex_init(&vm->lock, NULL);
	pthread_mutex_lock(&vm->lock);
	vcpu_threads_forget(vm);
	kvm_abandon(vm->m.kvm);
	vm->m.kvm = NULL;
	check_mappings(vm);
	vm->forks = NULL;
	vm->frozen = NULL;
	/* it has taken none itself */
	vm->snapshots = vm->last_snapshot_number = 0;
	vm->snapshot_done = false;
	vm->last_snapshot = (struct vm_snapshot_result){ 0 };
	vm->reapers = NULL;
	spares_forget(vm);
	workset_child(vm);
}

/* A copy of its page is ours. */
static void touch(void *p)
{
	volatile char *c = p;
	char v = *c;

	*c = v;
}

/* Of a spare: what becoming somebody will read and write is mapped and copied already. fork(2)
 * leaves the program's own pages unmapped in a child, and its devices' are its parent's until it
 * writes. */
static void warm_up(struct vm *vm)
{
	extern char __executable_start[], _end[]; /* NOLINT(bugprone-reserved-identifier) */
	uintptr_t from = ROUND_DOWN((uintptr_t)__executable_start, GMEM_PAGE);

	(void)madvise(
		(void *)from, ROUND_UP((uintptr_t)_end, GMEM_PAGE) - from,
		MADV_POPULATE_READ); /* fails at a gap: then the rest faults as it always did */
	for (struct device *d = vm->devices; d; d = d->next) {
		touch(d);
		if (d->cls->state.struct_size)
			touch(d->state);
	}
	workset_populate(vm);
}

/* What needs no name: a spare does it ahead of time. Nothing of the parent's may be touched but
 * memory. */
static int prepare(struct vm *vm, struct err *e)
{
	char prefix[VM_NAME_MAX + 16];
	int ret;

	snprintf(prefix, sizeof(prefix), "child/%s/", vm->child.spec.id.name);
	child_sweep(vm, vm->child.spare ? NULL : prefix);
	/* memory is charged to whoever touches it first */
	if (!vm->child.spare && (ret = vm_quota_join(vm, e)))
		return ret;
	gmem_huge_child(vm->m.mem);
	vm->seed_ram_fd = -1;
	vm->entered_posted = vm->event_posted = false;
	ret = loop_create(&vm->lock, &vm->m.loop, e);
	if (!ret)
		ret = vm_open_kvm(vm, e);
	if (!ret)
		ret = vm_prepare_all(vm, e);
	if (!ret && vm->child.spare)
		ret = vcpu_threads_early(vm, e);
	if (!ret && vm->child.spare)
		warm_up(vm);
	return ret;
}

/* What it may cost the host. */
static int limit(struct vm *vm, struct err *e)
{
	int ret = vm->child.spare ? vm_quota_join(vm, e) : 0;

	vm->id = vm->child.spec.id; /* whom a notice names */
	if (!ret)
		ret = vm_set_quota(vm, vm->child.spec.quota_bytes, e);
	return ret ? ret : vm_merge(vm, e);
}

static int become(struct vm *vm, struct err *e)
{
	int ret = limit(vm, e);

	if (!ret)
		ret = vm->hooks->child_enter(vm->hooks_arg, &vm->child.spec, e);
	if (ret)
		return ret;
	/* the threads jail themselves while we go on; they park until the guest may run */
	if (!vm->child.spec.paused && !vm->threads[0]) {
		vm->starting = true;
		ret = vcpu_threads_start(vm, e);
		if (ret)
			return ret;
	}
	vm->id.renew = true;
	vm_random_identity(&vm->id);
	ret = vm_adopt_all(vm, &vm->id, e);
	grants_drop(vm->m.grants, "disk/"); /* for a bay that is empty here, perhaps */
	grants_drop(vm->m.grants, "net/");  /* for NICs that this machine has not */
	workset_record(vm);
	if (!ret)
		ret = vm->hooks->child_serve(vm->hooks_arg, e);
	vm->stats.adopted_ns = time_mono_ns();
	return ret;
}

static int run(struct vm *vm, struct err *e)
{
	int ret = vm_give_identity(vm, vm->child.timeout_ms, on_identity, e);

	return ret ? ret : vm_go(vm, e);
}

static void child_main(struct vm *vm)
{
	struct err e;
	int ret;

	if (vm->child.frozen)
		frozen_main(vm);
	ret = prepare(vm, &e);
	if (!ret && vm->child.spare)
		ret = spare_wait(vm, &e);
	if (!ret)
		ret = become(vm, &e);
	if (!ret && vm->child.spec.paused) {
		/* it learns who it is when it is resumed, however late that is */
		vm->state = VM_PAUSED;
		vm->identity_given = vm->must_know = false;
		if (vm->child.wait)
			vm_must_know(vm, vm->child.timeout_ms);
		report(vm, 0, "");
	} else if (!ret) {
		ret = run(vm, &e);
		barrier_resume(vm->m.barrier); /* the count that barrier_child left */
		__atomic_store_n(&vm->starting, false, __ATOMIC_RELEASE);
	}
	if (ret)
		fail(vm, ret, e.msg);
	pthread_mutex_unlock(&vm->lock);
}

int vm_run(struct vm *vm, struct err *e)
{
	if (sigsetjmp(vm->child_env, 0))
		child_main(vm);
	if (vm->state == VM_ENDED)
		return 0;
	return loop_run(vm->m.loop, e);
}
