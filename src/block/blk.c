/* SPDX-License-Identifier: MIT */
/*
 * A disk: its files and its life; its forks are in blk_fork.c. Called by virtio/blk.c and by the
 * fork and snapshot code, on main. Requests are in request.c.
 *
 * Who has which file: the base and all layers are shared by every process of a line of descent and
 * never written (of a qcow2 file that is written: not where they read it); the current data file is
 * its process's alone, and no child keeps it. blk_rotate turns the one into the other.
 */
#include "block/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "event/fdtab.h"
#include "event/loop.h"

int blk_check_mode(int fd, int access, const char *what, struct err *e)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0)
		return err_sys(e, errno, "%s", what);
	if ((fl & O_ACCMODE) != access)
		return err_set(e, EINVAL, "%s must be opened %s", what,
			       access == O_RDONLY ? "read-only" : "read-write");
	if (fl & (O_APPEND | O_DIRECT))
		return err_set(e, EINVAL, "%s must be opened without O_APPEND and O_DIRECT", what);
	return 0;
}

int blk_base_bytes(int fd, uint64_t *size, struct err *e)
{
	struct stat st;
	off_t end;
	int r;

	r = blk_check_mode(fd, O_RDONLY, "base image", e);
	if (r)
		return r;
	if (fstat(fd, &st))
		return err_sys(e, errno, "base image");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "base image is neither a file nor a block device");
	end = lseek(fd, 0, SEEK_END);
	if (end < 0)
		return err_sys(e, errno, "base image: size");
	*size = (uint64_t)end;
	return 0;
}

int blk_check_data(const struct blk *b, int fd, struct err *e)
{
	struct stat st;
	int r;

	if (fd < 0)
		return err_set(e, EINVAL, "no data file was passed");
	r = blk_check_mode(fd, O_RDWR, "data file", e);
	if (r)
		return r;
	if (fstat(fd, &st))
		return err_sys(e, errno, "data file");
	if (b->writes == BLK_OVERLAY && (!S_ISREG(st.st_mode) || st.st_size))
		return err_set(e, EINVAL, "data file is not an empty regular file");
	if (!S_ISREG(st.st_mode) && (b->writes != BLK_IN_RAW || !S_ISBLK(st.st_mode)))
		return err_set(e, EINVAL, "data file is neither a file nor a block device");
	return 0;
}

int blk_set_data(struct blk *b, int fd, struct err *e)
{
	struct stat st;
	int r;

	r = blk_check_data(b, fd, e);
	if (!r && fstat(fd, &st))
		r = err_sys(e, errno, "data file");
	if (!r)
		r = overlay_set_current(&b->ov, fd, e);
	if (r)
		return r;
	b->ov.layers[b->ov.cur].own = b->w;
	b->data_dev = st.st_dev;
	b->data_ino = st.st_ino;
	return 0;
}

/* Of a disk that is written where it is. */
static int check_own(const struct blk *b, int fd, struct err *e)
{
	if (b->read_only)
		return err_set(e, EINVAL, "a read-only disk is not written to");
	if (b->writes == BLK_IN_RAW && b->base)
		return err_set(e, EINVAL, "a raw file that is written to has no base");
	return blk_check_data(b, fd, e);
}

static int resolve_size(struct blk *b, const struct blk_cfg *cfg, int fd, struct err *e)
{
	uint64_t base = b->base ? source_bytes(b->base) : 0;

	if (b->writes == BLK_IN_RAW) {
		off_t end = lseek(fd, 0, SEEK_END);

		if (end < 0 || cfg->size_bytes > (uint64_t)end)
			return err_set(e, EINVAL, "a raw file of %lld bytes for a disk of %llu",
				       (long long)end, (unsigned long long)cfg->size_bytes);
		base = (uint64_t)end;
	}
	if (b->writes == BLK_IN_QCOW2 && cfg->size_bytes > base)
		return err_set(e, EINVAL, "a qcow2 file of a disk of %llu bytes for one of %llu",
			       (unsigned long long)base, (unsigned long long)cfg->size_bytes);
	b->size = cfg->size_bytes ? cfg->size_bytes : ROUND_DOWN(base, BLK_SECTOR);
	if (!b->size || b->size % BLK_SECTOR || b->size > BLK_MAX_BYTES)
		return err_set(e, EINVAL,
			       "disk size of %llu bytes is not whole sectors between 512 bytes and "
			       "16 TiB",
			       (unsigned long long)b->size);
	b->base_end = MIN(ROUND_DOWN(base, BLK_SECTOR), b->size);
	return 0;
}

int blk_create(const struct blk_cfg *cfg, struct source *base, int data_fd, struct blk **out,
	       struct err *e)
{
	cleanup_close int data = data_fd;
	struct blk *b = calloc(1, sizeof(*b));
	int r = 0;

	if (!b) {
		source_close(base, NULL);
		return err_set(e, ENOMEM, "no memory for a disk");
	}
	b->read_only = cfg->read_only;
	b->unit = BLK_BLOCK;
	b->quota = cfg->quota_bytes / BLK_BLOCK;
	b->base = base;
	b->reader_fd = b->direct_fd = -1;
	b->ov.cur = NO_LAYER;
	b->ios = calloc(BLK_IOS, sizeof(*b->ios));
	if (!b->ios)
		r = err_set(e, ENOMEM, "no memory for a disk's operations");
	for (unsigned int i = 0; i < BLK_IOS; i++)
		b->free_ios[b->nr_free_ios++] = (uint16_t)(BLK_IOS - 1 - i);
	b->writes = cfg->writes;
	if (!r && b->writes != BLK_OVERLAY)
		r = check_own(b, data, e);
	if (!r && b->writes == BLK_IN_QCOW2)
		r = blk_qtop_open(b, data, e);
	if (!r)
		r = resolve_size(b, cfg, data, e);
	if (!r)
		r = overlay_init(&b->ov, (b->size + b->unit - 1) / b->unit,
				 (b->base_end + b->unit - 1) / b->unit, e);
	b->ov.identity = b->writes == BLK_IN_RAW;
	if (!r && cfg->quota_bytes && (b->writes != BLK_OVERLAY || !b->quota))
		r = err_set(e, EINVAL, "a quota is for an overlay, and at least %u bytes",
			    BLK_BLOCK);
	if (!r && b->read_only && data >= 0)
		r = err_set(e, EINVAL, "a read-only disk takes no data file");
	if (!r && data >= 0)
		r = blk_set_data(b, data, e);
	if (r) {
		blk_destroy(b);
		return r;
	}
	take_fd(&data);
	*out = b;
	return 0;
}

static void close_ring(struct blk *b)
{
	if (!b->ring)
		return;
	loop_del_io(b->watch);
	b->watch = NULL;
	fdtab_del(b->fds, uring_fd(b->ring));
	fdtab_del(b->fds, uring_eventfd(b->ring));
	uring_destroy(b->ring);
	b->ring = NULL;
}

/* Records fd whether or not it is known already. */
static void record(struct fdtab *fds, int fd, enum fd_fate fate, const char *who)
{
	fdtab_del(fds, fd);
	fdtab_add(fds, fd, fate, who);
}

static void drop_reader(struct blk *b)
{
	if (b->reader_fd < 0)
		return;
	if (b->fds)
		fdtab_del(b->fds, b->reader_fd);
	close(take_fd(&b->reader_fd));
}

void blk_set_reader(struct blk *b, int reader_fd)
{
	struct stat st;

	if (b->ov.cur == NO_LAYER || blk_check_mode(reader_fd, O_RDONLY, "data file", NULL) ||
	    fstat(reader_fd, &st) || st.st_dev != b->data_dev || st.st_ino != b->data_ino) {
		close(reader_fd);
		return;
	}
	drop_reader(b);
	b->reader_fd = reader_fd;
	if (b->fds)
		record(b->fds, reader_fd, FD_CLOSE, "disk data reader");
}

static void drop_direct(struct blk *b)
{
	if (b->direct_fd < 0)
		return;
	if (b->fds)
		fdtab_del(b->fds, b->direct_fd);
	close(take_fd(&b->direct_fd));
}

int blk_set_direct(struct blk *b, int fd, struct err *e)
{
	cleanup_close int direct = fd;
	struct stat st;
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0 || (fl & (O_ACCMODE | O_DIRECT | O_APPEND)) != (O_RDWR | O_DIRECT) ||
	    fstat(fd, &st) || b->ov.cur == NO_LAYER || st.st_dev != b->data_dev ||
	    st.st_ino != b->data_ino)
		return err_set(e, EINVAL, "direct I/O: not the disk's file, with O_DIRECT");
	if (b->writes == BLK_OVERLAY)
		return err_set(e, EINVAL, "direct I/O is for a file that is written in place");
	if (b->unit < BLK_BLOCK)
		return err_set(e, ENOTSUP,
			       "direct I/O: clusters of %llu bytes; pages of the cache are %u",
			       (unsigned long long)b->unit, BLK_BLOCK);
	drop_direct(b);
	b->direct_fd = take_fd(&direct);
	if (b->fds)
		record(b->fds, b->direct_fd, FD_CLOSE, "disk data, direct");
	return 0;
}

int blk_finish(struct blk *b)
{
	int r, owed;

	blk_quiesce(b);
	owed = b->flush.owed;
	r = blk_qtop_close(b);
	return r ? r : owed;
}

void blk_destroy(struct blk *b)
{
	if (!b)
		return;
	if (blk_finish(b))
		log_warn("disk: its qcow2 file could not be closed cleanly");
	close_ring(b);
	source_close(b->base, b->fds);
	drop_reader(b);
	drop_direct(b);
	overlay_fini(&b->ov);
	free(b->ios);
	free(b);
}

uint64_t blk_size(const struct blk *b)
{
	return b->size;
}

uint64_t blk_unit(const struct blk *b)
{
	return b->unit;
}

unsigned int blk_in_flight(const struct blk *b)
{
	return b->nr;
}

void blk_on_batch(struct blk *b, void (*fn)(void *arg), void *arg)
{
	b->batch = fn;
	b->batch_arg = arg;
}

static void on_eventfd(void *arg, int fd, unsigned int events)
{
	(void)fd;
	(void)events;
	blk_poll(arg);
}

void blk_record_files(struct blk *b)
{
	if (b->base)
		source_record(b->base, b->fds);
	for (unsigned int i = 0; i < b->ov.cap_layers; i++) {
		if (b->ov.layers[i].fd < 0)
			continue;
		if (i == b->ov.cur)
			record(b->fds, b->ov.layers[i].fd, FD_CLOSE, "disk data");
		else
			record(b->fds, b->ov.layers[i].fd, FD_KEEP, "disk layer");
	}
	if (b->direct_fd >= 0)
		record(b->fds, b->direct_fd, FD_CLOSE, "disk data, direct");
}

int blk_prepare(struct blk *b, struct err *e)
{
	int r;

	if (b->adopted && b->w)
		blk_qtop_child(b); /* whatever happens now, the file is the parent's */
	uring_forget(b->ring);	   /* the parent's, in a child */
	b->ring = NULL;
	b->watch = NULL;
	r = uring_create(BLK_IOS, &b->ring, e);
	b->prepared = !r;
	return r;
}

int blk_adopt(struct blk *b, struct loop *loop, struct fdtab *fds, int data_fd, struct err *e)
{
	int r;

	BUG_ON(b->nr);
	b->fds = fds;
	b->ov.fds = fds;
	r = b->prepared ? 0 : blk_prepare(b, e);
	if (r) {
		if (data_fd >= 0)
			close(data_fd);
		return r;
	}
	b->prepared = false;
	if (b->adopted) {
		r = blk_child_file(b, data_fd, e);
		if (r)
			return r;
	} else if (data_fd >= 0) {
		close(data_fd);
		return err_set(e, EINVAL, "a new disk has its data file already");
	}
	b->adopted = true;
	blk_record_files(b);
	b->watch = loop_add_io(loop, uring_eventfd(b->ring), LOOP_READ, on_eventfd, b);
	if (!b->watch) {
		uring_destroy(b->ring);
		b->ring = NULL;
		return err_set(e, ENOMEM, "no memory to watch a disk's completions");
	}
	fdtab_add(fds, uring_fd(b->ring), FD_CLOSE, "disk ring");
	fdtab_add(fds, uring_eventfd(b->ring), FD_CLOSE, "disk completions");
	return 0;
}

void blk_stats(const struct blk *b, struct blk_stats *out)
{
	*out = b->stats;
	out->own_bytes = 0;
	out->layers = b->ov.nr_layers;
	out->overlay_blocks = b->ov.mapped;
	out->overlay_bytes = b->ov.data * b->unit;
	if (b->ov.cur != NO_LAYER) {
		out->layers--;
		out->own_bytes = b->ov.layers[b->ov.cur].live * b->unit;
	}
}
