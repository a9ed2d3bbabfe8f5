/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: virtio-rng behind a hostile driver: after an honest start, steps of 8 bytes write
 * its rings, its registers and its doorbell in any order. After a reset it must work.
 */
#include <linux/virtio_pci.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vdriver.h"
#include "virtio/rng.h"

static void step(struct vdriver *d, const uint8_t s[8])
{
	gpa_t at = FM_ALLOC_BASE + s[1] + 256ull * (s[2] % 8);

	switch (s[0] % 4) {
	case 0:
		BUG_ON(gmem_write(d->fm->m.mem, at, s + 3, 5));
		break;
	case 1:
		vd_set(d, s[1] % 64, s[0] & 4 ? 2 : 4, bus_get(s + 3, 5));
		break;
	case 2:
		vd_avail(d, 0, s[1] % 33);
		break;
	default:
		fm_write(d->fm, d->notify, 2, 0);
		fm_spin(d->fm);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct virtio_rng_cfg cfg = { 0 };
	struct vd_buf b = { 0x8000, 64, true };
	static struct fake_machine fm;
	struct vdriver d;

	if (!fm.nr_devs) {
		fm_init(&fm, MIB(64), -1);
		fm_add(&fm, &virtio_rng_class, "rng", &cfg);
		fm_start(&fm);
		fm.interrupted = kvm_model_interrupted;
	}
	fm.taken = size & 1 ? kvm_model_taken : NULL;
	for (int life = 0; life < 2; life++) {
		fm.brk = FM_ALLOC_BASE; /* rings in the same place */
		vd_probe(&d, &fm, 4);
		vd_start(&d, ~0ull, 32);
		for (size_t i = 0; !life && i + 8 <= size; i += 8)
			step(&d, data + i);
		fm_quiesce(&fm);
		fm_assert_valid(fm.dev[1]);
		fm_resume(&fm);
	}
	vd_submit(&d, 0, &b, 1, false);
	BUG_ON(!vd_wait_used(&d, 0, NULL, NULL));
	return 0;
}
