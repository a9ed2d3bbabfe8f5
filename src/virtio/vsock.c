/* SPDX-License-Identifier: MIT */
/*
 * The virtio-vsock device: takes packets off the TX queue for the socket muxer, fills the RX queue
 * with the muxer's, and tells the guest of transport resets on the event queue. rng.c is the model
 * of the parts that every virtio device has. Main thread; config space, started and stopped also on
 * vCPU threads; always with the device lock.
 *
 * Fork and restore: renew. The streams' other ends are host sockets of the process that was, so
 * whoever is adopted with a live driver, a fork's child as well as a restore of the same machine
 * (identity->renew or not), owes the guest a TRANSPORT_RESET: `reset_owed` until the driver has an
 * event buffer for it; then `reset_unacked` until the driver has put a buffer back into the event
 * queue, which it does after it has closed its sockets. Until then it gets no RX packets, or the
 * reset would kill connections of the new life. The parent of a fork notices nothing: quiesce and
 * resume keep its streams. The CID is kept (it is cfg); the agent that was seen is still there.
 *
 * Bounds on a hostile driver: VSOCK_PKT_MAX bytes of a TX chain are looked at; BATCH packets before
 * others get their turn on main; and see vsock.h.
 */
#include "virtio/vsock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "virtio/virtio.h"

enum { Q_RX, Q_TX, Q_EVENT, NR_QUEUES };

#define RX_SIZE 128
#define TX_SIZE 128
#define EVENT_SIZE 16
#define BATCH 256u
#define EVENT_TRANSPORT_RESET 0
#define CID_MAX 0xfffffffeull /* 2^32 - 1 is "any" */

struct vsock_state {
	struct virtio_state virtio;
	struct pci_state pci;
	uint8_t reset_owed, reset_unacked;
	uint8_t agent_seen;
	uint16_t reset_avail; /* the event queue's available index when the reset was delivered */
};

struct vsock_dev {
	struct virtio_dev v; /* first: a struct device * is a struct vsock_dev * */
	struct virtio_vsock_cfg cfg;
	struct vsock_state state;
	struct vsock_mux *mux;
	void (*ready)(void *arg);
	void *ready_arg;
	uint8_t *buf; /* VSOCK_PKT_MAX bytes: the copy of a TX packet's data */
	bool pumping, posted;
	bool adopted; /* and not resumed since: the next resume owes a reset */
};

static const struct field vsock_cfg_fields[] = {
	F_U64(struct virtio_vsock_cfg, guest_cid),
	F_BYTES(struct virtio_vsock_cfg, path),
};

static const struct field vsock_state_fields[] = {
	F_STRUCT(struct vsock_state, virtio, virtio_state_fields),
	F_STRUCT(struct vsock_state, pci, pci_state_fields),
	F_U8(struct vsock_state, reset_owed),
	F_U8(struct vsock_state, reset_unacked),
	F_U8(struct vsock_state, agent_seen),
	F_U16(struct vsock_state, reset_avail),
};

static struct vsock_dev *vsock_of(struct virtio_dev *v)
{
	return (struct vsock_dev *)v;
}

/* ---- packets ---- */

static void tx_one(struct vsock_dev *vs, const struct vq_chain *c)
{
	uint8_t raw[VSOCK_HDR_BYTES];
	struct virtio_dev *v = &vs->v;
	struct vsock_hdr h;
	void *data = NULL;

	if (vq_read(v, c, 0, raw, sizeof(raw)) != sizeof(raw)) {
		log_guest(&v->log, "%s: packet of %u bytes dropped", v->dev.id, c->out_bytes);
		return;
	}
	vsock_hdr_decode(&h, raw);
	if (h.src_cid != vs->cfg.guest_cid || h.dst_cid != VSOCK_CID_HOST) {
		log_guest(&v->log, "%s: packet from CID %llu to %llu dropped", v->dev.id,
			  (unsigned long long)h.src_cid, (unsigned long long)h.dst_cid);
		return;
	}
	if (h.len <= VSOCK_PKT_MAX && vq_read(v, c, sizeof(raw), vs->buf, h.len) == h.len)
		data = vs->buf;
	vsock_mux_from_guest(vs->mux, &h, data);
}

/* Both return true when they moved a packet. */
static bool tx_some(struct vsock_dev *vs, unsigned int *budget)
{
	struct vq_chain c;
	unsigned int n = 0;

	while (n < *budget && vsock_mux_can_take(vs->mux) && vq_pop(&vs->v, Q_TX, &c) > 0) {
		tx_one(vs, &c);
		vq_push(&vs->v, Q_TX, c.head, 0);
		n++;
	}
	*budget -= n;
	if (n)
		vq_notify(&vs->v, Q_TX);
	return n;
}

static bool rx_some(struct vsock_dev *vs, unsigned int *budget)
{
	uint8_t raw[VSOCK_HDR_BYTES];
	struct virtio_dev *v = &vs->v;
	const void *data;
	struct vsock_hdr h;
	struct vq_chain c;
	unsigned int n = 0;

	while (n < *budget && vsock_mux_pending(vs->mux) && vq_pop(v, Q_RX, &c) > 0) {
		if (c.in_bytes <= sizeof(raw)) {
			virtio_broken(v, "RX buffer of %u bytes", c.in_bytes);
			vq_push(v, Q_RX, c.head, 0);
			break;
		}
		if (!vsock_mux_next(vs->mux, &h, &data, c.in_bytes - VSOCK_HDR_BYTES)) {
			vq_unpop(v, Q_RX);
			break;
		}
		vsock_hdr_encode(&h, raw);
		vq_write(v, &c, 0, raw, sizeof(raw));
		vq_write(v, &c, sizeof(raw), data, h.len);
		vq_push(v, Q_RX, c.head, VSOCK_HDR_BYTES + h.len);
		n++;
	}
	*budget -= n;
	if (n)
		vq_notify(v, Q_RX);
	return n;
}

static void pump_again(void *arg);

/* Moves packets until neither queue can go on. TX may have stopped for want of room in RX and the
 * other way round, so both are looked at until both stand still. */
static void pump(struct vsock_dev *vs)
{
	unsigned int budget = BATCH;
	bool more = true;

	if (vs->pumping || !vs->v.resumed)
		return;
	vs->pumping = true;
	while (more && budget) {
		more = tx_some(vs, &budget);
		more |= rx_some(vs, &budget);
	}
	vs->pumping = false;
	if (more && !vs->posted) {
		vs->posted = true;
		loop_post(vs->v.dev.m->loop, pump_again, vs);
	}
}

static void pump_again(void *arg)
{
	struct vsock_dev *vs = arg;

	vs->posted = false;
	pump(vs);
}

static void vsock_rx_ready(void *arg)
{
	struct vsock_dev *vs = arg;

	if (!vs->v.resumed && vsock_mux_waits(vs->mux))
		device_wake(vs->v.dev.m, "vsock");
	pump(vs);
}

static const struct vsock_mux_ops mux_ops = { .rx_ready = vsock_rx_ready };

bool virtio_vsock_waits(const struct device *d)
{
	return vsock_mux_waits(((const struct vsock_dev *)d)->mux);
}

/* ---- transport reset ---- */

/* Buffers that wait in the event queue; kicks are on when this returns, as all were popped. */
static uint16_t event_buffers(struct vsock_dev *vs)
{
	struct vq_chain c;
	uint16_t n = 0;

	while (vq_pop(&vs->v, Q_EVENT, &c) > 0)
		n++;
	for (uint16_t i = 0; i < n; i++)
		vq_unpop(&vs->v, Q_EVENT);
	return n;
}

static uint16_t event_avail(struct vsock_dev *vs)
{
	uint16_t n = event_buffers(vs);

	return (uint16_t)(vs->state.virtio.vq[Q_EVENT].last_avail + n);
}

static void deliver_reset(struct vsock_dev *vs)
{
	const le32 event = le32_put(EVENT_TRANSPORT_RESET);
	struct virtio_dev *v = &vs->v;
	/* Taken before the driver can know of the event, so that its answer cannot be missed. */
	uint16_t avail = event_avail(vs);
	struct vq_chain c;

	if (vq_pop(v, Q_EVENT, &c) <= 0)
		return;
	if (vq_write(v, &c, 0, &event, sizeof(event)) != sizeof(event)) {
		virtio_broken(v, "event buffer of %u bytes", c.in_bytes);
		vq_push(v, Q_EVENT, c.head, 0);
		return;
	}
	vs->state.reset_owed = 0;
	vs->state.reset_unacked = 1;
	vs->state.reset_avail = avail;
	vq_push(v, Q_EVENT, c.head, sizeof(event));
	vq_notify(v, Q_EVENT);
}

static void event_kick(struct vsock_dev *vs)
{
	struct vsock_state *st = &vs->state;

	if (st->reset_owed)
		deliver_reset(vs);
	if (!st->reset_unacked || event_avail(vs) == st->reset_avail || !virtio_live(&vs->v))
		return;
	st->reset_unacked = 0;
	vsock_mux_hold(vs->mux, false);
	if (vs->ready)
		vs->ready(vs->ready_arg);
	pump(vs);
}

/* ---- virtio type ---- */

static uint64_t vsock_features(struct virtio_dev *v)
{
	(void)v;
	return 0; /* streams only */
}

static void vsock_config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	const le64 cid = le64_put(vsock_of(v)->cfg.guest_cid);

	memset(buf, 0, len);
	if (off < sizeof(cid))
		memcpy(buf, cid.b + off, MIN(len, sizeof(cid) - off));
}

static void vsock_config_write(struct virtio_dev *v, unsigned int off, const void *buf,
			       unsigned int len)
{
	(void)v;
	(void)off;
	(void)buf;
	(void)len;
}

static void vsock_kick(struct virtio_dev *v, unsigned int q)
{
	if (q == Q_EVENT)
		event_kick(vsock_of(v));
	else
		pump(vsock_of(v));
}

static void vsock_started(struct virtio_dev *v)
{
	vsock_mux_start(vsock_of(v)->mux);
}

static void vsock_stopped(struct virtio_dev *v)
{
	struct vsock_dev *vs = vsock_of(v);

	vs->state.reset_owed = vs->state.reset_unacked = 0;
	vs->state.reset_avail = 0;
	vs->state.agent_seen = 0;
	vsock_mux_reset(vs->mux);
}

static const struct virtio_type vsock_type = {
	.device_id = 19,
	.pci_class = { 0x07, 0x80, 0x00 }, /* communication controller, other */
	.features = vsock_features,
	.config_read = vsock_config_read,
	.config_write = vsock_config_write,
	.kick = vsock_kick,
	.started = vsock_started,
	.stopped = vsock_stopped,
};

/* ---- device contract ---- */

static void vsock_destroy(struct device *d)
{
	struct vsock_dev *vs = (struct vsock_dev *)d;

	if (!vs)
		return;
	vsock_mux_destroy(vs->mux);
	virtio_fini(&vs->v);
	free(vs->buf);
	free(vs);
}

static int vsock_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			struct err *e)
{
	static const uint16_t queue_max[NR_QUEUES] = {
		[Q_RX] = RX_SIZE, [Q_TX] = TX_SIZE, [Q_EVENT] = EVENT_SIZE
	};
	const struct virtio_vsock_cfg *want = cfg;
	struct vsock_dev *vs;
	int ret;

	if (want->guest_cid <= VSOCK_CID_HOST || want->guest_cid > CID_MAX)
		return err_set(e, EINVAL, "%s: CID %llu is not in 3..%llu", id,
			       (unsigned long long)want->guest_cid, CID_MAX);
	if (strnlen(want->path, sizeof(want->path)) == sizeof(want->path))
		return err_set(e, EINVAL, "%s: path exceeds %d bytes", id, VSOCK_PATH_MAX - 1);
	vs = calloc(1, sizeof(*vs));
	if (!vs)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	vs->cfg.guest_cid = want->guest_cid;
	strcpy(vs->cfg.path, want->path[0] ? want->path : VIRTIO_VSOCK_PATH);
	vs->v.dev = (struct device){
		.cls = &virtio_vsock_class, .m = m, .cfg = &vs->cfg, .state = &vs->state
	};
	strncpy(vs->v.dev.id, id, sizeof(vs->v.dev.id) - 1);
	vs->v.type = &vsock_type;
	vs->v.st = &vs->state.virtio;
	vs->v.pci.st = &vs->state.pci;
	vs->buf = malloc(VSOCK_PKT_MAX);
	ret = vs->buf ? 0 : err_set(e, ENOMEM, "out of memory");
	if (!ret)
		ret = vsock_mux_create(want->guest_cid, &mux_ops, vs, &vs->mux, e);
	if (!ret)
		ret = virtio_init(&vs->v, NR_QUEUES, queue_max, e);
	if (ret) {
		vsock_destroy(&vs->v.dev);
		return err_wrap(e, ret, "%s", id);
	}
	*out = &vs->v.dev;
	return 0;
}

static void vsock_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int vsock_quiesce(struct device *d, struct err *e)
{
	(void)e;
	/* Host sockets may be read meanwhile, each up to its buffer; the guest is not touched. */
	virtio_quiesce((struct virtio_dev *)d);
	return 0;
}

static void vsock_resume(struct device *d)
{
	struct vsock_dev *vs = (struct vsock_dev *)d;

	/* Here and not in adopt, so that a seed's state stays what was restored. */
	if (vs->adopted) {
		vs->state.reset_owed = virtio_live(&vs->v);
		vs->state.reset_unacked = 0;
	}
	vs->adopted = false;
	virtio_resume(&vs->v);
}

static int vsock_check(const struct device *d, const void *state, struct err *e)
{
	const struct vsock_state *st = state;
	int ret = virtio_check((const struct virtio_dev *)d, &st->virtio, &st->pci, e);

	if (ret)
		return ret;
	if (st->reset_owed > 1 || st->reset_unacked > 1 || st->agent_seen > 1 ||
	    (st->reset_owed && st->reset_unacked))
		return err_set(e, EINVAL, "reset owed %u, unacknowledged %u, agent seen %u",
			       st->reset_owed, st->reset_unacked, st->agent_seen);
	return 0;
}

static void vsock_commit(struct device *d, const void *state)
{
	device_commit_copy(d, state);
	virtio_commit((struct virtio_dev *)d);
}

static int vsock_adopt(struct device *d, const struct identity *id, struct err *e)
{
	struct vsock_dev *vs = (struct vsock_dev *)d;
	/* Without that grant no host program can connect; all else works. */
	int ret, fd = grants_take(d->m->grants, VIRTIO_VSOCK_GRANT, NULL);

	(void)id; /* new machine or not: the streams are gone */
	vs->pumping = vs->posted = false;
	if (fd >= 0)
		fdtab_set(d->m->fds, fd, FD_CLOSE);
	ret = vsock_mux_adopt(vs->mux, d->m->loop, d->m->fds, fd >= 0 ? fd : -1, vs->cfg.path, e);
	if (ret)
		return ret;
	vs->adopted = true;
	vsock_mux_hold(vs->mux, virtio_live(&vs->v));
	virtio_adopt(&vs->v);
	return 0;
}

const struct device_class virtio_vsock_class = {
	.name = "virtio-vsock",
	.version = 1,
	.cfg = FIELD_TABLE(struct virtio_vsock_cfg, vsock_cfg_fields),
	.state = FIELD_TABLE(struct vsock_state, vsock_state_fields),
	.create = vsock_create,
	.destroy = vsock_destroy,
	.reset = vsock_reset,
	.quiesce = vsock_quiesce,
	.resume = vsock_resume,
	.check = vsock_check,
	.commit = vsock_commit,
	.prepare = device_prepare_nothing,
	.adopt = vsock_adopt,
};

struct vsock_mux *virtio_vsock_mux(struct device *d)
{
	return ((struct vsock_dev *)d)->mux;
}

void virtio_vsock_set_ready_cb(struct device *d, void (*fn)(void *arg), void *arg)
{
	struct vsock_dev *vs = (struct vsock_dev *)d;

	vs->ready = fn;
	vs->ready_arg = arg;
}

bool virtio_vsock_resetting(const struct device *d)
{
	const struct vsock_dev *vs = (const struct vsock_dev *)d;

	return vs->state.reset_owed || vs->state.reset_unacked ||
	       (vs->adopted && virtio_live(&vs->v));
}

bool virtio_vsock_agent_seen(const struct device *d)
{
	return ((const struct vsock_dev *)d)->state.agent_seen;
}

void virtio_vsock_set_agent_seen(struct device *d)
{
	((struct vsock_dev *)d)->state.agent_seen = 1;
}
