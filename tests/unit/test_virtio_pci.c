/* SPDX-License-Identifier: MIT */
/*
 * Virtio's registers over PCI: negotiation, status, reset, widths, kicks by both roads, the
 * config-access capability, and the parts of the device contract.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/null_virtio.h"
#include "tests/lib/vdriver.h"

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define V1 (1ull << VIRTIO_F_VERSION_1)
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define ACK VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK VIRTIO_CONFIG_S_DRIVER_OK

struct rig {
	struct fake_machine fm;
	struct null_virtio *n;
	struct vdriver d;
};

static void rig_up(struct rig *r)
{
	memset(r, 0, sizeof(*r));
	fm_init(&r->fm, MIB(64), -1);
	r->n = (struct null_virtio *)fm_add(&r->fm, &null_virtio_class, "null", NULL);
	r->fm.taken = kvm_model_taken;
}

static int up(void **state)
{
	static struct rig r;

	rig_up(&r);
	fm_start(&r.fm);
	vd_probe(&r.d, &r.fm, NULL_VIRTIO_ID);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	fm_fini(&((struct rig *)*state)->fm);
	return 0;
}

static void set_features(struct rig *r, uint64_t f)
{
	vd_set(&r->d, VIRTIO_PCI_COMMON_GFSELECT, 4, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_GF, 4, (uint32_t)f);
	vd_set(&r->d, VIRTIO_PCI_COMMON_GFSELECT, 4, 1);
	vd_set(&r->d, VIRTIO_PCI_COMMON_GF, 4, f >> 32);
}

static void test_virtio_pci__offers_transport_and_device_features(void **state)
{
	struct rig *r = *state;

	assert_int_equal(vd_offered(&r->d), V1 | EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
						    1ull << NULL_FEATURE);
	vd_set(&r->d, VIRTIO_PCI_COMMON_DFSELECT, 4, 2);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_DF, 4), 0);
}

static void test_virtio_pci__features_not_offered_are_refused(void **state)
{
	static const uint64_t bad[] = { 0, EVENT_IDX, V1 | 1, V1 | 1ull << VIRTIO_F_RING_PACKED,
					~0ull };
	struct rig *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vd_set_status(&r->d, 0);
		vd_set_status(&r->d, ACK | DRIVER);
		set_features(r, bad[i]);
		vd_set_status(&r->d, ACK | DRIVER | FEATURES_OK);
		assert_int_equal(vd_status(&r->d), ACK | DRIVER);
		assert_false(virtio_has(&r->n->v, VIRTIO_RING_F_EVENT_IDX));
	}
}

static void test_virtio_pci__features_are_fixed_once_accepted(void **state)
{
	struct rig *r = *state;

	vd_negotiate(&r->d, 0);
	set_features(r, ~0ull);
	assert_false(virtio_has(&r->n->v, VIRTIO_RING_F_EVENT_IDX));
	assert_int_equal(r->n->state.virtio.driver_features, V1);
}

static void test_virtio_pci__driver_ok_needs_features_ok(void **state)
{
	struct rig *r = *state;

	vd_set_status(&r->d, ACK | DRIVER | DRIVER_OK);
	assert_int_equal(vd_status(&r->d), ACK | DRIVER | NEEDS_RESET);
	assert_int_equal(r->n->started, 0);
}

static void test_virtio_pci__status_bits_are_cleared_by_reset_alone(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, 8);
	vd_set_status(&r->d, ACK);
	assert_int_equal(vd_status(&r->d), ACK | DRIVER | FEATURES_OK | DRIVER_OK);
	assert_int_equal(r->n->started, 1);
	assert_int_equal(r->n->stopped, 0);
	vd_set_status(&r->d, 0);
	assert_int_equal(vd_status(&r->d), 0);
	assert_int_equal(r->n->stopped, 1);
	vd_set_status(&r->d, 0); /* and once only */
	assert_int_equal(r->n->stopped, 1);
}

static void test_virtio_pci__reset_clears_the_transport_but_not_the_function(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, EVENT_IDX, 8);
	vd_set_status(&r->d, 0);
	for (unsigned int q = 0; q < NULL_QUEUES; q++) {
		vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, q);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), NULL_QUEUE_SIZE);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO, 4), 0);
	}
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	assert_true(pci_msix_enabled(&r->n->v.pci));
	vd_start(&r->d, EVENT_IDX, 8);
	assert_true(virtio_live(&r->n->v));
}

static void test_virtio_pci__queue_that_is_not_there_reads_zero(void **state)
{
	struct rig *r = *state;

	vd_negotiate(&r->d, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, NULL_QUEUES);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 8);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, ~0ull);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0xffff);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
	assert_int_equal(vd_status(&r->d), ACK | DRIVER | FEATURES_OK);
}

static void test_virtio_pci__queue_enabled_too_early_or_late_breaks(void **state)
{
	struct rig *r = *state;

	vd_set_status(&r->d, ACK | DRIVER);
	vd_queue_setup(&r->d, 0, 8, true);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_true(vd_status(&r->d) & NEEDS_RESET);
	vd_negotiate(&r->d, 0);
	vd_set_status(&r->d, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
	vd_queue_setup(&r->d, 0, 8, true);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	assert_true(vd_status(&r->d) & NEEDS_RESET);
}

static void test_virtio_pci__enabled_queue_does_not_change(void **state)
{
	struct rig *r = *state;
	struct vq_state before;

	vd_start(&r->d, 0, 8);
	before = r->n->state.virtio.vq[1];
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 1);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO, 8, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_AVAILLO, 4, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_USEDHI, 4, 7);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, 16);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 0);
	assert_memory_equal(&before, &r->n->state.virtio.vq[1], sizeof(before));
}

static void test_virtio_pci__vectors_that_are_not_there_read_back_none(void **state)
{
	struct rig *r = *state;

	vd_negotiate(&r->d, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_MSIX, 2, NULL_QUEUES + 1);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_MSIX, 2), 0xffff);
	vd_set(&r->d, VIRTIO_PCI_COMMON_MSIX, 2, NULL_QUEUES);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_MSIX, 2), NULL_QUEUES);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_MSIX, 2, 999);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_MSIX, 2), 0xffff);
}

static void test_virtio_pci__wrong_widths_do_nothing(void **state)
{
	struct rig *r = *state;

	vd_negotiate(&r->d, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_STATUS, 2, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_STATUS, 4, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_STATUS - 4, 8, 0);
	assert_int_equal(vd_status(&r->d), ACK | DRIVER | FEATURES_OK);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO + 2, 4, ~0ull);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO + 4, 8, ~0ull);
	vd_set(&r->d, VIRTIO_PCI_COMMON_Q_DESCLO, 1, 0xff);
	assert_int_equal(r->n->state.virtio.vq[0].desc, 0);
	assert_int_equal(r->n->state.virtio.vq[0].avail, 0);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_NUMQ, 4), 0);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_NUMQ, 1), 0);
}

static void test_virtio_pci__every_access_anywhere_is_survived(void **state)
{
	static const unsigned int len[] = { 1, 2, 4, 8 };
	struct rig *r = *state;

	for (uint64_t at = 0; at + 8 <= 0x8000; at += at % 0x1000 < 0x120 ? 1 : 61)
		for (size_t i = 0; i < ARRAY_SIZE(len); i++) {
			fm_write(&r->fm, r->d.bar + at, len[i], at * 0x0101010101010101ull);
			fm_read(&r->fm, r->d.bar + at, len[i]);
		}
	fm_spin(&r->fm);
	vd_start(&r->d, EVENT_IDX, 8);
	assert_true(virtio_live(&r->n->v));
}

static void test_virtio_pci__isr_is_cleared_by_reading(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, 8);
	virtio_config_changed(&r->n->v);
	assert_int_equal(fm_read(&r->fm, r->d.isr, 1), 2);
	assert_int_equal(fm_read(&r->fm, r->d.isr, 1), 0);
}

static void test_virtio_pci__config_change_bumps_generation_and_interrupts(void **state)
{
	struct rig *r = *state;
	uint64_t gen;

	virtio_config_changed(&r->n->v); /* nobody listens yet */
	vd_start(&r->d, 0, 8);
	fm_spin(&r->fm);
	gen = vd_get(&r->d, VIRTIO_PCI_COMMON_CFGGENERATION, 1);
	virtio_config_changed(&r->n->v);
	assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_CFGGENERATION, 1), gen + 1);
	assert_int_equal(kvm_model_deliver(r->fm.m.kvm), 1);
	assert_int_equal(r->fm.m.kvm->msgs[VD_MSI_DATA], 1);
}

static void test_virtio_pci__breaking_is_told_once(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, 8);
	fm_spin(&r->fm);
	virtio_broken(&r->n->v, "told so");
	virtio_broken(&r->n->v, "told so");
	assert_int_equal(kvm_model_deliver(r->fm.m.kvm), 1);
	assert_int_equal(r->fm.m.kvm->msgs[VD_MSI_DATA], 1);
	vd_kick(&r->d, 0);
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 0);
}

static void test_virtio_pci__first_kick_of_a_queue_makes_its_ioeventfd(void **state)
{
	struct rig *r = *state;
	struct kvm *k = r->fm.m.kvm;

	vd_start(&r->d, 0, 8);
	fm_spin(&r->fm);
	assert_int_equal(k->nr_ioeventfds, 0);
	vd_kick(&r->d, 1);
	assert_int_equal(r->n->kicks[1], 0); /* main has not had its turn */
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 0);
	assert_int_equal(r->n->kicks[1], 1);
	assert_int_equal(k->nr_ioeventfds, 1);
	vd_kick(&r->d, 1);
	assert_int_equal(r->n->v.slow_kicks, 0);
	vd_kick(&r->d, 0);
	assert_int_equal(r->n->v.slow_kicks, 1 << 0);
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 1);
	assert_int_equal(r->n->kicks[1], 2);
	assert_int_equal(k->nr_ioeventfds, 2);
}

static void test_virtio_pci__kicks_of_a_hidden_driver_make_nothing(void **state)
{
	struct rig *r = *state;

	/* the doorbell rings, but no queue is live */
	for (int i = 0; i < 2000; i++)
		fm_write(&r->fm, r->d.notify, 2, 0);
	fm_spin(&r->fm);
	assert_int_equal(r->fm.m.kvm->nr_ioeventfds, 0);
	assert_int_equal(r->n->kicks[0], 0);
}

/* Both queues on the fast road. */
static void pave(struct rig *r)
{
	vd_start(&r->d, 0, 8);
	vd_kick(&r->d, 0);
	vd_kick(&r->d, 1);
	fm_spin(&r->fm);
	assert_int_equal(r->fm.m.kvm->nr_ioeventfds, NULL_QUEUES);
	r->n->kicks[0] = r->n->kicks[1] = 0;
}

static void test_virtio_pci__moved_bar_takes_its_kicks_along(void **state)
{
	struct rig *r = *state;
	uint64_t to = PCI_MMIO32_BASE + MIB(64), from = r->d.bar;

	pave(r);
	fm_write(&r->fm, fm_ecam(r->d.slot, PCI_BASE_ADDRESS_0), 4, to);
	r->d.common += to - from;
	r->d.notify += to - from;
	vd_kick(&r->d, 0); /* before main has rebound it */
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 1);
	assert_int_equal(r->fm.m.kvm->nr_ioeventfds, NULL_QUEUES);
	vd_kick(&r->d, 0);
	assert_int_equal(r->n->v.slow_kicks, 0);
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 2);
	fm_write(&r->fm, fm_ecam(r->d.slot, PCI_COMMAND), 2, 0);
	fm_spin(&r->fm);
	assert_int_equal(r->fm.m.kvm->nr_ioeventfds, 0);
}

static void test_virtio_pci__destroyed_device_leaves_nothing(void **state)
{
	struct rig *r = *state;
	unsigned int fds = fm_open_fds();

	pave(r);
	assert_int_equal(fm_open_fds(), fds + NULL_QUEUES);
	vd_kick(&r->d, 0);
	fm_write(&r->fm, fm_ecam(r->d.slot, PCI_BASE_ADDRESS_0), 4, PCI_MMIO32_BASE + MIB(64));
	null_virtio_class.destroy(&r->n->v.dev); /* with work posted */
	r->fm.nr_devs--;
	fm_spin(&r->fm);
	assert_int_equal(fm_open_fds(), fds);
	assert_int_equal(r->fm.m.kvm->nr_ioeventfds, 0);
}

static void test_virtio_pci__kicks_wait_while_quiesced_and_come_at_resume(void **state)
{
	struct rig *r = *state;

	pave(r);
	vd_kick(&r->d, 0);
	fm_quiesce(&r->fm);
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 0);
	fm_resume(&r->fm);
	assert_int_equal(r->n->kicks[0], 1);
	assert_int_equal(r->n->kicks[1], 1); /* every live queue is looked at */
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0], 1);
}

static void test_virtio_pci__kick_at_queue_that_is_not_there_is_ignored(void **state)
{
	struct rig *r = *state;

	vd_start(&r->d, 0, 8);
	fm_write(&r->fm, r->d.notify + 4 * NULL_QUEUES, 2, 0);
	fm_write(&r->fm, r->d.notify + 2, 2, 0);
	fm_write(&r->fm, r->d.notify + 0xff8, 8, 0);
	fm_spin(&r->fm);
	assert_int_equal(r->n->kicks[0] + r->n->kicks[1], 0);
}

/* ---- the config-access capability ---- */

static unsigned int cfg_cap(struct rig *r)
{
	unsigned int cap = (unsigned int)fm_read(&r->fm, fm_ecam(1, PCI_CAPABILITY_LIST), 1);

	while (fm_read(&r->fm, fm_ecam(1, cap), 1) != PCI_CAP_ID_VNDR ||
	       fm_read(&r->fm, fm_ecam(1, cap + 3), 1) != VIRTIO_PCI_CAP_PCI_CFG) {
		cap = (unsigned int)fm_read(&r->fm, fm_ecam(1, cap + 1), 1);
		assert_int_not_equal(cap, 0);
	}
	return cap;
}

static void aim(struct rig *r, unsigned int cap, uint8_t bar, uint32_t off, uint32_t len)
{
	fm_write(&r->fm, fm_ecam(1, cap + 4), 1, bar);
	fm_write(&r->fm, fm_ecam(1, cap + 8), 4, off);
	fm_write(&r->fm, fm_ecam(1, cap + 12), 4, len);
}

static void test_virtio_pci__config_access_reaches_the_registers(void **state)
{
	struct rig *r = *state;
	unsigned int cap = cfg_cap(r);

	fm_write(&r->fm, fm_ecam(1, PCI_COMMAND), 2, 0); /* works without the BAR */
	aim(r, cap, 0, VIRTIO_PCI_COMMON_NUMQ, 2);
	assert_int_equal(fm_read(&r->fm, fm_ecam(1, cap + 16), 2), NULL_QUEUES);
	aim(r, cap, 0, VIRTIO_PCI_COMMON_STATUS, 1);
	fm_write(&r->fm, fm_ecam(1, cap + 16), 1, ACK);
	assert_int_equal(r->n->state.virtio.status, ACK);
	assert_int_equal(fm_read(&r->fm, fm_ecam(1, cap + 16), 1), ACK);
}

static void test_virtio_pci__config_access_out_of_bounds_does_nothing(void **state)
{
	static const struct {
		uint8_t bar;
		uint32_t off, len;
	} bad[] = { { 0, 0x8000, 4 },	  { 0, 0xfffffffc, 4 }, { 1, 0, 4 },	 { 6, 0, 4 },
		    { 255, 0, 4 },	  { 0, 0, 0 },		{ 0, 0, 3 },	 { 0, 0, 8 },
		    { 0, 0, 0xffffffff }, { 0, 1, 4 },		{ 0, 0x7ffe, 4 } };
	struct rig *r = *state;
	unsigned int cap = cfg_cap(r);

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct virtio_state before = r->n->state.virtio;

		aim(r, cap, bad[i].bar, bad[i].off, bad[i].len);
		fm_write(&r->fm, fm_ecam(1, cap + 16), 4, 0xa5a5a5a5);
		assert_int_equal(fm_read(&r->fm, fm_ecam(1, cap + 16), 4), 0xa5a5a5a5);
		assert_memory_equal(&before, &r->n->state.virtio, sizeof(before));
	}
}

/* ---- contract ---- */

static void test_virtio_pci__hostile_states_are_refused(void **state)
{
	struct rig *r = *state;
	const struct device *d = &r->n->v.dev;
	struct null_state good, s;
	struct err e;

	vd_start(&r->d, EVENT_IDX, 8);
	good = s = r->n->state;
	assert_int_equal(null_virtio_class.check(d, &s, &e), 0);
#define BAD(change)                                                                                \
	do {                                                                                       \
		s = good;                                                                          \
		change;                                                                            \
		assert_int_equal(null_virtio_class.check(d, &s, &e), -EINVAL);                     \
	} while (0)
	BAD(s.virtio.nr_queues = 1);
	BAD(s.virtio.status |= 0x10);
	BAD(s.virtio.status &= (uint8_t)~FEATURES_OK);
	BAD(s.virtio.driver_features = EVENT_IDX);
	BAD(s.virtio.driver_features |= 1ull << 60);
	BAD(s.virtio.isr = 4);
	BAD(s.virtio.config_vector = NULL_QUEUES + 1);
	BAD(s.virtio.vq[1].vector = 99);
	BAD(s.virtio.vq[1].size = 0);
	BAD(s.virtio.vq[1].size = 3);
	BAD(s.virtio.vq[1].size = 2 * NULL_QUEUE_SIZE);
	BAD(s.virtio.vq[1].enable = 2);
	BAD(s.virtio.vq[1].signalled_valid = 2);
	BAD(s.virtio.vq[1].desc = MIB(64) - 16);
	BAD(s.virtio.vq[1].avail = ~1ull);
	BAD(s.virtio.vq[1].used += 1);
	BAD((s.virtio.vq[1].enable = 0, s.virtio.vq[1].last_avail = 1));
#undef BAD
}

static void test_virtio_pci__committed_live_state_starts_the_device(void **state)
{
	struct rig *r = *state, s;
	unsigned int fds;
	struct wbuf w;
	struct err e;

	vd_start(&r->d, EVENT_IDX, 8);
	fm_spin(&r->fm);
	fm_save(&r->n->v.dev, &w);
	rig_up(&s);
	assert_int_equal(fm_load(&s.n->v.dev, w.data, w.len, &e), 0);
	assert_int_equal(s.n->started, 1);
	fds = fm_open_fds();
	fm_adopt(&s.fm, NULL);
	assert_int_equal(fm_open_fds(), fds); /* adopt makes nothing: a fork pays later, if ever */
	assert_int_equal(s.n->kicks[0], 0);
	fm_resume(&s.fm);
	assert_int_equal(s.n->kicks[0], 1);
	assert_int_equal(s.n->kicks[1], 1);
	s.d = r->d;
	s.d.fm = &s.fm;
	vd_kick(&s.d, 0);
	fm_spin(&s.fm);
	assert_int_equal(s.n->kicks[0], 2);
	fm_fini(&s.fm);
	wbuf_fini(&w);
}

static void test_virtio_pci__interrupt_lost_on_the_way_is_given_again(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { 0x200000, 16, true };
	struct vq_chain c;

	vd_start(&r->d, EVENT_IDX, 8);
	fm_spin(&r->fm);
	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(&r->n->v, 0, &c), 1);
	vq_push(&r->n->v, 0, c.head, 16);
	vq_notify(&r->n->v, 0);
	kvm_model_deliver(r->fm.m.kvm);
	r->fm.m.kvm->msgs[VD_MSI_DATA + 1] = 0; /* the vCPU's state was taken before it came */
	fm_quiesce(&r->fm);
	r->n->v.adopted = true; /* as after adopt */
	fm_resume(&r->fm);
	kvm_model_deliver(r->fm.m.kvm);
	assert_int_equal(r->fm.m.kvm->msgs[VD_MSI_DATA + 1], 1);
	/* and not when the driver has seen all there is */
	assert_true(vd_used(&r->d, 0, NULL, NULL));
	fm_quiesce(&r->fm);
	r->n->v.adopted = true;
	fm_resume(&r->fm);
	assert_int_equal(kvm_model_deliver(r->fm.m.kvm), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_virtio_pci__offers_transport_and_device_features),
		T(test_virtio_pci__features_not_offered_are_refused),
		T(test_virtio_pci__features_are_fixed_once_accepted),
		T(test_virtio_pci__driver_ok_needs_features_ok),
		T(test_virtio_pci__status_bits_are_cleared_by_reset_alone),
		T(test_virtio_pci__reset_clears_the_transport_but_not_the_function),
		T(test_virtio_pci__queue_that_is_not_there_reads_zero),
		T(test_virtio_pci__queue_enabled_too_early_or_late_breaks),
		T(test_virtio_pci__enabled_queue_does_not_change),
		T(test_virtio_pci__vectors_that_are_not_there_read_back_none),
		T(test_virtio_pci__wrong_widths_do_nothing),
		T(test_virtio_pci__every_access_anywhere_is_survived),
		T(test_virtio_pci__isr_is_cleared_by_reading),
		T(test_virtio_pci__config_change_bumps_generation_and_interrupts),
		T(test_virtio_pci__breaking_is_told_once),
		T(test_virtio_pci__first_kick_of_a_queue_makes_its_ioeventfd),
		T(test_virtio_pci__kicks_of_a_hidden_driver_make_nothing),
		T(test_virtio_pci__moved_bar_takes_its_kicks_along),
		T(test_virtio_pci__destroyed_device_leaves_nothing),
		T(test_virtio_pci__kicks_wait_while_quiesced_and_come_at_resume),
		T(test_virtio_pci__kick_at_queue_that_is_not_there_is_ignored),
		T(test_virtio_pci__config_access_reaches_the_registers),
		T(test_virtio_pci__config_access_out_of_bounds_does_nothing),
		T(test_virtio_pci__hostile_states_are_refused),
		T(test_virtio_pci__committed_live_state_starts_the_device),
		T(test_virtio_pci__interrupt_lost_on_the_way_is_given_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
