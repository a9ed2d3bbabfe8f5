/* SPDX-License-Identifier: MIT */
/*
 * See vballoon.h.
 */
#include "tests/lib/vballoon.h"

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"

static void on_change(void *arg)
{
	((struct vballoon *)arg)->changes++;
}

void vb_make(struct vballoon *r, uint64_t ram, const struct virtio_balloon_cfg *cfg)
{
	memset(r, 0, sizeof(*r));
	fm_init(&r->fm, ram, -1);
	r->dev = fm_add(&r->fm, &virtio_balloon_class, "balloon", cfg);
	virtio_balloon_on_change(r->dev, on_change, r);
	r->buf = fm_alloc(&r->fm, 65536, 4096);
}

void vb_start(struct vballoon *r, uint64_t features, bool packed, uint32_t poison)
{
	const uint64_t of[VB_QUEUES] = { ~0ull, ~0ull, VB_F(STATS_VQ), VB_F(FREE_PAGE_HINT),
					 VB_F(REPORTING) };
	unsigned int n = 0;

	vd_negotiate(&r->d, features | 1ull << VIRTIO_RING_F_EVENT_IDX);
	vd_msix(&r->d);
	vd_set(&r->d, VIRTIO_PCI_COMMON_MSIX, 2, 0);
	for (unsigned int i = 0; i < VB_QUEUES; i++) {
		r->q[i] = -1;
		if (!(r->d.features & of[i]))
			continue;
		r->q[i] = (int)(packed ? n++ : i);
		vd_queue_setup(&r->d, (unsigned int)r->q[i], 0, true);
	}
	if (r->d.features & VB_F(PAGE_POISON))
		fm_write(&r->fm, r->d.config + 12, 4, poison);
	vd_set_status(&r->d, vd_status(&r->d) | VIRTIO_CONFIG_S_DRIVER_OK);
	fm_spin(&r->fm);
}

void vb_up(struct vballoon *r, uint64_t ram, uint64_t features)
{
	static const struct virtio_balloon_cfg all = { 1, 1, 1, 1 };

	vb_make(r, ram, &all);
	fm_start(&r->fm);
	vd_probe(&r->d, &r->fm, 5);
	vb_start(r, features, true, 0);
}

static bool come_back(struct vballoon *r, int queue, const struct vd_buf *b)
{
	unsigned int q = (unsigned int)queue;

	BUG_ON(queue < 0);
	vd_submit(&r->d, q, b, 1, false);
	return vd_wait_used(&r->d, q, NULL, NULL);
}

bool vb_pfns(struct vballoon *r, int queue, const uint32_t *pfn, unsigned int n)
{
	struct vd_buf b = { r->buf, 4 * n, false };

	BUG_ON(n > 4096);
	for (unsigned int i = 0; i < n; i++) {
		le32 raw = le32_put(pfn[i]);

		BUG_ON(gmem_write(r->fm.m.mem, r->buf + 4 * i, &raw, 4));
	}
	return come_back(r, queue, &b);
}

bool vb_pages(struct vballoon *r, int queue, gpa_t gpa, uint32_t len)
{
	struct vd_buf b = { gpa, len, true };

	return come_back(r, queue, &b);
}

bool vb_word(struct vballoon *r, int queue, uint32_t val)
{
	return vb_pfns(r, queue, &val, 1);
}

void vb_stats(struct vballoon *r, const uint16_t *tag, const uint64_t *val, unsigned int n)
{
	struct vd_buf b = { r->buf + 32768, 10 * n, false };

	for (unsigned int i = 0; i < n; i++) {
		le16 t = le16_put(tag[i]);
		le64 v = le64_put(val[i]);

		BUG_ON(gmem_write(r->fm.m.mem, b.gpa + 10 * i, &t, 2));
		BUG_ON(gmem_write(r->fm.m.mem, b.gpa + 10 * i + 2, &v, 8));
	}
	vd_submit(&r->d, (unsigned int)r->q[VB_STATS], &b, 1, false);
	fm_spin(&r->fm);
}

void vb_fill(struct vballoon *r, gpa_t gpa, uint64_t len, uint32_t mark)
{
	for (gpa_t at = gpa; at < gpa + len; at += GMEM_PAGE) {
		uint32_t w[2] = { (uint32_t)(at / GMEM_PAGE), mark };

		BUG_ON(gmem_write(r->fm.m.mem, at, w, sizeof(w)));
	}
}

unsigned int vb_filled(struct vballoon *r, gpa_t gpa, uint64_t len, uint32_t mark)
{
	unsigned int n = 0;

	for (gpa_t at = gpa; at < gpa + len; at += GMEM_PAGE) {
		uint32_t w[2];

		BUG_ON(gmem_read(r->fm.m.mem, at, w, sizeof(w)));
		n += w[0] == at / GMEM_PAGE && w[1] == mark;
	}
	return n;
}

unsigned int vb_zero(struct vballoon *r, gpa_t gpa, uint64_t len)
{
	uint8_t page[GMEM_PAGE];
	unsigned int n = 0;

	for (gpa_t at = gpa; at < gpa + len; at += GMEM_PAGE) {
		BUG_ON(gmem_read(r->fm.m.mem, at, page, sizeof(page)));
		n += bytes_are_zero(page, sizeof(page));
	}
	return n;
}

void vb_template(struct vballoon *r, uint64_t offset, uint64_t len, uint32_t mark)
{
	struct gmem_extent x = { offset, len };
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct err e;

	BUG_ON(fd < 0 || ftruncate(fd, (off_t)(offset + len)));
	for (uint64_t at = offset; at < offset + len; at += GMEM_PAGE) {
		uint32_t w[2] = { (uint32_t)(at / GMEM_PAGE), mark };

		BUG_ON(fd_pwrite_full(fd, w, sizeof(w), at));
	}
	BUG_ON(gmem_map_file(r->fm.m.mem, fd, &x, 1, &e));
	close(fd);
}

uint32_t vb_config(struct vballoon *r, unsigned int off)
{
	return (uint32_t)fm_read(&r->fm, r->d.config + off, 4);
}

struct virtio_balloon_view vb_view(struct vballoon *r)
{
	struct virtio_balloon_view v;

	virtio_balloon_view(r->dev, &v);
	return v;
}

unsigned int vb_mappings(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned int n = 0;
	int c;

	BUG_ON(!f);
	while ((c = getc(f)) != EOF)
		n += c == '\n';
	fclose(f);
	return n;
}
