/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a guest that writes any register of the PCI bus and of two functions on it: config
 * space by ECAM and by ports, BARs wherever they are, MSI-X tables, virtio's registers. Steps of 8
 * bytes: what, where, width, value. Whatever state comes of it must be one that a restore accepts.
 */
#include <linux/pci_regs.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/null_virtio.h"

static void step(struct fake_machine *fm, const uint8_t s[8])
{
	unsigned int len = 1u << (s[0] >> 6), slot = (s[0] >> 4 & 3) % 3;
	uint64_t page = s[1] & 7, at = s[2], val = bus_get(s + 3, 5);
	uint64_t cfg = fm_ecam(slot, (unsigned int)at), bar = cfg - at + PCI_BASE_ADDRESS_0;

	switch (s[0] % 5) {
	case 0:
		fm_write(fm, cfg + s[1], len, val);
		fm_read(fm, cfg + s[1], len);
		break;
	case 1:
		fm_out(fm, (uint16_t)(0xcf8 + at % 8), MIN(len, 4u), val);
		fm_in(fm, (uint16_t)(0xcf8 + at % 8), MIN(len, 4u));
		break;
	case 2: /* where the function says its BAR is */
		at += page << 12 | (fm_read(fm, bar, 4) & ~0xfu);
		fm_write(fm, at, len, val);
		fm_read(fm, at, len);
		break;
	case 3: /* a BAR move that is likely to matter */
		fm_write(fm, bar, 4, PCI_MMIO32_BASE + at * 0x4000);
		fm_write(fm, fm_ecam(slot, PCI_COMMAND), 2, val);
		break;
	default:
		fm_spin(fm);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct fake_machine fm;

	if (!fm.nr_devs) {
		fm_init(&fm, MIB(64), -1);
		fm_add(&fm, &null_virtio_class, "a", NULL);
		fm_add(&fm, &null_virtio_class, "b", NULL);
		fm_start(&fm);
	}
	for (unsigned int i = 0; i < fm.nr_devs; i++)
		fm.dev[i]->cls->reset(fm.dev[i]);
	for (size_t i = 0; i + 8 <= size; i += 8)
		step(&fm, data + i);
	for (unsigned int i = 0; i < fm.nr_devs; i++)
		fm_assert_valid(fm.dev[i]);
	return 0;
}
