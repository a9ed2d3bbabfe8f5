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
#define PCI_STATE_NFIELDS 4
extern const struct field pci_state_fields[PCI_STATE_NFIELDS];

struct pci_bar_ops {
	struct bus_ops bus; /* arg is the pci_dev */
	/* The BAR became visible at base, or stopped being (mapped false): (un)register
	 * ioeventfds. */
	void (*mapped)(struct pci_dev *p, unsigned int bar, uint64_t base, bool mapped);
};

/* Embedded in every PCI device. */
struct pci_dev {
	struct device *dev;
	struct pci_state *st; /* inside the device's state */
	unsigned int slot;
	uint64_t bar_size[PCI_BARS];
	uint64_t bar_base[PCI_BARS]; /* where it is visible now; 0: nowhere */
	const struct pci_bar_ops *bar_ops[PCI_BARS];
	unsigned int msix_bar, msix_off, pba_off, nr_vectors;
	/* host side, rebuilt by pci_adopt */
	int vec_fd[PCI_MSIX_MAX]; /* irqfd of each vector, -1 when none */
	int vec_gsi[PCI_MSIX_MAX];
};

/* Registers ECAM and CF8/CFC and the host bridge (slot 0). */
int pci_bus_create(struct machine *m, struct pci_bus **out, struct err *e);
void pci_bus_destroy(struct pci_bus *b);

struct pci_ids {
	uint16_t vendor, device, subvendor, subdevice;
	uint8_t revision, class_code[3]; /* base, sub, prog-if */
};

/* Takes the lowest free slot (or `slot` when >= 0). p->dev and p->st are set by the caller before. */
int pci_add(struct pci_bus *b, struct pci_dev *p, const struct pci_ids *ids, int slot, struct err *e);
void pci_remove(struct pci_dev *p);
/* A 32-bit memory BAR of a power-of-two size; placed in the MMIO window now. */
int pci_add_bar(struct pci_dev *p, unsigned int bar, uint64_t size, const struct pci_bar_ops *ops,
		struct err *e);
/* Appends a capability (id + body after the 2-byte header); returns its config offset or -ENOSPC. */
int pci_add_cap(struct pci_dev *p, uint8_t id, const void *body, unsigned int len, struct err *e);
/* MSI-X with its table and PBA inside an existing BAR; accesses to those ranges are handled here. */
int pci_add_msix(struct pci_dev *p, unsigned int nr, unsigned int bar, unsigned int table_off,
		 unsigned int pba_off, struct err *e);
/* Signals a vector; masked vectors become pending. Any thread with the device lock held. */
void pci_msix_notify(struct pci_dev *p, unsigned int vec);
bool pci_msix_enabled(const struct pci_dev *p);

/* Contract helpers for the embedding device's own operations. */
void pci_reset(struct pci_dev *p);
int pci_check(const struct pci_dev *p, const struct pci_state *st, struct err *e);
/* After the embedding commit copied the state: BAR mappings follow it. */
void pci_commit(struct pci_dev *p);
/* New eventfds, GSIs, irqfds, routes (uncommitted: vm/ calls kvm_routes_commit once for all), and
 * `mapped` for every visible BAR. */
int pci_adopt(struct pci_dev *p, struct err *e);
/* Closes host side. */
void pci_fini(struct pci_dev *p);

#endif
