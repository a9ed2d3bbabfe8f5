/* SPDX-License-Identifier: MIT */
/*
 * The assembled machine: what a VM process is made of, and the verbs that the control socket can
 * ask of it. One struct vm a process. A VM is configured resource by resource, then started, loaded
 * from a snapshot, or loaded as a seed (a template that never runs and only answers forks).
 *
 * All calls are main's, with the device lock held (loop callbacks hold it). Errors change nothing.
 */
#ifndef CLONE_VM_VM_H
#define CLONE_VM_VM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"

struct agent;
struct vm;
struct vsock_mux;

#define VM_MAX_DISKS 8
#define VM_CMDLINE_MAX 2048
#define VM_SPARES_MAX 64
#define VM_FORK_MAX 256 /* children in one request */

enum vm_state {
	VM_CONFIGURING, /* "Not started" */
	VM_RUNNING, /* "Running" */
	VM_PAUSED, /* "Paused" */
	VM_SEED, /* "Seed": loaded, never resumed */
	VM_ENDED,
};

/* How a VM ended; the process's exit status and the exit record's "reason". */
enum vm_end {
	VM_END_POWEROFF = 0, /* "poweroff" */
	VM_END_RESET = 10, /* "reset": the guest rebooted; a VM does not outlive that */
	VM_END_PANIC = 11, /* "panic" */
	VM_END_ERROR = 12, /* "error": ours or the host's fault; the record's detail says what */
	VM_END_KILLED = 13, /* "killed": asked for over the control socket */
};

int vm_create(const char *name, struct vm **out, struct err *e);
/* With the device lock not held; NULL is fine. */
void vm_destroy(struct vm *vm);

struct machine *vm_machine(struct vm *vm);
struct grants *vm_grants(struct vm *vm);
struct agent *vm_agent(struct vm *vm); /* NULL before start/load, or without vsock */
enum vm_state vm_state(const struct vm *vm);
const struct identity *vm_identity(const struct vm *vm);

/* ---- configuration, before vm_start: -EBUSY later ---- */

int vm_set_machine(struct vm *vm, unsigned int vcpus, uint64_t mem_bytes, struct err *e);
unsigned int vm_vcpus(const struct vm *vm);
uint64_t vm_mem_bytes(const struct vm *vm);
/* Takes the granted descriptors by these names; initrd NULL for none. */
int vm_set_boot(struct vm *vm, const char *kernel, const char *initrd, const char *cmdline,
		struct err *e);
/* The base was granted as `path`, the overlay's data file as "disk/ID/data" (not when read_only). */
int vm_add_disk(struct vm *vm, const char *id, const char *path, bool read_only, struct err *e);
int vm_set_vsock(struct vm *vm, uint32_t guest_cid, struct err *e);
int vm_set_entropy(struct vm *vm, struct err *e);
/* hostname, machine-id and so on of this machine at its first boot. Default: from the name. */
int vm_set_identity(struct vm *vm, const struct identity *id, struct err *e);

/* ---- life ---- */

int vm_start(struct vm *vm, struct err *e);
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* Presses the ACPI power button. */
int vm_power_button(struct vm *vm, struct err *e);
/* Ends the VM: the loop stops, the exit record is written. */
void vm_end(struct vm *vm, enum vm_end how, const char *detail);

/* ---- snapshot ---- */

/*
 * Writes state, RAM and each disk's layer to the granted descriptors (layers: "layer/ID"). A
 * running VM is paused for it and goes on afterwards. -EIO/-ENOSPC say which file; the VM lives on.
 */
int vm_snapshot(struct vm *vm, const char *state, const char *ram, struct err *e);
/* What a seed does for its children when nothing is asked of it, from its first fork on. */
struct vm_seed {
	/* children forked and half adopted ahead of time; each costs what a fork that never ran does */
	unsigned int spares; /* 0 to VM_SPARES_MAX */
	/* what the template's file mostly fills moves into huge pages (for hosts that have them) */
	bool huge_pages;
};

/*
 * Loads a snapshot into a VM_CONFIGURING vm: granted descriptors `state`, `ram`, each disk's
 * "disk/ID/base" and "disk/ID/layer" (and, unless a seed, "disk/ID/data"). The VM is paused
 * afterwards, or a seed (seed not NULL).
 */
int vm_load(struct vm *vm, const char *state, const char *ram, const struct vm_seed *seed,
	    struct err *e);

/* ---- fork ---- */

struct vm_child_spec {
	struct identity id; /* renew is set by vm_fork */
	uint32_t uid, gid; /* 0: keep the parent's */
	bool paused; /* stays paused after adopt */
};

struct vm_child_result {
	char name[VM_NAME_MAX + 1];
	int pid;
	int error; /* 0 or -errno; msg says why; the child is gone then */
	char msg[256];
	/* CLOCK_MONOTONIC: fork(2) returned in the child (a spare: it learnt who it is), devices adopted, first KVM_RUN entered,
	 * first exit from it, agent acknowledged (0: did not happen) */
	uint64_t forked_ns, adopted_ns, entered_ns, first_exit_ns, ready_ns;
};

struct vm_fork_request {
	const struct vm_child_spec *specs; /* copied */
	size_t n;
	bool wait; /* for the agent's acknowledgement in each child (if the template had an agent) */
	uint32_t timeout_ms;
	/* Called once on main in the parent, when every child is ready or failed. Pidfds of the living
	 * are in vm_grants as "pidfd/NAME" for the caller to claim. */
	void (*done)(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns);
	void *arg;
};
/* Each child's descriptors were granted as "child/NAME/<what>" (see doc/control.md). Returns after
 * the fork(2)s; done comes later. In the child this function does not return to its caller: the
 * child goes on in its own main loop. */
int vm_fork(struct vm *vm, const struct vm_fork_request *rq, struct err *e);

/* ---- statistics ---- */

struct vm_stats {
	uint64_t uptime_ns; /* since start, load or fork */
	uint64_t exits_total, exits_mmio, exits_pio;
	uint64_t forks, last_pause_ns;
	uint64_t forked_ns, adopted_ns, entered_ns, first_exit_ns, ready_ns; /* as above */
	uint64_t fork_depth;
};
void vm_stats(struct vm *vm, struct vm_stats *out);

/* ---- the process ---- */

/*
 * Hidden verb of the executable: `clone vm FD`. FD is a unix SOCK_SEQPACKET on which the privileged
 * caller sends one message: JSON {"name":..., "uid":..., "gid":..., "chroot":bool, "seed":bool, "linger_ms":N,
 * "fds":[names]} with the descriptors: "kvm", "dir" (the VM's own directory), "lock" (flocked,
 * held for life), "api" and "fd" (listening sockets), "console" (listening), "console-log", "exit"
 * (file for the exit record), "vsock" (listening). Answers {"ok":true} when it is jailed and
 * listens, or {"error":"..."}. Returns the exit status (enum vm_end).
 */
int vm_process_main(int argc, char **argv);

#endif
