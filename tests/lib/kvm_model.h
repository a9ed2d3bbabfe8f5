/* SPDX-License-Identifier: MIT */
/*
 * A model of the part of src/kvm/ that devices use: irqfds, routes, ioeventfds. Include it in
 * exactly one file of a test program: its functions then take the place of src/kvm's. What the
 * kernel would do with an eventfd happens in kvm_model_deliver, so that a test sees each interrupt
 * as the message it would be, counts routing updates, and needs no /dev/kvm.
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

struct model_route {
	bool used, active;
	uint64_t addr;
	uint32_t data;
};

struct kvm {
	struct model_route want[KVM_GSI_MAX], now[KVM_GSI_MAX];
	bool dirty;
	struct {
		int fd;
		unsigned int gsi;
	} irqfd[MODEL_FDS];
	struct {
		int fd;
		uint64_t addr;
	} ioeventfd[MODEL_FDS];
	unsigned int nr_irqfds, nr_ioeventfds;
	unsigned int commits; /* routing updates that reached the kernel */
	unsigned int lost; /* irqfds signalled without a route */
	unsigned int msgs[256]; /* interrupts delivered, by the low byte of their data */
	unsigned int levels[KVM_GSI_PINS];
	unsigned int fail_irqfds; /* how many of the next irqfds fail */
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

int kvm_irqfd(struct kvm *k, int fd, unsigned int gsi, bool assign, struct err *e)
{
	BUG_ON(!assign || fd < 0 || gsi >= KVM_GSI_MAX || k->nr_irqfds == MODEL_FDS);
	if (k->fail_irqfds) {
		k->fail_irqfds--;
		return err_set(e, ENOMEM, "irqfd: told to fail");
	}
	k->irqfd[k->nr_irqfds].fd = fd;
	k->irqfd[k->nr_irqfds++].gsi = gsi;
	return 0;
}

int kvm_msi_alloc(struct kvm *k, struct err *e)
{
	for (int g = KVM_GSI_PINS; g < KVM_GSI_MAX; g++) {
		if (k->want[g].used)
			continue;
		k->want[g] = (struct model_route){ .used = true };
		return g;
	}
	return err_set(e, ENOSPC, "no GSI left");
}

/* Also drops its irqfd, as KVM does by itself when the eventfd closes. */
void kvm_msi_free(struct kvm *k, int gsi)
{
	BUG_ON(gsi < KVM_GSI_PINS || gsi >= KVM_GSI_MAX || !k->want[gsi].used);
	k->want[gsi] = (struct model_route){ 0 };
	k->dirty = true;
	for (unsigned int i = 0; i < k->nr_irqfds; i++)
		if (k->irqfd[i].gsi == (unsigned int)gsi)
			k->irqfd[i] = k->irqfd[--k->nr_irqfds];
}

void kvm_msi_set(struct kvm *k, int gsi, uint64_t addr, uint32_t data, bool active)
{
	BUG_ON(gsi < KVM_GSI_PINS || gsi >= KVM_GSI_MAX || !k->want[gsi].used);
	k->want[gsi] = (struct model_route){
		.used = true, .active = active, .addr = addr, .data = data
	};
	k->dirty = true;
}

int kvm_routes_commit(struct kvm *k, struct err *e)
{
	(void)e;
	if (!k->dirty)
		return 0;
	/* what the kernel refuses whole */
	for (int g = 0; g < KVM_GSI_MAX; g++)
		BUG_ON(k->want[g].active && k->want[g].addr >> 32);
	memcpy(k->now, k->want, sizeof(k->now));
	k->dirty = false;
	k->commits++;
	return 0;
}

/* Turns signalled eventfds into messages; returns how many came. */
static inline unsigned int kvm_model_deliver(struct kvm *k)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < k->nr_irqfds; i++) {
		const struct model_route *r = &k->now[k->irqfd[i].gsi];
		uint64_t v;

		if (read(k->irqfd[i].fd, &v, sizeof(v)) != (ssize_t)sizeof(v))
			continue;
		if (!r->active) {
			k->lost++;
			continue;
		}
		k->msgs[r->data & 0xff]++;
		n++;
	}
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

	kvm_model_deliver(k);
	any = k->msgs[data & 0xff];
	k->msgs[data & 0xff] = 0;
	return any;
}

#endif
