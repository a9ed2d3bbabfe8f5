/* SPDX-License-Identifier: MIT */
/*
 * The life of a VM: start, pause, resume, and the stopping of its world that forks and snapshots
 * stand on. Main thread; the device lock is held on entry and return, and given up only while
 * waiting for vCPUs to park (they may need it to finish an exit).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "agent/agent.h"
#include "device/kernel_devices.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "kvm/kvm.h"
#include "mem/gmem.h"
#include "vm/hint.h"
#include "vm/park.h"
#include "vm/vm_private.h"
#include "x86/acpi.h"
#include "x86/boot.h"

int vm_stop_world(struct vm *vm, struct err *e)
{
	struct device *d, *undo;
	int ret;

	hint_break_off(vm, "the VM was to stand still for something else");
	pthread_mutex_unlock(&vm->lock);
	ret = barrier_pause(vm->m.barrier, VM_PAUSE_TIMEOUT_MS, e);
	pthread_mutex_lock(&vm->lock);
	if (ret)
		return ret;
	ret = vcpu_threads_saved(vm, e);
	if (ret) {
		barrier_resume(vm->m.barrier);
		return ret;
	}
	for (d = vm->devices; d; d = d->next) {
		ret = d->cls->quiesce(d, e);
		if (!ret)
			continue;
		for (undo = vm->devices; undo != d; undo = undo->next)
			undo->cls->resume(undo);
		barrier_resume(vm->m.barrier);
		return err_wrap(e, ret, "pausing %s", d->id);
	}
	BUG_ON(gmem_pins(vm->m.mem));
	return 0;
}

void vm_start_world(struct vm *vm)
{
	for (struct device *d = vm->devices; d; d = d->next)
		d->cls->resume(d);
	barrier_resume(vm->m.barrier);
}

int vm_go(struct vm *vm, struct err *e)
{
	int ret = vm->threads[0] ? 0 : vcpu_threads_start(vm, e);

	if (ret)
		return ret;
	for (struct device *d = vm->devices; d; d = d->next)
		d->cls->resume(d);
	vm->started_ns = time_mono_ns();
	vm->state = VM_RUNNING;
	vm_connect_if_alone(vm);
	return 0;
}

int vm_pause(struct vm *vm, struct err *e)
{
	int ret;

	if (vm->state == VM_PAUSED)
		return 0;
	if (vm->state == VM_PARKED)
		return park_back(vm, "request", e);
	if (vm->state != VM_RUNNING)
		return err_set(e, EINVAL, "pause: the VM is not running");
	ret = vm_stop_world(vm, e);
	if (!ret)
		vm->state = VM_PAUSED;
	return ret;
}

static void on_identity(void *arg, const struct agent_reply *r)
{
	struct vm *vm = arg;

	if (!r->ret) {
		vm->stats.ready_ns = time_mono_ns();
		return;
	}
	log_warn("identity: %s", r->e.msg);
	if (vm->must_know && r->ret != -ECANCELED)
		vm_end(vm, VM_END_ERROR, r->e.msg);
}

/* At most PROTO_MAX_USERDATA bytes; how many, or -errno. */
static ssize_t read_userdata(struct vm *vm, char *buf, struct err *e)
{
	int fd = grants_peek(vm->m.grants, "userdata");
	size_t n = 0;
	ssize_t got = 1;
	char more;

	if (fd < 0)
		return 0;
	while (n < PROTO_MAX_USERDATA && got > 0) {
		got = pread(fd, buf + n, PROTO_MAX_USERDATA - n, (off_t)n);
		n += got > 0 ? (size_t)got : 0;
	}
	if (got > 0)
		got = pread(fd, &more, 1, (off_t)n);
	if (got < 0)
		got = err_sys(e, errno, "user data");
	else if (got)
		got = err_set(e, EFBIG, "user data: more than %u bytes", PROTO_MAX_USERDATA);
	return got ? got : (ssize_t)n;
}

int vm_give_identity(struct vm *vm, uint32_t timeout_ms, agent_done_fn done, struct err *e)
{
	char userdata[PROTO_MAX_USERDATA];
	ssize_t n = read_userdata(vm, userdata, e);
	int ret = (int)MIN(n, 0);

	vm_name_nics(vm);
	if (n > 0 && !vm->agent)
		ret = err_set(e, EOPNOTSUPP, "user data: this machine has no vsock to give it by");
	else if (n >= 0 && vm->agent)
		ret = agent_set_identity(vm->agent, &vm->id, true, userdata, (size_t)n, timeout_ms,
					 done, vm, e);
	if (ret)
		return ret; /* it may be asked for again */
	explicit_bzero(vm->id.entropy, sizeof(vm->id.entropy));
	grants_drop(vm->m.grants, "userdata");
	vm->identity_given = true;
	return 0;
}

void vm_must_know(struct vm *vm, uint32_t timeout_ms)
{
	vm->must_know = vm->agent && agent_present(vm->agent);
	vm->know_ms = timeout_ms;
}

int vm_resume(struct vm *vm, struct err *e)
{
	int ret;

	if (vm->state == VM_RUNNING)
		return 0;
	if (vm->state == VM_PARKED)
		return vm_unpark(vm, "request", e);
	if (vm->state != VM_PAUSED)
		return err_set(e, EINVAL, "resume: the VM is not paused");
	/* loaded or forked, and never run in this process yet */
	if (!vm->identity_given) {
		ret = vm_give_identity(vm, vm->know_ms ? vm->know_ms : AGENT_AGAIN_MS, on_identity,
				       e);
		if (ret)
			return ret;
	}
	if (vm->threads[0]) {
		vm_start_world(vm);
		__atomic_store_n(&vm->starting, false, __ATOMIC_RELEASE);
		vm->state = VM_RUNNING;
		vm_connect_if_alone(vm);
		return 0;
	}
	/* the threads park at once, so that none has run if one of them cannot be made */
	vm->starting = true;
	ret = vcpu_threads_start(vm, e);
	if (ret) {
		vcpu_threads_stop(vm);
		BUG_ON(barrier_pause(vm->m.barrier, 0, NULL)); /* nothing runs */
	} else {
		ret = vm_go(vm, e);
		barrier_resume(vm->m.barrier);
	}
	__atomic_store_n(&vm->starting, false, __ATOMIC_RELEASE);
	return ret;
}

/* Kernel, tables and the vCPUs' first state: guest RAM as firmware would leave it. */
static int load_guest(struct vm *vm, struct err *e)
{
	struct boot_files files = { .kernel_fd = vm->kernel_fd,
				    .initrd_fd = vm->initrd_fd,
				    .cmdline = vm->cmdline };
	struct boot_entry entry;
	struct cpuid_table *host;
	int ret;

	ret = acpi_build(vm->m.mem, vm->cfg.vcpus, &files.rsdp, e);
	if (!ret)
		ret = boot_load(vm->m.mem, &files, &entry, e);
	if (ret)
		return ret;
	host = calloc(1, sizeof(*host));
	if (!host)
		return err_set(e, ENOMEM, "start: out of memory");
	ret = kvm_supported_cpuid(vm->m.kvm, host, e);
	for (struct device *d = vm->devices; d && !ret; d = d->next) {
		struct dev_vcpu *v = (struct dev_vcpu *)(void *)d;

		if (d->cls == &dev_vcpu_class)
			dev_vcpu_boot(d, host, v->cfg.index ? NULL : &entry);
	}
	free(host);
	return ret;
}

int vm_start(struct vm *vm, struct err *e)
{
	int ret;

	if (vm->state != VM_CONFIGURING)
		return err_set(e, EBUSY, "start: the VM was started already");
	if (vm->kernel_fd < 0)
		return err_set(e, EINVAL, "start: no boot source (PUT /boot-source first)");
	ret = vm_build(vm, e);
	if (ret)
		return err_wrap(e, ret, "start");
	ret = vm_merge(vm, e);
	if (!ret)
		ret = vm_open_kvm(vm, e);
	if (!ret)
		ret = load_guest(vm, e);
	if (!ret)
		ret = vm_prepare_all(vm, e);
	if (!ret)
		ret = vm_adopt_all(vm, &vm->id, e);
	if (!ret)
		ret = vm_balloon_begin(vm, e);
	if (!ret)
		ret = vm_give_identity(vm, AGENT_AGAIN_MS, on_identity, e);
	if (!ret)
		ret = vm_go(vm, e);
	if (ret) {
		vcpu_threads_stop(vm);
		vm_unbuild(vm);
		return err_wrap(e, ret, "start");
	}
	return 0;
}
