/* SPDX-License-Identifier: MIT */
/*
 * virtio-blk through its rings: what virtio 1.2 section 5.2 asks for, hostile drivers, resets under
 * load, forks and restores. The test is the guest. Long, because each row needs the same driver and
 * its requests, and a row is read beside the section of the standard that it checks.
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
#include "tests/lib/vdriver.h"
#include "virtio/blk_internal.h"

#define DISK_BYTES MIB(8)
#define BASE_BYTES MIB(4)
#define BUF_BYTES 65536u
#define SLOTS 160u
#define PENDING 0xee

struct vb {
	struct fake_machine fm;
	struct device *dev;
	struct vdriver d;
	gpa_t hdr, status, data; /* SLOTS of each */
	int base_fd;
};

/* what: base, data or layer; prefix: "", or "child/" for the next child. */
static void give_as(struct vb *g, const char *prefix, const char *what, int fd)
{
	char name[64];
	struct err e;

	snprintf(name, sizeof(name), "%sdisk/vda/%s", prefix, what);
	assert_int_equal(grants_put(g->fm.m.grants, name, fd, &e), 0);
}

static void give(struct vb *g, const char *what, int fd)
{
	give_as(g, "", what, fd);
}

static void drive(struct vb *g)
{
	vd_probe(&g->d, &g->fm, 2);
	vd_start(&g->d, ~0ull, 0);
}

static void make(struct vb *g, bool read_only)
{
	struct virtio_blk_cfg cfg = { .size_bytes = DISK_BYTES,
				      .nr_files = 1,
				      .read_only = read_only,
				      .serial = "12345678901234567890" };
	uint8_t sector[BLK_SECTOR];

	memset(g, 0, sizeof(*g));
	fm_init(&g->fm, MIB(64), -1);
	g->fm.taken = kvm_model_taken;
	g->base_fd = disk_file();
	fdtab_add(g->fm.m.fds, g->base_fd, FD_KEEP, "test base");
	for (unsigned int i = 0; i < BASE_BYTES / BLK_SECTOR; i++) {
		memset(sector, (int)i, sizeof(sector));
		assert_int_equal(fd_pwrite_full(g->base_fd, sector, sizeof(sector),
						(uint64_t)i * BLK_SECTOR),
				 0);
	}
	g->dev = fm_add(&g->fm, &virtio_blk_class, "vda", &cfg);
	g->hdr = fm_alloc(&g->fm, SLOTS * 32, 4096);
	g->status = fm_alloc(&g->fm, SLOTS, 4096);
	g->data = fm_alloc(&g->fm, (uint64_t)SLOTS * BUF_BYTES, 4096);
	give(g, "base", disk_reopen(g->base_fd));
	if (!read_only)
		give(g, "data", disk_file());
}

static int up_as(void **state, bool read_only)
{
	static struct vb g;

	make(&g, read_only);
	fm_start(&g.fm);
	drive(&g);
	*state = &g;
	return 0;
}

static int up(void **state)
{
	return up_as(state, false);
}

static int up_read_only(void **state)
{
	return up_as(state, true);
}

static void end(struct vb *g)
{
	fm_fini(&g->fm);
	close(g->base_fd);
}

static int down(void **state)
{
	end(*state);
	return 0;
}

/* ---- requests ---- */

static gpa_t hdr_at(const struct vb *g, unsigned int slot)
{
	return g->hdr + 32ull * slot;
}

static gpa_t data_at(const struct vb *g, unsigned int slot)
{
	return g->data + (uint64_t)BUF_BYTES * slot;
}

static void put_header(struct vb *g, unsigned int slot, uint32_t type, uint64_t sector)
{
	struct {
		le32 type, reserved;
		le64 sector;
	} h = { le32_put(type), le32_put(0), le64_put(sector) };
	uint8_t pending = PENDING;

	BUG_ON(gmem_write(g->fm.m.mem, hdr_at(g, slot), &h, 16));
	BUG_ON(gmem_write(g->fm.m.mem, g->status + slot, &pending, 1));
}

static uint8_t status_of(struct vb *g, unsigned int slot)
{
	uint8_t s;

	BUG_ON(gmem_read(g->fm.m.mem, g->status + slot, &s, 1));
	return s;
}

/* Header, len bytes of data, status; not kicked. */
static void add_on(struct vb *g, unsigned int queue, unsigned int slot, uint32_t type,
		   uint64_t sector, uint32_t len)
{
	struct vd_buf b[3] = { { hdr_at(g, slot), 16, false } };
	unsigned int n = 1;

	put_header(g, slot, type, sector);
	if (len)
		b[n++] = (struct vd_buf){ data_at(g, slot), len,
					  type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID };
	b[n++] = (struct vd_buf){ g->status + slot, 1, true };
	vd_add(&g->d, queue, b, n, slot % 2);
}

static void add(struct vb *g, unsigned int slot, uint32_t type, uint64_t sector, uint32_t len)
{
	add_on(g, 0, slot, type, sector, len);
}

struct wait {
	struct vb *g;
	unsigned int want, got;
};

static bool arrived(void *arg)
{
	struct wait *w = arg;
	uint32_t id, len;

	while (vd_used(&w->g->d, 0, &id, &len))
		w->got++;
	return w->got >= w->want;
}

/* Kicks and takes n completions. */
static bool finish(struct vb *g, unsigned int n)
{
	struct wait w = { g, n, 0 };

	vd_kick(&g->d, 0);
	return fm_until(&g->fm, arrived, &w) && w.got == n;
}

static uint8_t request(struct vb *g, uint32_t type, uint64_t sector, uint32_t len)
{
	add(g, 0, type, sector, len);
	BUG_ON(!finish(g, 1));
	BUG_ON(gmem_pins(g->fm.m.mem));
	return status_of(g, 0);
}

static void fill(struct vb *g, unsigned int slot, uint8_t c, uint32_t len)
{
	uint8_t buf[BUF_BYTES];

	memset(buf, c, len);
	BUG_ON(gmem_write(g->fm.m.mem, data_at(g, slot), buf, len));
}

/* Are all of the slot's first len bytes c? */
static bool holds(struct vb *g, unsigned int slot, uint8_t c, uint32_t len)
{
	uint8_t buf[BUF_BYTES];

	BUG_ON(gmem_read(g->fm.m.mem, data_at(g, slot), buf, len));
	for (uint32_t i = 0; i < len; i++)
		if (buf[i] != c)
			return false;
	return true;
}

static bool sector_is(struct vb *g, uint64_t sector, uint8_t c)
{
	fill(g, 0, (uint8_t)~c, BLK_SECTOR);
	return request(g, VIRTIO_BLK_T_IN, sector, BLK_SECTOR) == VIRTIO_BLK_S_OK &&
	       holds(g, 0, c, BLK_SECTOR);
}

/* ---- queues and the write cache ---- */

#define QUEUES 4u

/* A raw file that is written in place, with QUEUES queues. */
static int up_in_place(void **state)
{
	struct virtio_blk_cfg cfg = { .size_bytes = DISK_BYTES,
				      .writes = BLK_IN_RAW,
				      .nr_queues = QUEUES };
	static struct vb g;

	memset(&g, 0, sizeof(g));
	fm_init(&g.fm, MIB(64), -1);
	g.fm.taken = kvm_model_taken;
	g.base_fd = disk_file();
	fdtab_add(g.fm.m.fds, g.base_fd, FD_KEEP, "test base");
	assert_int_equal(ftruncate(g.base_fd, DISK_BYTES), 0);
	g.dev = fm_add(&g.fm, &virtio_blk_class, "vda", &cfg);
	g.hdr = fm_alloc(&g.fm, SLOTS * 32, 4096);
	g.status = fm_alloc(&g.fm, SLOTS, 4096);
	g.data = fm_alloc(&g.fm, (uint64_t)SLOTS * BUF_BYTES, 4096);
	give(&g, "data", dup(g.base_fd));
	fm_start(&g.fm);
	drive(&g);
	*state = &g;
	return 0;
}

static bool all_arrived(void *arg)
{
	struct wait *w = arg;
	uint32_t id, len;

	for (unsigned int q = 0; q < QUEUES; q++)
		while (vd_used(&w->g->d, q, &id, &len))
			w->got++;
	return w->got >= w->want;
}

/* More requests than the device takes at once, on all queues: each is answered on its own queue,
 * and none waits for ever. */
static void test_vblk__every_queue_is_served(void **state)
{
	struct vb *g = *state;
	struct wait w = { g, SLOTS, 0 };
	uint16_t before[QUEUES];

	assert_true(vd_offered(&g->d) & 1ull << VIRTIO_BLK_F_MQ);
	assert_int_equal(fm_read(&g->fm, g->d.config + 34, 2), QUEUES);
	for (unsigned int q = 0; q < QUEUES; q++)
		before[q] = vd_used_idx(&g->d, q);
	for (unsigned int i = 0; i < SLOTS; i++) {
		fill(g, i, (uint8_t)(i + 1), 4096);
		add_on(g, i % QUEUES, i, VIRTIO_BLK_T_OUT, i * 8, 4096);
	}
	for (unsigned int q = 0; q < QUEUES; q++)
		vd_kick(&g->d, q);
	assert_true(fm_until(&g->fm, all_arrived, &w));
	for (unsigned int q = 0; q < QUEUES; q++)
		assert_int_equal((uint16_t)(vd_used_idx(&g->d, q) - before[q]), SLOTS / QUEUES);
	for (unsigned int i = 0; i < SLOTS; i++) {
		uint8_t got[4096];

		assert_int_equal(status_of(g, i), VIRTIO_BLK_S_OK);
		assert_int_equal(fd_pread_full(g->base_fd, got, sizeof(got), i * 4096ull), 0);
		assert_int_equal(got[0], (uint8_t)(i + 1));
		assert_int_equal(got[4095], (uint8_t)(i + 1));
	}
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
}

static uint64_t flushes(struct vb *g)
{
	struct blk_stats st;

	virtio_blk_stats(g->dev, &st);
	return st.flushes;
}

static void test_vblk__write_cache_is_as_the_driver_wants_it(void **state)
{
	struct vb *g = *state;

	assert_true(vd_offered(&g->d) & 1ull << VIRTIO_BLK_F_CONFIG_WCE);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 1);
	assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 0, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 0);
	assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 1);
	/* write-through: what completes is durable */
	fm_write(&g->fm, g->d.config + 32, 1, 0);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 0);
	fill(g, 0, 7, 4096);
	assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 8, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 2);
	assert_int_equal(request(g, VIRTIO_BLK_T_IN, 8, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 2);
	/* a driver that cannot flush */
	vd_start(&g->d, ~(1ull << VIRTIO_BLK_F_FLUSH), 0);
	assert_int_equal(fm_read(&g->fm, g->d.config + 32, 1), 1);
	assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 16, 4096), VIRTIO_BLK_S_OK);
	assert_int_equal(flushes(g), 3);
}

static void restore_from(struct vb *g, struct vb *h, int layer)
{
	struct wbuf w;
	struct err e;

	make(h, false);
	grants_drop(h->fm.m.grants, "disk/vda/base");
	give(h, "base", disk_reopen(g->base_fd));
	h->hdr = g->hdr;
	h->status = g->status;
	h->data = g->data;
	h->d = g->d;
	h->d.fm = &h->fm;
	if (layer >= 0)
		give(h, "layer", disk_reopen(layer));
	fm_save(g->dev, &w);
	assert_int_equal(fm_load(h->dev, w.data, w.len, &e), 0);
	wbuf_fini(&w);
}

/* n requests are answered, and no more for a while. */
static void expect_answers(struct vb *g, unsigned int n)
{
	struct wait w = { g, n, 0 };

	assert_true(fm_until(&g->fm, arrived, &w));
	for (unsigned int i = 0; i < 200; i++)
		fm_spin(&g->fm);
	arrived(&w);
	assert_int_equal(w.got, n);
}

/* Two operations in an hour: the third waits, whatever happens to the machine, until the limit is
 * lifted. */
static void test_vblk__rate_limit_holds_back_until_it_is_lifted(void **state)
{
	struct virtio_blk_rate rate = { .ops = { .size = 2, .refill_ms = 3600000 } }, none = { 0 };
	struct wait w;
	struct vb *g = *state;
	struct err e;

	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 5; i++)
		add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 2);
	fm_quiesce(&g->fm);
	fm_resume(&g->fm);
	expect_answers(g, 0);
	rate.ops.burst = 1;
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	expect_answers(g, 3);
	for (unsigned int i = 0; i < 3; i++)
		add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 0);
	assert_int_equal(virtio_blk_set_rate(g->dev, &none, &e), 0);
	w = (struct wait){ g, 3, 0 };
	assert_true(fm_until(&g->fm, arrived, &w));
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(status_of(g, i), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	/* bytes: a request bigger than the bucket passes, the next waits for it */
	rate = (struct virtio_blk_rate){ .bytes = { .size = 512, .refill_ms = 3600000 } };
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 2; i++)
		add(g, i, VIRTIO_BLK_T_OUT, 64, 4096);
	vd_kick(&g->d, 0);
	expect_answers(g, 1);
	rate.bytes.refill_ms = 0;
	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), -EINVAL);
	assert_int_equal(virtio_blk_set_rate(g->dev, &none, &e), 0);
	w = (struct wait){ g, 1, 0 };
	assert_true(fm_until(&g->fm, arrived, &w));
}

/* A copy of the machine waits as long as the machine would have. */
static void test_vblk__rate_limit_is_saved(void **state)
{
	struct virtio_blk_rate rate = { .ops = { .size = 2, .refill_ms = 3600000 } };
	static struct vb h;
	struct vb *g = *state;
	struct err e;

	assert_int_equal(virtio_blk_set_rate(g->dev, &rate, &e), 0);
	for (unsigned int i = 0; i < 3; i++)
		add(g, i, VIRTIO_BLK_T_IN, i, BLK_SECTOR);
	vd_kick(&g->d, 0);
	expect_answers(g, 2);
	fm_quiesce(&g->fm);
	restore_from(g, &h, -1);
	assert_int_equal(((struct vblk *)h.dev)->state.ops.size, 2);
	assert_true(rate_wait_ns(&((struct vblk *)h.dev)->state.ops) > 1000ull * NS_PER_SEC);
	end(&h);
}

/* ---- the device as such ---- */

static void test_vblk__config_space_says_what_the_disk_is(void **state)
{
	struct vb *g = *state;
	uint64_t offered = vd_offered(&g->d);

	assert_int_equal(fm_read(&g->fm, g->d.config, 8), DISK_BYTES / BLK_SECTOR);
	assert_int_equal(fm_read(&g->fm, g->d.config + 8, 4), 1 << 20);
	assert_int_equal(fm_read(&g->fm, g->d.config + 12, 4), VIRTIO_MAX_SEGS - 2);
	assert_int_equal(fm_read(&g->fm, g->d.config + 20, 4), BLK_SECTOR);
	assert_int_equal(fm_read(&g->fm, g->d.config + 24, 1), 3);
	assert_int_equal(fm_read(&g->fm, g->d.config + 34, 2), 1);
	assert_int_equal(fm_read(&g->fm, g->d.config + 40, 4), 1);
	assert_int_equal(fm_read(&g->fm, g->d.config + 44, 4), 8);
	assert_int_equal(fm_read(&g->fm, g->d.config + 200, 4), 0);
	fm_write(&g->fm, g->d.config, 4, 1);
	assert_int_equal(fm_read(&g->fm, g->d.config, 8), DISK_BYTES / BLK_SECTOR);
	assert_true(offered & 1ull << VIRTIO_BLK_F_FLUSH);
	assert_true(offered & 1ull << VIRTIO_BLK_F_DISCARD);
	assert_true(offered & 1ull << VIRTIO_BLK_F_WRITE_ZEROES);
	assert_false(offered & 1ull << VIRTIO_BLK_F_RO);
}

static void test_vblk__read_only_disk_says_so_and_refuses_changes(void **state)
{
	struct vb *g = *state;
	uint64_t offered = vd_offered(&g->d);

	assert_true(offered & 1ull << VIRTIO_BLK_F_RO);
	assert_false(offered & (1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES));
	fill(g, 0, 0x11, BLK_SECTOR);
	assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 5, BLK_SECTOR), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_true(sector_is(g, 5, 5));
}

static void test_vblk__bad_cfg_is_refused(void **state)
{
	static const uint64_t bad[] = { 0, 511, BLK_MAX_BYTES + 512, UINT64_MAX };
	struct virtio_blk_cfg cfg = { 0 };
	struct device *d = NULL;
	struct vb *g = *state;
	struct err e;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		cfg.size_bytes = bad[i];
		assert_int_equal(virtio_blk_class.create(&g->fm.m, "x", &cfg, &d, &e), -EINVAL);
	}
	assert_null(d);
}

static void test_vblk__what_was_written_is_read_and_interrupts_come(void **state)
{
	struct vb *g = *state;

	assert_true(sector_is(g, 9, 9));
	assert_true(sector_is(g, BASE_BYTES / BLK_SECTOR, 0)); /* behind the base */
	fill(g, 0, 0x77, 3 * BLK_SECTOR);
	assert_int_equal(request(g, VIRTIO_BLK_T_OUT, 9, 3 * BLK_SECTOR), VIRTIO_BLK_S_OK);
	assert_int_equal(request(g, VIRTIO_BLK_T_FLUSH, 0, 0), VIRTIO_BLK_S_OK);
	assert_true(sector_is(g, 8, 8));
	assert_true(sector_is(g, 9, 0x77));
	assert_true(sector_is(g, 11, 0x77));
	assert_true(sector_is(g, 12, 12));
	assert_true(kvm_model_deliver(g->fm.m.kvm) > 0);
	assert_int_equal(vd_status(&g->d) & VIRTIO_CONFIG_S_NEEDS_RESET, 0);
}

static void test_vblk__framing_is_the_drivers_choice(void **state)
{
	struct vb *g = *state;
	gpa_t at = data_at(g, 3);
	uint8_t raw[16 + BLK_SECTOR];
	const struct vd_buf out[] = { { at, 5, false },
				      { at + 5, 11 + 100, false }, /* rest of header, some data */
				      { at + 116, 412, false },
				      { g->status, 1, true } };
	const struct vd_buf in[] = { { at, 1, false },
				     { at + 1, 15, false },
				     { data_at(g, 4), 500, true },
				     { data_at(g, 4) + 500, 13, true } }; /* data and status */

	memset(raw, 0x3c, sizeof(raw));
	put_header(g, 0, VIRTIO_BLK_T_OUT, 40);
	assert_int_equal(gmem_read(g->fm.m.mem, hdr_at(g, 0), raw, 16), 0);
	assert_int_equal(gmem_write(g->fm.m.mem, at, raw, sizeof(raw)), 0);
	vd_add(&g->d, 0, out, 4, false);
	assert_true(finish(g, 1));
	assert_int_equal(status_of(g, 0), VIRTIO_BLK_S_OK);
	put_header(g, 0, VIRTIO_BLK_T_IN, 40);
	assert_int_equal(gmem_read(g->fm.m.mem, hdr_at(g, 0), raw, 16), 0);
	assert_int_equal(gmem_write(g->fm.m.mem, at, raw, 16), 0);
	fill(g, 4, 0xee, BLK_SECTOR + 1);
	vd_add(&g->d, 0, in, 4, true);
	assert_true(finish(g, 1));
	assert_true(holds(g, 4, 0x3c, BLK_SECTOR));
	assert_int_equal(gmem_read(g->fm.m.mem, data_at(g, 4) + BLK_SECTOR, raw, 1), 0);
	assert_int_equal(raw[0], VIRTIO_BLK_S_OK);
}

static void test_vblk__get_id_gives_the_serial(void **state)
{
	struct vb *g = *state;
	char id[21] = "";

	fill(g, 0, 'x', 32);
	assert_int_equal(request(g, VIRTIO_BLK_T_GET_ID, 0, 20), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_read(g->fm.m.mem, data_at(g, 0), id, 20), 0);
	assert_string_equal(id, "12345678901234567890");
	fill(g, 0, 'x', 32);
	assert_int_equal(request(g, VIRTIO_BLK_T_GET_ID, 0, 7), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_read(g->fm.m.mem, data_at(g, 0), id, 8), 0);
	assert_memory_equal(id, "1234567x", 8);
}

static uint8_t range(struct vb *g, uint32_t type, uint64_t sector, uint32_t n, uint32_t flags)
{
	struct {
		le64 sector;
		le32 n, flags;
	} r = { le64_put(sector), le32_put(n), le32_put(flags) };

	assert_int_equal(gmem_write(g->fm.m.mem, data_at(g, 0), &r, 16), 0);
	return request(g, type, 0, 16);
}

static void test_vblk__discard_and_write_zeroes(void **state)
{
	struct vb *g = *state;
	uint64_t cap = DISK_BYTES / BLK_SECTOR;

	assert_int_equal(range(g, VIRTIO_BLK_T_WRITE_ZEROES, 21, 3, 1), VIRTIO_BLK_S_OK);
	assert_true(sector_is(g, 20, 20));
	assert_true(sector_is(g, 21, 0));
	assert_true(sector_is(g, 23, 0));
	assert_true(sector_is(g, 24, 24));
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 32, 16, 0), VIRTIO_BLK_S_OK);
	assert_true(sector_is(g, 31, 31));
	assert_true(sector_is(g, 32, 0));
	assert_true(sector_is(g, 47, 0));
	assert_true(sector_is(g, 48, 48));
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 0, 8, 1), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(g, VIRTIO_BLK_T_WRITE_ZEROES, 0, 8, 2), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, cap - 7, 8, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, UINT64_MAX / 512, 8, 0),
			 VIRTIO_BLK_S_IOERR);
	assert_int_equal(range(g, VIRTIO_BLK_T_DISCARD, 0, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(g, VIRTIO_BLK_T_DISCARD, 0, 32), VIRTIO_BLK_S_IOERR);
	assert_int_equal(request(g, VIRTIO_BLK_T_DISCARD, 0, 0), VIRTIO_BLK_S_IOERR);
	assert_true(sector_is(g, 1, 1));
}

static void test_vblk__nonsense_gets_a_status_and_the_device_lives(void **state)
{
	static const struct {
		uint32_t type;
		uint64_t sector;
		uint32_t len;
		uint8_t want;
	} bad[] = {
		{ VIRTIO_BLK_T_IN, DISK_BYTES / 512, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, DISK_BYTES / 512 - 1, 1024, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, UINT64_MAX, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, 1ull << 55, 512, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_IN, 0, 513, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_OUT, 0, 1, VIRTIO_BLK_S_IOERR },
		{ VIRTIO_BLK_T_SCSI_CMD, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ 0xffffffff, 0, 512, VIRTIO_BLK_S_UNSUPP },
		{ VIRTIO_BLK_T_IN, 0, 0, VIRTIO_BLK_S_OK },
		{ VIRTIO_BLK_T_OUT, 0, 0, VIRTIO_BLK_S_OK },
	};
	struct vb *g = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (request(g, bad[i].type, bad[i].sector, bad[i].len) != bad[i].want)
			fail_msg("case %zu: status %u", i, status_of(g, 0));
	assert_true(sector_is(g, 3, 3));
}

static bool is_broken(void *arg)
{
	return vd_status(arg) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void test_vblk__no_room_for_header_or_status_breaks_the_device_only(void **state)
{
	struct vb *g = *state;
	const struct vd_buf bad[][2] = {
		{ { hdr_at(g, 0), 16, false }, { data_at(g, 0), 512, false } }, /* no status */
		{ { hdr_at(g, 0), 15, false }, { g->status, 1, true } },
		{ { hdr_at(g, 0), 8, true }, { g->status, 1, true } }, /* no header */
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		put_header(g, 0, VIRTIO_BLK_T_OUT, 0);
		vd_add(&g->d, 0, bad[i], 2, false);
		vd_kick(&g->d, 0);
		assert_true(fm_until(&g->fm, is_broken, &g->d));
		assert_int_equal(gmem_pins(g->fm.m.mem), 0);
		drive(g);
		assert_true(sector_is(g, 3, 3));
	}
}

/* ---- load ---- */

/*
 * n requests of 16 KiB: writes of even slots, reads of odd ones. The kick is served here and not by
 * the loop, which would also take completions: so all are in flight afterwards.
 */
static void load(struct vb *g, unsigned int n)
{
	struct virtio_dev *v = (struct virtio_dev *)g->dev;

	for (unsigned int i = 0; i < n; i++) {
		fill(g, i, (uint8_t)(0x80 + i), 16384);
		add(g, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 4096 + 32 * i, 16384);
	}
	pthread_mutex_lock(&g->fm.lock);
	v->type->kick(v, 0);
	pthread_mutex_unlock(&g->fm.lock);
	assert_int_equal(gmem_pins(g->fm.m.mem), n);
}

static void test_vblk__more_requests_than_the_engine_takes(void **state)
{
	struct wait w = { *state, 160, 0 };
	struct vb *g = *state;

	/* chains are indirect or three descriptors long: make room for 160 */
	for (unsigned int i = 0; i < 160; i++) {
		const struct vd_buf b[] = { { hdr_at(g, i), 16, false },
					    { data_at(g, i), 16384, i % 2 },
					    { g->status + i, 1, true } };

		fill(g, i, (uint8_t)i, 16384);
		put_header(g, i, i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT, 32 * i);
		vd_add(&g->d, 0, b, 3, true);
	}
	vd_kick(&g->d, 0);
	assert_true(fm_until(&g->fm, arrived, &w));
	for (unsigned int i = 0; i < 160; i++)
		assert_int_equal(status_of(g, i), VIRTIO_BLK_S_OK);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	assert_true(sector_is(g, 32 * 158, 158));
}

static void test_vblk__reset_under_load_leaves_no_pin_and_no_used_entry(void **state)
{
	struct vb *g = *state;
	uint64_t idx;

	load(g, 64);
	idx = vd_used_idx(&g->d, 0);
	vd_set_status(&g->d, 0);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	fm_spin(&g->fm);
	assert_int_equal(vd_used_idx(&g->d, 0), idx);
	drive(g);
	assert_true(sector_is(g, 3, 3));
}

static void test_vblk__quiesce_under_load_completes_everything(void **state)
{
	struct wait w = { *state, 64, 0 };
	struct vb *g = *state;

	load(g, 64);
	fm_quiesce(&g->fm);
	assert_int_equal(gmem_pins(g->fm.m.mem), 0);
	assert_true(arrived(&w));
	for (unsigned int i = 0; i < 64; i++)
		assert_int_equal(status_of(g, i), VIRTIO_BLK_S_OK);
	/* what is kicked while it stands still is served afterwards */
	add(g, 70, VIRTIO_BLK_T_IN, 3, BLK_SECTOR);
	vd_kick(&g->d, 0);
	fm_spin(&g->fm);
	assert_int_equal(status_of(g, 70), PENDING);
	fm_resume(&g->fm);
	w = (struct wait){ g, 1, 0 };
	assert_true(fm_until(&g->fm, arrived, &w));
	assert_int_equal(status_of(g, 70), VIRTIO_BLK_S_OK);
}

/* ---- fork and restore ---- */

static bool write_sector(struct vb *g, uint64_t sector, uint8_t c)
{
	fill(g, 0, c, BLK_SECTOR);
	return request(g, VIRTIO_BLK_T_OUT, sector, BLK_SECTOR) == VIRTIO_BLK_S_OK;
}

static int child_life(struct vb *g, uint8_t c)
{
	static const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	struct wait w = { g, 64, 0 };

	fm_child(&g->fm, &id);
	fm_resume(&g->fm);
	if (!fm_until(&g->fm, arrived, &w))
		return 2;
	if (!sector_is(g, 4096, 0x80) || !sector_is(g, 7, 7) || !write_sector(g, 7, c))
		return 3;
	usleep(20000);
	return sector_is(g, 7, c) && sector_is(g, 4096, 0x80) && !gmem_pins(g->fm.m.mem) ? 0 : 4;
}

static void test_vblk__forks_under_load_go_on_and_diverge(void **state)
{
	struct vb *g = *state;
	struct wait w = { g, 64, 0 };
	pid_t kids[3];
	struct err e;

	load(g, 64);
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_rotate(g->dev, disk_file(), &e), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++) {
		give_as(g, "child/", "data", disk_file());
		kids[i] = fork();
		if (kids[i] == 0)
			_exit(child_life(g, (uint8_t)(0xc0 + i)));
		grants_drop(g->fm.m.grants, "child/");
	}
	fm_resume(&g->fm);
	assert_true(fm_until(&g->fm, arrived, &w));
	assert_true(write_sector(g, 7, 0xaa));
	assert_true(write_sector(g, 4096, 0xab));
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++) {
		int st;

		assert_int_equal(waitpid(kids[i], &st, 0), kids[i]);
		assert_int_equal(st, 0);
	}
	assert_true(sector_is(g, 7, 0xaa));
	assert_true(sector_is(g, 4096, 0xab));
	assert_true(sector_is(g, 4096 + 64, 0x82));
}

static void test_vblk__child_without_a_data_file_is_refused(void **state)
{
	static const struct identity id = { .renew = true, .name = "child", .generation = { 2 } };
	struct vb *g = *state;
	struct err e = { "" };

	fm_quiesce(&g->fm);
	assert_int_equal(g->dev->cls->adopt(g->dev, &id, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "disk/vda/data"));
}

/* A second machine over the same base, loaded from the first one's state. */

static void copy_ram(struct vb *from, struct vb *to)
{
	cleanup_free uint8_t *buf = malloc(MIB(1));

	for (gpa_t at = 0; at < MIB(64); at += MIB(1)) {
		BUG_ON(gmem_read(from->fm.m.mem, at, buf, MIB(1)));
		BUG_ON(gmem_write(to->fm.m.mem, at, buf, MIB(1)));
	}
}

static void test_vblk__restored_disk_is_as_it_was_saved(void **state)
{
	static const struct identity same = { .name = "fake", .generation = { 1 } };
	static struct vb h;
	struct vb *g = *state;
	int layer = disk_file();
	struct err e;

	assert_true(write_sector(g, 7, 0x5d));
	assert_true(write_sector(g, 9000, 0x5e));
	fm_quiesce(&g->fm);
	assert_int_equal(virtio_blk_save_layer(g->dev, layer, &e), 0);
	restore_from(g, &h, layer);
	copy_ram(g, &h);
	fm_adopt(&h.fm, &same);
	fm_resume(&h.fm);
	assert_true(sector_is(&h, 7, 0x5d));
	assert_true(sector_is(&h, 8, 8));
	assert_true(sector_is(&h, 9000, 0x5e));
	assert_true(write_sector(&h, 7, 0x11));
	fm_resume(&g->fm);
	assert_true(sector_is(g, 7, 0x5d));
	end(&h);
	close(layer);
}

static void test_vblk__restore_without_its_layer_is_refused(void **state)
{
	static const struct identity same = { .name = "fake", .generation = { 1 } };
	static struct vb h;
	struct vb *g = *state;
	struct err e = { "" };

	assert_true(write_sector(g, 7, 0x5d));
	fm_quiesce(&g->fm);
	restore_from(g, &h, -1);
	assert_int_equal(h.dev->cls->adopt(h.dev, &same, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "layer"));
	end(&h);
}

int main(void)
{
#define T(t) cmocka_unit_test_setup_teardown(t, up, down)
	const struct CMUnitTest tests[] = {
		T(test_vblk__config_space_says_what_the_disk_is),
		T(test_vblk__rate_limit_holds_back_until_it_is_lifted),
		T(test_vblk__rate_limit_is_saved),
		cmocka_unit_test_setup_teardown(test_vblk__every_queue_is_served, up_in_place,
						down),
		cmocka_unit_test_setup_teardown(test_vblk__write_cache_is_as_the_driver_wants_it,
						up_in_place, down),
		cmocka_unit_test_setup_teardown(
			test_vblk__read_only_disk_says_so_and_refuses_changes, up_read_only, down),
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

	return cmocka_run_group_tests(tests, NULL, NULL);
}
