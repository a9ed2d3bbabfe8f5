/* SPDX-License-Identifier: MIT */
/*
 * Who moves a NIC's packets. There are three answers for each queue pair, and one function that
 * gives them (vnet_update), called whenever something changed that they depend on:
 *
 *   nobody   the driver is not there, the link is down, or the VM stands still; what a driver sends
 *            meanwhile is dropped, so that nothing of a fork's parent leaves by the fork
 *   vhost    by default
 *   we       no vhost, limits, or writes to guest RAM are tracked, which vhost would not tell of
 *
 * Rings change hands with their position (virtio_queue_lend and _return), in a running VM as well
 * as around a fork. Main; vnet_stop also on a vCPU thread.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "net/responder.h"
#include "net/vhost.h"
#include "virtio/net_internal.h"

#define BIT(n) (1ull << (n))
/* Features of the rings and of the header, which whoever moves packets must know of. */
#define RING_FEATURES                                                                              \
	(BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |                              \
	 BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_NET_F_MRG_RXBUF))

/* ---- vhost ---- */

static void on_ring_error(void *arg, int fd, unsigned int events)
{
	struct vnet_pair *p = arg;
	uint64_t n;

	(void)events;
	if (read(fd, &n, sizeof(n)) < 0 || p->now != VNET_VHOST)
		return;
	virtio_broken(&p->d->v, "queue pair %u: vhost found a bad ring",
		      (unsigned int)(p - p->d->pair));
	vnet_update(p->d);
}

/* The first time: it becomes ours. */
static int claim(struct vnet_pair *p, struct err *e)
{
	struct machine *m = p->d->v.dev.m;
	int ret;

	if (p->claimed)
		return 0;
	ret = vhost_claim(p->vhost_fd, m->mem, &p->features, e);
	if (ret)
		return ret;
	p->err_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (p->err_fd < 0)
		return err_sys(e, errno, "eventfd");
	fdtab_add(m->fds, p->err_fd, FD_CLOSE, "vhost errors");
	p->err_io = loop_add_io(m->loop, p->err_fd, LOOP_READ, on_ring_error, p);
	if (!p->err_io)
		return err_set(e, ENOMEM, "out of memory");
	p->claimed = true;
	return 0;
}

static void take_back(struct vnet_pair *p, const uint16_t last_avail[2], unsigned int rings)
{
	struct vnet *d = p->d;
	unsigned int q = vnet_rx((unsigned int)(p - d->pair));

	for (unsigned int i = 0; i < rings; i++) {
		vq_unmap(&d->v, q + i);
		virtio_queue_return(&d->v, q + i, last_avail[i]);
	}
}

static int lend(struct vnet_pair *p, struct vhost_ring ring[2], struct err *e)
{
	struct vnet *d = p->d;
	unsigned int q = vnet_rx((unsigned int)(p - d->pair));
	uint16_t at[2];

	for (unsigned int i = 0; i < 2; i++) {
		const struct vq_state *s = &d->state.virtio.vq[q + i];
		struct vq_mapped map;
		int ret = vq_map(&d->v, q + i, &map, e);

		at[i] = s->last_avail;
		ring[i] = (struct vhost_ring){ .size = s->size,
					       .last_avail = s->last_avail,
					       .desc = map.desc,
					       .avail = map.avail,
					       .used = map.used,
					       .err_fd = p->err_fd };
		if (!ret) {
			ret = virtio_queue_lend(&d->v, q + i, &ring[i].kick_fd, &ring[i].call_fd,
						e);
			if (ret)
				vq_unmap(&d->v, q + i);
		}
		if (ret) {
			take_back(p, at, i);
			return ret;
		}
	}
	return 0;
}

static int vhost_begin(struct vnet_pair *p, struct err *e)
{
	struct vnet *d = p->d;
	uint64_t want = d->state.virtio.driver_features & RING_FEATURES;
	struct vhost_ring ring[2];
	const uint64_t one = 1;
	int ret = claim(p, e);

	if (!ret && want & ~p->features)
		ret = err_set(e, ENOTSUP, "vhost-net does not know features %#llx",
			      (unsigned long long)(want & ~p->features));
	if (!ret)
		ret = lend(p, ring, e);
	if (ret)
		return ret;
	ret = vhost_start(p->vhost_fd, p->tap_fd, want, ring, e);
	if (ret) {
		/* as far as a ring came that ran for a moment */
		take_back(p, (const uint16_t[2]){ ring[0].last_avail, ring[1].last_avail }, 2);
		return ret;
	}
	p->now = VNET_VHOST;
	p->pending = 0; /* a wire loses packets */
	/* what the driver made available while nobody looked */
	for (unsigned int i = 0; i < 2; i++)
		BUG_ON(write(ring[i].kick_fd, &one, sizeof(one)) < 0 && errno != EAGAIN);
	return 0;
}

static void vhost_end(struct vnet_pair *p)
{
	uint16_t last_avail[2];

	vhost_stop(p->vhost_fd, last_avail);
	take_back(p, last_avail, 2);
	p->now = VNET_NONE;
}

/* ---- the choice ---- */

static bool ring_live(const struct vnet *d, unsigned int q)
{
	return d->state.virtio.vq[q].enable;
}

static enum vnet_backend choose(const struct vnet_pair *p)
{
	const struct vnet *d = p->d;
	unsigned int i = (unsigned int)(p - d->pair);

	if (!d->v.resumed || !virtio_live(&d->v) || !(d->state.status & VIRTIO_NET_S_LINK_UP) ||
	    p->tap_fd < 0 || i >= d->state.pairs || !ring_live(d, vnet_rx(i)) ||
	    !ring_live(d, vnet_tx(i)))
		return VNET_NONE;
	if (p->vhost_fd < 0 || p->no_vhost || vnet_limited(d) ||
	    gmem_dirty_tracked(d->v.dev.m->mem))
		return VNET_USER;
	return VNET_VHOST;
}

static void end(struct vnet_pair *p)
{
	if (p->now == VNET_VHOST)
		vhost_end(p);
	else if (p->now == VNET_USER)
		vnet_user_stop(p);
	p->now = VNET_NONE;
}

/* The kernel spreads packets over all queues of a TAP that take part: only those that the driver
 * looks at. */
static void attach(struct vnet_pair *p)
{
	struct vnet *d = p->d;
	bool off = (unsigned int)(p - d->pair) >= d->state.pairs;
	struct err e;

	if (p->tap_fd < 0 || off == p->off)
		return;
	p->off = off;
	if (tap_enable(p->tap_fd, !off, &e))
		log_guest(&d->v.log, "%s: %s", d->v.dev.id, e.msg);
}

static void update_pair(struct vnet_pair *p)
{
	enum vnet_backend want = choose(p);
	struct vnet *d = p->d;
	struct err e;

	if (want != p->now)
		end(p);
	attach(p);
	if (want == p->now)
		return;
	if (want == VNET_VHOST && vhost_begin(p, &e)) {
		log_warn("%s: served without vhost: %s", d->v.dev.id, e.msg);
		p->no_vhost = true;
		want = VNET_USER;
	}
	if (want == VNET_USER)
		vnet_user_start(p);
}

void vnet_update(struct vnet *d)
{
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		update_pair(&d->pair[i]);
}

static void update_now(void *arg)
{
	struct vnet *d = arg;

	d->posted = false;
	/* the driver may be another one than a moment ago */
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		if (d->pair[i].now == VNET_USER)
			end(&d->pair[i]);
	vnet_update(d);
}

void vnet_update_later(struct vnet *d)
{
	if (d->posted)
		return;
	d->posted = true;
	loop_post(d->v.dev.m->loop, update_now, d);
}

void vnet_stop(struct vnet *d)
{
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		if (d->pair[i].now == VNET_VHOST)
			vhost_end(&d->pair[i]);
}

/* ---- descriptors ---- */

/* net/ID/WHAT, or net/ID/WHATi of those behind the first; -1: not granted. */
static int take(struct vnet *d, const char *what, unsigned int i)
{
	struct machine *m = d->v.dev.m;
	char name[GRANT_NAME_MAX], number[12] = "";
	int fd;

	if (i)
		snprintf(number, sizeof(number), "%u", i);
	snprintf(name, sizeof(name), "net/%s/%s%s", d->v.dev.id, what, number);
	fd = grants_take(m->grants, name, NULL);
	if (fd < 0)
		return -1;
	fdtab_set(m->fds, fd, FD_CLOSE);
	return fd;
}

static int adopt_pair(struct vnet *d, unsigned int i, struct err *e)
{
	struct vnet_pair *p = &d->pair[i];
	uint8_t *buf = p->buf; /* memory forks with us */

	*p = (struct vnet_pair){ .d = d, .err_fd = -1, .buf = buf };
	p->tap_fd = take(d, "tap", i);
	p->vhost_fd = take(d, "vhost", i);
	if (p->tap_fd < 0)
		return 0;
	p->tap_io = loop_add_io(d->v.dev.m->loop, p->tap_fd, LOOP_READ, vnet_on_tap, p);
	if (!p->tap_io)
		return err_set(e, ENOMEM, "out of memory");
	loop_set_io(p->tap_io, 0);
	return 0;
}

int vnet_backend_adopt(struct vnet *d, struct err *e)
{
	struct machine *m = d->v.dev.m;
	int fd, ret = 0;

	responder_forget(d->responder);
	d->responder = NULL;
	d->nr_keep = 0;
	d->again_ns = 0;
	d->posted = false;
	for (unsigned int i = 0; i < d->cfg.queue_pairs && !ret; i++)
		ret = adopt_pair(d, i, e);
	d->timer = ret ? NULL : loop_add_timer(m->loop, vnet_go_on, d);
	if (!ret)
		ret = vnet_announce_adopt(d, e);
	if (!ret && !d->timer)
		ret = err_set(e, ENOMEM, "out of memory");
	while (!ret && d->nr_keep < VNET_KEEP_MAX) {
		fd = take(d, "keep", d->nr_keep);
		if (fd < 0)
			break;
		d->keep[d->nr_keep++] = fd;
	}
	fd = ret ? -1 : take(d, "packet", 0);
	if (fd < 0)
		return ret;
	fdtab_del(m->fds, fd);
	if (d->addr.respond)
		return responder_create(m->loop, m->fds, fd, &d->addr, "responder", &d->responder,
					e);
	close(fd);
	return ret;
}

void vnet_backend_fini(struct vnet *d)
{
	vnet_stop(d);
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++) {
		struct vnet_pair *p = &d->pair[i];

		loop_del_io(p->tap_io);
		loop_del_io(p->err_io);
		fdtab_close(d->v.dev.m->fds, &p->tap_fd);
		fdtab_close(d->v.dev.m->fds, &p->vhost_fd);
		fdtab_close(d->v.dev.m->fds, &p->err_fd);
		free(p->buf);
	}
	while (d->nr_keep)
		fdtab_close(d->v.dev.m->fds, &d->keep[--d->nr_keep]);
	responder_destroy(d->responder);
	loop_del_timer(d->timer);
	loop_del_timer(d->announcer);
	if (d->v.dev.m && d->v.dev.m->loop)
		loop_unpost(d->v.dev.m->loop, d);
}
