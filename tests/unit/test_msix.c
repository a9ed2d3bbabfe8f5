/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: what the table and the pending bits say, and which messages reach the guest. The kernel is
 * kvm_model.h.
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
#include "tests/lib/vdriver.h"

#define VECTORS (NULL_QUEUES + 1)

struct rig {
	struct fake_machine fm;
	struct null_virtio *n;
	struct pci_dev *p;
	struct vdriver d;
	uint64_t table, pba;
};

static int up(void **state)
{
	static struct rig r;

	memset(&r, 0, sizeof(r));
	fm_init(&r.fm, MIB(64), -1);
	r.n = (struct null_virtio *)fm_add(&r.fm, &null_virtio_class, "null", NULL);
	r.p = &r.n->v.pci;
	fm_start(&r.fm);
	vd_probe(&r.d, &r.fm, NULL_VIRTIO_ID);
	r.table = r.d.bar + r.p->msix_off;
	r.pba = r.d.bar + r.p->pba_off;
	*state = &r;
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	fm_fini(&r->fm);
	return 0;
}

static void control(struct rig *r, uint16_t v)
{
	fm_write(&r->fm, fm_ecam(r->d.slot, (unsigned int)r->d.msix + PCI_MSIX_FLAGS), 2, v);
}

static void entry(struct rig *r, unsigned int vec, uint32_t lo, uint32_t hi, uint32_t data,
		  uint32_t ctrl)
{
	fm_write(&r->fm, r->table + 16 * vec, 4, lo);
	fm_write(&r->fm, r->table + 16 * vec + 4, 4, hi);
	fm_write(&r->fm, r->table + 16 * vec + 8, 4, data);
	fm_write(&r->fm, r->table + 16 * vec + 12, 4, ctrl);
}

static void mask(struct rig *r, unsigned int vec, uint32_t on)
{
	fm_write(&r->fm, r->table + 16 * vec + 12, 4, on);
}

static void notify(struct rig *r, unsigned int vec)
{
	pthread_mutex_lock(&r->fm.lock);
	pci_msix_notify(r->p, vec);
	pthread_mutex_unlock(&r->fm.lock);
}

/* Messages with this data that came since the last look. */
static unsigned int came(struct rig *r, uint32_t data)
{
	unsigned int n = r->fm.m.kvm->msgs[data];

	r->fm.m.kvm->msgs[data] = 0;
	return n;
}

static void test_msix__vectors_are_masked_at_power_on(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < VECTORS; i++)
		assert_int_equal(fm_read(&r->fm, r->table + 16 * i + 12, 4), 1);
	assert_int_equal(fm_read(&r->fm, r->pba, 8), 0);
}

static void test_msix__open_vector_delivers_its_message(void **state)
{
	struct rig *r = *state;

	entry(r, 1, VD_MSI_ADDR, 0, 0x51, 0);
	control(r, PCI_MSIX_FLAGS_ENABLE);
	notify(r, 1);
	assert_int_equal(came(r, 0x51), 1);
	assert_int_equal(came(r, 0x51), 0);
	assert_int_equal(fm_read(&r->fm, r->pba, 8), 0);
}

static void test_msix__masked_vector_pends_and_comes_once_at_unmask(void **state)
{
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	entry(r, 2, VD_MSI_ADDR, 0, 0x52, 0);
	mask(r, 2, 1);
	notify(r, 2);
	notify(r, 2);
	assert_int_equal(came(r, 0x52), 0);
	assert_int_equal(fm_read(&r->fm, r->pba, 1), 1 << 2);
	mask(r, 2, 0);
	assert_int_equal(came(r, 0x52), 1);
	assert_int_equal(fm_read(&r->fm, r->pba, 1), 0);
}

static void test_msix__function_mask_pends_all(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < VECTORS; i++)
		entry(r, i, VD_MSI_ADDR, 0, 0x50 + i, 0);
	control(r, PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
	for (unsigned int i = 0; i < VECTORS; i++)
		notify(r, i);
	assert_int_equal(fm_read(&r->fm, r->pba, 4), (1 << VECTORS) - 1);
	assert_int_equal(kvm_model_deliver(r->fm.m.kvm), 0);
	control(r, PCI_MSIX_FLAGS_ENABLE);
	assert_int_equal(kvm_model_deliver(r->fm.m.kvm), VECTORS);
	for (unsigned int i = 0; i < VECTORS; i++)
		assert_int_equal(r->fm.m.kvm->msgs[0x50 + i], 1);
}

static void test_msix__disabled_function_is_silent(void **state)
{
	struct rig *r = *state;

	entry(r, 0, VD_MSI_ADDR, 0, 0x50, 0);
	notify(r, 0);
	assert_int_equal(came(r, 0x50), 0);
	assert_int_equal(fm_read(&r->fm, r->pba, 8), 0);
}

static void test_msix__message_changed_under_mask_is_the_one_delivered(void **state)
{
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	entry(r, 0, VD_MSI_ADDR, 0, 0x50, 0);
	mask(r, 0, 1);
	notify(r, 0);
	entry(r, 0, VD_MSI_ADDR, 0, 0x60, 0);
	assert_int_equal(came(r, 0x60), 1);
	assert_int_equal(r->fm.m.kvm->msgs[0x50], 0);
}

static void test_msix__message_changed_while_open_is_followed(void **state)
{
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	entry(r, 0, VD_MSI_ADDR, 0, 0x50, 0);
	fm_write(&r->fm, r->table + 8, 4, 0x61);
	notify(r, 0);
	assert_int_equal(came(r, 0x61), 1);
	assert_int_equal(r->fm.m.kvm->msgs[0x50], 0);
}

static void test_msix__message_to_memory_is_not_an_interrupt(void **state)
{
	static const uint32_t bad[][2] = { { 0, 0 },	       { 0x100000, 0 },
					   { 0xfed00000, 0 },  { 0xfef00000, 0 },
					   { VD_MSI_ADDR, 1 }, { VD_MSI_ADDR, 0xff },
					   { ~0u, ~0u } };
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		entry(r, 0, bad[i][0], bad[i][1], 0x50, 0);
		notify(r, 0);
		assert_int_equal(came(r, 0x50), 0);
		assert_int_equal(fm_read(&r->fm, r->pba, 1), 0); /* sent, for what it is worth */
	}
	/* the same vector works once it is given a real one */
	entry(r, 0, VD_MSI_ADDR, 0, 0x50, 0);
	notify(r, 0);
	assert_int_equal(came(r, 0x50), 1);
}

static void test_msix__any_width_and_place_is_survived(void **state)
{
	static const unsigned int len[] = { 1, 2, 4, 8 };
	struct rig *r = *state;
	unsigned int end = 16 * VECTORS;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int round = 0; round < 2; round++)
		for (unsigned int at = 0; at < end + 16; at++)
			for (size_t i = 0; i < ARRAY_SIZE(len); i++) {
				fm_write(&r->fm, r->table + at, len[i], round ? ~0ull : 0);
				fm_read(&r->fm, r->table + at, len[i]);
				fm_write(&r->fm, r->pba - 8 + at, len[i], ~0ull);
				fm_read(&r->fm, r->pba - 8 + at, len[i]);
			}
	for (unsigned int i = 0; i < VECTORS; i++) {
		assert_int_equal(fm_read(&r->fm, r->table + 16 * i, 8), 0xfffffffffffffffcull);
		assert_int_equal(fm_read(&r->fm, r->table + 16 * i + 8, 8), 0x1ffffffffull);
	}
	/* beyond the table there is nothing */
	assert_int_equal(fm_read(&r->fm, r->table + end, 8), 0);
	assert_int_equal(fm_read(&r->fm, r->pba, 8), 0);
}

static void test_msix__eight_byte_writes_program_an_entry(void **state)
{
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	fm_write(&r->fm, r->table + 16, 8, VD_MSI_ADDR);
	fm_write(&r->fm, r->table + 24, 8, 0x55);
	notify(r, 1);
	assert_int_equal(came(r, 0x55), 1);
}

static void test_msix__vector_that_is_not_there_is_ignored(void **state)
{
	struct rig *r = *state;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	notify(r, VECTORS);
	notify(r, 0xffff);
	notify(r, ~0u);
	assert_int_equal(fm_read(&r->fm, r->pba, 8), 0);
}

static void test_msix__pending_vector_survives_save_and_restore(void **state)
{
	struct rig *r = *state;
	struct fake_machine s;
	struct null_virtio *n;
	struct wbuf w;
	struct err e;

	control(r, PCI_MSIX_FLAGS_ENABLE);
	for (unsigned int i = 0; i < VECTORS; i++)
		entry(r, i, VD_MSI_ADDR, 0, 0x50 + i, i == 2);
	notify(r, 2);
	fm_save(&r->n->v.dev, &w);

	fm_init(&s, MIB(64), -1);
	n = (struct null_virtio *)fm_add(&s, &null_virtio_class, "null", NULL);
	assert_int_equal(fm_load(&n->v.dev, w.data, w.len, &e), 0);
	fm_start(&s);
	assert_int_equal(kvm_model_deliver(s.m.kvm), 0);
	fm_write(&s, r->table + 16 * 2 + 12, 4, 0);
	assert_int_equal(s.m.kvm->msgs[0x52], 1);
	pci_msix_notify(&n->v.pci, 0);
	assert_int_equal(s.m.kvm->msgs[0x50], 1);
	assert_int_equal(n->state.pci.msix_pending[0], 0);
	fm_fini(&s);
	wbuf_fini(&w);
}

static void test_msix__hostile_states_are_refused(void **state)
{
	struct rig *r = *state;
	struct null_state s = r->n->state;
	struct err e;

	s.pci.msix_used = VECTORS - 1;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
	s = r->n->state;
	s.pci.msix[1].addr_lo = 1;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
	s = r->n->state;
	s.pci.msix[1].ctrl = 2;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
	s = r->n->state;
	s.pci.msix_pending[0] = 1 << VECTORS;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
	s = r->n->state;
	s.pci.msix_pending[15] = 0x80;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
	control(r, PCI_MSIX_FLAGS_ENABLE);
	mask(r, 1, 0);
	s = r->n->state;
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), 0);
	s.pci.msix_pending[0] = 1 << 1; /* it would have been delivered */
	assert_int_equal(null_virtio_class.check(&r->n->v.dev, &s, &e), -EINVAL);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_msix__vectors_are_masked_at_power_on),
		T(test_msix__open_vector_delivers_its_message),
		T(test_msix__masked_vector_pends_and_comes_once_at_unmask),
		T(test_msix__function_mask_pends_all),
		T(test_msix__disabled_function_is_silent),
		T(test_msix__message_changed_under_mask_is_the_one_delivered),
		T(test_msix__message_changed_while_open_is_followed),
		T(test_msix__message_to_memory_is_not_an_interrupt),
		T(test_msix__any_width_and_place_is_survived),
		T(test_msix__eight_byte_writes_program_an_entry),
		T(test_msix__vector_that_is_not_there_is_ignored),
		T(test_msix__pending_vector_survives_save_and_restore),
		T(test_msix__hostile_states_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
