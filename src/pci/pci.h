/* SPDX-License-Identifier: MIT */
/*
 * One PCI bus 0 behind ECAM (and CF8/CFC): type 0 endpoints, memory BARs, capabilities, MSI-X. The
 * config space of a device is part of its state. BARs are placed at creation so that a guest may
 * use them as they are; a guest that moves them is followed.
 *
 * Handlers run on vCPU threads with the device lock held.
 */
#ifndef CLONE_PCI_PCI_H
#define CLONE_PCI_PCI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/log.h"
#include "device/bus.h"
#include "device/device.h"

#define PCI_ECAM_BASE 0xE0000000ull
#define PCI_ECAM_SIZE 0x100000ull /* bus 0 only: 32 devices x 8 functions x 4 KiB */
#define PCI_MMIO32_BASE 0xC0000000ull
#define PCI_MMIO32_SIZE 0x20000000ull
#define PCI_SLOTS 32
#define PCI_MSIX_MAX 66 /* config + 64 queues + spare */
#define PCI_BARS 6

struct pci_bus;
struct pci_dev;

struct pci_msix_entry {
	uint32_t addr_lo, addr_hi, data, ctrl;
};

/* Part of the state of every PCI device: F_STRUCT(struct X_state, pci, pci_state_fields). */
struct pci_state {
	uint8_t config[256];
	uint32_t msix_used; /* vectors this device has: fixed at creation */
	struct pci_msix_entry msix[PCI_MSIX_MAX];
	uint8_t msix_pending[16]; /* PBA bits */
};
#define PCI_STATE_NFIELDS 3 /* config; msix with its count; msix_pending */
extern const struct field pci_state_fields[PCI_STATE_NFIELDS];

struct pci_bar_ops {
	struct bus_ops bus; /* arg is the pci_dev */
	/* The BAR became visible at base, or stopped being (mapped false). vCPU thread or main:
	 * what is main's alone (ioeventfds) is posted. */
	void (*mapped)(struct pci_dev *p, unsigned int bar, uint64_t base, bool mapped);
};

/* A window of config space whose accesses have effects (virtio's cfg-access capability). */
struct pci_cfg_ops {
	/* Before the guest reads config bytes that touch the window: refresh them. */
	void (*read)(struct pci_dev *p, unsigned int off, unsigned int len);
	/* After the guest wrote config bytes that touch the window. */
	void (*wrote)(struct pci_dev *p, unsigned int off, unsigned int len);
};

struct pci_bar_ref {
	struct pci_dev *p;
	unsigned int bar;
};

/* Embedded in every PCI device. */
struct pci_dev {
	struct device *dev;   /* set by the embedding device before pci_add */
	struct pci_state *st; /* inside the device's state; set before pci_add */
	struct pci_bus *bus;  /* the rest is pci's */
	unsigned int slot;
	uint64_t bar_size[PCI_BARS];
	uint64_t bar_base[PCI_BARS]; /* where it is visible now; 0: nowhere */
	const struct pci_bar_ops *bar_ops[PCI_BARS];
	struct pci_bar_ref bar_ref[PCI_BARS];
	uint8_t home[256];  /* config space after power-on */
	uint8_t wmask[256]; /* the bits of it that a guest may change */
	unsigned int cap_end, cap_last;
	unsigned int msix_cap, msix_bar, msix_off, pba_off, nr_vectors;
	unsigned int cfg_off, cfg_len;
	const struct pci_cfg_ops *cfg_ops;
	struct pci_irq *irqs; /* of each vector, once one was lent */
	struct log_limit log;
};

/*
 * Registers ECAM, CF8/CFC and the reset control byte at CF9. The bus stays the caller's and must
 * outlive its devices. The host bridge is a device of its own (pci_host_class), first in the
 * registry: it takes slot 0 of m->pci and carries the CF8 latch in its state.
 */
int pci_bus_create(struct machine *m, struct pci_bus **out, struct err *e);
void pci_bus_destroy(struct pci_bus *b);
extern const struct device_class pci_host_class; /* no cfg */

struct pci_ids {
	uint16_t vendor, device, subvendor, subdevice;
	uint8_t revision, class_code[3]; /* base, sub, prog-if */
};

/* Takes the lowest free slot (or `slot` when >= 0). The caller has set p->dev and p->st. */
int pci_add(struct pci_bus *b, struct pci_dev *p, const struct pci_ids *ids, int slot,
	    struct err *e);
/* A 32-bit memory BAR of a power-of-two size; placed in the MMIO window now. */
int pci_add_bar(struct pci_dev *p, unsigned int bar, uint64_t size, const struct pci_bar_ops *ops,
		struct err *e);
/* Appends a capability (id + body after the 2-byte header); returns its config offset or -ENOSPC.
 * Read-only for the guest until pci_cfg_writable says otherwise. */
int pci_add_cap(struct pci_dev *p, uint8_t id, const void *body, unsigned int len, struct err *e);
/* Lets the guest write len bytes of config space at off (whole bytes). */
void pci_cfg_writable(struct pci_dev *p, unsigned int off, unsigned int len);
/* One window of config space with effects; ops is borrowed for the device's life. */
void pci_cfg_window(struct pci_dev *p, unsigned int off, unsigned int len,
		    const struct pci_cfg_ops *ops);
/* An access to a BAR from the device's own config space; false when it is out of bounds. */
bool pci_bar_access(struct pci_dev *p, unsigned int bar, uint64_t off, void *data, unsigned int len,
		    bool write);
/* MSI-X with table and PBA inside an existing BAR; accesses to those ranges are handled here. */
int pci_add_msix(struct pci_dev *p, unsigned int nr, unsigned int bar, unsigned int table_off,
		 unsigned int pba_off, struct err *e);
/*
 * Signals a vector; masked vectors become pending. No such vector (0xffff) or MSI-X off: nothing.
 * Any thread with the device lock held.
 */
void pci_msix_notify(struct pci_dev *p, unsigned int vec);
bool pci_msix_enabled(const struct pci_dev *p);
/*
 * An eventfd that raises the vector when it is signalled, for whoever does so in the kernel: masks
 * and messages are obeyed as the guest changes them. It stays ours, and as it is until the device
 * is adopted by a child or goes. *fd is -1 when there is no such vector. -errno: none could be
 * made.
 */
int pci_msix_lend(struct pci_dev *p, unsigned int vec, int *fd, struct err *e);

/* Contract helpers for the embedding device's own operations. */
void pci_reset(struct pci_dev *p);
int pci_check(const struct pci_dev *p, const struct pci_state *st, struct err *e);
/* After the embedding commit copied the state: BAR mappings follow it. */
void pci_commit(struct pci_dev *p);
/* `mapped` for every visible BAR: there is a new KVM under it. Main. */
void pci_adopt(struct pci_dev *p);
/* BARs disappear, the slot is free. Accepts a pci_dev that was never added (zeroed). */
void pci_fini(struct pci_dev *p);

#endif
