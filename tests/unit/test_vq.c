/* SPDX-License-Identifier: MIT */
/*
 * The device's side of split rings, against honest and hostile drivers. The test is the driver (by
 * vdriver.h) and the device (it pops and pushes itself). Long, because it is the whole table of
 * what a driver may get wrong, a few lines each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>

#include "base/util.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/null_virtio.h"
#include "tests/lib/vdriver.h"

#define EVENT_IDX (1ull << VIRTIO_RING_F_EVENT_IDX)
#define INDIRECT (1ull << VIRTIO_RING_F_INDIRECT_DESC)
#define MEM MIB(64)
#define NEXT VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE
#define SIZE 8

struct rig {
	struct fake_machine fm;
	struct null_virtio *n;
	struct virtio_dev *v;
	struct vdriver d;
	struct vq_chain c;
	gpa_t buf;
};

static void rig_up(struct rig *r, uint64_t features)
{
	memset(r, 0, sizeof(*r));
	fm_init(&r->fm, MEM, -1);
	r->n = (struct null_virtio *)fm_add(&r->fm, &null_virtio_class, "null", NULL);
	r->v = &r->n->v;
	fm_start(&r->fm);
	vd_probe(&r->d, &r->fm, NULL_VIRTIO_ID);
	vd_start(&r->d, features, SIZE);
	fm_spin(&r->fm);
	r->buf = fm_alloc(&r->fm, 65536, 4096);
}

static int up(void **state)
{
	static struct rig r;

	rig_up(&r, INDIRECT | EVENT_IDX);
	*state = &r;
	return 0;
}

static int up_plain(void **state)
{
	static struct rig r;

	rig_up(&r, 0);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	assert_int_equal(gmem_pins(r->fm.m.mem), 0);
	fm_fini(&r->fm);
	return 0;
}

/* The chain at head is refused and the device asks for a reset; the VM lives. */
static void assert_refused(struct rig *r, uint16_t head)
{
	uint16_t before = r->v->st->vq[0].last_avail;

	vd_avail(&r->d, 0, head);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
	assert_true(vd_status(&r->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	assert_int_equal(r->v->st->vq[0].last_avail, before);
	/* and nothing more comes out of it until it is reset */
	assert_int_equal(vq_pop(r->v, 0, &r->c), 0);
	assert_int_equal(r->v->q[0].in_flight, 0);
}

static void desc(struct rig *r, unsigned int i, gpa_t addr, uint32_t len, uint16_t flags,
		 uint16_t next)
{
	vd_desc(&r->d, r->d.q[0].desc, i, addr, len, flags, next);
}

static void test_vq__chain_is_copied_in_order(void **state)
{
	struct rig *r = *state;
	struct vd_buf b[] = { { r->buf, 16, false },
			      { r->buf + 4096, 512, false },
			      { r->buf + 8192, 1, true } };
	uint16_t head = vd_add(&r->d, 0, b, 3, false);

	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(r->c.head, head);
	assert_int_equal(r->c.nr_out, 2);
	assert_int_equal(r->c.nr_in, 1);
	assert_int_equal(r->c.out_bytes, 528);
	assert_int_equal(r->c.in_bytes, 1);
	for (size_t i = 0; i < 3; i++) {
		assert_int_equal(r->c.seg[i].gpa, b[i].gpa);
		assert_int_equal(r->c.seg[i].len, b[i].len);
	}
	assert_int_equal(vq_pop(r->v, 0, &r->c), 0);
}

static void test_vq__indirect_chain_is_the_same_as_direct(void **state)
{
	struct rig *r = *state;
	struct vd_buf b[20];

	for (unsigned int i = 0; i < 20; i++)
		b[i] = (struct vd_buf){ r->buf + 64 * i, 8 + i, i >= 12 };
	vd_add(&r->d, 0, b, 20, true); /* more than the ring has */
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(r->c.nr_out, 12);
	assert_int_equal(r->c.nr_in, 8);
	assert_int_equal(r->c.seg[19].gpa, r->buf + 64 * 19);
	assert_int_equal(r->c.seg[19].len, 27);
}

static void test_vq__direct_descriptors_may_lead_to_a_table(void **state)
{
	struct rig *r = *state;
	gpa_t table = fm_alloc(&r->fm, 32, 16);

	desc(r, 0, r->buf, 4, NEXT, 5);
	desc(r, 5, table, 32, VRING_DESC_F_INDIRECT, 0);
	vd_desc(&r->d, table, 0, r->buf + 8, 8, NEXT, 1);
	vd_desc(&r->d, table, 1, r->buf + 16, 16, WRITE, 0);
	vd_avail(&r->d, 0, 0);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(r->c.nr_out, 2);
	assert_int_equal(r->c.in_bytes, 16);
}

static void test_vq__cycle_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 0, r->buf, 16, NEXT, 1);
	desc(r, 1, r->buf, 16, NEXT, 2);
	desc(r, 2, r->buf, 16, NEXT, 0);
	assert_refused(r, 0);
}

static void test_vq__descriptor_that_is_its_own_next_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 3, r->buf, 16, NEXT, 3);
	assert_refused(r, 3);
}

static void test_vq__cycle_in_an_indirect_table_is_refused(void **state)
{
	struct rig *r = *state;
	gpa_t table = fm_alloc(&r->fm, 64, 16);

	for (unsigned int i = 0; i < 4; i++)
		vd_desc(&r->d, table, i, r->buf, 4, NEXT, (uint16_t)((i + 1) % 4));
	desc(r, 0, table, 64, VRING_DESC_F_INDIRECT, 0);
	assert_refused(r, 0);
}

static void test_vq__chain_longer_than_we_accept_is_refused(void **state)
{
	struct rig *r = *state;
	struct vd_buf b[VIRTIO_MAX_SEGS + 1];

	for (unsigned int i = 0; i < ARRAY_SIZE(b); i++)
		b[i] = (struct vd_buf){ r->buf, 1, false };
	vd_add(&r->d, 0, b, VIRTIO_MAX_SEGS, true);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(r->c.nr_out, VIRTIO_MAX_SEGS);
	vd_add(&r->d, 0, b, VIRTIO_MAX_SEGS + 1, true);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
}

static void test_vq__next_beyond_the_table_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 0, r->buf, 16, NEXT, SIZE);
	assert_refused(r, 0);
}

static void test_vq__head_beyond_the_ring_is_refused(void **state)
{
	assert_refused(*state, SIZE);
}

static void test_vq__descriptor_outside_ram_is_refused(void **state)
{
	static const struct {
		gpa_t addr;
		uint32_t len;
	} bad[] = { { MEM, 1 },
		    { MEM - 8, 9 },
		    { PCI_ECAM_BASE, 4 },
		    { GMEM_HOLE_END, 4096 },
		    { UINT64_MAX - 3, 4 },
		    { UINT64_MAX, 0xffffffff },
		    { 0, 0xffffffff } };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rig *r = *state;

		desc(r, 0, bad[i].addr, bad[i].len, 0, 0);
		assert_refused(r, 0);
		down(state);
		up(state);
	}
}

static void test_vq__last_byte_of_ram_is_accepted(void **state)
{
	struct rig *r = *state;

	desc(r, 0, MEM - 8, 8, 0, 0);
	vd_avail(&r->d, 0, 0);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
}

static void test_vq__readable_after_writable_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 0, r->buf, 16, WRITE | NEXT, 1);
	desc(r, 1, r->buf, 16, 0, 0);
	assert_refused(r, 0);
}

static void test_vq__empty_descriptor_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 0, r->buf, 0, 0, 0);
	assert_refused(r, 0);
}

static void test_vq__total_length_beyond_32_bits_is_refused(void **state)
{
	struct rig *r = *state;
	struct vd_buf b[70];

	/* 64 MiB of RAM, named often enough */
	for (unsigned int i = 0; i < ARRAY_SIZE(b); i++)
		b[i] = (struct vd_buf){ 0, MEM, i >= 35 };
	vd_add(&r->d, 0, b, 63, true);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	vd_add(&r->d, 0, b, ARRAY_SIZE(b), true);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
}

static void test_vq__nested_indirect_is_refused(void **state)
{
	struct rig *r = *state;
	gpa_t table = fm_alloc(&r->fm, 16, 16);

	desc(r, 0, table, 16, VRING_DESC_F_INDIRECT, 0);
	vd_desc(&r->d, table, 0, table, 16, VRING_DESC_F_INDIRECT, 0);
	assert_refused(r, 0);
}

static void test_vq__indirect_with_next_is_refused(void **state)
{
	struct rig *r = *state;
	gpa_t table = fm_alloc(&r->fm, 16, 16);

	vd_desc(&r->d, table, 0, r->buf, 16, 0, 0);
	desc(r, 0, table, 16, VRING_DESC_F_INDIRECT | NEXT, 1);
	desc(r, 1, r->buf, 16, 0, 0);
	assert_refused(r, 0);
}

static void test_vq__indirect_table_of_odd_size_is_refused(void **state)
{
	static const uint32_t bad[] = { 0, 8, 17, 0xffffffff };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct rig *r = *state;

		desc(r, 0, r->buf, bad[i], VRING_DESC_F_INDIRECT, 0);
		assert_refused(r, 0);
		down(state);
		up(state);
	}
}

static void test_vq__indirect_table_outside_ram_is_refused(void **state)
{
	struct rig *r = *state;

	desc(r, 0, MEM - 16, 32, VRING_DESC_F_INDIRECT, 0);
	assert_refused(r, 0);
}

static void test_vq__indirect_not_negotiated_is_refused(void **state)
{
	struct rig *r = *state;

	vd_desc(&r->d, r->buf, 0, r->buf, 16, 0, 0);
	desc(r, 0, r->buf, 16, VRING_DESC_F_INDIRECT, 0);
	assert_refused(r, 0);
}

static void test_vq__available_index_that_jumps_is_refused(void **state)
{
	struct rig *r = *state;

	vd_set_avail_idx(&r->d, 0, SIZE + 1);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
}

static void test_vq__available_index_that_goes_back_is_refused(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };

	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	vd_set_avail_idx(&r->d, 0, 0);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
}

static void test_vq__more_outstanding_than_the_ring_holds_is_refused(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };

	for (unsigned int i = 0; i < SIZE; i++) {
		vd_add(&r->d, 0, &b, 1, false);
		assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	}
	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), -EPROTO);
}

static void test_vq__indices_wrap(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };
	uint32_t id, len;

	for (uint32_t i = 0; i < 70000; i++) {
		uint16_t head = vd_add(&r->d, 0, &b, 1, false);

		assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
		assert_int_equal(r->c.head, head);
		vq_push(r->v, 0, r->c.head, i & 15);
		assert_true(vd_used(&r->d, 0, &id, &len));
		assert_int_equal(id, head);
		assert_int_equal(len, i & 15);
	}
	assert_false(vd_used(&r->d, 0, &id, &len));
}

static void test_vq__completions_may_come_in_any_order(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };
	uint16_t head[3];
	uint32_t id, len;

	for (int i = 0; i < 3; i++) {
		vd_add(&r->d, 0, &b, 1, false);
		assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
		head[i] = r->c.head;
	}
	for (int i = 2; i >= 0; i--)
		vq_push(r->v, 0, head[i], 100 + (uint32_t)i);
	for (int i = 2; i >= 0; i--) {
		assert_true(vd_used(&r->d, 0, &id, &len));
		assert_int_equal(id, head[i]);
		assert_int_equal(len, 100 + i);
	}
	assert_int_equal(r->v->q[0].in_flight, 0);
}

static void test_vq__unpopped_chain_comes_again(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };
	uint16_t head = vd_add(&r->d, 0, &b, 1, false);

	assert_false(vq_empty(r->v, 0));
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_true(vq_empty(r->v, 0));
	vq_unpop(r->v, 0);
	assert_false(vq_empty(r->v, 0));
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(r->c.head, head);
}

static void test_vq__read_and_write_cross_segments_and_stop_at_the_end(void **state)
{
	struct rig *r = *state;
	struct vd_buf b[] = { { r->buf, 3, false },
			      { r->buf + 100, 5, false },
			      { r->buf + 200, 2, true },
			      { r->buf + 300, 4, true } };
	char got[16] = { 0 };

	gmem_write(r->fm.m.mem, r->buf, "abc", 3);
	gmem_write(r->fm.m.mem, r->buf + 100, "defgh", 5);
	vd_add(&r->d, 0, b, 4, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(vq_read(r->v, &r->c, 1, got, sizeof(got)), 7);
	assert_string_equal(got, "bcdefgh");
	assert_int_equal(vq_read(r->v, &r->c, 8, got, 4), 0);
	assert_int_equal(vq_read(r->v, &r->c, 4, got, 2), 2);
	assert_memory_equal(got, "ef", 2);
	assert_int_equal(vq_write(r->v, &r->c, 1, "12345678", 8), 5);
	gmem_read(r->fm.m.mem, r->buf + 200, got, 2);
	assert_memory_equal(got, "\0001", 2);
	gmem_read(r->fm.m.mem, r->buf + 300, got, 5);
	assert_memory_equal(got, "2345\0", 5);
	gmem_read(r->fm.m.mem, r->buf + 100, got, 5);
	assert_memory_equal(got, "defgh", 5);
}

/* Interrupts of queue 0 since the last look. */
static unsigned int interrupts(struct rig *r)
{
	struct kvm *k = r->fm.m.kvm;
	unsigned int n = k->msgs[VD_MSI_DATA + 1];

	k->msgs[VD_MSI_DATA + 1] = 0;
	return n;
}

/* One chain through the queue, with a notify at the end. */
static void complete_one(struct rig *r)
{
	struct vd_buf b = { r->buf, 16, true };

	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	vq_push(r->v, 0, r->c.head, 16);
	vq_notify(r->v, 0);
}

static void test_vq__notify_without_news_is_silent(void **state)
{
	struct rig *r = *state;

	complete_one(r);
	assert_int_equal(interrupts(r), 1);
	vq_notify(r->v, 0);
	assert_int_equal(interrupts(r), 0);
}

static void test_vq__driver_that_wants_no_interrupt_gets_none(void **state)
{
	struct rig *r = *state;

	gmem_store16(r->fm.m.mem, r->d.q[0].avail, VRING_AVAIL_F_NO_INTERRUPT);
	complete_one(r);
	assert_int_equal(interrupts(r), 0);
	gmem_store16(r->fm.m.mem, r->d.q[0].avail, 0);
	complete_one(r);
	assert_int_equal(interrupts(r), 1);
}

static void test_vq__event_idx_interrupts_when_its_entry_is_passed(void **state)
{
	struct rig *r = *state;
	gpa_t event = r->d.q[0].avail + 4 + 2 * SIZE;

	complete_one(r); /* the first is always told */
	assert_int_equal(interrupts(r), 1);
	gmem_store16(r->fm.m.mem, event, 2); /* "when entry 2 is there" */
	complete_one(r);
	assert_int_equal(interrupts(r), 0);
	complete_one(r);
	assert_int_equal(interrupts(r), 1);
	complete_one(r);
	assert_int_equal(interrupts(r), 0);
}

static void test_vq__event_idx_asks_for_a_kick_only_when_empty(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };

	/* a device that is still busy needs no kick for more */
	vd_add(&r->d, 0, &b, 1, false);
	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	vd_add(&r->d, 0, &b, 1, false);
	assert_false(vd_kick_if_wanted(&r->d, 0, 2));
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 0);
	vd_add(&r->d, 0, &b, 1, false);
	assert_true(vd_kick_if_wanted(&r->d, 0, 3));
}

static void test_vq__ring_registers_that_cannot_be_are_refused(void **state)
{
	static const struct {
		unsigned int reg;
		uint64_t val;
	} bad[] = {
		{ VIRTIO_PCI_COMMON_Q_DESCLO, 0x100008 },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, MEM },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, MEM - 16 },
		{ VIRTIO_PCI_COMMON_Q_DESCLO, ~15ull },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, 0x100001 },
		{ VIRTIO_PCI_COMMON_Q_AVAILLO, MEM - 20 },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, 0x100002 },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, MEM - 64 },
		{ VIRTIO_PCI_COMMON_Q_USEDLO, PCI_ECAM_BASE },
	};
	struct rig *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vd_negotiate(&r->d, 0);
		vd_queue_setup(&r->d, 0, SIZE, false);
		vd_set(&r->d, bad[i].reg, 8, bad[i].val);
		vd_set(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2, 1);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
		assert_true(vd_status(&r->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
}

static void test_vq__ring_sizes_that_cannot_be_are_refused(void **state)
{
	static const uint16_t bad[] = { 0, 3, 7, 12, NULL_QUEUE_SIZE * 2, 0xffff };
	struct rig *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vd_negotiate(&r->d, 0);
		vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SELECT, 2, 0);
		vd_set(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2, bad[i]);
		assert_int_equal(vd_get(&r->d, VIRTIO_PCI_COMMON_Q_SIZE, 2), NULL_QUEUE_SIZE);
		assert_true(vd_status(&r->d) & VIRTIO_CONFIG_S_NEEDS_RESET);
	}
}

static void test_vq__reset_forgets_what_was_in_flight(void **state)
{
	struct rig *r = *state;
	struct vd_buf b = { r->buf, 16, true };

	vd_add(&r->d, 0, &b, 1, false);
	assert_int_equal(vq_pop(r->v, 0, &r->c), 1);
	vd_start(&r->d, EVENT_IDX, SIZE);
	vq_push(r->v, 0, r->c.head, 16); /* late: belongs to a ring that is gone */
	assert_int_equal(r->v->q[0].in_flight, 0);
	complete_one(r);
	assert_true(vd_used(&r->d, 0, NULL, NULL));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
#define P(f) cmocka_unit_test_setup_teardown(f, up_plain, down)
	const struct CMUnitTest tests[] = {
		T(test_vq__chain_is_copied_in_order),
		T(test_vq__indirect_chain_is_the_same_as_direct),
		T(test_vq__direct_descriptors_may_lead_to_a_table),
		T(test_vq__cycle_is_refused),
		T(test_vq__descriptor_that_is_its_own_next_is_refused),
		T(test_vq__cycle_in_an_indirect_table_is_refused),
		T(test_vq__chain_longer_than_we_accept_is_refused),
		T(test_vq__next_beyond_the_table_is_refused),
		T(test_vq__head_beyond_the_ring_is_refused),
		T(test_vq__descriptor_outside_ram_is_refused),
		T(test_vq__last_byte_of_ram_is_accepted),
		T(test_vq__readable_after_writable_is_refused),
		T(test_vq__empty_descriptor_is_refused),
		T(test_vq__total_length_beyond_32_bits_is_refused),
		T(test_vq__nested_indirect_is_refused),
		T(test_vq__indirect_with_next_is_refused),
		T(test_vq__indirect_table_of_odd_size_is_refused),
		T(test_vq__indirect_table_outside_ram_is_refused),
		P(test_vq__indirect_not_negotiated_is_refused),
		T(test_vq__available_index_that_jumps_is_refused),
		T(test_vq__available_index_that_goes_back_is_refused),
		T(test_vq__more_outstanding_than_the_ring_holds_is_refused),
		T(test_vq__indices_wrap),
		T(test_vq__completions_may_come_in_any_order),
		T(test_vq__unpopped_chain_comes_again),
		T(test_vq__read_and_write_cross_segments_and_stop_at_the_end),
		P(test_vq__notify_without_news_is_silent),
		P(test_vq__driver_that_wants_no_interrupt_gets_none),
		T(test_vq__event_idx_interrupts_when_its_entry_is_passed),
		T(test_vq__event_idx_asks_for_a_kick_only_when_empty),
		T(test_vq__ring_registers_that_cannot_be_are_refused),
		T(test_vq__ring_sizes_that_cannot_be_are_refused),
		T(test_vq__reset_forgets_what_was_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
