/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk through its rings: what virtio 1.2 section 5.2 asks for, hostile drivers, resets under
 * load, forks and restores. The test is the guest. Queues, cache and limits:
 * test_virtio_blk_queues.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/disk.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vblk.h"
#include "virtio/blk_internal.h"

/* ---- the device as such ---- */

static void test_vblk__config_space_says_what_the_disk_is(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t offered = vd_offered(&g->d);

	assert_int_equal(fm_read(&g->fm, g->d.config, 8), VBLK_DISK_BYTES / BLK_SECTOR);
	assert_int_equal(fm_read(&g->fm, g->d.config + 8, 4), 1 << 20);
	assert_int_equal(fm_read(&g->fm, g->d.config + 12, 4), VIRTIO_MAX_SEGS - 2);
	assert_int_equal(fm_read(&g->fm, g->d.config + 20, 4), BLK_SECTOR);
	assert_int_equal(fm_read(&g->fm, g->d.config + 24, 1), 3);
	assert_int_equal(fm_read(&g->fm, g->d.config + 34, 2), 1);
	assert_int_equal(fm_read(&g->fm, g->d.config + 40, 4), 1);
	assert_int_equal(fm_read(&g->fm, g->d.config + 44, 4), 8);
	assert_int_equal(fm_read(&g->fm, g->d.config + 200, 4), 0);
	fm_write(&g->fm, g->d.config, 4, 1);
	assert_int_equal(fm_read(&g->fm, g->d.config, 8), VBLK_DISK_BYTES / BLK_SECTOR);
	assert_true(offered & 1ull << VIRTIO_BLK_F_FLUSH);
	assert_true(offered & 1ull << VIRTIO_BLK_F_DISCARD);
	assert_true(offered & 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
	assert_false(offered & 1ull << VIRTIO_BLK_F_RO);
}

static void test_vblk__read_only_disk_says_so_and_refuses_changes(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t offered = vd_offered(&g->d);

	assert_true(offered & 1ull << VIRTIO_BLK_F_RO);
	assert_false(offered & (1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES));
	vblk_fill(g, 0, 0x11, BLK_SECTOR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 5, BLK_SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_true(vblk_sector_is(g, 5, 5));
}

static void test_vblk__bad_cfg_is_refused(void **state)
{
	static const uint64_t bad[] = { 511, BLK_MAX_BYTES + 512, UINT64_MAX };
	struct virtio_blk_cfg cfg = { 0 };
	struct device *d = NULL;
	struct vblk_rig *g = *state;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg.size_bytes = bad[i];
		assert_int_equal(virtio_blk_class.create(&g->fm.m, "x", &cfg, &d, &e), -EINVAL);
	}
	/* an empty bay has nothing */
	cfg = (struct virtio_blk_cfg){ .read_only = 1 };
	assert_int_equal(virtio_blk_class.create(&g->fm.m, "x", &cfg, &d, &e), -EINVAL);
	cfg = (struct virtio_blk_cfg){ .nr_files = 1 };
	assert_int_equal(virtio_blk_class.create(&g->fm.m, "x", &cfg, &d, &e), -EINVAL);
	assert_null(d);
}

static void test_vblk__what_was_written_is_read_and_interrupts_come(void **state)
{
	struct vblk_rig *g = *state;

	assert_true(vblk_sector_is(g, 9, 9));
	assert_true(vblk_sector_is(g, VBLK_BASE_BYTES / BLK_SECTOR, 0)); /* behind the base */
	vblk_fill(g, 0, 0x77, 3 * BLK_SECTOR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 9, 3 * BLK_SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_true(vblk_sector_is(g, 8, 8));
	assert_true(vblk_sector_is(g, 9, 0x77));
	assert_true(vblk_sector_is(g, 11, 0x77));
	assert_true(vblk_sector_is(g, 12, 12));
	assert_true(kvm_model_deliver(g->fm.m.kvm) > 0);
	assert_int_equal(vd_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void test_vblk__framing_is_the_drivers_choice(void **state)
{
	struct vblk_rig *g = *state;
	gpa_t at = vblk_data(g, 3);
	uint8_t raw[16 + BLK_SECTOR];
	const struct vd_buf out[] = { { at, 5, false },
				      { at + 5, 11 + 100, false }, /* rest of header, some data */
				      { at + 116, 412, false },
				      { g->status, 1, true } };
	const struct vd_buf in[] = { { at, 1, false },
				     { at + 1, 15, false },
				     { vblk_data(g, 4), 500, true },
				     { vblk_data(g, 4) + 500, 13, true } }; /* data and status */

	memset(raw, 0x3c, sizeof(raw));
	vblk_put_header(g, 0, VIRTIO_BLK_T_OUT, 40);
	assert_int_equal(gmem_read(g->fm.m.mem, vblk_hdr(g, 0), raw, 16), 0);
	assert_int_equal(gmem_write(g->fm.m.mem, at, raw, sizeof(raw)), 0);
	vd_add(&g->d, 0, out, 4, false);
	assert_true(vblk_finish(g, 1));
	assert_int_equal(vblk_status(g, 0), VIRTIO_BLK_S_OK);
	vblk_put_header(g, 0, VIRTIO_BLK_T_IN, 40);
	assert_int_equal(gmem_read(g->fm.m.mem, vblk_hdr(g, 0), raw, 16), 0);
	assert_int_equal(gmem_write(g->fm.m.mem, at, raw, 16), 0);
	vblk_fill(g, 4, 0xee, BLK_SECTOR + 1);
	vd_add(&g->d, 0, in, 4, true);
	assert_true(vblk_finish(g, 1));
	assert_true(vblk_holds(g, 4, 0x3c, BLK_SECTOR));
	assert_int_equal(gmem_read(g->fm.m.mem, vblk_data(g, 4) + BLK_SECTOR, raw, 1), 0);
	assert_int_equal(raw[0], VIRTIO_BLK_S_OK);
}

static void test_vblk__get_id_gives_the_serial(void **state)
{
	struct vblk_rig *g = *state;
	char id[21] = "";

	vblk_fill(g, 0, 'x', 32);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_read(g->fm.m.mem, vblk_data(g, 0), id, 20), 0);
	assert_string_equal(id, "12345678901234567890");
	vblk_fill(g, 0, 'x', 32);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_GET_ID, 0, 7), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_read(g->fm.m.mem, vblk_data(g, 0), id, 8), 0);
	assert_memory_equal(id, "1234567x", 8);
}

static uint8_t range(struct vblk_rig *g, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct {
		le64 sector;
		le32 n, flags;
	} r = { le64_put(sector), le32_put(n), le32_put(flags) };

	assert_int_equal(gmem_write(g->fm.m.mem, vblk_data(g, 0), &r, 16), 0);
	return vblk_request(g, type, 0, 16);
}

static void test_vblk__discard_and_write_zeroes(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t cap = VBLK_DISK_BYTES / BLK_SECTOR;

	assert_int_equal(range(g, VIRTIO_BLK_T_WRITE_ZEROES, 21, 3, 1), VIRTIO_BLK_S_OK);
	assert_true(vblk_sector_is(g, 20, 20));
	assert_true(vblk_sector_is(g, 21, 0));
	assert_true(vblk_sector_is(g, 23, 0));
	assert_true(vblk_sector_is(g, 24, 24));
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 32, 16, 0), VIRTIO_BLK_S_OK);
	assert_true(vblk_sector_is(g, 31, 31));
	assert_true(vblk_sector_is(g, 32, 0));
	assert_true(vblk_sector_is(g, 47, 0));
	assert_true(vblk_sector_is(g, 48, 48));
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, cap - 7, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, UINT64_MAX / 512, 8, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_IOERR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_DISCARD, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_true(vblk_sector_is(g, 1, 1));
}

static void test_vblk__nonsense_gets_a_status_and_the_device_lives(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t want;
	} bad[] = {
		{ VIRTIO_BLK_T_IN, VBLK_DISK_BYTES / 512, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, VBLK_DISK_BYTES / 512 - 1, 1024, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, UINT64_MAX, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, 1ull << 55, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, 0, 513, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 1, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_SCSI_CMD, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ 0xffffffff, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_OK },
	};
	struct vblk_rig *g = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (vblk_request(g, bad[i].type, bad[i].sector, bad[i].len) != bad[i].want)
			fail_msg("case %zu: status %u", i, vblk_status(g, 0));
	assert_true(vblk_sector_is(g, 3, 3));
}

static bool is_broken(void *arg)
{
	return vd_status(arg) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void test_vblk__no_room_for_header_or_status_breaks_the_device_only(void **state)
{
	struct vblk_rig *g = *state;
	const struct vd_buf bad[][2] = {
		{ { vblk_hdr(g, 0), 16, false }, { vblk_data(g, 0), 512, false } }, /* no status */
		{ { vblk_hdr(g, 0), 15, false }, { g->status, 1, true } },
		{ { vblk_hdr(g, 0), 8, true }, { g->status, 1, true } }, /* no header */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		vblk_put_header(g, 0, VIRTIO_BLK_T_OUT, 0);
		vd_add(&g->d, 0, bad[i], 2, false);
		vd_kick(&g->d, 0);
		assert_true(fm_until(&g->fm, is_broken, &g->d));
		assert_int_equal(gmem_pins(g->fm.m.mem), 0);
		vblk_drive(g);
		assert_true(vblk_sector_is(g, 3, 3));
	}
}

/* ---- load ---- */

/*
 * n requests of 16 KiB: writes of even slots, reads of odd ones. The kick is served here and not by
 * the loop, which would also take completions: so all are in flight afterwards.
 */
static void load(struct vblk_rig *g, unsigned int n)
{
	struct virtio_dev *v = (struct virtio_dev *)g->dev;

	for (unsigned int i = 0; i < n; i++) {
		vblk_fill(g, i, (uint8_t)(0x80 + i), 16384);
		vblk_add(g, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 4096 + 32 * i, 16384);
	}
	pthread_mutex_lock(&g->fm.lock);
	v->type->kick(v, 0);
	pthread_mutex_unlock(&g->fm.lock);
	assert_int_equal(gmem_pins(g->fm.m.mem), n);
}

static void test_vblk__more_requests_than_the_engine_takes(void **state)
{
	struct vblk_wait w = { *state, 160, 0 };
	struct vblk_rig *g = *state;

	/* chains are indirect or three descriptors long: make room for 160 */
	for (unsigned int i = 0; i < 160; i++) {
		const struct vd_buf b[] = { { vblk_hdr(g, i), 16, false },
					    { vblk_data(g, i), 16384, i % 2 },
					    { g->status + i, 1, true } };

		vblk_fill(g, i, (uint8_t)i, 16384);
		vblk_put_header(g, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 32 * i);
		vd_add(&g->d, 0, b, 3, true);
	}
	vd_kick(&g->d, 0);
	assert_true(fm_until(&g->fm, vblk_arrived, &w));
	for (unsigned int i = 0; i < 160; i++)
		assert_int_equal(vblk_status(g, i), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	assert_true(vblk_sector_is(g, 32 * 158, 158));
}

static void test_vblk__reset_under_load_leaves_no_pin_and_no_used_entry(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t idx;

	load(g, 64);
	idx = vd_used_idx(&g->d, 0);
	vd_set_status(&g->d, 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	fm_spin(&g->fm);
	assert_int_equal(vd_used_idx(&g->d, 0), idx);
	vblk_drive(g);
	assert_true(vblk_sector_is(g, 3, 3));
}

static void test_vblk__quiesce_under_load_completes_everything(void **state)
{
	struct vblk_wait w = { *state, 64, 0 };
	struct vblk_rig *g = *state;

	load(g, 64);
	fm_quiesce(&g->fm);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	assert_true(vblk_arrived(&w));
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(vblk_status(g, i), VIRTIO_BLK_S_OK);
	/* what is kicked while it stands still is served afterwards */
	vblk_add(g, 70, VIRTIO_BLK_T_IN, 3, BLK_SECTOR);
	vd_kick(&g->d, 0);
	fm_spin(&g->fm);
	assert_int_equal(vblk_status(g, 70), VBLK_PENDING);
	fm_resume(&g->fm);
	w = (struct vblk_wait){ g, 1, 0 };
	assert_true(fm_until(&g->fm, vblk_arrived, &w));
	assert_int_equal(vblk_status(g, 70), VIRTIO_BLK_S_OK);
}

/* ---- fork and restore ---- */

static int child_life(struct vblk_rig *g, uint8_t c)
{
	static const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	struct vblk_wait w = { g, 64, 0 };

	fm_child(&g->fm, &id);
	fm_resume(&g->fm);
	if (!fm_until(&g->fm, vblk_arrived, &w))
		return 2;
	if (!vblk_sector_is(g, 4096, 0x80) || !vblk_sector_is(g, 7, 7) ||
	    !vblk_write_sector(g, 7, c))
		return 3;
	usleep(20000);
	return vblk_sector_is(g, 7, c) && vblk_sector_is(g, 4096, 0x80) && !gmem_pins(g->fm.m.mem)
		       ? 0
		       : 4;
}

static void test_vblk__forks_under_load_go_on_and_diverge(void **state)
{
	struct vblk_rig *g = *state;
	struct vblk_wait w = { g, 64, 0 };
	pid_t kids[3];
	struct err e;

	load(g, 64);
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_rotate(g->dev, disk_file(), &e), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++) {
		vblk_give_as(g, "child/", "data", disk_file());
		kids[i] = fork();
		if (kids[i] == 0)
			_exit(child_life(g, (uint8_t)(0xc0 + i)));
		grants_drop(g->fm.m.grants, "child/");
	}
	fm_resume(&g->fm);
	assert_true(fm_until(&g->fm, vblk_arrived, &w));
	assert_true(vblk_write_sector(g, 7, 0xaa));
	assert_true(vblk_write_sector(g, 4096, 0xab));
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++) {
		int st;

		assert_int_equal(waitpid(kids[i], &st, 0), kids[i]);
		assert_int_equal(st, 0);
	}
	assert_true(vblk_sector_is(g, 7, 0xaa));
	assert_true(vblk_sector_is(g, 4096, 0xab));
	assert_true(vblk_sector_is(g, 4096 + 64, 0x82));
}

static void test_vblk__child_without_a_data_file_is_refused(void **state)
{
	static const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	struct vblk_rig *g = *state;
	struct err e = { "" };

	fm_quiesce(&g->fm);
	assert_int_equal(g->dev->cls->adopt(g->dev, &id, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "disk/vda/data"));
}

static void test_vblk__restored_disk_is_as_it_was_saved(void **state)
{
	static const struct identity same = { .name = "fake", .generation = { 1 } };
	static struct vblk_rig h;
	struct vblk_rig *g = *state;
	int layer = disk_file();
	struct err e;

	assert_true(vblk_write_sector(g, 7, 0x5d));
	assert_true(vblk_write_sector(g, 9000, 0x5e));
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_save_layer(g->dev, layer, &e), 0);
	vblk_restore_from(g, &h, layer);
	vblk_copy_ram(g, &h);
	fm_adopt(&h.fm, &same);
	fm_resume(&h.fm);
	assert_true(vblk_sector_is(&h, 7, 0x5d));
	assert_true(vblk_sector_is(&h, 8, 8));
	assert_true(vblk_sector_is(&h, 9000, 0x5e));
	assert_true(vblk_write_sector(&h, 7, 0x11));
	fm_resume(&g->fm);
	assert_true(vblk_sector_is(g, 7, 0x5d));
	vblk_end(&h);
	close(layer);
}

static void test_vblk__restore_without_its_layer_is_refused(void **state)
{
	static const struct identity same = { .name = "fake", .generation = { 1 } };
	static struct vblk_rig h;
	struct vblk_rig *g = *state;
	struct err e = { "" };

	assert_true(vblk_write_sector(g, 7, 0x5d));
	fm_quiesce(&g->fm);
	vblk_restore_from(g, &h, -1);
	assert_int_equal(h.dev->cls->adopt(h.dev, &same, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "layer"));
	vblk_end(&h);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, vblk_up, vblk_down)
	const struct CMUnitTest tests[] = {
		T(test_vblk__config_space_says_what_the_disk_is),
		cmocka_unit_test_setup_teardown(
			test_vblk__read_only_disk_says_so_and_refuses_changes, vblk_up_read_only,
			vblk_down),
		T(test_vblk__bad_cfg_is_refused),
		T(test_vblk__what_was_written_is_read_and_interrupts_come),
		T(test_vblk__framing_is_the_drivers_choice),
		T(test_vblk__get_id_gives_the_serial),
		T(test_vblk__discard_and_write_zeroes),
		T(test_vblk__nonsense_gets_a_status_and_the_device_lives),
		T(test_vblk__no_room_for_header_or_status_breaks_the_device_only),
		T(test_vblk__more_requests_than_the_engine_takes),
		T(test_vblk__reset_under_load_leaves_no_pin_and_no_used_entry),
		T(test_vblk__quiesce_under_load_completes_everything),
		T(test_vblk__forks_under_load_go_on_and_diverge),
		T(test_vblk__child_without_a_data_file_is_refused),
		T(test_vblk__restored_disk_is_as_it_was_saved),
		T(test_vblk__restore_without_its_layer_is_refused),
	};

	vblk_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
