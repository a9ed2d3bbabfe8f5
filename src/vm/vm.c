/* SPDX-License-Identifier: MIT */
/*
 * A VM from its making to its configuration, and how it ends. See vm.h. Main thread, device lock
 * held, except vm_event.
 */
#include "vm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "device/power.h"
#include "device/serial.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "vm/park.h"
#include "vm/vm_private.h"

static const struct field disk_cfg_fields[] = {
	F_BYTES(struct disk_cfg, id),	    F_U8(struct disk_cfg, read_only),
	F_U8(struct disk_cfg, last_qcow2),  F_U32(struct disk_cfg, nr_files),
	F_U64(struct disk_cfg, size_bytes), F_BYTES(struct disk_cfg, serial),
	F_U8(struct disk_cfg, writes),	    F_U64(struct disk_cfg, quota_bytes),
};

static const struct field nic_cfg_fields[] = {
	F_BYTES(struct nic_cfg, id),
	F_U32(struct nic_cfg, queue_pairs),
	F_U16(struct nic_cfg, mtu),
};

static const struct field machine_cfg_fields[] = {
	F_U32(struct machine_cfg, vcpus),
	F_U64(struct machine_cfg, mem_bytes),
	F_STRUCTS_N(struct machine_cfg, disks, nr_disks, disk_cfg_fields),
	F_STRUCTS_N(struct machine_cfg, nics, nr_nics, nic_cfg_fields),
	F_U8(struct machine_cfg, has_vsock),
	F_U8(struct machine_cfg, has_entropy),
	F_U32(struct machine_cfg, guest_cid),
	F_U8(struct machine_cfg, has_balloon),
	F_U8(struct machine_cfg, balloon_oom),
	F_U8(struct machine_cfg, mergeable),
};
const struct field_table machine_cfg_table = FIELD_TABLE(struct machine_cfg, machine_cfg_fields);

static void handle_event(void *arg)
{
	struct vm *vm = arg;
	struct device *uart = vm_find_device(vm, "serial", "serial");

	if (uart)
		serial_flush(uart); /* a guest's last words come just before its end */
	switch (vm->pending_event) {
	case VM_EVENT_POWEROFF:
		vm_end(vm, VM_END_POWEROFF, vm->pending_detail);
		break;
	case VM_EVENT_RESET:
		vm_end(vm, VM_END_RESET, vm->pending_detail);
		break;
	case VM_EVENT_PANIC:
		vm_end(vm, VM_END_PANIC, vm->pending_detail);
		break;
	case VM_EVENT_FATAL:
		vm_end(vm, VM_END_ERROR, vm->pending_detail);
		break;
	}
}

/* Any thread: the first event wins, and main acts on it. */
static void vm_event(struct machine *m, enum vm_event ev, const char *detail)
{
	struct vm *vm = container_of(m, struct vm, m);

	if (__atomic_exchange_n(&vm->event_posted, true, __ATOMIC_ACQ_REL))
		return;
	vm->pending_event = ev;
	vm->pending_detail = detail;
	loop_post(m->loop, handle_event, vm);
}

static void vm_notice(struct machine *m, const char *kind, const char *who, const char *detail)
{
	notices_add(&container_of(m, struct vm, m)->notices, kind, who, detail);
}

static int hook_child_nothing(void *arg, const struct vm_child_spec *spec, struct err *e)
{
	(void)arg;
	(void)spec;
	(void)e;
	return 0;
}

static int hook_nothing(void *arg, struct err *e)
{
	(void)arg;
	(void)e;
	return 0;
}

static void hook_forget_nothing(void *arg)
{
	(void)arg;
}

static void hook_ended(void *arg, enum vm_end how, const char *detail)
{
	(void)arg;
	(void)how;
	(void)detail;
}

const struct vm_hooks vm_no_hooks = {
	.child_forget = hook_forget_nothing,
	.child_enter = hook_child_nothing,
	.child_serve = hook_nothing,
	.vcpu_enter = hook_nothing,
	.vcpu_follow = hook_nothing,
	.ended = hook_ended,
};

void vm_random_identity(struct identity *id)
{
	uint8_t raw[16];

	BUG_ON(getrandom(id->generation, sizeof(id->generation), 0) != sizeof(id->generation));
	BUG_ON(getrandom(id->entropy, sizeof(id->entropy), 0) != sizeof(id->entropy));
	id->generation[0] |= 1; /* never all zero, which means "none" */
	if (id->machine_id[0])
		return;
	BUG_ON(getrandom(raw, sizeof(raw), 0) != sizeof(raw));
	raw[6] = (uint8_t)((raw[6] & 0x0f) | 0x40); /* a version 4 UUID, as machine-id(5) wants */
	raw[8] = (uint8_t)((raw[8] & 0x3f) | 0x80);
	for (size_t i = 0; i < sizeof(raw); i++)
		snprintf(id->machine_id + 2 * i, 3, "%02x", raw[i]);
}

int vm_create(const char *name, struct vm **out, struct err *e)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int ret;

	if (!vm)
		return err_set(e, ENOMEM, "vm: out of memory");
	if (!name[0] || strlen(name) > VM_NAME_MAX) {
		free(vm);
		return err_set(e, EINVAL, "vm: the name has 1 to %d characters", VM_NAME_MAX);
	}
	pthread_mutex_init(&vm->lock, NULL);
	vm->kvm_fd = vm->kernel_fd = vm->initrd_fd = vm->seed_ram_fd = vm->child.report_fd = -1;
	vm->ksm_fd = vm->quota.events = vm->quota.watch = -1;
	vm->workset.fd = vm->gate[0] = vm->gate[1] = -1;
	vm->devices_tail = &vm->devices;
	vm->hooks = &vm_no_hooks;
	vm->squeeze.cfg = squeeze_defaults;
	vm->cfg.vcpus = 1;
	vm->cfg.mem_bytes = MIB(128);
	snprintf(vm->id.name, sizeof(vm->id.name), "%s", name);
	snprintf(vm->id.hostname, sizeof(vm->id.hostname), "%s", name);
	vm_random_identity(&vm->id);
	vm->m.lock = &vm->lock;
	vm->m.event = vm_event;
	vm->m.notice = vm_notice;
	vm->m.wake = park_wake;
	ret = fdtab_create(&vm->m.fds, e);
	if (!ret)
		ret = grants_create(vm->m.fds, &vm->m.grants, e);
	if (!ret)
		ret = barrier_create(&vm->m.barrier, e);
	if (!ret)
		ret = loop_create(&vm->lock, &vm->m.loop, e);
	if (ret) {
		vm_destroy(vm);
		return ret;
	}
	*out = vm;
	return 0;
}

void vm_destroy(struct vm *vm)
{
	struct err e;

	if (!vm)
		return;
	pthread_mutex_lock(&vm->lock);
	if (vm->threads[0] && (vm->state == VM_RUNNING || vm->state == VM_ENDED))
		(void)vm_stop_world(vm, &e);
	if (vm->threads[0])
		vcpu_threads_stop(vm); /* also when its world could not be stopped */
	spares_end(vm);
	free(vm->workset.pages);
	vm_snapshot_cancel(vm, "snapshot: the VM is gone");
	park_end(vm);
	vm_unbuild(vm);
	if (vm->m.fds) {
		vm_quota_end(vm);
		fdtab_close(vm->m.fds, &vm->ksm_fd);
		fdtab_close(vm->m.fds, &vm->kvm_fd);
		fdtab_close(vm->m.fds, &vm->kernel_fd);
		fdtab_close(vm->m.fds, &vm->initrd_fd);
		fdtab_close(vm->m.fds, &vm->seed_ram_fd);
	}
	if (vm->m.loop)
		loop_destroy(vm->m.loop);
	barrier_destroy(vm->m.barrier);
	grants_destroy(vm->m.grants);
	fdtab_destroy(vm->m.fds);
	pthread_mutex_unlock(&vm->lock);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}

struct machine *vm_machine(struct vm *vm)
{
	return &vm->m;
}

struct grants *vm_grants(struct vm *vm)
{
	return vm->m.grants;
}

struct agent *vm_agent(struct vm *vm)
{
	return vm->agent;
}

enum vm_state vm_state(const struct vm *vm)
{
	return vm->state;
}

const struct identity *vm_identity(const struct vm *vm)
{
	return &vm->id;
}

unsigned int vm_vcpus(const struct vm *vm)
{
	return vm->cfg.vcpus;
}

uint64_t vm_mem_bytes(const struct vm *vm)
{
	return vm->cfg.mem_bytes;
}

int vm_configuring(const struct vm *vm, const char *what, struct err *e)
{
	if (vm->state == VM_CONFIGURING)
		return 0;
	return err_set(e, EBUSY, "%s can only be set before the VM starts", what);
}

int vm_set_machine(struct vm *vm, unsigned int vcpus, uint64_t mem_bytes, struct err *e)
{
	int ret = vm_configuring(vm, "the machine", e);

	if (ret)
		return ret;
	if (vcpus < 1 || vcpus > VM_MAX_VCPUS)
		return err_set(e, EINVAL, "%u vCPUs: a VM has 1 to %d", vcpus, VM_MAX_VCPUS);
	if (mem_bytes < MIB(64) || mem_bytes > GIB(1024) || mem_bytes % MIB(2))
		return err_set(e, EINVAL,
			       "%" PRIu64 " MiB of memory: a VM has an even number of MiB from 64 "
			       "to 1048576",
			       mem_bytes >> 20);
	vm->cfg.vcpus = vcpus;
	vm->cfg.mem_bytes = mem_bytes;
	return 0;
}

int vm_set_boot(struct vm *vm, const char *kernel, const char *initrd, const char *cmdline,
		struct err *e)
{
	int ret = vm_configuring(vm, "the boot source", e), kfd, ifd = -1;

	if (ret)
		return ret;
	if (strlen(cmdline) >= VM_CMDLINE_MAX)
		return err_set(e, EINVAL, "kernel command line: longer than %d bytes",
			       VM_CMDLINE_MAX - 1);
	kfd = grants_take(vm->m.grants, kernel, e);
	if (kfd < 0)
		return kfd;
	if (initrd) {
		ifd = grants_take(vm->m.grants, initrd, e);
		if (ifd < 0) {
			fdtab_del(vm->m.fds, kfd);
			close(kfd);
			return ifd;
		}
	}
	fdtab_close(vm->m.fds, &vm->kernel_fd);
	fdtab_close(vm->m.fds, &vm->initrd_fd);
	vm->kernel_fd = kfd;
	vm->initrd_fd = ifd;
	snprintf(vm->cmdline, sizeof(vm->cmdline), "%s", cmdline);
	return 0;
}

int vm_set_vsock(struct vm *vm, uint32_t guest_cid, struct err *e)
{
	int ret = vm_configuring(vm, "vsock", e);

	if (ret)
		return ret;
	if (guest_cid < 3 || guest_cid == UINT32_MAX)
		return err_set(e, EINVAL, "vsock: guest CID %u: 3 to 4294967294", guest_cid);
	vm->cfg.has_vsock = 1;
	vm->cfg.guest_cid = guest_cid;
	return 0;
}

int vm_set_entropy(struct vm *vm, struct err *e)
{
	int ret = vm_configuring(vm, "entropy", e);

	if (!ret)
		vm->cfg.has_entropy = 1;
	return ret;
}

int vm_set_identity(struct vm *vm, const struct identity *id, struct err *e)
{
	int ret = vm_configuring(vm, "the identity", e);

	if (ret)
		return ret;
	if (id->hostname[0])
		memcpy(vm->id.hostname, id->hostname, sizeof(vm->id.hostname));
	if (id->machine_id[0])
		memcpy(vm->id.machine_id, id->machine_id, sizeof(vm->id.machine_id));
	return 0;
}

int vm_power_button(struct vm *vm, struct err *e)
{
	int ret = vm_unpark(vm, "power-button", e);

	if (ret)
		return ret;
	if (vm->state != VM_RUNNING)
		return err_set(e, EINVAL, "the power button needs a running VM");
	power_button_press(vm->power_dev);
	return 0;
}

void vm_end(struct vm *vm, enum vm_end how, const char *detail)
{
	if (vm->state == VM_ENDED)
		return;
	vm->end = how;
	snprintf(vm->end_detail, sizeof(vm->end_detail), "%s", detail ? detail : "");
	vm->state = VM_ENDED;
	fork_child_ended(vm, vm->end_detail);
	vm_snapshot_cancel(vm, "snapshot: the VM ended while it was being written");
	park_end(vm);
	vm->hooks->ended(vm->hooks_arg, how, vm->end_detail);
	loop_stop(vm->m.loop);
}

void vm_stats(struct vm *vm, struct vm_stats *out)
{
	*out = vm->stats;
	out->uptime_ns = vm->started_ns ? time_mono_ns() - vm->started_ns : 0;
	out->parked_bytes = vm_parked_bytes(vm);
	out->exits_total = out->exits_mmio = out->exits_pio = 0;
	for (unsigned int i = 0; i < VM_MAX_VCPUS && vm->threads[i]; i++) {
		out->exits_total += vm->threads[i]->exits;
		out->exits_mmio += vm->threads[i]->exits_mmio;
		out->exits_pio += vm->threads[i]->exits_pio;
	}
}

const struct notice *vm_notice_at(const struct vm *vm, unsigned int i)
{
	const struct notice *next = NULL;
	uint64_t after = 0;

	/* few, and seldom asked for: the next number each time */
	for (unsigned int k = 0; k <= i; k++) {
		next = NULL;
		for (unsigned int j = 0; j < NOTICES_MAX; j++) {
			const struct notice *n = &vm->notices.n[j];

			if (n->number > after && (!next || n->number < next->number))
				next = n;
		}
		if (!next)
			return NULL;
		after = next->number;
	}
	return next;
}
