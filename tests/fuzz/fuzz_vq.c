/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a device's side of a ring whose driver writes what it likes, also between pops, in
 * steps of 8 bytes.
 */
#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/null_virtio.h"
#include "tests/lib/vdriver.h"

static void step(struct virtio_dev *v, struct vq_chain *c, const uint8_t s[8])
{
	const struct vq_state *st = &v->st->vq[0];
	struct gmem *gm = v->dev.m->mem;
	uint8_t buf[64] = { 0 };

	switch (s[0] % 5) {
	case 0: /* anywhere in the rings and buffers */
		BUG_ON(gmem_write(gm, FM_ALLOC_BASE + ((s[1] | s[2] << 8) & 0x1fff), s + 3, 5));
		break;
	case 1: /* a few more chains */
		BUG_ON(gmem_store16(gm, st->avail + 2, (uint16_t)(st->last_avail + s[1] % 4)));
		break;
	case 2:
		if (vq_pop(v, 0, c) <= 0)
			break;
		vq_write(v, c, s[2], buf, vq_read(v, c, s[1], buf, sizeof(buf)));
		if (s[3] & 1)
			vq_unpop(v, 0);
		break;
	case 3: /* perhaps long after, or never */
		vq_push(v, 0, c->head, s[1]);
		break;
	default:
		vq_notify(v, 0);
		vq_empty(v, 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fake_machine fm;
	struct vq_chain c = { 0 };
	struct vdriver d;

	if (!fm.nr_devs) {
		fm_init(&fm, MIB(64), -1);
		fm_add(&fm, &null_virtio_class, "null", NULL);
		fm_start(&fm);
	}
	fm.brk = FM_ALLOC_BASE;
	vd_probe(&d, &fm, NULL_VIRTIO_ID);
	vd_start(&d, size & 1 ? 0 : ~0ull, 16);
	for (size_t i = 0; i + 8 <= size; i += 8)
		step((struct virtio_dev *)fm.dev[1], &c, data + i);
	fm_spin(&fm);
	BUG_ON(gmem_pins(fm.m.mem));
	fm_assert_valid(fm.dev[1]);
	return 0;
}
