/* SPDX-License-Identifier: MIT */
/*
 * A model of the part of src/kvm/ that devices use: interrupts and ioeventfds. Include it in
 * exactly one file of a test program: its functions then take the place of src/kvm's. A test sees
 * each interrupt as the message it is, and needs no /dev/kvm.
 */
#ifndef TESTS_LIB_KVM_MODEL_H
#define TESTS_LIB_KVM_MODEL_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "kvm/kvm.h"
#include "tests/lib/fake_machine.h"

#define MODEL_FDS 256

struct kvm {
	struct {
		int fd;
		uint64_t addr;
	} ioeventfd[MODEL_FDS];
	unsigned int nr_ioeventfds, routes;
	unsigned int msgs[256]; /* interrupts delivered, by the low byte of their data */
	unsigned int fresh;	/* delivered since the last kvm_model_deliver */
	unsigned int levels[KVM_GSI_PINS];
	unsigned int edges[KVM_GSI_PINS]; /* how often a pin's line rose */
};

int kvm_create(int sys_fd, struct kvm **out, struct err *e)
{
	(void)sys_fd;
	(void)e;
	*out = calloc(1, sizeof(**out));
	BUG_ON(!*out);
	return 0;
}

void kvm_destroy(struct kvm *k)
{
	free(k);
}

void kvm_abandon(struct kvm *k)
{
	free(k);
}

int kvm_set_memory(struct kvm *k, unsigned int slot, uint64_t gpa, uint64_t size_bytes, void *hva,
		   bool log_dirty, struct err *e)
{
	(void)k, (void)slot, (void)gpa, (void)size_bytes, (void)hva, (void)log_dirty, (void)e;
	return 0;
}

int kvm_irq_line(struct kvm *k, unsigned int gsi, bool level)
{
	BUG_ON(gsi >= KVM_GSI_PINS);
	k->edges[gsi] += level && !k->levels[gsi];
	k->levels[gsi] = level;
	return 0;
}

int kvm_ioeventfd(struct kvm *k, uint64_t addr, unsigned int len, bool pio, bool match,
		  uint64_t value, int fd, bool assign, struct err *e)
{
	BUG_ON(len || pio || match || value || fd < 0);
	for (unsigned int i = 0; i < k->nr_ioeventfds; i++) {
		if (k->ioeventfd[i].addr != addr)
			continue;
		if (assign)
			return err_set(e, EEXIST, "ioeventfd at %#llx", (unsigned long long)addr);
		k->ioeventfd[i] = k->ioeventfd[--k->nr_ioeventfds];
		return 0;
	}
	if (!assign)
		return err_set(e, ENOENT, "no ioeventfd at %#llx", (unsigned long long)addr);
	BUG_ON(k->nr_ioeventfds == MODEL_FDS);
	k->ioeventfd[k->nr_ioeventfds].fd = fd;
	k->ioeventfd[k->nr_ioeventfds++].addr = addr;
	return 0;
}

int kvm_signal_msi(struct kvm *k, uint64_t addr, uint32_t data)
{
	if (addr >> 20 != 0xfee)
		return -EINVAL;
	k->msgs[data & 0xff]++;
	k->fresh++;
	return 0;
}

/* Routes and irqfds are counted, and not more: whoever signals them is in the kernel. */
int kvm_msi_alloc(struct kvm *k, struct err *e)
{
	(void)e;
	return KVM_GSI_PINS + (int)k->routes++;
}

void kvm_msi_free(struct kvm *k, int gsi)
{
	(void)gsi;
	k->routes--;
}

void kvm_msi_set(struct kvm *k, int gsi, uint64_t addr, uint32_t data, bool active)
{
	(void)k, (void)gsi, (void)addr, (void)data, (void)active;
}

int kvm_irqfd(struct kvm *k, int fd, unsigned int gsi, bool assign, struct err *e)
{
	(void)k, (void)fd, (void)gsi, (void)assign, (void)e;
	return 0;
}

int kvm_routes_commit(struct kvm *k, struct err *e)
{
	(void)k;
	(void)e;
	return 0;
}

/* How many interrupts came since the last call. */
static inline unsigned int kvm_model_deliver(struct kvm *k)
{
	unsigned int n = k->fresh;

	k->fresh = 0;
	return n;
}

/* For fake_machine's `taken`: does KVM signal an eventfd for this write? */
static inline bool kvm_model_taken(struct fake_machine *fm, uint64_t addr, unsigned int len)
{
	struct kvm *k = fm->m.kvm;
	uint64_t one = 1;

	(void)len;
	for (unsigned int i = 0; i < k->nr_ioeventfds; i++)
		if (k->ioeventfd[i].addr == addr)
			return write(k->ioeventfd[i].fd, &one, sizeof(one)) > 0;
	return false;
}

/* For fake_machine's `interrupted`. */
static inline bool kvm_model_interrupted(struct fake_machine *fm, uint32_t data)
{
	struct kvm *k = fm->m.kvm;
	bool any;

	any = k->msgs[data & 0xff];
	k->msgs[data & 0xff] = 0;
	return any;
}

#endif
