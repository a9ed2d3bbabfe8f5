/* SPDX-License-Identifier: MIT */
/*
 * Vectors that somebody else in the kernel raises (vhost): an eventfd that KVM turns into the
 * vector's message by itself (irqfd), with a route that follows what the guest programs into the
 * MSI-X table. While the vector is masked it has no route, and what is signalled then is lost: so
 * the guest gets one interrupt when it unmasks, whether or not there was one.
 *
 * Once made, an eventfd stays until the device goes: nobody signals it when it is not lent. Device
 * lock held; any thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "kvm/kvm.h"
#include "pci/internal.h"

struct pci_irq {
	int fd;	   /* -1: not made */
	int gsi;   /* when fd is */
	bool open; /* it had a route when we looked last */
};

/* The route of vector v as the table has it now. */
static int route(struct pci_dev *p, unsigned int v, struct err *e)
{
	const struct pci_msix_entry *t = &p->st->msix[v];
	struct kvm *k = p->dev->m->kvm;

	p->irqs[v].open = msix_open(p, v);
	kvm_msi_set(k, p->irqs[v].gsi, (uint64_t)t->addr_hi << 32 | t->addr_lo, t->data,
		    p->irqs[v].open);
	return kvm_routes_commit(k, e);
}

static int make(struct pci_dev *p, unsigned int v, struct err *e)
{
	struct machine *m = p->dev->m;
	struct pci_irq *i = &p->irqs[v];
	int ret, fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

	if (fd < 0)
		return err_sys(e, errno, "vector %u: eventfd", v);
	ret = i->gsi = kvm_msi_alloc(m->kvm, e);
	if (ret >= 0)
		ret = route(p, v, e);
	if (!ret)
		ret = kvm_irqfd(m->kvm, fd, (unsigned int)i->gsi, true, e);
	if (ret) {
		if (i->gsi >= 0)
			kvm_msi_free(m->kvm, i->gsi);
		close(fd);
		return err_wrap(e, ret, "vector %u", v);
	}
	fdtab_add(m->fds, fd, FD_CLOSE, "interrupt");
	i->fd = fd;
	return 0;
}

int pci_msix_lend(struct pci_dev *p, unsigned int vec, int *fd, struct err *e)
{
	int ret = 0;

	*fd = -1;
	if (vec >= p->nr_vectors || !pci_msix_enabled(p))
		return 0;
	if (!p->irqs) {
		p->irqs = malloc(p->nr_vectors * sizeof(*p->irqs));
		if (!p->irqs)
			return err_set(e, ENOMEM, "interrupts: out of memory");
		for (unsigned int v = 0; v < p->nr_vectors; v++)
			p->irqs[v] = (struct pci_irq){ .fd = -1 };
	}
	if (p->irqs[vec].fd < 0)
		ret = make(p, vec, e);
	if (!ret)
		*fd = p->irqs[vec].fd;
	return ret;
}

bool irqfd_changed(struct pci_dev *p, unsigned int vec)
{
	struct err e;
	bool was;

	if (!p->irqs || p->irqs[vec].fd < 0)
		return false;
	was = p->irqs[vec].open;
	if (route(p, vec, &e))
		log_guest(&p->log, "%s: vector %u: %s", p->dev->id, vec, e.msg);
	return !was && p->irqs[vec].open;
}

void irqfd_forget(struct pci_dev *p)
{
	free(p->irqs);
	p->irqs = NULL;
}

void irqfd_fini(struct pci_dev *p)
{
	struct machine *m = p->dev->m;
	struct err e;

	for (unsigned int v = 0; p->irqs && v < p->nr_vectors; v++) {
		struct pci_irq *i = &p->irqs[v];

		if (i->fd < 0)
			continue;
		if (m->kvm && !kvm_irqfd(m->kvm, i->fd, (unsigned int)i->gsi, false, &e)) {
			kvm_msi_set(m->kvm, i->gsi, 0, 0, false);
			kvm_msi_free(m->kvm, i->gsi);
		}
		fdtab_del(m->fds, i->fd);
		close(i->fd);
	}
	irqfd_forget(p);
}
