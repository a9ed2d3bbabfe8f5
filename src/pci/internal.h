/* SPDX-License-Identifier: MIT */
/*
 * What the files of src/pci/ share among themselves: the bus, and the seams between config space
 * (pci.c), the ways to reach it (host.c) and MSI-X (msix.c). Device lock held throughout.
 */
#ifndef CLONE_PCI_INTERNAL_H
#define CLONE_PCI_INTERNAL_H

#include "pci/pci.h"

struct pci_bus {
	struct machine *m;
	struct pci_dev *dev[PCI_SLOTS];
	uint64_t next_bar; /* where the next BAR may be placed */
	uint32_t cf8_own;  /* the CF8 latch while there is no host bridge */
	uint32_t *cf8;	   /* the latch: in the host bridge's state */
};

/* The guest's access to config space; off+len may exceed it: zeroes, ignored. */
void pci_config_read(struct pci_dev *p, unsigned int off, uint8_t *data, unsigned int len);
void pci_config_write(struct pci_dev *p, unsigned int off, const uint8_t *data, unsigned int len);

/* msix.c */
bool msix_owns(const struct pci_dev *p, unsigned int bar, uint64_t off, unsigned int len);
void msix_read(struct pci_dev *p, uint64_t off, uint8_t *data, unsigned int len);
void msix_write(struct pci_dev *p, uint64_t off, const uint8_t *data, unsigned int len);
void msix_ctrl_written(struct pci_dev *p);
void msix_reset(struct pci_dev *p);
int msix_check(const struct pci_dev *p, const struct pci_state *st, struct err *e);
/* Would the vector interrupt the guest now? */
bool msix_open(const struct pci_dev *p, unsigned int v);

/* irqfd.c */
/* The guest changed vector vec, or what masks it: the route follows. True: it is lent and was
 * closed, so that what was signalled meanwhile is lost. */
bool irqfd_changed(struct pci_dev *p, unsigned int vec);
void irqfd_forget(struct pci_dev *p); /* in a fork's child */
void irqfd_fini(struct pci_dev *p);

#endif
