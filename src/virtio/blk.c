/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk (virtio 1.2 section 5.2): config space and the device contract; its requests are in
 * blk_request.c, the disk behind it in blk_medium.c. Main; the driver's reset also comes on a vCPU
 * thread. The device lock is held.
 *
 * Fork and restore: the contents are kept, as they are at that instant, and so are size and serial
 * (the guest has mounted it by them). Renewed: the file that new writes go to, the ring. Refused:
 * a fork of a raw disk that is written in place (vm/disks.c). Nothing is in flight when quiesced,
 * so state holds no request; it holds the number of blocks in the overlay, so that a restore
 * without the layer that belongs to it is refused.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "block/source.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "virtio/blk_internal.h"

#define QUEUE_SIZE 256
#define SEG_MAX (VIRTIO_MAX_SEGS - 2) /* besides header and status */
#define SIZE_MAX_BYTES (1u << 20)     /* of one segment: what a disk does at once */
#define CONFIG_BYTES 60u
#define WRITEBACK_AT 32u

static const struct field vblk_cfg_fields[] = {
	F_U64(struct virtio_blk_cfg, size_bytes), F_U32(struct virtio_blk_cfg, nr_files),
	F_U8(struct virtio_blk_cfg, last_qcow2),  F_U8(struct virtio_blk_cfg, read_only),
	F_U8(struct virtio_blk_cfg, writes),	  F_U32(struct virtio_blk_cfg, nr_queues),
	F_BYTES(struct virtio_blk_cfg, serial),	  F_U64(struct virtio_blk_cfg, quota_bytes),
};

static const struct field vblk_state_fields[] = {
	F_STRUCT(struct vblk_state, virtio, virtio_state_fields),
	F_STRUCT(struct vblk_state, pci, pci_state_fields),
	F_U64(struct vblk_state, overlay_blocks),
	F_U8(struct vblk_state, writeback),
	F_STRUCT(struct vblk_state, bytes, rate_bucket_fields),
	F_STRUCT(struct vblk_state, ops, rate_bucket_fields),
};

/* ---- config space ---- */

static uint64_t vblk_features(struct virtio_dev *v)
{
	const struct vblk *d = (const struct vblk *)v;
	uint64_t f = 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_SIZE_MAX |
		     1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY |
		     1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_CONFIG_WCE;

	if (d->v.st->nr_queues > 1)
		f |= 1ull << VIRTIO_BLK_F_MQ;
	if (d->cfg.read_only)
		return f | 1ull << VIRTIO_BLK_F_RO;
	return f | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
}

/* struct virtio_blk_config, virtio 1.2 section 5.2.4. */
static void vblk_config_read(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len)
{
	struct vblk *d = (struct vblk *)v;
	uint8_t raw[CONFIG_BYTES] = { 0 };
	le64 capacity = le64_put(d->cfg.size_bytes / BLK_SECTOR);
	le32 size_max = le32_put(SIZE_MAX_BYTES), seg_max = le32_put(SEG_MAX),
	     sector = le32_put(BLK_SECTOR);
	le32 most = le32_put(VBLK_ZERO_SECTORS), one = le32_put(1);
	le32 align = le32_put((uint32_t)((d->blk ? blk_unit(d->blk) : BLK_BLOCK) / BLK_SECTOR));
	le16 min_io = le16_put(BLK_BLOCK / BLK_SECTOR),
	     queues = le16_put((uint16_t)d->v.st->nr_queues);

	memcpy(raw + 0, &capacity, sizeof(capacity));
	memcpy(raw + 8, &size_max, sizeof(size_max));
	memcpy(raw + 12, &seg_max, sizeof(seg_max));
	memcpy(raw + 20, &sector, sizeof(sector));
	raw[24] = 3; /* physical_block_exp: 4096 bytes */
	memcpy(raw + 26, &min_io, sizeof(min_io));
	raw[WRITEBACK_AT] = d->state.writeback;
	memcpy(raw + 34, &queues, sizeof(queues));
	if (!d->cfg.read_only) {
		memcpy(raw + 36, &most, sizeof(most));	 /* max_discard_sectors */
		memcpy(raw + 40, &one, sizeof(one));	 /* max_discard_seg */
		memcpy(raw + 44, &align, sizeof(align)); /* discard_sector_alignment */
		memcpy(raw + 48, &most, sizeof(most));	 /* max_write_zeroes_sectors */
		memcpy(raw + 52, &one, sizeof(one));	 /* max_write_zeroes_seg */
		raw[56] = 1;				 /* write_zeroes_may_unmap */
	}
	if (off < sizeof(capacity))
		d->unseen = false;
	memset(buf, 0, len);
	if (off < sizeof(raw))
		memcpy(buf, raw + off, MIN(len, (unsigned int)sizeof(raw) - off));
}

/* Only the write cache's mode is writable (section 5.2.5.1). */
static void vblk_config_write(struct virtio_dev *v, unsigned int off, const void *buf,
			      unsigned int len)
{
	struct vblk *d = (struct vblk *)v;

	if (off == WRITEBACK_AT && len == 1 && virtio_has(v, VIRTIO_BLK_F_CONFIG_WCE))
		d->state.writeback = *(const uint8_t *)buf != 0;
}

static void vblk_started(struct virtio_dev *v)
{
	(void)v;
}

static void vblk_stopped(struct virtio_dev *v)
{
	struct vblk *d = (struct vblk *)v;

	d->dropping = true;
	if (d->blk)
		blk_quiesce(d->blk);
	d->dropping = false;
	d->stalled = 0;
	d->touched = 0;
	d->state.writeback = 1;
}

static const struct virtio_type vblk_type = {
	.device_id = 2,
	.pci_class = { 0x01, 0x80, 0x00 }, /* mass storage, other */
	.features = vblk_features,
	.config_read = vblk_config_read,
	.config_write = vblk_config_write,
	.kick = vblk_kick,
	.started = vblk_started,
	.stopped = vblk_stopped,
};

/* ---- device contract ---- */

static void vblk_destroy(struct device *dev)
{
	struct vblk *d = (struct vblk *)dev;

	if (!d)
		return;
	d->dropping = true;
	blk_destroy(d->blk);
	loop_del_timer(d->timer);
	virtio_fini(&d->v);
	free(d->reqs);
	free(d);
}

int vblk_check_cfg(const struct virtio_blk_cfg *cfg, struct err *e)
{
	bool bay = !cfg->size_bytes && !cfg->nr_files && !cfg->read_only && !cfg->writes;

	if (cfg->nr_queues > VIRTIO_BLK_QUEUES_MAX)
		return err_set(e, EINVAL, "%u queues", cfg->nr_queues);
	if (cfg->writes > BLK_IN_QCOW2)
		return err_set(e, EINVAL, "writes of kind %u", cfg->writes);
	if (cfg->nr_files > SOURCE_FILES)
		return err_set(e, EINVAL, "a chain of %u files", cfg->nr_files);
	if ((!cfg->size_bytes && !bay) || cfg->size_bytes % BLK_SECTOR ||
	    cfg->size_bytes > BLK_MAX_BYTES)
		return err_set(e, EINVAL, "size of %llu bytes",
			       (unsigned long long)cfg->size_bytes);
	return 0;
}

static int vblk_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		       struct err *e)
{
	uint16_t queue_max[VIRTIO_BLK_QUEUES_MAX];
	struct vblk *d = calloc(1, sizeof(*d));
	int ret;

	if (!d)
		return err_set(e, ENOMEM, "%s: out of memory", id);
	d->cfg = *(const struct virtio_blk_cfg *)cfg;
	d->v.dev = (struct device){
		.cls = &virtio_blk_class, .m = m, .cfg = &d->cfg, .state = &d->state
	};
	snprintf(d->v.dev.id, sizeof(d->v.dev.id), "%s", id);
	d->v.type = &vblk_type;
	d->v.st = &d->state.virtio;
	d->v.pci.st = &d->state.pci;
	d->state.writeback = 1;
	d->reqs = calloc(BLK_DEPTH, sizeof(*d->reqs));
	for (unsigned int i = 0; i < ARRAY_SIZE(queue_max); i++)
		queue_max[i] = QUEUE_SIZE;
	for (unsigned int i = 0; i < BLK_DEPTH; i++)
		d->free_reqs[d->nr_free++] = (uint8_t)(BLK_DEPTH - 1 - i);
	ret = d->reqs ? vblk_check_cfg(&d->cfg, e) : err_set(e, ENOMEM, "out of memory");
	if (!ret)
		ret = virtio_init(&d->v, MAX(d->cfg.nr_queues, 1u), queue_max, e);
	if (ret) {
		vblk_destroy(&d->v.dev);
		return err_wrap(e, ret, "%s", id);
	}
	*out = &d->v.dev;
	return 0;
}

static void vblk_reset(struct device *dev)
{
	virtio_reset((struct virtio_dev *)dev);
}

static int vblk_quiesce(struct device *dev, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	struct blk_stats st;

	(void)e;
	virtio_quiesce(&d->v);
	vblk_rate_wait_ns(d);
	if (!d->blk)
		return 0;
	loop_set_timer(d->timer, 0); /* resume kicks the queue anyway */
	blk_quiesce(d->blk);
	BUG_ON(d->nr_free != BLK_DEPTH);
	blk_stats(d->blk, &st);
	d->state.overlay_blocks = st.overlay_blocks;
	return 0;
}

static void vblk_resume(struct device *dev)
{
	struct vblk *d = (struct vblk *)dev;

	if (d->blk && !d->writable && !d->cfg.read_only)
		log_warn("%s: runs without a data file: every write will fail", d->v.dev.id);
	d->rated_ns = time_mono_ns(); /* time in which the guest stood still does not count */
	virtio_resume(&d->v);
}

static int vblk_check(const struct device *dev, const void *state, struct err *e)
{
	const struct vblk *d = (const struct vblk *)dev;
	const struct vblk_state *st = state;
	uint64_t most = d->cfg.read_only ? 0 : ROUND_UP(d->cfg.size_bytes, BLK_BLOCK) / BLK_BLOCK;

	if (st->overlay_blocks > most)
		return err_set(e, EINVAL, "%llu blocks in the overlay of a disk of %llu",
			       (unsigned long long)st->overlay_blocks, (unsigned long long)most);
	if (rate_check(&st->bytes, e) || rate_check(&st->ops, e))
		return -EINVAL;
	if (st->writeback > 1)
		return err_set(e, EINVAL, "write cache mode %u", st->writeback);
	return virtio_check(&d->v, &st->virtio, &st->pci, e);
}

static void vblk_commit(struct device *dev, const void *state)
{
	device_commit_copy(dev, state);
	virtio_commit((struct virtio_dev *)dev);
}

static int vblk_prepare(struct device *dev, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;

	return d->blk ? blk_prepare(d->blk, e) : 0;
}

static int vblk_adopt(struct device *dev, const struct identity *id, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	int r;

	(void)id;
	r = d->blk ? vblk_renew_disk(d, e) : d->cfg.size_bytes ? vblk_make_disk(d, e) : 0;
	if (r)
		return err_wrap(e, r, "%s", d->v.dev.id);
	d->stalled = 0;
	d->timer = loop_add_timer(dev->m->loop, vblk_go_on, d);
	if (!d->timer)
		return err_set(e, ENOMEM, "%s: out of memory", dev->id);
	virtio_adopt(&d->v);
	return 0;
}

const struct device_class virtio_blk_class = {
	.name = "virtio-blk",
	.version = 2,
	.cfg = FIELD_TABLE(struct virtio_blk_cfg, vblk_cfg_fields),
	.state = FIELD_TABLE(struct vblk_state, vblk_state_fields),
	.create = vblk_create,
	.destroy = vblk_destroy,
	.reset = vblk_reset,
	.quiesce = vblk_quiesce,
	.resume = vblk_resume,
	.check = vblk_check,
	.commit = vblk_commit,
	.prepare = vblk_prepare,
	.adopt = vblk_adopt,
};
