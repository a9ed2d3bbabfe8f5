/* SPDX-License-Identifier: MIT */
/* See vblk.h. */
#include "tests/lib/vblk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <linux/virtio_blk.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/disk.h"
#include "virtio/blk_internal.h"

bool (*vblk_taken)(struct fake_machine *fm, uint64_t addr, unsigned int len);

void vblk_give_as(struct vblk_rig *g, const char *prefix, const char *what, int fd)
{
	char name[64];
	struct err e;

	snprintf(name, sizeof(name), "%sdisk/vda/%s", prefix, what);
	assert_int_equal(grants_put(g->fm.m.grants, name, fd, &e), 0);
}

void vblk_give(struct vblk_rig *g, const char *what, int fd)
{
	vblk_give_as(g, "", what, fd);
}

void vblk_drive(struct vblk_rig *g)
{
	vd_probe(&g->d, &g->fm, 2);
	vd_start(&g->d, ~0ull, 0);
}

void vblk_make(struct vblk_rig *g, bool read_only)
{
	struct virtio_blk_cfg cfg = { .size_bytes = VBLK_DISK_BYTES,
				      .nr_files = 1,
				      .read_only = read_only,
				      .serial = "12345678901234567890" };
	uint8_t sector[BLK_SECTOR];

	memset(g, 0, sizeof(*g));
	fm_init(&g->fm, MIB(64), -1);
	g->fm.taken = vblk_taken;
	g->base_fd = disk_file();
	fdtab_add(g->fm.m.fds, g->base_fd, FD_KEEP, "test base");
	for (unsigned int i = 0; i < VBLK_BASE_BYTES / BLK_SECTOR; i++) {
		memset(sector, (int)i, sizeof(sector));
		assert_int_equal(fd_pwrite_full(g->base_fd, sector, sizeof(sector),
						(uint64_t)i * BLK_SECTOR),
				 0);
	}
	g->dev = fm_add(&g->fm, &virtio_blk_class, "vda", &cfg);
	g->hdr = fm_alloc(&g->fm, VBLK_SLOTS * 32, 4096);
	g->status = fm_alloc(&g->fm, VBLK_SLOTS, 4096);
	g->data = fm_alloc(&g->fm, (uint64_t)VBLK_SLOTS * VBLK_BUF_BYTES, 4096);
	vblk_give(g, "base", disk_reopen(g->base_fd));
	if (!read_only)
		vblk_give(g, "data", disk_file());
}

static int up_as(void **state, bool read_only)
{
	static struct vblk_rig g;

	vblk_make(&g, read_only);
	fm_start(&g.fm);
	vblk_drive(&g);
	*state = &g;
	return 0;
}

int vblk_up(void **state)
{
	return up_as(state, false);
}

int vblk_up_read_only(void **state)
{
	return up_as(state, true);
}

void vblk_end(struct vblk_rig *g)
{
	fm_fini(&g->fm);
	close(g->base_fd);
}

int vblk_down(void **state)
{
	vblk_end(*state);
	return 0;
}

/* ---- requests ---- */

gpa_t vblk_hdr(const struct vblk_rig *g, unsigned int slot)
{
	return g->hdr + 32ull * slot;
}

gpa_t vblk_data(const struct vblk_rig *g, unsigned int slot)
{
	return g->data + (uint64_t)VBLK_BUF_BYTES * slot;
}

void vblk_put_header(struct vblk_rig *g, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct {
		le32 type, reserved;
		le64 sector;
	} h = { le32_put(type), le32_put(0), le64_put(sector) };
	uint8_t pending = VBLK_PENDING;

	BUG_ON(gmem_write(g->fm.m.mem, vblk_hdr(g, slot), &h, 16));
	BUG_ON(gmem_write(g->fm.m.mem, g->status + slot, &pending, 1));
}

uint8_t vblk_status(struct vblk_rig *g, unsigned int slot)
{
	uint8_t s;

	BUG_ON(gmem_read(g->fm.m.mem, g->status + slot, &s, 1));
	return s;
}

void vblk_add_on(struct vblk_rig *g, unsigned int queue, unsigned int slot, uint32_t type,
		 uint64_t sector, uint32_t len)
{
	struct vd_buf b[3] = { { vblk_hdr(g, slot), 16, false } };
	unsigned int n = 1;

	vblk_put_header(g, slot, type, sector);
	if (len)
		b[n++] = (struct vd_buf){ vblk_data(g, slot), len,
					  type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID };
	b[n++] = (struct vd_buf){ g->status + slot, 1, true };
	vd_add(&g->d, queue, b, n, slot % 2);
}

void vblk_add(struct vblk_rig *g, unsigned int slot, uint32_t type, uint64_t sector, uint32_t len)
{
	vblk_add_on(g, 0, slot, type, sector, len);
}

bool vblk_arrived(void *arg)
{
	struct vblk_wait *w = arg;
	uint32_t id, len;

	while (vd_used(&w->g->d, 0, &id, &len))
		w->got++;
	return w->got >= w->want;
}

bool vblk_finish(struct vblk_rig *g, unsigned int n)
{
	struct vblk_wait w = { g, n, 0 };

	vd_kick(&g->d, 0);
	return fm_until(&g->fm, vblk_arrived, &w) && w.got == n;
}

uint8_t vblk_request(struct vblk_rig *g, uint32_t type, uint64_t sector, uint32_t len)
{
	vblk_add(g, 0, type, sector, len);
	BUG_ON(!vblk_finish(g, 1));
	BUG_ON(gmem_pins(g->fm.m.mem));
	return vblk_status(g, 0);
}

void vblk_fill(struct vblk_rig *g, unsigned int slot, uint8_t c, uint32_t len)
{
	uint8_t buf[VBLK_BUF_BYTES];

	memset(buf, c, len);
	BUG_ON(gmem_write(g->fm.m.mem, vblk_data(g, slot), buf, len));
}

bool vblk_holds(struct vblk_rig *g, unsigned int slot, uint8_t c, uint32_t len)
{
	uint8_t buf[VBLK_BUF_BYTES];

	BUG_ON(gmem_read(g->fm.m.mem, vblk_data(g, slot), buf, len));
	for (uint32_t i = 0; i < len; i++)
		if (buf[i] != c)
			return false;
	return true;
}

bool vblk_sector_is(struct vblk_rig *g, uint64_t sector, uint8_t c)
{
	vblk_fill(g, 0, (uint8_t)~c, BLK_SECTOR);
	return vblk_request(g, VIRTIO_BLK_T_IN, sector, BLK_SECTOR) == VIRTIO_BLK_S_OK &&
	       vblk_holds(g, 0, c, BLK_SECTOR);
}

bool vblk_write_sector(struct vblk_rig *g, uint64_t sector, uint8_t c)
{
	vblk_fill(g, 0, c, BLK_SECTOR);
	return vblk_request(g, VIRTIO_BLK_T_OUT, sector, BLK_SECTOR) == VIRTIO_BLK_S_OK;
}

void vblk_copy_ram(struct vblk_rig *from, struct vblk_rig *to)
{
	cleanup_free uint8_t *buf = malloc(MIB(1));

	for (gpa_t at = 0; at < MIB(64); at += MIB(1)) {
		BUG_ON(gmem_read(from->fm.m.mem, at, buf, MIB(1)));
		BUG_ON(gmem_write(to->fm.m.mem, at, buf, MIB(1)));
	}
}

void vblk_restore_from(struct vblk_rig *g, struct vblk_rig *h, int layer)
{
	struct wbuf w;
	struct err e;

	vblk_make(h, false);
	grants_drop(h->fm.m.grants, "disk/vda/base");
	vblk_give(h, "base", disk_reopen(g->base_fd));
	h->hdr = g->hdr;
	h->status = g->status;
	h->data = g->data;
	h->d = g->d;
	h->d.fm = &h->fm;
	if (layer >= 0)
		vblk_give(h, "layer", disk_reopen(layer));
	fm_save(g->dev, &w);
	assert_int_equal(fm_load(h->dev, w.data, w.len, &e), 0);
	wbuf_fini(&w);
}
