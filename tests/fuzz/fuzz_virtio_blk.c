/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: virtio-blk behind a hostile driver. Each 8 bytes of the input's first part are a
 * descriptor (16-bit address and length, flags, next), the rest lies in guest memory where those
 * point. The queue is kicked until the device is quiet; afterwards nothing may be pinned.
 */
#include "base/util.h"
#include "event/grants.h"
#include "tests/lib/disk.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vdriver.h"
#include "virtio/blk.h"

#define ENTRIES 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct fake_machine *machine(struct vdriver *d)
{
	static const struct virtio_blk_cfg cfg = { .size_bytes = KIB(256) };
	static struct fake_machine fm;

	if (fm.nr_devs)
		return &fm;
	fm_init(&fm, MIB(64), -1);
	fm_add(&fm, &virtio_blk_class, "vda", &cfg);
	BUG_ON(grants_put(fm.m.grants, "disk/vda/data", disk_file(), NULL));
	fm_start(&fm);
	vd_probe(d, &fm, 2);
	return &fm;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct vdriver d;
	struct fake_machine *fm = machine(&d);
	size_t n = MIN(size / 8, ENTRIES), rest = size - n * 8;

	fm->brk = FM_ALLOC_BASE; /* rings of every run in the same place */
	vd_start(&d, ~0ull, ENTRIES);
	for (unsigned int i = 0; i < n; i++) {
		const uint8_t *p = data + (size_t)i * 8;

		vd_desc(&d, d.q[0].desc, i, p[0] | (gpa_t)p[1] << 8, p[2] | (uint32_t)p[3] << 8,
			p[4], p[5] % (ENTRIES + 1));
	}
	BUG_ON(gmem_write(fm->m.mem, 0, data + n * 8, MIN(rest, 65536u)));
	for (unsigned int i = 0; i < 8 && i < n; i++)
		vd_avail(&d, 0, data[i * 8 + 7]);
	vd_kick(&d, 0);
	for (unsigned int i = 0; i < 4; i++)
		fm_spin(fm);
	fm_quiesce(fm);
	BUG_ON(gmem_pins(fm->m.mem));
	fm_resume(fm);
	return 0;
}
