/* SPDX-License-Identifier: MIT */
/*
 * A machine for tests: real guest RAM, buses, event loop, fd table, grants and barrier, a PCI bus
 * with its host bridge, and whichever struct kvm the test program links (the real one, or
 * kvm_model.h). With the real one, the test adds the interrupt chips as a device first. No vCPUs:
 * the test is the guest, by fm_write and the like, and it is main too: loop callbacks run inside
 * fm_spin and fm_until.
 *
 * Helpers end the process by BUG_ON when the machine itself cannot be built: a test has no use for
 * half of one.
 */
#ifndef TESTS_LIB_FAKE_MACHINE_H
#define TESTS_LIB_FAKE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buf.h"
#include "device/device.h"
#include "mem/gmem.h"
#include "pci/pci.h"

#define FM_DEVICES 16
#define FM_ALLOC_BASE 0x100000ull /* where fm_alloc begins */

struct fake_machine {
	struct machine m; /* first */
	pthread_mutex_t lock;
	int sys_fd;			/* /dev/kvm, borrowed; -1 with kvm_model.h */
	struct device *dev[FM_DEVICES]; /* dev[0] is the host bridge */
	unsigned int nr_devs;
	gpa_t brk;
	unsigned int events[4]; /* how often the guest asked for each vm_event */
	unsigned int notices;	/* how often the owner was told something, */
	char notice[24];	/* and what last */
	/* A guest write that the kernel would take by itself (an ioeventfd); NULL: none is. */
	bool (*taken)(struct fake_machine *fm, uint64_t addr, unsigned int len);
	/* Did interrupts with this MSI data come since the last call? NULL: nobody can tell. */
	bool (*interrupted)(struct fake_machine *fm, uint32_t data);
	uint64_t kept[16]; /* in a child: bit n is set when fm_child found descriptor n kept */
};

void fm_init(struct fake_machine *fm, uint64_t mem_bytes, int sys_fd);
/* Destroys the devices too, and closes all that adopt opened. */
void fm_fini(struct fake_machine *fm);

/* As vm/ does it: create; then adopt all, commit the routes, resume all. */
struct device *fm_add(struct fake_machine *fm, const struct device_class *cls, const char *id,
		      const void *cfg);
void fm_adopt(struct fake_machine *fm, const struct identity *id);
void fm_resume(struct fake_machine *fm);
void fm_start(struct fake_machine *fm); /* adopt as the same machine, then resume */
void fm_quiesce(struct fake_machine *fm);
/*
 * In a fork's child, quiesced before: keeps the grants under "child/" and without that prefix,
 * closes what is not to be kept, makes a new kvm and loop, adopts all.
 */
void fm_child(struct fake_machine *fm, const struct identity *id);

/* The wire form of a device's cfg and state, as a snapshot holds it. */
void fm_save(struct device *d, struct wbuf *out);
/* Decode, check, commit. */
int fm_load(struct device *d, const void *data, size_t len, struct err *e);

/* BUG unless the device would take its own state, as it is now, out of a snapshot: what a guest can
 * bring about, check() must know. Quiesced. */
void fm_assert_valid(struct device *d);

/* The guest's accesses (MMIO and port space), with the device lock held. */
uint64_t fm_read(struct fake_machine *fm, uint64_t addr, unsigned int len);
void fm_write(struct fake_machine *fm, uint64_t addr, unsigned int len, uint64_t val);
uint64_t fm_in(struct fake_machine *fm, uint16_t port, unsigned int len);
void fm_out(struct fake_machine *fm, uint16_t port, unsigned int len, uint64_t val);
static inline uint64_t fm_ecam(unsigned int slot, unsigned int reg)
{
	return PCI_ECAM_BASE + ((uint64_t)slot << 15) + reg;
}

/* Guest RAM that nothing else uses, zeroed at start. */
gpa_t fm_alloc(struct fake_machine *fm, uint64_t n, uint64_t align);
/* Page tables of the first 4 GiB, identity, in 2 MiB pages: for a vCPU's cr3. */
gpa_t fm_page_tables(struct fake_machine *fm);

/* Runs what is due in the event loop; does not wait. */
void fm_spin(struct fake_machine *fm);
/* Runs the loop until done(arg) or five minutes have passed; says which. */
bool fm_until(struct fake_machine *fm, bool (*done)(void *arg), void *arg);

/* Open descriptors of this process, stdio included. */
unsigned int fm_open_fds(void);

#endif
