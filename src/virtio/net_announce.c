/* SPDX-License-Identifier: MIT */
/*
 * A machine that came to another place asks its driver to tell the neighbours (virtio 1.2 section
 * 5.1.6.5.4). Its link comes up at the same moment, and Linux's driver announces before it turns
 * its carrier on, into nothing. So it is asked when it has looked at the link, and a few times:
 * how long its kernel needs from there to a queue that sends, nobody tells us. Main, but for
 * vnet_announce_seen.
 */
#include <errno.h>
#include <linux/virtio_net.h>

#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "virtio/net_internal.h"

/* From its look to the first round, and between rounds. */
static const uint64_t wait_ms[] = { 20, 150, 600, 2000 };

static void round_of(void *arg)
{
	struct vnet *d = arg;

	if (!d->rounds || !virtio_live(&d->v) || !(d->state.status & VIRTIO_NET_S_LINK_UP))
		return;
	d->late = !d->v.resumed;
	if (d->late) /* nothing changes in a machine that stands still, however long it does */
		return;
	d->state.status |= VIRTIO_NET_S_ANNOUNCE;
	virtio_config_changed(&d->v);
	if (--d->rounds)
		loop_set_timer(d->announcer, wait_ms[ARRAY_SIZE(wait_ms) - d->rounds] * NS_PER_MS);
}

static void begin(void *arg)
{
	struct vnet *d = arg;

	if (d->rounds == ARRAY_SIZE(wait_ms))
		loop_set_timer(d->announcer, wait_ms[0] * NS_PER_MS);
}

void vnet_announce(struct vnet *d)
{
	d->unseen = virtio_has(&d->v, VIRTIO_NET_F_GUEST_ANNOUNCE);
	d->rounds = d->unseen ? ARRAY_SIZE(wait_ms) : 0;
}

void vnet_announce_resume(struct vnet *d)
{
	if (d->late)
		loop_set_timer(d->announcer, wait_ms[0] * NS_PER_MS);
	d->late = false;
}

void vnet_announce_seen(struct vnet *d)
{
	if (!d->unseen || !(d->state.status & VIRTIO_NET_S_LINK_UP))
		return;
	d->unseen = false;
	loop_post(d->v.dev.m->loop, begin, d);
}

int vnet_announce_adopt(struct vnet *d, struct err *e)
{
	d->rounds = 0;
	d->unseen = d->late = false;
	d->announcer = loop_add_timer(d->v.dev.m->loop, round_of, d);
	return d->announcer ? 0 : err_set(e, ENOMEM, "out of memory");
}
