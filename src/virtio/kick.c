/* SPDX-License-Identifier: MIT */
/*
 * The road of a kick from the guest's write to type->kick on main, and queues that somebody else in
 * the kernel serves.
 *
 * The first kick of a queue exits to us and is posted to main (virtio_slow_kick), which then makes
 * the queue an eventfd that KVM signals by itself (ioeventfd) and the loop watches. So adopt has
 * nothing to make, and a fork pays for a queue when its guest first uses it. The slow road remains
 * wherever KVM takes no ioeventfd, and while a guest moves a BAR: slower, never lost.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "kvm/kvm.h"
#include "virtio/internal.h"

static void on_kick(void *arg, int fd, unsigned int events)
{
	struct vq_host *h = arg;
	uint64_t n;
	ssize_t r = read(fd, &n, sizeof(n));

	(void)r; /* only empties the counter */
	(void)events;
	/* while paused, nothing: resume looks at every queue */
	if (h->v->resumed && virtio_queue_live(h->v, h->q) && !h->lent)
		h->v->type->kick(h->v, h->q);
}

/* Main: KVM signals kick_fd where the guest's notify area is now. */
static void bind_kick(struct vq_host *h)
{
	struct virtio_dev *v = h->v;
	struct kvm *k = v->dev.m->kvm;
	uint64_t want = v->notify_base ? v->notify_base + (uint64_t)NOTIFY_STRIDE * h->q : 0;
	struct err e;

	if (h->kick_fd < 0 || h->bound == want)
		return;
	if (h->bound && kvm_ioeventfd(k, h->bound, 0, false, false, 0, h->kick_fd, false, &e))
		log_guest(&v->log, "%s: queue %u: %s", v->dev.id, h->q, e.msg);
	h->bound = 0;
	if (!want)
		return;
	/* unbound, a kick exits to us and takes the slow road: no reason to stop */
	if (kvm_ioeventfd(k, want, 0, false, false, 0, h->kick_fd, true, &e))
		log_guest(&v->log, "%s: queue %u: %s", v->dev.id, h->q, e.msg);
	else
		h->bound = want;
}

/* Main: the eventfd of a queue, watched. */
static int make_kick(struct vq_host *h, struct err *e)
{
	struct machine *m = h->v->dev.m;
	int fd;

	if (h->kick_fd >= 0)
		return 0;
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "queue %u: eventfd", h->q);
	h->kick_io = loop_add_io(m->loop, fd, LOOP_READ, on_kick, h);
	if (!h->kick_io) {
		close(fd);
		return err_set(e, ENOMEM, "queue %u: out of memory", h->q);
	}
	fdtab_add(m->fds, fd, FD_CLOSE, "virtio kick");
	h->kick_fd = fd;
	return 0;
}

/* A kick that came to us of a queue that is somebody else's. */
static void forward_kick(struct vq_host *h)
{
	const uint64_t one = 1;
	ssize_t r = write(h->kick_fd, &one, sizeof(one));

	(void)r; /* a counter that is full is signalled */
}

void virtio_kick_queues(struct virtio_dev *v, uint64_t mask)
{
	for (unsigned int q = 0; q < v->st->nr_queues; q++) {
		if (!(mask & BIT64(q)) || !virtio_queue_live(v, q))
			continue;
		if (v->q[q].lent)
			forward_kick(&v->q[q]);
		else
			v->type->kick(v, q);
	}
}

/* Main: eventfds of queues that were lent or returned are watched by the right one. */
static void watch_kicks(struct virtio_dev *v)
{
	for (unsigned int q = 0; q < v->st->nr_queues; q++)
		if (v->q[q].kick_fd >= 0)
			loop_set_io(v->q[q].kick_io, v->q[q].lent ? 0 : LOOP_READ);
}

static void bind_kicks(struct virtio_dev *v)
{
	for (unsigned int q = 0; q < v->st->nr_queues; q++)
		bind_kick(&v->q[q]);
}

void virtio_kicks_resume(struct virtio_dev *v)
{
	bind_kicks(v);
	watch_kicks(v);
}

void virtio_kicks_fini(struct virtio_dev *v)
{
	for (unsigned int q = 0; q < v->st->nr_queues; q++) {
		struct vq_host *h = &v->q[q];

		if (h->kick_fd < 0)
			continue;
		bind_kick(h);
		loop_del_io(h->kick_io);
		fdtab_del(v->dev.m->fds, h->kick_fd);
		close(h->kick_fd);
		h->kick_fd = -1;
	}
}

/* Whatever came by the slow road shall take the fast one next time. */
static void on_main(void *arg)
{
	struct virtio_dev *v = arg;
	uint64_t mask = v->slow_kicks;
	struct err e;

	v->posted = false;
	if (!v->resumed)
		return;
	v->slow_kicks = 0;
	for (unsigned int q = 0; q < v->st->nr_queues; q++)
		if ((mask & BIT64(q)) && virtio_queue_live(v, q) && make_kick(&v->q[q], &e))
			log_guest(&v->log, "%s: %s", v->dev.id, e.msg);
	virtio_kicks_resume(v);
	virtio_kick_queues(v, mask);
}

static void post_main(struct virtio_dev *v)
{
	if (v->posted)
		return;
	v->posted = true;
	loop_post(v->dev.m->loop, on_main, v);
}

void virtio_slow_kick(struct virtio_dev *v, unsigned int q)
{
	v->slow_kicks |= BIT64(q);
	post_main(v);
}

void virtio_notify_area(struct virtio_dev *v, uint64_t base)
{
	v->notify_base = base;
	if (v->resumed) /* otherwise adopt or resume binds */
		post_main(v);
}

/* ---- queues that the kernel serves ---- */

int virtio_queue_lend(struct virtio_dev *v, unsigned int q, int *kick_fd, int *call_fd,
		      struct err *e)
{
	struct vq_host *h = &v->q[q];
	int ret = make_kick(h, e);

	BUG_ON(h->lent || h->in_flight || !virtio_queue_live(v, q));
	if (!ret)
		ret = pci_msix_lend(&v->pci, v->st->vq[q].vector, call_fd, e);
	if (ret)
		return err_wrap(e, ret, "queue %u", q);
	h->lent = true;
	loop_set_io(h->kick_io, 0);
	bind_kick(h);
	*kick_fd = h->kick_fd;
	return 0;
}

void virtio_queue_return(struct virtio_dev *v, unsigned int q, uint16_t last_avail)
{
	struct vq_state *s = &v->st->vq[q];

	BUG_ON(!v->q[q].lent);
	v->q[q].lent = false;
	s->last_avail = last_avail;
	/* A driver that wrote there itself has only misled itself. */
	(void)gmem_load16(v->dev.m->mem, s->used + 2, &s->used_idx);
	/* of what lies in the ring, nobody knows what the driver was told of */
	s->signalled_valid = 1;
	s->signalled_used = (uint16_t)(s->used_idx - s->size);
	post_main(v); /* who watches the eventfd */
}
