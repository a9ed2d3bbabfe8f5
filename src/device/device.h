/* SPDX-License-Identifier: MIT */
/*
 * The device contract. A device is three structs:
 *
 *   cfg    what the user asked for; fixed at creation; compared on restore
 *   state  what the guest can observe; no pointers, descriptors or padding; described once by a
 *          field table
 *   host   descriptors, timers, buffers: never saved, rebuilt by adopt()
 *
 * and a const table of operations with no optional member. vCPUs and in-kernel chips are devices
 * too. The one explicit registry array (vm/registry.c) gives the order of everything.
 *
 * Life: create -> prepare -> adopt -> (resume ... quiesce)* -> destroy.
 * Restore: create all, decode all, check all, commit all, prepare all, adopt all, resume all. Never
 * reset. fork(2): quiesce all; in the child: the fd table closes what was inherited, prepare all,
 * adopt all, resume all. A seed's spare child prepares ahead of time and adopts when it learns who
 * it is.
 *
 * All operations run on main with the vCPUs parked, except create/destroy (main, before any vCPU).
 */
#ifndef CLONE_DEVICE_DEVICE_H
#define CLONE_DEVICE_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "device/field.h"
#include "net/address.h"

struct barrier;
struct bus;
struct dev_vcpu;
struct device;
struct fdtab;
struct gmem;
struct grants;
struct kvm;
struct loop;
struct pci_bus;

#define DEVICE_ID_MAX 32
#define VM_NAME_MAX 64
#define NICS_MAX 4

/* One NIC's part of who a VM is. */
struct nic_identity {
	char id[DEVICE_ID_MAX];	     /* of the device */
	uint8_t driver_mac[NIC_MAC]; /* what the guest's driver read when it started: names it there
				      */
	struct nic_address addr;
};

/* Who a VM is. Everything here is new in a fork's child; a plain restart keeps it. */
struct identity {
	bool renew;		    /* false: same machine goes on (boot, restore of the same VM) */
	char name[VM_NAME_MAX + 1]; /* NUL-terminated, [A-Za-z0-9][A-Za-z0-9_.-]* */
	char hostname[65];
	char machine_id[33];	/* 32 lower-case hex digits */
	uint8_t generation[16]; /* VMGENID and the agent's generation; never all zero */
	uint8_t entropy[64];	/* for the guest's RNG; wiped after use */
	uint32_t nr_nics;	/* those that have a network */
	struct nic_identity nics[NICS_MAX];
};

enum vm_event {
	VM_EVENT_POWEROFF, /* the guest asked for S5 */
	VM_EVENT_RESET,	   /* the guest asked for a reset */
	VM_EVENT_PANIC,	   /* the guest said that it panicked */
	VM_EVENT_FATAL,	   /* a vCPU cannot go on (triple fault is RESET) */
};

/* The services that devices stand on. Filled by vm/, borrowed by devices for their life. */
struct machine {
	struct gmem *mem;
	struct kvm *kvm;   /* replaced in a fork's child before adopt */
	struct loop *loop; /* replaced in a fork's child before adopt */
	struct fdtab *fds;
	struct grants *grants;
	struct barrier *barrier;
	struct bus *pio, *mmio;
	struct pci_bus *pci;
	pthread_mutex_t *lock; /* the device lock: held by every handler, callback and operation */
	unsigned int nr_vcpus;
	struct dev_vcpu *vcpus; /* a list, kept by dev_vcpu.c */
	/* Tells vm/ of a guest's wish; any thread; takes effect on main. detail is a literal. */
	void (*event)(struct machine *m, enum vm_event ev, const char *detail);
	/* Tells the VM's owner of what went wrong: kind is a word ("disk-full"), who the device's
	 * id. Main, or a vCPU thread with the device lock. */
	void (*notice)(struct machine *m, const char *kind, const char *who, const char *detail);
	/* device_wake's; may be NULL. */
	void (*wake)(struct machine *m, const char *why);
};

/* The host has something for the guest of a machine that stands still: one that is parked
 * (vm/park.h) goes on soon, others do not. why: a word for the owner, a literal. Main. */
static inline void device_wake(struct machine *m, const char *why)
{
	if (m->wake)
		m->wake(m, why);
}

struct device_class {
	const char *name;	/* the record name in snapshots: "virtio-blk" */
	uint32_t version;	/* of the state's meaning; another version is refused */
	struct field_table cfg; /* cfg.struct_size may be 0 */
	struct field_table state;

	/* Makes the device from cfg (copied) on machine m: no descriptors yet, guest-visible
	 * registration (bus ranges, PCI slot) done, state as after power-on. */
	int (*create)(struct machine *m, const char *id, const void *cfg, struct device **out,
		      struct err *e);
	/* Accepts a half-made device. Closes what the device opened. */
	void (*destroy)(struct device *d);
	/* Power-on state, as the guest's own reset of the machine would. */
	void (*reset)(struct device *d);
	/* Stop, with nothing in flight and no pin held; d->state is complete afterwards. */
	int (*quiesce)(struct device *d, struct err *e);
	/* Go on after quiesce or adopt; look at queues for work that came meanwhile. */
	void (*resume)(struct device *d);
	/* Is this decoded, hostile state one that we could be in? Changes nothing. */
	int (*check)(const struct device *d, const void *state, struct err *e);
	/* Take it over. Cannot fail. */
	void (*commit)(struct device *d, const void *state);
	/* Build the host side: after create, after commit, and in a fork's child (where nothing
	 * inherited is open any more: forget it, do not close it). prepare does what needs neither
	 * an identity nor a descriptor of this VM's own, adopt the rest, maybe much later. */
	int (*prepare)(struct device *d, struct err *e);
	int (*adopt)(struct device *d, const struct identity *id, struct err *e);
};

/* Embedded first in every device. */
struct device {
	const struct device_class *cls;
	struct machine *m;
	char id[DEVICE_ID_MAX];
	void *cfg;	     /* cls->cfg.struct_size bytes inside the device */
	void *state;	     /* cls->state.struct_size bytes inside the device */
	struct device *next; /* vm's list, in registry order */
};

/* Ready-made operations for devices that need no more. */
int device_quiesce_nothing(struct device *d, struct err *e);
void device_resume_nothing(struct device *d);
void device_commit_copy(struct device *d, const void *state);
int device_prepare_nothing(struct device *d, struct err *e);
int device_adopt_nothing(struct device *d, const struct identity *id, struct err *e);

#endif
