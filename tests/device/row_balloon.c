/* SPDX-License-Identifier: MIT */
/*
 * Conformance row of virtio-balloon: the guest gives pages by inflating and by reporting; a page
 * that was given reads as zero before the guest writes to it again.
 */
#include <linux/virtio_balloon.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "tests/device/conformance.h"
#include "virtio/balloon.h"

enum { INFLATE, DEFLATE, STATS, HINT, REPORT };
#define PAGES MIB(32) /* where the pages are that come and go */

static void balloon_boot(struct conf *c)
{
	uint8_t stat[10] = { VIRTIO_BALLOON_S_MEMFREE, 0, 77 };
	struct vd_buf b = { c->buf + 0x8000, sizeof(stat), false };

	c->done = 0;
	CONF(c, !gmem_write(c->fm.m.mem, b.gpa, stat, sizeof(stat)));
	vd_submit(&c->d, STATS, &b, 1, false);
}

/* Arrays of 64 page numbers, every other one of them downwards. */
static void balloon_load(struct conf *c)
{
	for (uint32_t i = 0; i < 48; i++) {
		struct vd_buf b = { c->buf + 256 * i, 256, false };
		le32 pfn[64];

		for (uint32_t k = 0; k < 64; k++)
			pfn[k] = le32_put((uint32_t)(PAGES / GMEM_PAGE) + 64 * i +
					  (i & 1 ? 63 - k : k));
		CONF(c, !gmem_write(c->fm.m.mem, b.gpa, pfn, sizeof(pfn)));
		conf_submit(c, &b, 1);
		if (i % 16 == 7)
			fm_spin(&c->fm);
	}
}

static void balloon_progress(struct conf *c)
{
	gpa_t page = PAGES + MIB(1) + GMEM_PAGE * (c->done++ % 16);
	struct vd_buf b = { page, GMEM_PAGE, true };
	uint64_t word = 0x1122334455667788;

	CONF(c, !gmem_write(c->fm.m.mem, page, &word, sizeof(word)));
	vd_submit(&c->d, REPORT, &b, 1, false);
	CONF(c, vd_wait_used(&c->d, REPORT, NULL, NULL));
	CONF(c, !gmem_read(c->fm.m.mem, page, &word, sizeof(word)));
	CONF(c, word == 0);
}

static const struct virtio_balloon_cfg balloon_cfg = {
	.deflate_on_oom = 1, .stats = 1, .reporting = 1, .hinting = 1
};

const struct conf_row conf_row_balloon = {
	.cls = &virtio_balloon_class,
	.id = "balloon",
	.cfg = &balloon_cfg,
	.virtio_id = 5,
	.features = 1u << VIRTIO_BALLOON_F_STATS_VQ | 1u << VIRTIO_BALLOON_F_FREE_PAGE_HINT |
		    1u << VIRTIO_BALLOON_F_REPORTING,
	.boot = balloon_boot,
	.load = balloon_load,
	.drain = conf_drain,
	.progress = balloon_progress,
};
