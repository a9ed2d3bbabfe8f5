/* SPDX-License-Identifier: MIT */
/*
 * virtio-net (virtio 1.2 section 5.1): config space and the device contract. Who moves packets is
 * net_backend.c's; the control queue is net_ctrl.c. rng.c is the model of the parts that every
 * virtio device has.
 *
 * Fork and restore: renew. A machine whose driver runs when it is adopted was another one on
 * another network's wire: its link is down, nothing that its programs send leaves, until it knows
 * who it is (virtio_net_connect); it has the MAC of its new place in config space, which its agent
 * gives to the interface. The parent's rings stop for the fork and go on where they were. Limits
 * are kept. A packet on its way is kept by the parent, lost in the child.
 *
 * Main; config space, started and stopped also on vCPU threads; always with the device lock.
 */
#include "virtio/net.h"

#include <errno.h>
#include <linux/virtio_net.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "net/responder.h"
#include "virtio/net_internal.h"

#define QUEUE_SIZE 256
#define CTRL_SIZE 64
#define BIT(n) (1ull << (n))
#define STATUS_AT 6u
#define CONFIG_BYTES 12u /* mac, status, max_virtqueue_pairs, mtu */
#define GUEST_OFFLOADS                                                                             \
	(BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |                             \
	 BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))

static const struct field vnet_cfg_fields[] = {
	F_U32(struct virtio_net_cfg, queue_pairs),
	F_U16(struct virtio_net_cfg, mtu),
};

static const struct field vnet_state_fields[] = {
	F_STRUCT(struct vnet_state, virtio, virtio_state_fields),
	F_STRUCT(struct vnet_state, pci, pci_state_fields),
	F_BYTES(struct vnet_state, mac),
	F_BYTES(struct vnet_state, driver_mac),
	F_U16(struct vnet_state, status),
	F_U16(struct vnet_state, pairs),
	F_U64(struct vnet_state, guest_offloads),
	F_STRUCT(struct vnet_state, rx_bytes, rate_bucket_fields),
	F_STRUCT(struct vnet_state, rx_ops, rate_bucket_fields),
	F_STRUCT(struct vnet_state, tx_bytes, rate_bucket_fields),
	F_STRUCT(struct vnet_state, tx_ops, rate_bucket_fields),
};

static struct vnet *vnet_of(struct virtio_dev *v)
{
	return (struct vnet *)v;
}

/* ---- virtio type ---- */

static uint64_t vnet_features(struct virtio_dev *v)
{
	const struct vnet *d = vnet_of(v);
	uint64_t f = GUEST_OFFLOADS | BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) |
		     BIT(VIRTIO_NET_F_HOST_TSO6) | BIT(VIRTIO_NET_F_HOST_ECN) |
		     BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) | BIT(VIRTIO_NET_F_MAC) |
		     BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_STATUS) |
		     BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) |
		     BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);

	if (d->cfg.mtu)
		f |= BIT(VIRTIO_NET_F_MTU);
	if (d->cfg.queue_pairs > 1)
		f |= BIT(VIRTIO_NET_F_MQ);
	return f;
}

uint64_t vnet_guest_offloads(const struct vnet *d)
{
	return d->state.virtio.driver_features & GUEST_OFFLOADS;
}

/* struct virtio_net_config, virtio 1.2 section 5.1.4. */
static void vnet_config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	struct vnet *d = vnet_of(v);
	le16 status = le16_put(d->state.status), pairs = le16_put((uint16_t)d->cfg.queue_pairs),
	     mtu = le16_put(d->cfg.mtu);
	uint8_t raw[CONFIG_BYTES];

	memcpy(raw, d->state.mac, NIC_MAC);
	memcpy(raw + 6, &status, sizeof(status));
	memcpy(raw + 8, &pairs, sizeof(pairs));
	memcpy(raw + 10, &mtu, sizeof(mtu));
	memset(buf, 0, len);
	if (off < sizeof(raw))
		memcpy(buf, raw + off, MIN(len, (unsigned int)sizeof(raw) - off));
	if (off <= STATUS_AT && off + len > STATUS_AT)
		vnet_announce_seen(d);
}

/* Nothing in it is the driver's to write since virtio 1.0. */
static void vnet_config_write(struct virtio_dev *v, unsigned int off, const void *buf,
			      unsigned int len)
{
	(void)v;
	(void)off;
	(void)buf;
	(void)len;
}

static void vnet_kick(struct virtio_dev *v, unsigned int q)
{
	struct vnet *d = vnet_of(v);

	/* A driver that has just started, a VM that goes on: its first packet is not to be dropped.
	 */
	vnet_update(d);
	if (q == vnet_ctrl_queue(d))
		vnet_ctrl_kick(d, q);
	else if (q / 2 < d->cfg.queue_pairs)
		vnet_user_kick(d, q);
	if (!virtio_live(&d->v)) /* broken: nobody's any more */
		vnet_update(d);
}

static void vnet_started(struct virtio_dev *v)
{
	struct vnet *d = vnet_of(v);

	memcpy(d->state.driver_mac, d->state.mac, NIC_MAC);
	d->state.guest_offloads = vnet_guest_offloads(d);
	vnet_set_offloads(d);
	if (d->v.resumed)
		vnet_update_later(d);
}

static void forget_driver(struct vnet *d)
{
	d->rounds = 0;
	d->unseen = false;
	d->state.status &= (uint16_t)~VIRTIO_NET_S_ANNOUNCE;
	d->state.pairs = 1;
	d->state.guest_offloads = 0;
	memset(d->state.driver_mac, 0, NIC_MAC);
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		d->pair[i].pending = 0; /* its packet */
}

static void vnet_stopped(struct virtio_dev *v)
{
	struct vnet *d = vnet_of(v);

	vnet_stop(d);
	forget_driver(d);
	vnet_update_later(d);
}

static const struct virtio_type vnet_type = {
	.device_id = 1,
	.pci_class = { 0x02, 0x00, 0x00 }, /* network controller, Ethernet */
	.features = vnet_features,
	.config_read = vnet_config_read,
	.config_write = vnet_config_write,
	.kick = vnet_kick,
	.started = vnet_started,
	.stopped = vnet_stopped,
};

/* ---- device contract ---- */

static void vnet_destroy(struct device *dev)
{
	struct vnet *d = (struct vnet *)dev;

	if (!d)
		return;
	vnet_backend_fini(d);
	virtio_fini(&d->v);
	free(d);
}

static int vnet_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		       struct err *e)
{
	const struct virtio_net_cfg *want = cfg;
	uint16_t queue_max[2 * VIRTIO_NET_PAIRS_MAX + 1];
	struct vnet *d;
	int ret;

	if (!want->queue_pairs || want->queue_pairs > VIRTIO_NET_PAIRS_MAX)
		return err_set(e, EINVAL, "%s: %u queue pairs: 1 to %d", id, want->queue_pairs,
			       VIRTIO_NET_PAIRS_MAX);
	if (want->mtu && (want->mtu < NIC_MTU_MIN || want->mtu > NIC_MTU_MAX))
		return err_set(e, EINVAL, "%s: MTU %u: %u to %u", id, want->mtu, NIC_MTU_MIN,
			       NIC_MTU_MAX);
	d = calloc(1, sizeof(*d));
	if (!d)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	d->cfg.queue_pairs = want->queue_pairs;
	d->cfg.mtu = want->mtu;
	d->v.dev = (struct device){
		.cls = &virtio_net_class, .m = m, .cfg = &d->cfg, .state = &d->state
	};
	snprintf(d->v.dev.id, sizeof(d->v.dev.id), "%s", id);
	d->v.type = &vnet_type;
	d->v.st = &d->state.virtio;
	d->v.pci.st = &d->state.pci;
	d->state.status = VIRTIO_NET_S_LINK_UP;
	d->state.pairs = 1;
	for (unsigned int i = 0; i < VIRTIO_NET_PAIRS_MAX; i++)
		d->pair[i] =
			(struct vnet_pair){ .d = d, .tap_fd = -1, .vhost_fd = -1, .err_fd = -1 };
	for (unsigned int q = 0; q < 2 * want->queue_pairs; q++)
		queue_max[q] = QUEUE_SIZE;
	queue_max[2 * want->queue_pairs] = CTRL_SIZE;
	ret = virtio_init(&d->v, 2 * want->queue_pairs + 1, queue_max, e);
	if (ret) {
		vnet_destroy(&d->v.dev);
		return err_wrap(e, ret, "%s", id);
	}
	*out = &d->v.dev;
	return 0;
}

static void vnet_reset(struct device *dev)
{
	struct vnet *d = (struct vnet *)dev;

	virtio_reset(&d->v);
	forget_driver(d);
	d->state.status = d->pair[0].tap_fd >= 0 ? VIRTIO_NET_S_LINK_UP : 0;
}

static int vnet_quiesce(struct device *dev, struct err *e)
{
	struct vnet *d = (struct vnet *)dev;

	(void)e;
	virtio_quiesce(&d->v);
	vnet_stop(d);
	vnet_user_pause(d);
	vnet_look_never(d);
	return 0;
}

/* Here and not in adopt, so that a seed's state stays what was restored. */
static void become(struct vnet *d)
{
	d->adopted = false;
	if (vnet_mac_ok(d->addr.mac))
		memcpy(d->state.mac, d->addr.mac, NIC_MAC);
	if (!virtio_live(&d->v)) {
		d->state.status = d->pair[0].tap_fd >= 0 ? VIRTIO_NET_S_LINK_UP : 0;
		return;
	}
	d->state.status = 0;
	vnet_set_offloads(d);
	virtio_config_changed(&d->v);
}

static void vnet_resume(struct device *dev)
{
	struct vnet *d = (struct vnet *)dev;

	if (d->adopted)
		become(d);
	d->rated_ns = time_mono_ns(); /* time in which the guest stood still does not count */
	virtio_resume(&d->v);
	if (d->connect)
		virtio_net_connect(dev);
	vnet_announce_resume(d);
	vnet_update(d);
}

static int vnet_check(const struct device *dev, const void *state, struct err *e)
{
	const struct vnet *d = (const struct vnet *)dev;
	const struct vnet_state *st = state;

	if (st->status & ~(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE))
		return err_set(e, EINVAL, "status %#x", st->status);
	if (!st->pairs || st->pairs > d->cfg.queue_pairs)
		return err_set(e, EINVAL, "%u of %u queue pairs in use", st->pairs,
			       d->cfg.queue_pairs);
	if (st->mac[0] & 1 || st->driver_mac[0] & 1)
		return err_set(e, EINVAL, "a group's MAC");
	if (st->guest_offloads & ~(st->virtio.driver_features & GUEST_OFFLOADS))
		return err_set(e, EINVAL, "offloads %#llx of features %#llx",
			       (unsigned long long)st->guest_offloads,
			       (unsigned long long)st->virtio.driver_features);
	if (rate_check(&st->rx_bytes, e) || rate_check(&st->rx_ops, e) ||
	    rate_check(&st->tx_bytes, e) || rate_check(&st->tx_ops, e))
		return -EINVAL;
	return virtio_check(&d->v, &st->virtio, &st->pci, e);
}

static void vnet_commit(struct device *dev, const void *state)
{
	struct vnet *d = (struct vnet *)dev;
	uint8_t driver_mac[NIC_MAC];
	uint64_t offloads;

	device_commit_copy(dev, state);
	memcpy(driver_mac, d->state.driver_mac, NIC_MAC);
	offloads = d->state.guest_offloads;
	virtio_commit(&d->v); /* as if the driver had just started, which it has not */
	memcpy(d->state.driver_mac, driver_mac, NIC_MAC);
	d->state.guest_offloads = offloads;
}

static int vnet_adopt(struct device *dev, const struct identity *id, struct err *e)
{
	struct vnet *d = (struct vnet *)dev;
	int ret;

	memset(&d->addr, 0, sizeof(d->addr));
	for (uint32_t i = 0; i < id->nr_nics; i++)
		if (!strcmp(id->nics[i].id, dev->id))
			d->addr = id->nics[i].addr;
	ret = vnet_backend_adopt(d, e);
	if (ret)
		return err_wrap(e, ret, "%s", dev->id);
	d->rx_packets = d->tx_packets = d->dropped = 0;
	d->adopted = true;
	d->connect = false;
	virtio_adopt(&d->v);
	return 0;
}

const struct device_class virtio_net_class = {
	.name = "virtio-net",
	.version = 1,
	.cfg = FIELD_TABLE(struct virtio_net_cfg, vnet_cfg_fields),
	.state = FIELD_TABLE(struct vnet_state, vnet_state_fields),
	.create = vnet_create,
	.destroy = vnet_destroy,
	.reset = vnet_reset,
	.quiesce = vnet_quiesce,
	.resume = vnet_resume,
	.check = vnet_check,
	.commit = vnet_commit,
	.prepare = device_prepare_nothing,
	.adopt = vnet_adopt,
};

/* ---- for vm/ ---- */

static void fill(struct rate_bucket *b)
{
	b->ahead_ns = 0;
}

int virtio_net_set_rate(struct device *dev, const struct virtio_net_rate *rate, struct err *e)
{
	struct vnet *d = (struct vnet *)dev;
	struct virtio_net_rate r = *rate;

	fill(&r.rx_bytes);
	fill(&r.rx_ops);
	fill(&r.tx_bytes);
	fill(&r.tx_ops);
	if (rate_check(&r.rx_bytes, e) || rate_check(&r.rx_ops, e) || rate_check(&r.tx_bytes, e) ||
	    rate_check(&r.tx_ops, e))
		return err_wrap(e, -EINVAL, "%s", dev->id);
	d->state.rx_bytes = r.rx_bytes;
	d->state.rx_ops = r.rx_ops;
	d->state.tx_bytes = r.tx_bytes;
	d->state.tx_ops = r.tx_ops;
	d->rated_ns = time_mono_ns();
	vnet_update(d);
	if (d->v.resumed)
		vnet_go_on(d); /* what waited for the old ones */
	return 0;
}

void virtio_net_connect(struct device *dev)
{
	struct vnet *d = (struct vnet *)dev;

	d->connect = !d->v.resumed;
	if (d->connect) /* its rings are not to be looked at: resume does it */
		return;
	if (d->pair[0].tap_fd < 0 || d->state.status & VIRTIO_NET_S_LINK_UP)
		return;
	/* what was sent as somebody else, and what came for whoever had this TAP before */
	vnet_drop_sent(d);
	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		if (d->pair[i].tap_fd >= 0)
			tap_drain(d->pair[i].tap_fd);
	d->state.status |= VIRTIO_NET_S_LINK_UP;
	vnet_announce(d);
	virtio_config_changed(&d->v);
	vnet_update(d);
}

void virtio_net_watch(struct device *dev, bool on)
{
	struct vnet *d = (struct vnet *)dev;
	bool hears = virtio_live(&d->v) && d->state.status & VIRTIO_NET_S_LINK_UP;

	for (unsigned int i = 0; i < d->cfg.queue_pairs; i++)
		if (d->pair[i].tap_io)
			loop_set_io(d->pair[i].tap_io,
				    on && hears && i < d->state.pairs ? LOOP_READ : 0);
}

void virtio_net_update(struct device *d)
{
	vnet_update((struct vnet *)d);
}

const uint8_t *virtio_net_driver_mac(const struct device *dev)
{
	return ((const struct vnet *)dev)->state.driver_mac;
}

void virtio_net_view(const struct device *dev, struct virtio_net_view *out)
{
	static const char *const names[] = {
		[VNET_NONE] = "none", [VNET_USER] = "user", [VNET_VHOST] = "vhost"
	};
	const struct vnet *d = (const struct vnet *)dev;

	*out = (struct virtio_net_view){ .backend = names[d->pair[0].now],
					 .link = d->state.status & VIRTIO_NET_S_LINK_UP,
					 .network = d->pair[0].tap_fd >= 0,
					 .rx_packets = d->rx_packets,
					 .tx_packets = d->tx_packets,
					 .dropped = d->dropped };
	memcpy(out->mac, d->state.mac, NIC_MAC);
}
