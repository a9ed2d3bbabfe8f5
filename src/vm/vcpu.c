/* SPDX-License-Identifier: MIT */
/*
 * vCPU threads: enter the guest, hand what it touches to the buses, park when asked.
 *
 * A kick must not be lost between the check of the barrier and KVM_RUN: the kicker sets
 * immediate_exit and signals; the thread clears immediate_exit *before* it looks at the barrier.
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "device/bus.h"
#include "device/kernel_devices.h"
#include "event/loop.h"
#include "kvm/kvm.h"
#include "vm/vm_private.h"

#define STACK_BYTES (256u << 10)

static struct dev_vcpu *vcpu_of(struct vcpu_thread *t)
{
	return (struct dev_vcpu *)(void *)t->dev;
}

static void kick(struct barrier_party *p)
{
	struct vcpu_thread *t = container_of(p, struct vcpu_thread, party);
	struct kvm_run *run = kvm_vcpu_runpage(vcpu_of(t)->kv);

	__atomic_store_n(&run->immediate_exit, 1, __ATOMIC_RELEASE);
	pthread_kill(t->tid, SIGUSR1);
}

static void handle_io(struct vm *vm, struct kvm_run *run)
{
	char *data = (char *)run + run->io.data_offset;

	pthread_mutex_lock(&vm->lock);
	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
		if (run->io.direction == KVM_EXIT_IO_IN)
			bus_read(vm->m.pio, run->io.port, data, run->io.size);
		else
			bus_write(vm->m.pio, run->io.port, data, run->io.size);
	}
	pthread_mutex_unlock(&vm->lock);
}

static void handle_mmio(struct vm *vm, struct kvm_run *run)
{
	pthread_mutex_lock(&vm->lock);
	if (run->mmio.is_write)
		bus_write(vm->m.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	else
		bus_read(vm->m.mmio, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
	pthread_mutex_unlock(&vm->lock);
}

/* false: this vCPU cannot go on. */
static bool handle_exit(struct vcpu_thread *t, struct kvm_run *run)
{
	struct machine *m = &t->vm->m;

	t->exits++;
	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		t->exits_pio++;
		handle_io(t->vm, run);
		return true;
	case KVM_EXIT_MMIO:
		t->exits_mmio++;
		handle_mmio(t->vm, run);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_HLT:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return true;
	case KVM_EXIT_SHUTDOWN:
		m->event(m, VM_EVENT_RESET, "triple fault");
		return false;
	case KVM_EXIT_SYSTEM_EVENT:
		if (run->system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN)
			m->event(m, VM_EVENT_POWEROFF, "system event");
		else
			m->event(m, VM_EVENT_RESET, "system event");
		return false;
	case KVM_EXIT_FAIL_ENTRY:
		log_warn("%s: the CPU refused to enter the guest (reason %#" PRIx64 ")", t->dev->id,
			 (uint64_t)run->fail_entry.hardware_entry_failure_reason);
		m->event(m, VM_EVENT_FATAL, "the CPU refused to enter the guest");
		return false;
	case KVM_EXIT_INTERNAL_ERROR:
		log_warn("%s: KVM internal error %u", t->dev->id, run->internal.suberror);
		m->event(m, VM_EVENT_FATAL, "KVM could not emulate what the guest did");
		return false;
	default:
		log_warn("%s: unexpected exit %u", t->dev->id, run->exit_reason);
		m->event(m, VM_EVENT_FATAL, "unexpected KVM exit");
		return false;
	}
}

/* Completing an exit may lead to the next one: they are handled until the vCPU is between
 * instructions. The lock is main's to give up while it waits for us. */
static void parking(struct barrier_party *p)
{
	struct vcpu_thread *t = container_of(p, struct vcpu_thread, party);
	struct dev_vcpu *v = vcpu_of(t);
	int ret;

	t->save_ret = 0;
	if (__atomic_load_n(&t->vm->starting, __ATOMIC_ACQUIRE))
		return;
	while ((ret = kvm_vcpu_settle(v->kv, &t->save_err)) > 0)
		if (!handle_exit(t, kvm_vcpu_runpage(v->kv)))
			break;
	t->save_ret = MIN(ret, 0);
}

/* No vCPU runs any more: the interrupts that they have sent each other are all there. */
static void saving(struct barrier_party *p)
{
	struct vcpu_thread *t = container_of(p, struct vcpu_thread, party);
	struct dev_vcpu *v = vcpu_of(t);

	if (!t->save_ret && !__atomic_load_n(&t->vm->starting, __ATOMIC_ACQUIRE))
		t->save_ret = kvm_vcpu_save(v->kv, &v->state, &t->save_err);
}

static void on_entered(void *arg)
{
	fork_child_entered(arg);
}

/* The first entry and the first exit of a VM are two of its clocks. */
static void note_entry(struct vcpu_thread *t)
{
	struct vm *vm = t->vm;

	if (__atomic_exchange_n(&vm->entered_posted, true, __ATOMIC_ACQ_REL))
		return;
	vm->stats.entered_ns = time_mono_ns();
	loop_post(vm->m.loop, on_entered, vm);
}

static void note_exit(struct vm *vm)
{
	uint64_t zero = 0;

	if (!__atomic_load_n(&vm->stats.first_exit_ns, __ATOMIC_RELAXED))
		__atomic_compare_exchange_n(&vm->stats.first_exit_ns, &zero, time_mono_ns(), false,
					    __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

/* A vCPU that cannot go on waits to be parked. The signal is blocked while we look at the barrier:
 * a kick in between would be lost. */
static void wait_for_kick(struct vcpu_thread *t)
{
	sigset_t block, old;

	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	if (!barrier_wanted(t->vm->m.barrier))
		sigsuspend(&old);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static void run_guest(struct vcpu_thread *t)
{
	struct kvm_vcpu *kv = vcpu_of(t)->kv;
	struct kvm_run *run = kvm_vcpu_runpage(kv);
	unsigned int spurious = 0;
	bool alive = true;
	int ret;

	for (;;) {
		__atomic_store_n(&run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		if (barrier_wanted(t->vm->m.barrier)) {
			barrier_check(t->vm->m.barrier, &t->party);
			if (t->vm->quit)
				return;
			continue;
		}
		if (!alive) {
			wait_for_kick(t);
			continue;
		}
		note_entry(t);
		ret = kvm_vcpu_run(kv);
		if (ret == -EINTR)
			continue;
		note_exit(t->vm);
		if (!ret) {
			spurious = 0;
			alive = handle_exit(t, run);
			continue;
		}
		/* first entries may fail spuriously on hosts that fork a lot: once more, then give
		 * up */
		if ((ret == -EAGAIN || ret == -ENOMEM) && !spurious++)
			continue;
		log_warn("%s: KVM_RUN: %s", t->dev->id, strerror(-ret));
		t->vm->m.event(&t->vm->m, VM_EVENT_FATAL, "KVM_RUN failed");
		alive = false;
	}
}

/* A VM's first KVM_RUN makes what only VMs that run need (in newer kernels a thread): here it ends
 * before it comes to the vCPU, which has no state yet. */
static void first_run(struct vcpu_thread *t)
{
	struct kvm_vcpu *kv = vcpu_of(t)->kv;

	__atomic_store_n(&kvm_vcpu_runpage(kv)->immediate_exit, 1, __ATOMIC_RELEASE);
	(void)kvm_vcpu_run(kv); /* -EINTR; whatever else is wrong is so later, too */
}

static int jail(struct vcpu_thread *t, struct err *e)
{
	const struct vm_hooks *hooks = t->vm->hooks;
	int ret = hooks->vcpu_enter(t->vm->hooks_arg, e);

	if (ret || !t->early)
		return ret;
	first_run(t);
	barrier_check(t->vm->m.barrier, &t->party); /* goes on when the spare is somebody */
	ret = hooks->vcpu_follow(t->vm->hooks_arg, e);
	/* no guest runs in a process where a thread has yet to give up what the seed may */
	pthread_barrier_wait(&t->vm->followed);
	return ret;
}

static void *thread_main(void *arg)
{
	struct vcpu_thread *t = arg;
	struct err e;
	sigset_t set;

	prctl(PR_SET_NAME, t->dev->id);
	if (jail(t, &e)) {
		log_warn("%s: %s", t->dev->id, e.msg);
		t->vm->m.event(&t->vm->m, VM_EVENT_FATAL, "a vCPU thread could not be jailed");
	} else {
		sigemptyset(&set);
		sigaddset(&set, SIGUSR1);
		pthread_sigmask(SIG_UNBLOCK, &set, NULL);
		run_guest(t);
	}
	barrier_leave(t->vm->m.barrier, &t->party);
	return NULL;
}

/* The stack is small: one of the usual 8 MiB may get a huge page at its first touch. */
static int create_thread(pthread_t *tid, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	int ret;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	ret = pthread_create(tid, &attr, fn, arg);
	pthread_attr_destroy(&attr);
	return ret;
}

static int start_threads(struct vm *vm, bool early, struct err *e)
{
	int ret;

	for (unsigned int i = 0; i < vm->cfg.vcpus; i++) {
		char id[DEVICE_ID_MAX];
		struct vcpu_thread *t = calloc(1, sizeof(*t));

		if (!t)
			return err_set(e, ENOMEM, "vcpu/%u: out of memory", i);
		snprintf(id, sizeof(id), "vcpu%u", i);
		t->vm = vm;
		t->dev = vm_find_device(vm, "vcpu", id);
		t->party.kick = kick;
		t->party.parking = parking;
		t->party.saving = saving;
		t->early = early;
		BUG_ON(!t->dev);
		vm->threads[i] = t;
		/* joined before it runs, so that no pause can miss it */
		barrier_join(vm->m.barrier, &t->party);
		ret = create_thread(&t->tid, thread_main, t);
		if (ret) {
			barrier_leave(vm->m.barrier, &t->party);
			return err_sys(e, ret, "vcpu/%u: starting its thread", i);
		}
		t->started = true;
	}
	return 0;
}

int vcpu_threads_start(struct vm *vm, struct err *e)
{
	return start_threads(vm, false, e);
}

int vcpu_threads_early(struct vm *vm, struct err *e)
{
	int ret;

	vm->starting = true;
	pthread_barrier_init(&vm->followed, NULL, vm->cfg.vcpus);
	ret = start_threads(vm, true, e);
	if (!ret)
		ret = barrier_pause(vm->m.barrier, VM_PAUSE_TIMEOUT_MS, e);
	if (!ret)
		barrier_resume(vm->m.barrier); /* the pause they are born in remains */
	return ret;
}

int vcpu_threads_saved(struct vm *vm, struct err *e)
{
	for (unsigned int i = 0; i < VM_MAX_VCPUS && vm->threads[i]; i++) {
		const struct vcpu_thread *t = vm->threads[i];

		if (t->save_ret)
			return err_set(e, -t->save_ret, "saving %s: %s", t->dev->id,
				       t->save_err.msg);
	}
	return 0;
}

void vcpu_threads_stop(struct vm *vm)
{
	int ret;

	pthread_mutex_unlock(&vm->lock);
	ret = barrier_pause(vm->m.barrier, VM_PAUSE_TIMEOUT_MS, NULL);
	pthread_mutex_lock(&vm->lock);
	BUG_ON(ret);
	vm->quit = true;
	barrier_release(vm->m.barrier);
	for (unsigned int i = 0; i < VM_MAX_VCPUS; i++) {
		if (!vm->threads[i])
			continue;
		if (vm->threads[i]->started)
			pthread_join(vm->threads[i]->tid, NULL);
		free(vm->threads[i]);
		vm->threads[i] = NULL;
	}
	vm->quit = false;
}

bool vm_vcpu_time(const struct vm *vm, unsigned int i, uint64_t *ns)
{
	clockid_t clock;

	/* a thread that has ended waits until it is joined, and is forgotten then */
	if (i >= VM_MAX_VCPUS || !vm->threads[i] || !vm->threads[i]->started ||
	    pthread_getcpuclockid(vm->threads[i]->tid, &clock))
		return false;
	*ns = time_ns(clock);
	return true;
}

void vcpu_threads_forget(struct vm *vm)
{
	for (unsigned int i = 0; i < VM_MAX_VCPUS; i++) {
		free(vm->threads[i]);
		vm->threads[i] = NULL;
	}
}
