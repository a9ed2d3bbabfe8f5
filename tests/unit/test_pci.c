/* SPDX-License-Identifier: MIT */
/*
 * Config space by ECAM and by ports, BARs that a guest sizes, moves and stacks, resets and hostile
 * states. The function under test is null_virtio's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/null_virtio.h"

#define BAR_SIZE 0x8000u
#define SLOT 1
#define CF8 0xcf8
#define CFC 0xcfc

struct rig {
	struct fake_machine fm;
	struct null_virtio *a, *b;
};

static int up(void **state)
{
	static struct rig r;

	memset(&r, 0, sizeof(r));
	fm_init(&r.fm, MIB(64), -1);
	r.a = (struct null_virtio *)fm_add(&r.fm, &null_virtio_class, "a", NULL);
	r.b = (struct null_virtio *)fm_add(&r.fm, &null_virtio_class, "b", NULL);
	fm_start(&r.fm);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	fm_fini(&((struct rig *)*state)->fm);
	return 0;
}

static uint64_t cfg(struct rig *r, unsigned int slot, unsigned int reg, unsigned int len)
{
	return fm_read(&r->fm, fm_ecam(slot, reg), len);
}

static void cfg_set(struct rig *r, unsigned int slot, unsigned int reg, unsigned int len,
		    uint64_t v)
{
	fm_write(&r->fm, fm_ecam(slot, reg), len, v);
}

/* num_queues in virtio's common configuration says that the BAR answers at base. */
static bool answers(struct rig *r, uint64_t base)
{
	return fm_read(&r->fm, base + 18, 2) == NULL_QUEUES;
}

static void decode(struct rig *r, unsigned int slot, bool on)
{
	cfg_set(r, slot, PCI_COMMAND, 2, on ? PCI_COMMAND_MEMORY : 0);
}

static void test_pci__ids_are_where_they_belong(void **state)
{
	struct rig *r = *state;

	assert_int_equal(cfg(r, 0, PCI_VENDOR_ID, 2), 0x8086);
	assert_int_equal(cfg(r, 0, PCI_CLASS_DEVICE, 2), 0x0600);
	assert_int_equal(cfg(r, SLOT, PCI_VENDOR_ID, 4), 0x107e1af4);
	assert_int_equal(cfg(r, SLOT, PCI_REVISION_ID, 1), 1);
	assert_int_equal(cfg(r, SLOT, PCI_CLASS_DEVICE + 1, 1), 0xff);
	assert_int_equal(cfg(r, SLOT, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(cfg(r, SLOT, PCI_INTERRUPT_PIN, 1), 0);
	assert_true(cfg(r, SLOT, PCI_STATUS, 2) & PCI_STATUS_CAP_LIST);
}

static void test_pci__empty_slots_and_functions_read_all_ones(void **state)
{
	struct rig *r = *state;

	assert_int_equal(cfg(r, 3, PCI_VENDOR_ID, 4), 0xffffffff);
	assert_int_equal(cfg(r, 31, 0, 8), ~0ull);
	/* function 1 of a device that has only one */
	assert_int_equal(fm_read(&r->fm, fm_ecam(SLOT, 0) + 0x1000, 4), 0xffffffff);
	cfg_set(r, 3, PCI_COMMAND, 2, 7);
}

static void test_pci__extended_space_is_zero_and_wide_accesses_work(void **state)
{
	struct rig *r = *state;

	assert_int_equal(cfg(r, SLOT, 0x100, 4), 0);
	assert_int_equal(cfg(r, SLOT, 0xffc, 4), 0);
	assert_int_equal(cfg(r, SLOT, 0, 8) & 0xffffffff, 0x107e1af4);
	assert_int_equal(cfg(r, SLOT, 0xfc, 8) >> 32, 0);
	cfg_set(r, SLOT, 0xfc, 8, ~0ull);
	cfg_set(r, SLOT, 0xffe, 8, ~0ull); /* over the function's end */
	assert_int_equal(cfg(r, SLOT, 0xffe, 4), 0xffffffff);
	/* odd places and widths reach the bytes they name */
	assert_int_equal(cfg(r, SLOT, 1, 2), 0x7e1a);
	cfg_set(r, SLOT, PCI_CACHE_LINE_SIZE - 1, 2, 0x1234);
	assert_int_equal(cfg(r, SLOT, PCI_CACHE_LINE_SIZE, 1), 0x12);
}

static void test_pci__read_only_registers_keep_their_values(void **state)
{
	struct rig *r = *state;
	uint8_t before[256];

	for (unsigned int i = 0; i < 256; i++)
		before[i] = (uint8_t)cfg(r, SLOT, i, 1);
	for (unsigned int i = 0; i < 256; i++)
		cfg_set(r, SLOT, i, 1, 0xff);
	for (unsigned int i = 0; i < 256; i++)
		if (!r->a->v.pci.wmask[i])
			assert_int_equal(cfg(r, SLOT, i, 1), before[i]);
	assert_int_equal(cfg(r, SLOT, PCI_COMMAND, 2),
			 PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |
				 PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE);
}

static void test_pci__ports_reach_the_same_registers(void **state)
{
	struct rig *r = *state;

	fm_out(&r->fm, CF8, 4, 0x80000000u | SLOT << 11);
	assert_int_equal(fm_in(&r->fm, CF8, 4), 0x80000000u | SLOT << 11);
	assert_int_equal(fm_in(&r->fm, CFC, 4), 0x107e1af4);
	assert_int_equal(fm_in(&r->fm, CFC + 2, 2), 0x107e);
	assert_int_equal(fm_in(&r->fm, CFC + 3, 1), 0x10);
	fm_out(&r->fm, CF8, 4, 0x80000000u | SLOT << 11 | PCI_COMMAND);
	fm_out(&r->fm, CFC, 2, PCI_COMMAND_MASTER);
	assert_int_equal(cfg(r, SLOT, PCI_COMMAND, 2), PCI_COMMAND_MASTER);
	/* disabled, another bus, no such slot; byte accesses are not the latch */
	fm_out(&r->fm, CF8, 1, 0);
	assert_int_equal(fm_in(&r->fm, CFC, 2), PCI_COMMAND_MASTER);
	fm_out(&r->fm, CF8, 4, SLOT << 11);
	assert_int_equal(fm_in(&r->fm, CFC, 4), 0xffffffff);
	fm_out(&r->fm, CF8, 4, 0x80010000u | SLOT << 11);
	assert_int_equal(fm_in(&r->fm, CFC, 4), 0xffffffff);
	fm_out(&r->fm, CF8, 4, 0x80000000u | 9 << 11);
	assert_int_equal(fm_in(&r->fm, CFC, 4), 0xffffffff);
}

static void test_pci__reset_control_port_asks_for_a_reset(void **state)
{
	struct rig *r = *state;

	fm_out(&r->fm, 0xcf9, 1, 0x02);
	assert_int_equal(r->fm.events[VM_EVENT_RESET], 0);
	fm_out(&r->fm, 0xcf9, 1, 0x06);
	assert_int_equal(r->fm.events[VM_EVENT_RESET], 1);
}

static void test_pci__capabilities_form_a_list_that_ends(void **state)
{
	struct rig *r = *state;
	unsigned int cap = (unsigned int)cfg(r, SLOT, PCI_CAPABILITY_LIST, 1), n = 0;

	while (cap) {
		assert_true(cap >= 0x40 && cap % 4 == 0);
		assert_true(++n <= 48);
		cap = (unsigned int)cfg(r, SLOT, cap + PCI_CAP_LIST_NEXT, 1);
	}
	assert_int_equal(n, 6); /* five of virtio's and MSI-X */
}

static void test_pci__bar_is_placed_and_answers_once_decoding_is_on(void **state)
{
	struct rig *r = *state;
	uint64_t base = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4);

	assert_true(base >= PCI_MMIO32_BASE && base % BAR_SIZE == 0);
	assert_false(answers(r, base));
	decode(r, SLOT, true);
	assert_true(answers(r, base));
	decode(r, SLOT, false);
	assert_false(answers(r, base));
	assert_int_not_equal(base, cfg(r, SLOT + 1, PCI_BASE_ADDRESS_0, 4));
}

static void test_pci__bar_tells_its_size(void **state)
{
	struct rig *r = *state;
	uint64_t base = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4);

	decode(r, SLOT, true); /* sizing with decoding on must do no harm */
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, 0xffffffff);
	assert_int_equal(cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4), (uint32_t) ~(BAR_SIZE - 1));
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, base);
	assert_true(answers(r, base));
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_1, 4, 0xffffffff);
	assert_int_equal(cfg(r, SLOT, PCI_BASE_ADDRESS_1, 4), 0);
	cfg_set(r, SLOT, PCI_ROM_ADDRESS, 4, 0xffffffff);
	assert_int_equal(cfg(r, SLOT, PCI_ROM_ADDRESS, 4), 0);
}

static void test_pci__moved_bar_is_followed(void **state)
{
	struct rig *r = *state;
	uint64_t from = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4), to = PCI_MMIO32_BASE + MIB(64);

	decode(r, SLOT, true);
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, to);
	assert_true(answers(r, to));
	assert_false(answers(r, from));
	/* a byte at a time, as no sane driver would */
	for (unsigned int i = 0; i < 4; i++)
		cfg_set(r, SLOT, PCI_BASE_ADDRESS_0 + i, 1, from >> (8 * i));
	assert_true(answers(r, from));
	assert_false(answers(r, to));
}

static void test_pci__bar_outside_the_window_is_nowhere(void **state)
{
	static const uint64_t bad[] = { 0,	    0x100000,	   0xfee00000,
					0xfec00000, PCI_ECAM_BASE, PCI_MMIO32_BASE - BAR_SIZE,
					0xffff8000 };
	struct rig *r = *state;

	decode(r, SLOT, true);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, bad[i]);
		assert_int_equal(cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4), bad[i]);
		assert_false(answers(r, bad[i]));
		assert_int_equal(r->a->v.pci.bar_base[0], 0);
	}
	/* and config space still answers, though a BAR was laid over it */
	assert_int_equal(cfg(r, SLOT, PCI_VENDOR_ID, 4), 0x107e1af4);
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, PCI_ECAM_BASE - BAR_SIZE);
	assert_true(answers(r, PCI_ECAM_BASE - BAR_SIZE));
}

static void test_pci__bar_over_another_stays_hidden_until_there_is_room(void **state)
{
	struct rig *r = *state;
	uint64_t a = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4);

	decode(r, SLOT, true);
	decode(r, SLOT + 1, true);
	cfg_set(r, SLOT + 1, PCI_BASE_ADDRESS_0, 4, a);
	assert_int_equal(r->a->v.pci.bar_base[0], a);
	assert_int_equal(r->b->v.pci.bar_base[0], 0);
	decode(r, SLOT, false);
	assert_int_equal(r->a->v.pci.bar_base[0], 0);
	assert_int_equal(r->b->v.pci.bar_base[0], a);
	decode(r, SLOT, true);
	assert_int_equal(r->a->v.pci.bar_base[0], 0);
	decode(r, SLOT + 1, false);
	assert_int_equal(r->a->v.pci.bar_base[0], a);
}

static void test_pci__swapped_bars_survive_save_and_restore(void **state)
{
	struct rig *r = *state, s = { 0 };
	uint64_t a = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4),
		 b = cfg(r, SLOT + 1, PCI_BASE_ADDRESS_0, 4);
	struct wbuf w;
	struct err e;

	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, b);
	cfg_set(r, SLOT + 1, PCI_BASE_ADDRESS_0, 4, a);
	decode(r, SLOT, true);
	decode(r, SLOT + 1, true);
	fm_init(&s.fm, MIB(64), -1);
	s.a = (struct null_virtio *)fm_add(&s.fm, &null_virtio_class, "a", NULL);
	s.b = (struct null_virtio *)fm_add(&s.fm, &null_virtio_class, "b", NULL);
	for (unsigned int i = 0; i < r->fm.nr_devs; i++) {
		fm_save(r->fm.dev[i], &w);
		assert_int_equal(fm_load(s.fm.dev[i], w.data, w.len, &e), 0);
		wbuf_fini(&w);
	}
	fm_start(&s.fm);
	assert_int_equal(s.a->v.pci.bar_base[0], b);
	assert_int_equal(s.b->v.pci.bar_base[0], a);
	assert_true(answers(&s, a) && answers(&s, b));
	fm_fini(&s.fm);
}

static void test_pci__latch_of_the_ports_is_saved(void **state)
{
	struct rig *r = *state;
	struct fake_machine s;
	struct wbuf w;
	struct err e;

	fm_out(&r->fm, CF8, 4, 0x80000000u | SLOT << 11);
	fm_save(r->fm.dev[0], &w);
	fm_init(&s, MIB(64), -1);
	assert_int_equal(fm_load(s.dev[0], w.data, w.len, &e), 0);
	assert_int_equal(fm_in(&s, CF8, 4), 0x80000000u | SLOT << 11);
	wbuf_fini(&w);
	fm_fini(&s);
}

static void test_pci__reset_restores_power_on_contents(void **state)
{
	struct rig *r = *state;
	uint64_t base = cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4);

	decode(r, SLOT, true);
	cfg_set(r, SLOT, PCI_BASE_ADDRESS_0, 4, PCI_MMIO32_BASE + MIB(64));
	cfg_set(r, SLOT, PCI_INTERRUPT_LINE, 1, 9);
	null_virtio_class.reset(&r->a->v.dev);
	assert_int_equal(cfg(r, SLOT, PCI_BASE_ADDRESS_0, 4), base);
	assert_int_equal(cfg(r, SLOT, PCI_COMMAND, 2), 0);
	assert_int_equal(cfg(r, SLOT, PCI_INTERRUPT_LINE, 1), 0);
	assert_int_equal(r->a->v.pci.bar_base[0], 0);
}

static void test_pci__state_that_changes_read_only_bits_is_refused(void **state)
{
	struct rig *r = *state;
	struct null_state s = r->a->state;
	struct err e;

	assert_int_equal(null_virtio_class.check(&r->a->v.dev, &s, &e), 0);
	s.pci.config[PCI_COMMAND] = PCI_COMMAND_MEMORY;
	assert_int_equal(null_virtio_class.check(&r->a->v.dev, &s, &e), 0);
	s.pci.config[PCI_COMMAND] = PCI_COMMAND_IO;
	assert_int_equal(null_virtio_class.check(&r->a->v.dev, &s, &e), -EINVAL);
	s = r->a->state;
	s.pci.config[PCI_VENDOR_ID] ^= 1;
	assert_int_equal(null_virtio_class.check(&r->a->v.dev, &s, &e), -EINVAL);
	s = r->a->state;
	s.pci.config[PCI_BASE_ADDRESS_0] |= 0x10; /* below the size */
	assert_int_equal(null_virtio_class.check(&r->a->v.dev, &s, &e), -EINVAL);
}

static void test_pci__slots_run_out_with_a_story(void **state)
{
	struct rig *r = *state;
	struct device *d[PCI_SLOTS];
	struct err e;
	unsigned int n = 0;
	int ret;

	while (!(ret = null_virtio_class.create(&r->fm.m, "more", NULL, &d[n], &e)))
		assert_true(++n < PCI_SLOTS);
	assert_int_equal(ret, -ENOSPC);
	assert_string_equal(e.msg, "all 32 PCI slots are taken");
	assert_int_equal(n, PCI_SLOTS - 3);
	while (n)
		null_virtio_class.destroy(d[--n]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_pci__ids_are_where_they_belong),
		T(test_pci__empty_slots_and_functions_read_all_ones),
		T(test_pci__extended_space_is_zero_and_wide_accesses_work),
		T(test_pci__read_only_registers_keep_their_values),
		T(test_pci__ports_reach_the_same_registers),
		T(test_pci__reset_control_port_asks_for_a_reset),
		T(test_pci__capabilities_form_a_list_that_ends),
		T(test_pci__bar_is_placed_and_answers_once_decoding_is_on),
		T(test_pci__bar_tells_its_size),
		T(test_pci__moved_bar_is_followed),
		T(test_pci__bar_outside_the_window_is_nowhere),
		T(test_pci__bar_over_another_stays_hidden_until_there_is_room),
		T(test_pci__swapped_bars_survive_save_and_restore),
		T(test_pci__latch_of_the_ports_is_saved),
		T(test_pci__reset_restores_power_on_contents),
		T(test_pci__state_that_changes_read_only_bits_is_refused),
		T(test_pci__slots_run_out_with_a_story),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
