/* SPDX-License-Identifier: MIT */
/*
 * A virtio device that does nothing by itself. See null_virtio.h.
 */
#include "tests/lib/null_virtio.h"

#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static const struct field null_fields[] = {
	F_STRUCT(struct null_state, virtio, virtio_state_fields),
	F_STRUCT(struct null_state, pci, pci_state_fields),
};

static struct null_virtio *of(struct virtio_dev *v)
{
	return (struct null_virtio *)v;
}

static uint64_t features(struct virtio_dev *v)
{
	(void)v;
	return 1ull << NULL_FEATURE;
}

static void config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	memset(buf, 0, len);
	if (range_ok(off, len, sizeof(of(v)->config)))
		memcpy(buf, of(v)->config + off, len);
}

static void config_write(struct virtio_dev *v, unsigned int off, const void *buf, unsigned int len)
{
	if (range_ok(off, len, sizeof(of(v)->config)))
		memcpy(of(v)->config + off, buf, len);
}

static void kick(struct virtio_dev *v, unsigned int q)
{
	of(v)->kicks[q]++;
}

static void started(struct virtio_dev *v)
{
	of(v)->started++;
}

static void stopped(struct virtio_dev *v)
{
	of(v)->stopped++;
}

static const struct virtio_type null_type = {
	.device_id = NULL_VIRTIO_ID,
	.pci_class = { 0xff, 0, 0 },
	.features = features,
	.config_read = config_read,
	.config_write = config_write,
	.kick = kick,
	.started = started,
	.stopped = stopped,
};

static void null_destroy(struct device *d)
{
	virtio_fini((struct virtio_dev *)d);
	free(d);
}

static int null_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		       struct err *e)
{
	static const uint16_t queue_max[NULL_QUEUES] = { NULL_QUEUE_SIZE, NULL_QUEUE_SIZE };
	struct null_virtio *n = calloc(1, sizeof(*n));
	int ret;

	(void)cfg;
	BUG_ON(!n);
	n->v.dev = (struct device){ .cls = &null_virtio_class, .m = m, .state = &n->state };
	strncpy(n->v.dev.id, id, sizeof(n->v.dev.id) - 1);
	n->v.type = &null_type;
	n->v.st = &n->state.virtio;
	n->v.pci.st = &n->state.pci;
	ret = virtio_init(&n->v, NULL_QUEUES, queue_max, e);
	if (ret)
		null_destroy(&n->v.dev);
	else
		*out = &n->v.dev;
	return ret;
}

static void null_reset(struct device *d)
{
	virtio_reset((struct virtio_dev *)d);
}

static int null_quiesce(struct device *d, struct err *e)
{
	(void)e;
	virtio_quiesce((struct virtio_dev *)d);
	return 0;
}

static void null_resume(struct device *d)
{
	virtio_resume((struct virtio_dev *)d);
}

static int null_check(const struct device *d, const void *state, struct err *e)
{
	const struct null_state *st = state;

	return virtio_check((const struct virtio_dev *)d, &st->virtio, &st->pci, e);
}

static void null_commit(struct device *d, const void *state)
{
	device_commit_copy(d, state);
	virtio_commit((struct virtio_dev *)d);
}

static int null_adopt(struct device *d, const struct identity *id, struct err *e)
{
	(void)id;
	(void)e;
	virtio_adopt((struct virtio_dev *)d);
	return 0;
}

const struct device_class null_virtio_class = {
	.name = "null-virtio",
	.version = 1,
	.cfg = { 0 },
	.state = FIELD_TABLE(struct null_state, null_fields),
	.create = null_create,
	.destroy = null_destroy,
	.reset = null_reset,
	.quiesce = null_quiesce,
	.resume = null_resume,
	.check = null_check,
	.commit = null_commit,
	.prepare = device_prepare_nothing,
	.adopt = null_adopt,
};
