/* SPDX-License-Identifier: MIT */
/*
 * virtio-balloon: the device, its config space, its target. See balloon.h.
 *
 * In order: queues; the virtio_type's functions; the contract's; the owner's (those for statistics
 * and hinting are with them).
 *
 * MUST_TELL_HOST is not offered: a page comes back to the guest by being touched, with or without
 * our knowledge. PAGE_POISON is offered with whatever takes pages that the driver keeps.
 */
#include "virtio/balloon.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "virtio/balloon_int.h"

#define QUEUE_SIZE 128 /* Linux reports in chains of 32 and wants room for one */
#define CONFIG_BYTES 16u
/* What a snapshot may say of statistics, and the API with it: more often is work for life. */
#define POLL_MIN_MS 1000u
#define POLL_MAX_MS 86400000u

static const struct field balloon_cfg_fields[] = {
	F_U8(struct virtio_balloon_cfg, deflate_on_oom),
	F_U8(struct virtio_balloon_cfg, stats),
	F_U8(struct virtio_balloon_cfg, reporting),
	F_U8(struct virtio_balloon_cfg, hinting),
};

static const struct field balloon_state_fields[] = {
	F_STRUCT(struct balloon_state, virtio, virtio_state_fields),
	F_STRUCT(struct balloon_state, pci, pci_state_fields),
	F_U32(struct balloon_state, num_pages),
	F_U32(struct balloon_state, actual),
	F_U32(struct balloon_state, cmd_id),
	F_U32(struct balloon_state, poison_val),
	F_U32(struct balloon_state, last_id),
	F_U32(struct balloon_state, poll_ms),
	F_U8(struct balloon_state, hint_open),
	F_U8(struct balloon_state, stats_held),
};

/* ---- queues ---- */

static bool has_role(const struct balloon *b, enum balloon_queue role)
{
	static const uint8_t feature[] = { [STATS] = VIRTIO_BALLOON_F_STATS_VQ,
					   [HINT] = VIRTIO_BALLOON_F_FREE_PAGE_HINT,
					   [REPORT] = VIRTIO_BALLOON_F_REPORTING };

	return role < STATS || (role < NR_BALLOON_QUEUES && virtio_has(&b->v, feature[role]));
}

/*
 * A queue has its number from section 5.5.2, whichever others there are. But Linux, over PCI,
 * numbers those that it has negotiated one after the other (a patch of 2024 would try the
 * specification's numbers first). All of ours exist, so that either finds what it looks for, and
 * which it is can be told from the queues that it has enabled: 0 to n-1, and not the one where the
 * last of its functions belongs.
 */
static bool packed(const struct balloon *b)
{
	unsigned int last = 0, n = 0;

	for (enum balloon_queue r = 0; r < NR_BALLOON_QUEUES; r++) {
		if (!has_role(b, r))
			continue;
		last = r;
		if (!b->v.st->vq[n++].enable)
			return false;
	}
	return !b->v.st->vq[last].enable;
}

int balloon_queue_of(const struct balloon *b, enum balloon_queue role)
{
	int q = 0;

	if (!has_role(b, role))
		return -1;
	if (!packed(b))
		return (int)role;
	for (enum balloon_queue r = 0; r < role; r++)
		q += has_role(b, r);
	return q;
}

enum balloon_queue balloon_role(const struct balloon *b, unsigned int q)
{
	for (enum balloon_queue r = 0; r < NR_BALLOON_QUEUES; r++)
		if (balloon_queue_of(b, r) == (int)q)
			return r;
	return NR_BALLOON_QUEUES;
}

/* ---- news for the owner ---- */

static void tell(void *arg)
{
	struct balloon *b = arg;

	b->posted = false;
	if (b->on_change)
		b->on_change(b->arg);
}

void balloon_changed(struct balloon *b)
{
	if (b->posted || !b->on_change)
		return;
	b->posted = true;
	loop_post(b->v.dev.m->loop, tell, b);
}

/* ---- virtio type ---- */

static uint64_t balloon_features(struct virtio_dev *v)
{
	const struct virtio_balloon_cfg *c = &((struct balloon *)v)->cfg;

	return (uint64_t) !!c->stats << VIRTIO_BALLOON_F_STATS_VQ |
	       (uint64_t) !!c->deflate_on_oom << VIRTIO_BALLOON_F_DEFLATE_ON_OOM |
	       (uint64_t) !!c->hinting << VIRTIO_BALLOON_F_FREE_PAGE_HINT |
	       (uint64_t) !!c->reporting << VIRTIO_BALLOON_F_REPORTING |
	       (uint64_t)(c->reporting || c->hinting) << VIRTIO_BALLOON_F_PAGE_POISON;
}

static void config_image(const struct balloon *b, uint8_t raw[CONFIG_BYTES])
{
	const struct balloon_state *st = &b->state;

	bus_put(raw, 4, st->num_pages);
	bus_put(raw + 4, 4, st->actual);
	bus_put(raw + 8, 4, st->cmd_id);
	bus_put(raw + 12, 4, virtio_has(&b->v, VIRTIO_BALLOON_F_PAGE_POISON) ? st->poison_val : 0);
}

static void balloon_config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	uint8_t raw[CONFIG_BYTES];

	memset(buf, 0, len);
	config_image((struct balloon *)v, raw);
	if (off < CONFIG_BYTES)
		memcpy(buf, raw + off, MIN(len, CONFIG_BYTES - off));
}

static void balloon_config_write(struct virtio_dev *v, unsigned int off, const void *buf,
				 unsigned int len)
{
	struct balloon *b = (struct balloon *)v;
	struct balloon_state *st = &b->state;
	uint8_t raw[CONFIG_BYTES];
	uint32_t actual;

	config_image(b, raw);
	if (off < CONFIG_BYTES)
		memcpy(raw + off, buf, MIN(len, CONFIG_BYTES - off));
	/* The other two are ours. poison_val is said before DRIVER_OK, the other never. */
	actual = (uint32_t)bus_get(raw + 4, 4);
	if (virtio_has(v, VIRTIO_BALLOON_F_PAGE_POISON))
		st->poison_val = (uint32_t)bus_get(raw + 12, 4);
	if (actual == st->actual || !virtio_live(v))
		return;
	st->actual = actual;
	balloon_changed(b);
}

static void balloon_kick(struct virtio_dev *v, unsigned int q)
{
	struct balloon *b = (struct balloon *)v;
	enum balloon_queue role = balloon_role(b, q);

	if (role == STATS)
		balloon_stats_kick(b, q);
	else if (role < NR_BALLOON_QUEUES)
		balloon_pages_kick(b, q, role);
}

static void balloon_again(void *arg)
{
	struct virtio_dev *v = arg;

	for (unsigned int q = 0; v->resumed && q < NR_BALLOON_QUEUES; q++)
		if (virtio_live(v) && v->st->vq[q].enable)
			balloon_kick(v, q);
}

static void balloon_started(struct virtio_dev *v)
{
	(void)v;
}

/* A driver that resets has no page in the balloon, whatever it said. The target stays: it is not
 * the driver's. Statistics are history and stay, too. */
static void balloon_stopped(struct virtio_dev *v)
{
	struct balloon *b = (struct balloon *)v;
	struct balloon_state *st = &b->state;
	bool news = st->actual || st->cmd_id > VIRTIO_BALLOON_CMD_ID_DONE;

	st->actual = 0;
	st->poison_val = 0;
	st->cmd_id = VIRTIO_BALLOON_CMD_ID_STOP;
	st->stats_held = 0;
	balloon_hint_forget(b);
	memset(b->at, 0, sizeof(b->at));
	if (news)
		balloon_changed(b);
}

static const struct virtio_type balloon_type = {
	.device_id = 5,
	.pci_class = { 0x00, 0xff, 0x00 }, /* none of the classes there are */
	.features = balloon_features,
	.config_read = balloon_config_read,
	.config_write = balloon_config_write,
	.kick = balloon_kick,
	.started = balloon_started,
	.stopped = balloon_stopped,
};

/* ---- device contract ---- */

static void balloon_destroy(struct device *d)
{
	struct balloon *b = (struct balloon *)d;

	if (!b)
		return;
	loop_del_timer(b->again);
	loop_del_timer(b->poll);
	virtio_fini(&b->v); /* drops what was posted */
	free(b->hinted);
	free(b);
}

static int balloon_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			  struct err *e)
{
	static const uint16_t queue_max[NR_BALLOON_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE,
							       QUEUE_SIZE, QUEUE_SIZE };
	struct balloon *b = calloc(1, sizeof(*b));
	int ret;

	if (!b)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	b->cfg = *(const struct virtio_balloon_cfg *)cfg;
	b->v.dev = (struct device){
		.cls = &virtio_balloon_class, .m = m, .cfg = &b->cfg, .state = &b->state
	};
	strncpy(b->v.dev.id, id, sizeof(b->v.dev.id) - 1);
	b->v.type = &balloon_type;
	b->v.st = &b->state.virtio;
	b->v.pci.st = &b->state.pci;
	ret = virtio_init(&b->v, ARRAY_SIZE(queue_max), queue_max, e);
	if (ret) {
		balloon_destroy(&b->v.dev);
		return err_wrap(e, ret, "%s", id);
	}
	*out = &b->v.dev;
	return 0;
}

/* The guest's reset of the machine; what the owner asked for stays asked for. */
static void balloon_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
	balloon_stopped((struct virtio_dev *)d); /* of a driver that had not come to DRIVER_OK */
}

static int balloon_quiesce(struct device *d, struct err *e)
{
	struct balloon *b = (struct balloon *)d;

	(void)e;
	virtio_quiesce(&b->v);
	loop_set_timer(b->again, 0); /* resume kicks the queues anyway */
	loop_set_timer(b->poll, 0);
	return 0;
}

static void balloon_resume(struct device *d)
{
	struct balloon *b = (struct balloon *)d;

	if (!b->hinted)
		virtio_balloon_hint_end(d); /* of a round that is another machine's */
	balloon_stats_arm(b);
	virtio_resume(&b->v);
	if (b->ask)
		balloon_stats_ask(b);
	b->ask = false;
}

static int balloon_check(const struct device *d, const void *state, struct err *e)
{
	const struct balloon *b = (const struct balloon *)d;
	const struct balloon_state *st = state;
	uint64_t pages = gmem_size(d->m->mem) / GMEM_PAGE;

	if (st->num_pages > pages)
		return err_set(e, EINVAL, "balloon of %u pages, RAM has %" PRIu64, st->num_pages,
			       pages);
	if (st->hint_open > 1 || st->stats_held > 1 || (st->poll_ms && !b->cfg.stats) ||
	    (st->poll_ms && (st->poll_ms < POLL_MIN_MS || st->poll_ms > POLL_MAX_MS)))
		return err_set(e, EINVAL, "hinting %u, statistics %u, every %u ms", st->hint_open,
			       st->stats_held, st->poll_ms);
	if (st->cmd_id > VIRTIO_BALLOON_CMD_ID_DONE && st->cmd_id != st->last_id)
		return err_set(e, EINVAL, "hinting as %u, the last was %u", st->cmd_id,
			       st->last_id);
	return virtio_check(&b->v, &st->virtio, &st->pci, e);
}

static void balloon_commit(struct device *d, const void *state)
{
	device_commit_copy(d, state);
	virtio_commit((struct virtio_dev *)d);
}

static int balloon_adopt(struct device *d, const struct identity *id, struct err *e)
{
	struct balloon *b = (struct balloon *)d;

	(void)id;
	b->posted = b->ask = false;
	memset(b->at, 0, sizeof(b->at));
	free(b->hinted);
	b->hinted = NULL;
	b->hint_through = false;
	b->hint_at = b->hint_told = b->hint_given = 0;
	b->inflated_bytes = b->reported_bytes = b->hinted_bytes = b->kept_bytes = 0;
	b->stats_ns = 0;
	b->stats_known = 0;
	b->poll = NULL; /* a child's parent's */
	b->again = loop_add_timer(d->m->loop, balloon_again, b);
	if (b->again)
		b->poll = loop_add_timer(d->m->loop, balloon_stats_due, b);
	if (!b->poll)
		return err_set(e, ENOMEM, "%s: out of memory", d->id);
	virtio_adopt(&b->v);
	return 0;
}

const struct device_class virtio_balloon_class = {
	.name = "virtio-balloon",
	.version = 1,
	.cfg = FIELD_TABLE(struct virtio_balloon_cfg, balloon_cfg_fields),
	.state = FIELD_TABLE(struct balloon_state, balloon_state_fields),
	.create = balloon_create,
	.destroy = balloon_destroy,
	.reset = balloon_reset,
	.quiesce = balloon_quiesce,
	.resume = balloon_resume,
	.check = balloon_check,
	.commit = balloon_commit,
	.prepare = device_prepare_nothing,
	.adopt = balloon_adopt,
};

/* ---- the owner's ---- */

int virtio_balloon_set_target(struct device *d, uint64_t bytes, struct err *e)
{
	struct balloon *b = (struct balloon *)d;
	uint64_t ram = gmem_size(d->m->mem);

	if (bytes > ram)
		return err_set(e, EINVAL,
			       "balloon: %" PRIu64 " bytes are more than RAM, which has %" PRIu64,
			       bytes, ram);
	if (b->state.num_pages == bytes / GMEM_PAGE)
		return 0;
	b->state.num_pages = (uint32_t)(bytes / GMEM_PAGE);
	virtio_config_changed(&b->v);
	return 0;
}

void virtio_balloon_view(const struct device *d, struct virtio_balloon_view *out)
{
	const struct balloon *b = (const struct balloon *)d;
	uint64_t ram = gmem_size(d->m->mem);

	*out = (struct virtio_balloon_view){
		.driver = virtio_live(&b->v),
		.target_bytes = (uint64_t)b->state.num_pages * GMEM_PAGE,
		.actual_bytes = MIN((uint64_t)b->state.actual * GMEM_PAGE, ram),
		.inflated_bytes = b->inflated_bytes,
		.reported_bytes = b->reported_bytes,
		.hinted_bytes = b->hinted_bytes,
		.kept_bytes = b->kept_bytes,
		.stats_ns = b->stats_ns,
		.stats_period_ms = b->state.poll_ms,
		.stats_known = b->stats_known,
	};
	memcpy(out->stat, b->stat, sizeof(out->stat));
}

void virtio_balloon_on_change(struct device *d, void (*fn)(void *arg), void *arg)
{
	struct balloon *b = (struct balloon *)d;

	b->on_change = fn;
	b->arg = arg;
}
