/* SPDX-License-Identifier: MIT */
/*
 * The disk behind a virtio-blk device: the descriptors that it is made of, taken from the machine's
 * grants, and what can be done to it while the guest looks on: limits, growing, and a bay's disk
 * coming and going. The device itself is in blk.c. Main; the device lock is held.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "block/source.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"
#include "virtio/blk_internal.h"

/* The descriptor granted as disk/ID/what; src/block records it under its own fate. */
static int take(struct vblk *d, const char *what, struct err *e)
{
	char name[DEVICE_ID_MAX + 16];
	int fd;

	snprintf(name, sizeof(name), "disk/%s/%s", d->v.dev.id, what);
	fd = grants_take(d->v.dev.m->grants, name, e);
	if (fd >= 0)
		fdtab_del(d->v.dev.m->fds, fd);
	return fd;
}

/* Optional: without it, children share a descriptor that could write. */
static void take_reader(struct vblk *d)
{
	int fd = d->cfg.read_only ? -1 : take(d, "data-ro", NULL);

	if (fd >= 0)
		blk_set_reader(d->blk, fd);
}

/* The base, when there is one, out of its files. */
static int take_base(struct vblk *d, struct source **out, struct err *e)
{
	struct source_file files[SOURCE_FILES];
	unsigned int n = 0;
	char what[16];

	if (!d->cfg.nr_files)
		return 0;
	for (; n < d->cfg.nr_files; n++) {
		bool last = n == d->cfg.nr_files - 1;

		snprintf(what, sizeof(what), n ? "base/%u" : "base", n);
		files[n].format = !last || d->cfg.last_qcow2 ? SOURCE_QCOW2 : SOURCE_RAW;
		files[n].fd = take(d, what, e);
		if (files[n].fd < 0) {
			int r = files[n].fd;

			while (n--)
				close(files[n].fd);
			return r;
		}
	}
	return source_open(files, n, out, e);
}

/* The first adopt of this machine's line: the disk itself. */
int vblk_make_disk(struct vblk *d, struct err *e)
{
	struct blk_cfg cfg = { .read_only = d->cfg.read_only,
			       .writes = d->cfg.writes,
			       .quota_bytes = d->cfg.quota_bytes,
			       .size_bytes = d->cfg.size_bytes };
	int data = -1, layer = -1, direct, r;
	struct source *base = NULL;
	struct blk *b = NULL;
	struct blk_stats st;

	r = take_base(d, &base, e);
	if (r)
		return r;
	if (!d->cfg.read_only) {
		data = take(d, "data", NULL);
		layer = take(d, "layer", NULL);
	}
	r = blk_create(&cfg, base, data < 0 ? -1 : data, &b, e);
	if (r) {
		if (layer >= 0)
			close(layer);
		return r;
	}
	if (layer >= 0)
		r = blk_load_layer(b, layer, e);
	direct = d->cfg.writes ? take(d, "direct", NULL) : -1;
	if (!r && direct >= 0)
		r = blk_set_direct(b, direct, e);
	else if (direct >= 0)
		close(direct);
	blk_stats(b, &st);
	if (!r && st.overlay_blocks != d->state.overlay_blocks)
		r = err_set(e, EINVAL, "layer holds %llu blocks, the saved disk had %llu",
			    (unsigned long long)st.overlay_blocks,
			    (unsigned long long)d->state.overlay_blocks);
	if (!r)
		r = blk_adopt(b, d->v.dev.m->loop, d->v.dev.m->fds, -1, e);
	if (r) {
		blk_destroy(b);
		return r;
	}
	blk_on_batch(b, vblk_on_batch, d);
	d->blk = b;
	take_reader(d);
	d->writable = data >= 0;
	return 0;
}

int vblk_renew_disk(struct vblk *d, struct err *e)
{
	int data = -1, r;

	if (!d->cfg.read_only) {
		data = take(d, "data", e);
		if (data < 0)
			return data;
	}
	r = blk_adopt(d->blk, d->v.dev.m->loop, d->v.dev.m->fds, data, e);
	d->writable = !r && data >= 0;
	if (!r)
		take_reader(d);
	return r;
}

/* ---- bays ---- */

static void size_changed(struct vblk *d)
{
	d->unseen = virtio_live(&d->v);
	virtio_config_changed(&d->v);
}

int virtio_blk_insert(struct device *dev, const struct virtio_blk_cfg *cfg, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	struct virtio_blk_cfg was = d->cfg;
	int r;

	if (d->blk || d->cfg.size_bytes)
		return err_set(e, EBUSY, "%s: there is a disk in it", dev->id);
	if (cfg->read_only)
		return err_set(e, EINVAL,
			       "%s: the guest was told that it can write: leave readonly out, and "
			       "writes go to an overlay",
			       dev->id);
	d->cfg.size_bytes = cfg->size_bytes;
	d->cfg.nr_files = cfg->nr_files;
	d->cfg.last_qcow2 = cfg->last_qcow2;
	d->cfg.writes = cfg->writes;
	d->cfg.quota_bytes = cfg->quota_bytes;
	d->state.overlay_blocks = 0;
	r = vblk_check_cfg(&d->cfg, e);
	if (!r)
		r = vblk_make_disk(d, e);
	if (r) {
		d->cfg = was;
		return err_wrap(e, r, "%s", dev->id);
	}
	size_changed(d);
	return 0;
}

int virtio_blk_eject(struct device *dev, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	int r;

	if (!d->blk)
		return err_set(e, ENOENT, "%s: there is no disk in it", dev->id);
	r = blk_finish(d->blk); /* and the guest gets its answers */
	blk_destroy(d->blk);
	d->blk = NULL;
	d->writable = false;
	d->state.overlay_blocks = 0;
	d->cfg.size_bytes = d->cfg.quota_bytes = 0;
	d->cfg.nr_files = 0;
	d->cfg.last_qcow2 = d->cfg.writes = 0;
	memset(&d->state.bytes, 0, sizeof(d->state.bytes));
	memset(&d->state.ops, 0, sizeof(d->state.ops));
	size_changed(d);
	return r ? err_set(e, EIO,
			   "%s: it is out, but its file could not be closed cleanly (%s): see "
			   "clone "
			   "disk check",
			   dev->id, strerrordesc_np(-r))
		 : 0;
}

int virtio_blk_grow(struct device *dev, uint64_t bytes, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	int r = d->blk ? blk_grow(d->blk, bytes, e) : err_set(e, ENOENT, "there is no disk in it");

	if (r)
		return err_wrap(e, r, "%s", dev->id);
	if (bytes != d->cfg.size_bytes) {
		d->cfg.size_bytes = bytes;
		size_changed(d);
	}
	return 0;
}

/* ---- limits, forks, snapshots, the end ---- */

int virtio_blk_set_rate(struct device *dev, const struct virtio_blk_rate *rate, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	struct virtio_blk_rate r = *rate;
	int ret;

	r.bytes.ahead_ns = r.ops.ahead_ns = 0;
	ret = rate_check(&r.bytes, e);
	if (ret)
		return err_wrap(e, ret, "bandwidth");
	ret = rate_check(&r.ops, e);
	if (ret)
		return err_wrap(e, ret, "ops");
	d->state.bytes = r.bytes;
	d->state.ops = r.ops;
	/* who waits may have waited long enough */
	if (d->stalled && d->timer)
		loop_set_timer(d->timer, 1);
	return 0;
}

void virtio_blk_set_reader(struct device *dev, int reader_fd)
{
	struct vblk *d = (struct vblk *)dev;

	if (d->blk)
		blk_set_reader(d->blk, reader_fd);
	else
		close(reader_fd);
}

int virtio_blk_rotate(struct device *dev, int data_fd, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	int r;

	if (data_fd >= 0)
		fdtab_del(dev->m->fds, data_fd); /* as granted; src/block records it anew */
	if (!d->blk) {
		if (data_fd >= 0)
			close(data_fd);
		return 0;
	}
	r = blk_rotate(d->blk, data_fd, e);
	return r ? err_wrap(e, r, "%s", dev->id) : 0;
}

int virtio_blk_save_layer(struct device *dev, int fd, struct err *e)
{
	struct vblk *d = (struct vblk *)dev;
	int r;

	if (!d->blk)
		return 0;
	r = blk_save_layer(d->blk, fd, e);
	return r ? err_wrap(e, r, "%s", dev->id) : 0;
}

void virtio_blk_finish(struct device *dev)
{
	struct vblk *d = (struct vblk *)dev;
	int r;

	if (!d->blk || d->cfg.writes == BLK_OVERLAY)
		return;
	virtio_quiesce(&d->v);
	d->dropping = true;
	r = blk_finish(d->blk);
	if (r)
		log_warn("%s: its file could not be closed cleanly: %s", dev->id,
			 strerrordesc_np(-r));
}

void virtio_blk_stats(const struct device *dev, struct blk_stats *out)
{
	const struct vblk *d = (const struct vblk *)dev;

	memset(out, 0, sizeof(*out));
	if (d->blk)
		blk_stats(d->blk, out);
}

bool virtio_blk_seen(const struct device *dev)
{
	return !((const struct vblk *)dev)->unseen;
}
