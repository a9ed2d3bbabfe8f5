/* SPDX-License-Identifier: MIT */
/*
 * virtio-rng: one queue of writable buffers, filled by getrandom(2). Also the model of a virtio
 * device: read it beside device.h and virtio.h before writing another.
 *
 * In order: cfg, state with its field table, host side; the virtio_type's functions; the
 * contract's.
 *
 * Fork and restore: renew. Nothing is kept of earlier bytes, so parent and child never read the
 * same ones; what the guest's own generator holds is VMGENID's and the agent's business.
 *
 * Bounds on a hostile driver: REQUEST_MAX bytes a chain, BATCH chains before others get their turn
 * on main, and the rate of the cfg over all.
 */
#include "virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/time.h"
#include "base/util.h"
#include "event/loop.h"
#include "virtio/virtio.h"

#define QUEUE_SIZE 64
#define REQUEST_MAX 4096u
#define BATCH 64
#define SOON_NS 50000u /* when a batch is done and more is waiting */

/* What the guest can observe: the transport's state and config space, nothing of its own. */
struct rng_state {
	struct virtio_state virtio;
	struct pci_state pci;
};

struct rng {
	struct virtio_dev v; /* first: a struct device * is a struct rng * */
	struct virtio_rng_cfg cfg;
	struct rng_state state;
	/* host side, rebuilt by adopt */
	struct loop_timer *timer; /* looks at the queue again when bytes may be taken */
	uint64_t tokens, refilled_ns;
};

static const struct field rng_cfg_fields[] = {
	F_U64(struct virtio_rng_cfg, bytes_per_s),
	F_U64(struct virtio_rng_cfg, burst_bytes),
};

static const struct field rng_state_fields[] = {
	F_STRUCT(struct rng_state, virtio, virtio_state_fields),
	F_STRUCT(struct rng_state, pci, pci_state_fields),
};

/* ---- rate ---- */

static uint64_t burst(const struct rng *r)
{
	return r->cfg.burst_bytes ? r->cfg.burst_bytes : r->cfg.bytes_per_s;
}

/* Bytes that may be taken now. */
static uint64_t allowance(struct rng *r)
{
	uint64_t now = time_mono_ns();
	unsigned __int128 add;

	if (!r->cfg.bytes_per_s)
		return REQUEST_MAX;
	add = (unsigned __int128)(now - r->refilled_ns) * r->cfg.bytes_per_s / NS_PER_SEC;
	if (add) {
		r->tokens = (uint64_t)MIN(add + r->tokens, (unsigned __int128)burst(r));
		r->refilled_ns = now;
	}
	return r->tokens;
}

/* When the next byte may be taken, in nothing finer than a millisecond. */
static uint64_t refill_ns(const struct rng *r)
{
	return MAX(NS_PER_MS, NS_PER_SEC / r->cfg.bytes_per_s);
}

/* ---- virtio type ---- */

static uint64_t rng_features(struct virtio_dev *v)
{
	(void)v;
	return 0;
}

static void rng_config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	(void)v;
	(void)off;
	memset(buf, 0, len);
}

static void rng_config_write(struct virtio_dev *v, unsigned int off, const void *buf,
			     unsigned int len)
{
	(void)v;
	(void)off;
	(void)buf;
	(void)len;
}

/* Fills one chain with at most max bytes; returns how many. */
static uint32_t fill(struct virtio_dev *v, const struct vq_chain *c, uint32_t max)
{
	uint8_t buf[REQUEST_MAX];
	size_t n = MIN(MIN(c->in_bytes, max), REQUEST_MAX), got = 0;

	while (got < n) {
		ssize_t r = getrandom(buf + got, n - got, 0);

		if (r > 0)
			got += (size_t)r;
		else
			BUG_ON(r == 0 || errno != EINTR); /* it cannot fail otherwise */
	}
	return (uint32_t)vq_write(v, c, 0, buf, n);
}

static void rng_kick(struct virtio_dev *v, unsigned int q)
{
	struct rng *r = (struct rng *)v;
	struct vq_chain c;

	for (unsigned int i = 0; !vq_empty(v, q); i++) {
		uint64_t max = allowance(r);
		uint32_t n;

		if (!max || i == BATCH) {
			loop_set_timer(r->timer, max ? SOON_NS : refill_ns(r));
			break;
		}
		if (vq_pop(v, q, &c) <= 0)
			break;
		if (c.nr_out || !c.nr_in) {
			virtio_broken(v, "chain with %u readable, %u writable segments", c.nr_out,
				      c.nr_in);
			vq_push(v, q, c.head, 0);
			break;
		}
		n = fill(v, &c, (uint32_t)MIN(max, REQUEST_MAX));
		if (r->cfg.bytes_per_s)
			r->tokens -= n;
		vq_push(v, q, c.head, n);
	}
	vq_notify(v, q);
}

static void rng_again(void *arg)
{
	struct virtio_dev *v = arg;

	if (v->resumed && virtio_live(v))
		rng_kick(v, 0);
}

static void rng_started(struct virtio_dev *v)
{
	(void)v;
}

/* Nothing is ever in flight between two kicks: nothing to drain or to forget. */
static void rng_stopped(struct virtio_dev *v)
{
	(void)v;
}

static const struct virtio_type rng_type = {
	.device_id = 4,
	.pci_class = { 0x10, 0x00, 0x00 }, /* encryption: the nearest there is */
	.features = rng_features,
	.config_read = rng_config_read,
	.config_write = rng_config_write,
	.kick = rng_kick,
	.started = rng_started,
	.stopped = rng_stopped,
};

/* ---- device contract ---- */

static void rng_destroy(struct device *d)
{
	struct rng *r = (struct rng *)d;

	if (!r)
		return;
	loop_del_timer(r->timer);
	virtio_fini(&r->v);
	free(r);
}

static int rng_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		      struct err *e)
{
	static const uint16_t queue_max[] = { QUEUE_SIZE };
	struct rng *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	r->cfg = *(const struct virtio_rng_cfg *)cfg;
	r->v.dev = (struct device){
		.cls = &virtio_rng_class, .m = m, .cfg = &r->cfg, .state = &r->state
	};
	strncpy(r->v.dev.id, id, sizeof(r->v.dev.id) - 1);
	r->v.type = &rng_type;
	r->v.st = &r->state.virtio;
	r->v.pci.st = &r->state.pci;
	ret = virtio_init(&r->v, ARRAY_SIZE(queue_max), queue_max, e);
	if (ret) {
		rng_destroy(&r->v.dev);
		return err_wrap(e, ret, "%s", id);
	}
	*out = &r->v.dev;
	return 0;
}

static void rng_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int rng_quiesce(struct device *d, struct err *e)
{
	struct rng *r = (struct rng *)d;

	(void)e;
	virtio_quiesce(&r->v);
	loop_set_timer(r->timer, 0); /* resume kicks the queue anyway */
	return 0;
}

static void rng_resume(struct device *d)
{
	virtio_resume((struct virtio_dev *)d);
}

static int rng_check(const struct device *d, const void *state, struct err *e)
{
	const struct rng_state *st = state;

	return virtio_check((const struct virtio_dev *)d, &st->virtio, &st->pci, e);
}

static void rng_commit(struct device *d, const void *state)
{
	device_commit_copy(d, state);
	virtio_commit((struct virtio_dev *)d);
}

static int rng_adopt(struct device *d, const struct identity *id, struct err *e)
{
	struct rng *r = (struct rng *)d;

	(void)id;
	r->tokens = burst(r);
	r->refilled_ns = time_mono_ns();
	r->timer = loop_add_timer(d->m->loop, rng_again, r);
	if (!r->timer)
		return err_set(e, ENOMEM, "%s: out of memory", d->id);
	virtio_adopt(&r->v);
	return 0;
}

const struct device_class virtio_rng_class = {
	.name = "virtio-rng",
	.version = 1,
	.cfg = FIELD_TABLE(struct virtio_rng_cfg, rng_cfg_fields),
	.state = FIELD_TABLE(struct rng_state, rng_state_fields),
	.create = rng_create,
	.destroy = rng_destroy,
	.reset = rng_reset,
	.quiesce = rng_quiesce,
	.resume = rng_resume,
	.check = rng_check,
	.commit = rng_commit,
	.prepare = device_prepare_nothing,
	.adopt = rng_adopt,
};
