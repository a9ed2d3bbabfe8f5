/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: virtio-balloon behind a hostile driver: after an honest start with some subset of
 * its functions, steps of 8 bytes write rings, buffers, registers, config space and doorbells, and
 * its owner asks for things. Whatever it is then is a state that a snapshot may hold; after a reset
 * it must work.
 */
#include <linux/virtio_pci.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vballoon.h"

static void owner(struct vballoon *r, uint8_t what, uint32_t val)
{
	struct err e;

	switch (what % 6) {
	case 0:
		(void)virtio_balloon_set_target(r->dev, val, &e);
		break;
	case 1:
		(void)virtio_balloon_poll_stats(r->dev, val % 2 ? 1000 : 0, &e);
		break;
	case 2:
		(void)virtio_balloon_hint(r->dev, &e);
		break;
	case 3:
		(void)virtio_balloon_take_hinted(r->dev, val);
		break;
	case 4:
		virtio_balloon_hint_end(r->dev);
		break;
	default:
		fm_quiesce(&r->fm);
		fm_assert_valid(r->dev);
		fm_resume(&r->fm);
	}
}

static void step(struct vballoon *r, const uint8_t s[8])
{
	/* rings of 128 entries: five times 3.3 KiB, behind the buffer */
	gpa_t at = r->buf + s[1] + 256ull * s[2] % KIB(84);
	unsigned int q = s[1] % VB_QUEUES;
	struct vd_buf b = { bus_get(s + 3, 4), s[2] * 37u, s[7] & 1 };

	switch (s[0] % 8) {
	case 0:
		BUG_ON(gmem_write(r->fm.m.mem, at, s + 3, 5));
		break;
	case 1:
		vd_set(&r->d, s[1] % 64, s[0] & 8 ? 2 : 4, bus_get(s + 3, 4));
		break;
	case 2:
		fm_write(&r->fm, r->d.config + s[1] % 24, 1u << s[2] % 3, bus_get(s + 3, 4));
		break;
	case 3:
		owner(r, s[1], (uint32_t)bus_get(s + 3, 4));
		break;
	case 4:
		fm_write(&r->fm, r->d.notify + (uint64_t)r->d.notify_mult * q, 2, q);
		fm_spin(&r->fm);
		break;
	default:
		if (r->d.q[q].size)
			vd_add(&r->d, q, &b, 1, s[0] & 8);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct virtio_balloon_cfg all = { 1, 1, 1, 1 };
	static struct vballoon r;
	const uint32_t pfn = 0;

	if (!r.dev) {
		vb_make(&r, MIB(64), &all);
		fm_start(&r.fm);
		r.fm.interrupted = kvm_model_interrupted;
	}
	r.fm.taken = size & 1 ? kvm_model_taken : NULL;
	for (int life = 0; life < 2; life++) {
		r.fm.brk = r.buf + 65536; /* rings in the same place */
		vd_probe(&r.d, &r.fm, 5);
		memset(r.d.q, 0, sizeof(r.d.q));
		vb_start(&r, size && !life ? data[0] : ~0ull, size & 2, 0);
		for (size_t i = 1; !life && i + 8 <= size; i += 8)
			step(&r, data + i);
		owner(&r, 5, 0);
	}
	BUG_ON(!vb_pfns(&r, r.q[VB_INFLATE], &pfn, 1));
	BUG_ON(!vb_pages(&r, r.q[VB_REPORT], 0, GMEM_PAGE));
	return 0;
}
