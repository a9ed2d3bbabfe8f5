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

enum vm_state {
	VM_CONFIGURING, /* "Not started" */
	VM_RUNNING,	/* "Running" */
	VM_PAUSED,	/* "Paused" */
	VM_PARKED,	/* "Parked": paused, its memory in a file or on its way (vm/park.h) */
	VM_SEED,	/* "Seed": loaded, never resumed */
	VM_ENDED,
};

/* How a VM ended; the process's exit status and the exit record's "reason". */
enum vm_end {
	VM_END_POWEROFF = 0, /* "poweroff" */
	VM_END_RESET = 10,   /* "reset": the guest rebooted; a VM does not outlive that */
	VM_END_PANIC = 11,   /* "panic" */
	VM_END_ERROR = 12,   /* "error": ours or the host's fault; the record's detail says what */
	VM_END_KILLED = 13,  /* "killed": asked for over the control socket */
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
bool vm_mergeable(const struct vm *vm); /* by KSM: "ksm" was granted */
/* Takes the granted descriptors by these names; initrd NULL for none. */
int vm_set_boot(struct vm *vm, const char *kernel, const char *initrd, const char *cmdline,
		struct err *e);
struct virtio_blk_rate; /* virtio/blk.h */
struct vm_disk_file {
	const char *path; /* the name that it was granted under */
	bool qcow2;
};
struct vm_disk {
	const char *id, *serial;	  /* serial: NULL or "" for none */
	const struct vm_disk_file *files; /* the topmost first; see block/source.h */
	unsigned int nr_files; /* 0: an empty bay, whose disk may come while the VM runs */
	bool read_only;
	const struct virtio_blk_rate *rate; /* NULL: no limits */
	uint64_t quota_bytes;		    /* of its overlay; 0: no limit */
	bool persistent; /* writes go to files[0] itself, and stay there: block/blk.h, enum
			    blk_writes */
	bool direct;	 /* of a persistent one: "disk/ID/direct" was granted, see virtio/blk.h */
};
/* Takes the granted files; what takes writes was granted as "disk/ID/data" (not when read_only): an
 * overlay's data file, or of a persistent disk its own file once more, opened read-write. */
int vm_add_disk(struct vm *vm, const struct vm_disk *disk, struct err *e);
/* Other limits of a disk, also of a running VM. -ENOENT; -EINVAL. */
int vm_set_disk_rate(struct vm *vm, const char *id, const struct virtio_blk_rate *rate,
		     struct err *e);
/* What follows: of a VM that runs (it stands still for it) or is paused; the guest is told.
 * -ENOENT: there is no such disk; -EINVAL: it does not run. */

/* Puts a disk (its files granted as for vm_add_disk) into an empty bay. -EBUSY: there is one;
 * -EINVAL also for read_only and serial; and what opening it may fail with. */
int vm_insert_disk(struct vm *vm, const struct vm_disk *disk, struct err *e);
/* Takes a disk out, which leaves a bay; what the guest wrote to its overlay is gone, a persistent
 * one is closed cleanly; its limits go with it. -ENOTSUP: a read-only one; -ENOENT: it is empty;
 * -EIO: it is out, but its file was not closed cleanly. */
int vm_eject_disk(struct vm *vm, const char *id, struct err *e);
/* As blk_grow. */
int vm_grow_disk(struct vm *vm, const char *id, uint64_t bytes, struct err *e);
struct virtio_net_rate; /* virtio/net.h */
struct virtio_net_view;
struct vm_nic {
	const char *id;
	unsigned int queue_pairs;
	uint16_t mtu;			    /* 0: unsaid */
	const struct virtio_net_rate *rate; /* NULL: no limits */
	const struct nic_address *addr;	    /* NULL: no network is behind it */
};
/* Its descriptors are granted as virtio/net.h says. -EEXIST, -EINVAL. */
int vm_add_nic(struct vm *vm, const struct vm_nic *nic, struct err *e);
/* Addresses of the NICs of a machine that is about to be loaded; driver_mac is not looked at. */
int vm_set_nics(struct vm *vm, const struct nic_identity *nics, size_t n, struct err *e);
/* Other limits of a NIC, also of a running VM. -ENOENT; -EINVAL. */
int vm_set_nic_rate(struct vm *vm, const char *id, const struct virtio_net_rate *rate,
		    struct err *e);
/* Of NIC number i; false when there are no more. Borrowed: id. */
bool vm_nic_view(struct vm *vm, unsigned int i, const char **id, struct virtio_net_view *out);
int vm_set_vsock(struct vm *vm, uint32_t guest_cid, struct err *e);
int vm_set_entropy(struct vm *vm, struct err *e);
struct virtio_balloon_view; /* virtio/balloon.h */
struct vm_balloon {
	bool deflate_on_oom;
	uint64_t target_bytes; /* in whole pages; beyond RAM: vm_start fails with -EINVAL */
	uint32_t stats_ms;     /* how often the guest is asked for its statistics; 0: never */
};
/* Gives it a balloon: its last device, so that all others are what they are without one. */
int vm_set_balloon(struct vm *vm, const struct vm_balloon *b, struct err *e);
/* What follows, -ENOENT: it has none. */

/* As it is now. */
int vm_get_balloon(struct vm *vm, struct vm_balloon *out, struct err *e);
/* All zero but for the target before the start. */
int vm_balloon_view(struct vm *vm, struct virtio_balloon_view *out, bool *hinting, struct err *e);
/* As virtio_balloon_*, of a VM that runs. -EAGAIN: it does not (its guest would do nothing);
 * -ENOTCONN: its guest has no driver for it yet. */
int vm_balloon_set_target(struct vm *vm, uint64_t bytes, struct err *e);
int vm_balloon_poll_stats(struct vm *vm, uint32_t period_ms, struct err *e);
/* -EBUSY also: a snapshot is being written, or its working set is recorded. */
int vm_balloon_hint(struct vm *vm, struct err *e);
struct squeeze; /* vm/squeeze.h */
struct squeeze_cfg;
/* Whether a policy looks after its balloon, and how; at any time, also of a seed, for its forks.
 * -ENOENT: it has no balloon to be looked after; -EINVAL: a threshold is beyond its limits. */
int vm_set_policy(struct vm *vm, bool on, const struct squeeze_cfg *cfg, struct err *e);
/* Is it on? How it is set, and how it stands. */
bool vm_policy(const struct vm *vm, struct squeeze_cfg *cfg, struct squeeze *s);
/* hostname, machine-id and so on of this machine at its first boot. Default: from the name. */
int vm_set_identity(struct vm *vm, const struct identity *id, struct err *e);

/* When the VM has ended: closes disks that are written in place. */
void vm_finish_disks(struct vm *vm);

/* ---- life ---- */

int vm_start(struct vm *vm, struct err *e);
int vm_pause(struct vm *vm, struct err *e);
int vm_resume(struct vm *vm, struct err *e);
/* Of a VM that was loaded or forked and never ran: if it had an agent, its guest must acknowledge
 * who it is within timeout_ms of vm_resume, or the VM ends. */
void vm_must_know(struct vm *vm, uint32_t timeout_ms);
/* Presses the ACPI power button. */
int vm_power_button(struct vm *vm, struct err *e);
/* Ends the VM: the loop stops, the exit record is written. */
void vm_end(struct vm *vm, enum vm_end how, const char *detail);

/* ---- forks (fork/fork.h) ---- */

/* Who a child is to be. */
struct vm_child_spec {
	struct identity id;   /* names; the rest is drawn in the child, "renew" set */
	uint32_t uid, gid;    /* 0: keep the parent's */
	bool paused;	      /* stays paused after adopt */
	uint64_t quota_bytes; /* of memory: vm/quota.h; 0: none */
};

/* ---- statistics ---- */

struct vm_stats {
	uint64_t uptime_ns; /* since start, load or fork */
	uint64_t exits_total, exits_mmio, exits_pio;
	uint64_t forks, last_pause_ns;
	uint64_t last_forks,
		last_fork_ns; /* children of the last request; of its time, fork(2)'s */
	uint64_t forked_ns, adopted_ns, entered_ns, first_exit_ns,
		ready_ns; /* as in vm_child_result */
	uint64_t fork_depth;
	uint64_t parked_bytes; /* of RAM, in a file now (vm/park.h) */
};
void vm_stats(struct vm *vm, struct vm_stats *out);
/* Processor time of a vCPU's thread since it was made, from 0 on; false: there are no more, or none
 * yet. */
bool vm_vcpu_time(const struct vm *vm, unsigned int i, uint64_t *ns);
/* What the owner should know: the last NOTICES_MAX, oldest first, as vm/notices.h has them. i from
 * 0 on; NULL: there are no more. Borrowed until something else happens. */
struct notice;
const struct notice *vm_notice_at(const struct vm *vm, unsigned int i);
/* Of disk number i; false when there are no more. bytes: its size, 0 of an empty bay; seen: the
 * guest knows of it. Borrowed: id. */
struct blk_stats; /* block/blk.h */
struct vm_disk_view {
	const char *id;
	uint64_t bytes;
	bool seen;
};
bool vm_disk_stats(struct vm *vm, unsigned int i, struct vm_disk_view *view, struct blk_stats *out);

/* How a snapshot ended (fork/frozen.h). */
struct vm_snapshot_result {
	int error; /* 0 or -errno; msg says why, and the files are to be thrown away */
	char msg[256];
	uint64_t pause_ns; /* the VM stood still; of it fork(2): */
	uint64_t fork_ns;
	uint64_t write_ns;     /* from then on until all was written */
	uint64_t stored_bytes; /* of RAM, in the file */
	uint64_t growth_bytes; /* memory that the VM's own writes cost meanwhile, at most */
};

/* Gives up the one that is being written: its done comes before this returns. No-op without one. */
void vm_snapshot_cancel(struct vm *vm, const char *why);

/* ---- the process ---- */

/*
 * Hidden verb of the executable: `clone vm FD`. FD is a unix SOCK_SEQPACKET on which the privileged
 * caller sends one message: JSON {"name":..., "uid":..., "gid":..., "chroot":bool, "seed":bool,
 * "linger_ms":N, "fds":[names]} with the descriptors: "kvm", "dir" (the VM's own directory), "lock"
 * (flocked, held for life), "api" and "fd" (listening sockets), "console" (listening),
 * "console-log", "exit" (file for the exit record), "vsock" (listening). Answers {"ok":true} when
 * it is jailed and listens, or {"error":"..."}. Returns the exit status (enum vm_end).
 */
int vm_process_main(int argc, char **argv);

#endif
