/* SPDX-License-Identifier: MIT */
/*
 * Inside a struct vm: shared by the files of src/vm, src/snapshot and src/fork, and by nobody else.
 */
#ifndef CLONE_VM_VM_PRIVATE_H
#define CLONE_VM_VM_PRIVATE_H

#include <pthread.h>
#include <setjmp.h>

#include "agent/agent.h"
#include "device/device.h"
#include "event/barrier.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "vm/notices.h"
#include "vm/squeeze_run.h"
#include "vm/quota.h"
#include "vm/vm.h"

#define VM_PAUSE_TIMEOUT_MS 10000
#define VM_MAX_VCPUS 64

struct hint;
struct kvm_vcpu;
struct map_range;
struct park;
struct loop_io;
struct loop_timer;

struct disk_cfg {
	char id[DEVICE_ID_MAX];
	uint8_t read_only;
	uint8_t last_qcow2, writes; /* writes: enum blk_writes */
	uint32_t nr_files;
	uint64_t size_bytes; /* of the file when the disk was first opened; it may grow. 0: an empty
				bay */
	uint64_t quota_bytes;
	char serial[VIRTIO_BLK_SERIAL_MAX];
};

struct nic_cfg {
	char id[DEVICE_ID_MAX];
	uint32_t queue_pairs;
	uint16_t mtu;
};

/* What a machine is built from: the "machine" record of a snapshot. */
struct machine_cfg {
	uint32_t vcpus;
	uint64_t mem_bytes;
	uint32_t nr_disks;
	struct disk_cfg disks[VM_MAX_DISKS];
	uint32_t nr_nics;
	struct nic_cfg nics[NICS_MAX];
	uint8_t has_vsock, has_entropy;
	uint32_t guest_cid;
	uint8_t has_balloon,
		balloon_oom; /* balloon_oom: its driver deflates before its OOM killer */
	uint8_t mergeable;   /* KSM may merge its pages with others' */
};
#define MACHINE_CFG_VERSION 4u
extern const struct field_table machine_cfg_table;
/* ---- vm/disks.c ---- */

struct virtio_blk_cfg vm_blk_cfg(const struct vm *vm, const struct disk_cfg *d);
/* -ENOTSUP when a raw disk is written in place: a fork would have two writers. */
int vm_disks_can_fork(const struct vm *vm, struct err *e);
/* -ENOTSUP when a disk is, or before the fork was, written in place: the file will change, or be
 * gone. */
int vm_disks_can_be_saved(const struct vm *vm, struct err *e);

/* ---- vm/balloon.c ---- */

#define VM_BALLOON_ID "balloon"
/* At the first start: what it was configured to begin with. */
int vm_balloon_begin(struct vm *vm, struct err *e);

/* ---- vm/nics.c ---- */

/* Before the guest is told who it is: what its drivers know the NICs by. */
void vm_name_nics(struct vm *vm);
/* The guest has acknowledged who it is: links come up. arg: the vm. */
void vm_connect_nics(void *arg);
/* The same of a guest without an agent, which nobody will tell anything. */
void vm_connect_if_alone(struct vm *vm);

/* One vCPU thread. */
struct vcpu_thread {
	struct vm *vm;
	struct device *dev; /* the vcpu device */
	struct barrier_party party;
	pthread_t tid;
	bool started;
	bool early;   /* made in a spare: it has its parent's credentials until the spare is used */
	int save_ret; /* its state could not be saved when it parked last; save_err says why */
	struct err save_err;
	uint64_t exits, exits_mmio, exits_pio;
};

/* What the process around the VM adds (control socket, jail). No optional member. */
struct vm_hooks {
	/* In a fork's child right after its inherited descriptors were closed: what was the
	 * parent's (control, timers, exit record) is forgotten. */
	void (*child_forget)(void *arg);
	/* In a fork's child once it knows who it is: own directory, uid, no capabilities. */
	int (*child_enter)(void *arg, const struct vm_child_spec *spec, struct err *e);
	/* In a fork's child once its loop exists: the control sockets. */
	int (*child_serve)(void *arg, struct err *e);
	/* On every new vCPU thread, before KVM_RUN: its narrower system call filter. */
	int (*vcpu_enter)(void *arg, struct err *e);
	/* On a vCPU thread that a spare made, after child_enter and before KVM_RUN: the same uid,
	 * no capabilities. The kernel keeps both for each thread. */
	int (*vcpu_follow)(void *arg, struct err *e);
	/* The VM ended: write the exit record. */
	void (*ended)(void *arg, enum vm_end how, const char *detail);
};

/* Hooks that do nothing: what a VM has until its process says otherwise. */
extern const struct vm_hooks vm_no_hooks;

/* A seed's children that are nobody yet (fork/spare.h). */
struct spares {
	struct spare *first;
	unsigned int n, want;
	bool died; /* one did by itself: no more until the next fork, lest we make them for ever */
	struct loop_timer *timer;
};

/* What a template's forks write to first (fork/workset.h). */
struct workset {
	bool want;	    /* seed: it is to be recorded */
	unsigned int tries; /* seed: children that were asked to */
	uint32_t *pages;    /* known: page numbers, ascending; owned */
	size_t n;
	int fd; /* seed: from the recorder; recorder: to the seed; else -1 */
	struct loop_io *io;
	struct loop_timer *timer;
};

/* A fork's child between fork(2) and its report. */
struct child_start {
	struct vm_child_spec spec;
	int report_fd;			/* to the parent, -1 when reported */
	bool spare;			/* the rest is not known yet */
	const struct frozen_op *frozen; /* not to run: a snapshot (fork/frozen.c) */
	bool wait;			/* for the agent */
	uint32_t timeout_ms;
};

struct vm {
	struct machine m; /* first: devices know it as their machine */
	pthread_mutex_t lock;
	enum vm_state state;
	struct identity id;
	struct machine_cfg cfg;
	struct virtio_blk_rate rate[VM_MAX_DISKS]; /* what disks begin with, by cfg.disks */
	struct virtio_net_rate nic_rate[NICS_MAX]; /* NICs, by cfg.nics */
	struct vm_balloon balloon;		   /* what it begins with */
	int kvm_fd, kernel_fd, initrd_fd;
	int seed_ram_fd; /* a seed's, while huge pages are made of it; else -1 */
	char cmdline[VM_CMDLINE_MAX];
	struct device *devices, **devices_tail; /* in registry order */
	struct vcpu_thread *threads[VM_MAX_VCPUS];
	bool starting; /* vCPU threads exist and none has entered: there is nothing to save */
	bool quit;     /* vCPU threads: return at the next barrier */
	pthread_barrier_t followed; /* of a spare's vCPU threads, once it is somebody */
	struct device *vsock_dev, *power_dev;
	struct agent *agent;
	bool identity_given; /* a fork's child gives it itself, and waits */
	bool must_know;	     /* vm_must_know; know_ms 0: not said */
	uint32_t know_ms;
	struct vm_stats stats;
	struct notices notices;
	struct squeeze_run squeeze;
	struct vm_quota quota;
	int ksm_fd; /* our share of a trust domain, or -1 */
	uint64_t started_ns;
	const struct vm_hooks *hooks;
	void *hooks_arg;
	enum vm_end end;
	char end_detail[200];
	enum vm_event pending_event; /* posted by a vCPU, handled on main */
	const char *pending_detail;
	bool event_posted, entered_posted;
	sigjmp_buf child_env; /* vm_run: where a fork's child comes out */
	struct child_start child;
	struct fork_op *forks;
	int gate[2]; /* a pipe that the children of one fork wait at, or -1 (fork/spawn.h) */
	struct frozen_op *frozen; /* the snapshot that is being written, or NULL */
	uint64_t snapshots;	  /* begun by this process */
	struct park *park;	  /* vm/park.c; NULL: not parked */
	struct hint *hint;	  /* vm/hint.c; NULL: no round of hinting */
	bool snapshot_done;
	uint64_t last_snapshot_number;
	struct vm_snapshot_result last_snapshot; /* when snapshot_done */
	struct reaper *reapers;			 /* of children (fork/spawn.c) */
	struct spares spares;
	struct workset workset;
	/* shared memory that a child keeps: a test's, which looks at all machines through it; the
	 * range without length is the last */
	const struct map_range *shared_memory;
};

/* ---- vm/vm.c ---- */

/* -EBUSY when the VM has started: `what` comes too late. */
int vm_configuring(const struct vm *vm, const char *what, struct err *e);
/* Draws a new generation and entropy, and a machine-id unless one is set. */
void vm_random_identity(struct identity *id);

/* ---- vm/build.c ---- */

/* Makes mem, buses and every device of vm->cfg, in registry order. */
int vm_build(struct vm *vm, struct err *e);
/* Undoes vm_build; also of a half-built machine. */
void vm_unbuild(struct vm *vm);
/* The kernel side of RAM: a fresh KVM VM with its memory slots. */
int vm_open_kvm(struct vm *vm, struct err *e);
/* How KVM sees RAM: not at all (no vCPU may run then), or with a log of what vCPUs write to. After
 * a failure some slots are so and some are not. */
enum vm_slots { VM_SLOTS_NONE, VM_SLOTS, VM_SLOTS_LOGGED };
int vm_set_slots(struct vm *vm, enum vm_slots how, struct err *e);
/* prepare of every device: it need not know yet who the VM is. */
int vm_prepare_all(struct vm *vm, struct err *e);
/* adopt of every (prepared) device, then interrupt routes. */
int vm_adopt_all(struct vm *vm, const struct identity *id, struct err *e);
struct device *vm_find_device(struct vm *vm, const char *class_name, const char *id);

/* ---- vm/life.c ---- */

/* Parks every vCPU and quiesces every device: nothing is in flight, all state is in memory.
 * The device lock is held again when it returns. Nests with vm_start_world. */
int vm_stop_world(struct vm *vm, struct err *e);
void vm_start_world(struct vm *vm);
/* The VM runs (its first time in this process): threads, devices. */
int vm_go(struct vm *vm, struct err *e);

/* The guest learns who it is as soon as its agent is there (before that, no command reaches it),
 * and gets the user data that was granted as "userdata". Uses up id's entropy. done(vm) as in
 * agent_set_identity. -EFBIG, -EOPNOTSUPP: of the user data. */
int vm_give_identity(struct vm *vm, uint32_t timeout_ms, agent_done_fn done, struct err *e);

/* ---- vm/park.c ---- */

/* struct machine's wake. */
void park_wake(struct machine *m, const char *why);
/* vm_unpark, but that the VM is paused then. */
int park_back(struct vm *vm, const char *why, struct err *e);
/* The VM has ended; whoever waits for its parking hears of it. No-op without. */
void park_end(struct vm *vm);

/* ---- vm/merge.c ---- */

/* RAM is there: KSM may look at it if "ksm" was granted, and may not otherwise (any more). */
int vm_merge(struct vm *vm, struct err *e);

/* ---- vm/vcpu.c ---- */

/* Threads for all vCPUs. While the barrier is paused they only jail themselves and park. */
int vcpu_threads_start(struct vm *vm, struct err *e);
/* The same in a spare, returning when all have parked: they wait there for the spare's use. */
int vcpu_threads_early(struct vm *vm, struct err *e);
/* With all threads parked: the first error of theirs, if a state could not be saved. */
int vcpu_threads_saved(struct vm *vm, struct err *e);
/* Ends all threads, parked or not, and joins them: no pause is left. The device lock is given up
 * while they park. */
void vcpu_threads_stop(struct vm *vm);
/* In a fork's child: the parent's threads do not exist here. */
void vcpu_threads_forget(struct vm *vm);

/* ---- fork/ ---- */

/* Runs the loop until the VM ends; children of vm_fork come out of it too. */
int vm_run(struct vm *vm, struct err *e);
/* vCPU 0 of a child is about to enter the guest (main). */
void fork_child_entered(struct vm *vm);
/* A seed is destroyed: its spares end with it. */
void spares_end(struct vm *vm);
/* The VM has ended; a child that has not reported yet says why. */
void fork_child_ended(struct vm *vm, const char *detail);

#endif
