/* SPDX-License-Identifier: MIT */
/*
 * Conformance rows of virtio-blk: a base with an ephemeral overlay, and the same base read-only.
 * The guest reads back what it wrote, before and after a restore or a fork.
 */
#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "event/grants.h"
#include "tests/device/conformance.h"
#include "virtio/blk.h"

#define DISK_BYTES (4u << 20)
#define BASE_SECTOR 7 /* what the base holds here, nobody overwrites */
#define LOAD 32
#define LAST LOAD /* the slot of progress */

/* A slot of the guest's memory: header, status, one sector. */
static gpa_t slot_hdr(const struct conf *c, unsigned int slot)
{
	return c->buf + 1024ull * slot;
}

static gpa_t slot_status(const struct conf *c, unsigned int slot)
{
	return slot_hdr(c, slot) + 64;
}

static gpa_t slot_data(const struct conf *c, unsigned int slot)
{
	return slot_hdr(c, slot) + 512;
}

static void pattern(uint8_t p[BLK_SECTOR], uint64_t seed)
{
	for (unsigned int i = 0; i < BLK_SECTOR; i++)
		p[i] = (uint8_t)((seed * 31 + i) ^ (seed >> 3));
}

static void start(struct conf *c, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct {
		le32 type, reserved;
		le64 sector;
	} h = { le32_put(type), le32_put(0), le64_put(sector) };
	bool in = type == VIRTIO_BLK_T_IN;
	struct vd_buf b[] = { { slot_hdr(c, slot), 16, false },
			      { slot_data(c, slot), BLK_SECTOR, in },
			      { slot_status(c, slot), 1, true } };

	CONF(c, !gmem_write(c->fm.m.mem, slot_hdr(c, slot), &h, sizeof(h)));
	CONF(c, !gmem_write(c->fm.m.mem, slot_status(c, slot), "\xff", 1));
	conf_submit(c, b, 3);
}

static void assert_status(struct conf *c, unsigned int slot, uint8_t want)
{
	uint8_t got = 0xee;

	CONF(c, !gmem_read(c->fm.m.mem, slot_status(c, slot), &got, 1));
	CONF(c, got == want);
}

static void assert_sector(struct conf *c, uint64_t sector, uint64_t seed)
{
	uint8_t want[BLK_SECTOR], got[BLK_SECTOR];

	start(c, LAST, VIRTIO_BLK_T_IN, sector);
	conf_drain(c);
	assert_status(c, LAST, VIRTIO_BLK_S_OK);
	CONF(c, !gmem_read(c->fm.m.mem, slot_data(c, LAST), got, sizeof(got)));
	pattern(want, seed);
	CONF(c, !memcmp(got, want, sizeof(got)));
}

static void put(struct conf *c, const char *prefix, const char *what, int fd)
{
	char name[64];

	BUG_ON(fd < 0);
	snprintf(name, sizeof(name), "%sdisk/%s/%s", prefix, c->row->id, what);
	BUG_ON(grants_put(c->fm.m.grants, name, fd, NULL));
}

/* The same file, opened anew. */
static int read_only(int fd)
{
	char path[32];
	int ro;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ro = open(path, O_RDONLY | O_CLOEXEC);
	close(fd);
	return ro;
}

static void blk_give(struct conf *c, const char *prefix)
{
	const struct virtio_blk_cfg *cfg = c->row->cfg;
	uint8_t p[BLK_SECTOR];
	int fd;

	if (!cfg->read_only)
		put(c, prefix, "data", memfd_create("data", MFD_CLOEXEC));
	if (prefix[0])
		return; /* a child shares its parent's base */
	fd = memfd_create("base", MFD_CLOEXEC);
	BUG_ON(ftruncate(fd, DISK_BYTES));
	pattern(p, 4711);
	BUG_ON(fd_pwrite_full(fd, p, sizeof(p), BASE_SECTOR * BLK_SECTOR));
	put(c, prefix, "base", read_only(fd));
}

static void blk_carry(struct conf *from, struct conf *to)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);
	struct err e;

	BUG_ON(fd < 0 || virtio_blk_save_layer(from->dev, fd, &e));
	put(to, "", "layer", read_only(fd));
}

static void blk_boot(struct conf *c)
{
	c->done = 0;
}

static void blk_load(struct conf *c)
{
	for (unsigned int i = 0; i < LOAD; i++) {
		uint8_t p[BLK_SECTOR];

		pattern(p, i);
		CONF(c, !gmem_write(c->fm.m.mem, slot_data(c, i), p, sizeof(p)));
		start(c, i, i % 2 ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN, 2000 + i);
	}
	c->loaded = true;
}

static void blk_drain(struct conf *c)
{
	conf_drain(c);
	for (unsigned int i = 0; c->loaded && i < LOAD; i++)
		assert_status(c, i, VIRTIO_BLK_S_OK);
	if (c->loaded)
		assert_sector(c, 2000 + LOAD - 1, LOAD - 1);
	c->loaded = false;
}

static void blk_progress(struct conf *c)
{
	uint8_t p[BLK_SECTOR];

	assert_sector(c, BASE_SECTOR, 4711);
	/* what was written last time, perhaps in another life */
	if (c->done)
		assert_sector(c, 100 + 8 * c->done, c->done);
	c->done++;
	pattern(p, c->done);
	CONF(c, !gmem_write(c->fm.m.mem, slot_data(c, LAST), p, sizeof(p)));
	start(c, LAST, VIRTIO_BLK_T_OUT, 100 + 8 * c->done);
	conf_drain(c);
	assert_status(c, LAST, VIRTIO_BLK_S_OK);
	assert_sector(c, 100 + 8 * c->done, c->done);
}

static void blk_before_fork(struct conf *c)
{
	struct err e;

	BUG_ON(virtio_blk_rotate(c->dev, memfd_create("data", MFD_CLOEXEC), &e));
}

static const struct virtio_blk_cfg cfg_rw = { .size_bytes = DISK_BYTES,
					      .nr_files = 1,
					      .serial = "conformance" };

const struct conf_row conf_row_blk = {
	.cls = &virtio_blk_class,
	.id = "vda",
	.cfg = &cfg_rw,
	.virtio_id = 2,
	.reset_keeps = true,
	.give = blk_give,
	.carry = blk_carry,
	.boot = blk_boot,
	.load = blk_load,
	.drain = blk_drain,
	.progress = blk_progress,
	.before_fork = blk_before_fork,
};

static void ro_load(struct conf *c)
{
	for (unsigned int i = 0; i < LOAD; i++)
		start(c, i, VIRTIO_BLK_T_IN, i);
}

static void ro_progress(struct conf *c)
{
	assert_sector(c, BASE_SECTOR, 4711);
	start(c, LAST, VIRTIO_BLK_T_OUT, BASE_SECTOR);
	conf_drain(c);
	assert_status(c, LAST, VIRTIO_BLK_S_IOERR);
	assert_sector(c, BASE_SECTOR, 4711);
}

static const struct virtio_blk_cfg cfg_ro = {
	.size_bytes = DISK_BYTES, .nr_files = 1, .read_only = 1, .serial = "conformance"
};

const struct conf_row conf_row_blk_ro = {
	.cls = &virtio_blk_class,
	.id = "vdb",
	.cfg = &cfg_ro,
	.virtio_id = 2,
	.give = blk_give,
	.load = ro_load,
	.drain = conf_drain,
	.progress = ro_progress,
};
