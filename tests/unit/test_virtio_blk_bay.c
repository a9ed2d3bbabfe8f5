/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk disks that come, grow and go while the guest looks on: what the driver is told, what
 * requests get meanwhile, and what forks and snapshots have of it. The test is the guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "tests/lib/disk.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vblk.h"
#include "virtio/blk.h"

#define SECTORS (VBLK_DISK_BYTES / BLK_SECTOR)

static const struct virtio_blk_cfg over_base = { .size_bytes = VBLK_BASE_BYTES, .nr_files = 1 };

static uint64_t capacity(struct vblk_rig *g)
{
	return fm_read(&g->fm, g->d.config, 8);
}

/* The configuration was seen to change, and an interrupt came. */
static void told(struct vblk_rig *g, uint64_t *generation)
{
	uint64_t now = vd_get(&g->d, 0x15, 1);

	assert_int_not_equal(now, *generation);
	*generation = now;
	assert_true(kvm_model_deliver(g->fm.m.kvm) > 0);
	assert_int_equal(vd_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void eject(struct vblk_rig *g)
{
	struct err e = { "" };

	fm_quiesce(&g->fm);
	if (virtio_blk_eject(g->dev, &e))
		fail_msg("%s", e.msg);
	fm_assert_valid(g->dev);
	fm_resume(&g->fm);
}

static int insert(struct vblk_rig *g, const struct virtio_blk_cfg *cfg)
{
	struct err e;
	int r;

	fm_quiesce(&g->fm);
	r = virtio_blk_insert(g->dev, cfg, &e);
	fm_assert_valid(g->dev);
	fm_resume(&g->fm);
	return r;
}

static void give_files(struct vblk_rig *g)
{
	vblk_give(g, "base", disk_reopen(g->base_fd));
	vblk_give(g, "data", disk_file());
}

static void test_bay__a_disk_goes_and_another_comes(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t generation = vd_get(&g->d, 0x15, 1);
	unsigned int fds;
	struct err e;

	assert_true(vblk_write_sector(g, 7, 0xa0)); /* the first kick makes the eventfd of kicks */
	fds = fm_open_fds();
	for (unsigned int i = 0; i < 3; i++) {
		assert_true(vblk_write_sector(g, 7, 0xa0));
		kvm_model_deliver(g->fm.m.kvm);
		eject(g);
		told(g, &generation);
		assert_false(virtio_blk_seen(g->dev));
		assert_int_equal(capacity(g), 0);
		assert_true(virtio_blk_seen(g->dev));
		vblk_fill(g, 0, 0, 16);
		for (unsigned int op = 0; op < 5; op++) {
			static const uint32_t type[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
							 VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_DISCARD,
							 VIRTIO_BLK_T_WRITE_ZEROES };

			assert_int_equal(vblk_request(g, type[op], 0,
						      op < 2	? BLK_SECTOR
						      : op == 2 ? 0
								: 16),
					 VIRTIO_BLK_S_IOERR);
		}
		fm_quiesce(&g->fm);
		assert_int_equal(virtio_blk_eject(g->dev, &e), -ENOENT);
		assert_int_equal(virtio_blk_grow(g->dev, MIB(64), &e), -ENOENT);
		fm_resume(&g->fm);
		give_files(g);
		kvm_model_deliver(g->fm.m.kvm);
		assert_int_equal(insert(g, &over_base), 0);
		told(g, &generation);
		assert_int_equal(capacity(g), VBLK_BASE_BYTES / BLK_SECTOR);
		assert_true(vblk_sector_is(g, 7, 7)); /* not what was written to the one before */
		assert_int_equal(insert(g, &over_base), -EBUSY);
	}
	assert_int_equal(fm_open_fds(), fds);
}

static void test_bay__what_cannot_be_put_in_leaves_it_empty(void **state)
{
	struct vblk_rig *g = *state;
	struct virtio_blk_cfg bad = over_base;

	eject(g);
	assert_int_equal(insert(g, &over_base), -ENOENT); /* nothing was granted */
	bad.read_only = 1;
	assert_int_equal(insert(g, &bad), -EINVAL);
	bad = over_base;
	bad.last_qcow2 = 1; /* it is none */
	give_files(g);
	assert_int_equal(insert(g, &bad), -EINVAL);
	grants_drop(g->fm.m.grants, "disk/");
	assert_int_equal(capacity(g), 0);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_IN, 0, BLK_SECTOR), VIRTIO_BLK_S_IOERR);
	give_files(g);
	assert_int_equal(insert(g, &over_base), 0);
	assert_true(vblk_sector_is(g, 9, 9));
}

static void test_bay__a_disk_grows_under_its_driver(void **state)
{
	struct vblk_rig *g = *state;
	uint64_t generation = vd_get(&g->d, 0x15, 1);
	struct err e;

	vblk_fill(g, 0, 0x11, BLK_SECTOR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, SECTORS, BLK_SECTOR),
			 VIRTIO_BLK_S_IOERR);
	kvm_model_deliver(g->fm.m.kvm);
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_grow(g->dev, VBLK_DISK_BYTES - 512, &e), -EINVAL);
	assert_int_equal(virtio_blk_grow(g->dev, 2 * VBLK_DISK_BYTES, &e), 0);
	fm_assert_valid(g->dev);
	fm_resume(&g->fm);
	told(g, &generation);
	assert_int_equal(capacity(g), 2 * SECTORS);
	assert_true(vblk_sector_is(g, SECTORS, 0));
	assert_true(vblk_write_sector(g, 2 * SECTORS - 1, 0x22));
	assert_true(vblk_sector_is(g, 2 * SECTORS - 1, 0x22));
}

/* In a child of a machine whose bay is empty: a disk comes, of which nobody else knows. */
static int child_life(struct vblk_rig *g)
{
	static const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	struct err e;

	fm_child(&g->fm, &id);
	if (virtio_blk_insert(g->dev, &over_base, &e))
		return 1;
	fm_resume(&g->fm);
	if (!kvm_model_deliver(g->fm.m.kvm) || capacity(g) != VBLK_BASE_BYTES / BLK_SECTOR)
		return 2;
	return vblk_sector_is(g, 5, 5) && vblk_write_sector(g, 5, 0x55) ? 0 : 3;
}

static void test_bay__forks_get_disks_of_their_own(void **state)
{
	struct vblk_rig *g = *state;
	struct err e;
	int status;
	pid_t pid;

	eject(g);
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_rotate(g->dev, -1, &e), 0);
	vblk_give_as(g, "child/", "base", disk_reopen(g->base_fd));
	vblk_give_as(g, "child/", "data", disk_file());
	pid = fork();
	if (pid == 0)
		_exit(child_life(g));
	grants_drop(g->fm.m.grants, "child/");
	fm_resume(&g->fm);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(capacity(g), 0);
}

static void test_bay__a_failed_write_is_told_to_the_owner(void **state)
{
	struct vblk_rig *g = *state;
	struct virtio_blk_cfg small = over_base;

	small.quota_bytes = 4096;
	eject(g);
	give_files(g);
	assert_int_equal(insert(g, &small), 0);
	assert_true(vblk_write_sector(g, 0, 1));
	assert_int_equal(g->fm.notices, 0);
	vblk_fill(g, 0, 2, BLK_SECTOR);
	assert_int_equal(vblk_request(g, VIRTIO_BLK_T_OUT, 64, BLK_SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(g->fm.notices, 1);
	assert_string_equal(g->fm.notice, "disk-quota");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, vblk_up, vblk_down)
	const struct CMUnitTest tests[] = {
		T(test_bay__a_disk_goes_and_another_comes),
		T(test_bay__what_cannot_be_put_in_leaves_it_empty),
		T(test_bay__a_disk_grows_under_its_driver),
		T(test_bay__forks_get_disks_of_their_own),
		T(test_bay__a_failed_write_is_told_to_the_owner),
	};

	vblk_taken = kvm_model_taken;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
