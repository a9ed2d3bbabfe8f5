/* SPDX-License-Identifier: MIT */
/*
 * Power cuts under a qcow2 file that is written. The ring is a model (ring_model.h): when the power
 * is cut each sector of what is not on the medium yet has or has not reached it, and the file may
 * end earlier. After every cut QEMU's checker and ours must find no error but leaked clusters, and
 * every sector must hold what it held at the last flush that was acknowledged, or something written
 * to it since.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "block/qcow2_tools.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/ring_model.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))
#define SECTORS 4096u /* of the disk */
#define STEPS 1200u   /* of a trial: a request is submitted, or completions are taken */
#define CUTS 14u      /* in a trial, about */

/* ---- a cut ---- */

static void reach(uint8_t *image, const uint8_t *data, uint64_t off, uint64_t len)
{
	uint64_t odds = 1 + qcow2_random(8);

	for (uint64_t at = 0; at < len;) {
		uint64_t n = MIN(len - at, 512 - (off + at) % 512);

		if (qcow2_random(odds))
			memcpy(image + off + at, data + at, n);
		at += n;
	}
}

/* What the medium may hold if the power were cut now, as the file `path`. The world goes on. */
static void cut(const char *path)
{
	uint8_t *image = malloc(FILE_MAX);
	uint64_t end = world.end;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	BUG_ON(fd < 0 || !image);
	memcpy(image, world.medium, FILE_MAX);
	for (size_t i = 0; i < world.nr_dirt; i++)
		reach(image, world.dirt[i].data, world.dirt[i].off, world.dirt[i].len);
	for (unsigned int i = 0; i < OPS; i++) {
		const struct model_op *op = &world.op[i];
		uint8_t *data;

		if (!op->live || op->op == URING_READ || op->op == URING_SYNC)
			continue;
		data = calloc(1, op->len);
		if (op->op == URING_WRITE)
			pour(op, data);
		reach(image, data, op->off, op->len);
		end = MAX(end, op->off + op->len);
		free(data);
	}
	/* what was never synced need not even have made the file longer */
	if (qcow2_random(2))
		end -= qcow2_random((end - world.synced_end) / 512 + 1) * 512;
	BUG_ON(fd_pwrite_full(fd, image, end, 0));
	close(fd);
	free(image);
}

/* ---- what must be there ---- */

/* One change of a sector. A write fills its sectors with its number, a zeroing with 0. */
struct change {
	uint64_t number, value;
};

struct shot {
	struct blk_req r;
	struct iovec iov;
	uint64_t number; /* of what changes the disk */
	uint64_t stamp;	 /* of a flush: the clock when it was submitted */
	uint64_t *buf;
	bool busy;
};

static struct {
	uint64_t number, acks;
	uint64_t acked[STEPS + 1]; /* by number: the clock of its acknowledgement; 0: not yet */
	struct change *change[SECTORS];
	unsigned int nr[SECTORS],
		floor[SECTORS]; /* floor: the first that may be there after a cut */
	struct shot shot[BLK_DEPTH];
	unsigned int busy;
} truth;

static void note(uint64_t sector, uint64_t number, uint64_t value)
{
	unsigned int n = truth.nr[sector]++;

	truth.change[sector] =
		reallocarray(truth.change[sector], n + 1, sizeof(*truth.change[sector]));
	BUG_ON(!truth.change[sector]);
	truth.change[sector][n] = (struct change){ number, value };
}

/* What was acknowledged before the flush was submitted is there from now on. Changes of one sector
 * happen in the order of their submission. */
static void flush_acked(uint64_t stamp)
{
	for (uint64_t k = 0; k < SECTORS; k++) {
		for (unsigned int i = truth.nr[k]; i-- > truth.floor[k];) {
			uint64_t at = truth.acked[truth.change[k][i].number];

			if (!at || at > stamp)
				continue;
			truth.floor[k] = i;
			break;
		}
	}
}

static void done(struct blk_req *r, int result)
{
	struct shot *s = container_of(r, struct shot, r);

	BUG_ON(result || !s->busy);
	if (r->op == BLK_FLUSH)
		flush_acked(s->stamp);
	else
		truth.acked[s->number] = ++truth.acks;
	free(s->buf);
	s->busy = false;
	truth.busy--;
}

/* Only whole clusters inside [from, to) are; the disk's last one may be cut. */
static bool discarded(uint64_t sector, uint64_t from, uint64_t to, const struct blk *b)
{
	uint64_t per = blk_unit(b) / 512, first = ROUND_DOWN(sector, per);

	return first >= from && MIN(first + per, (uint64_t)SECTORS) <= to;
}

static void fire(struct blk *b)
{
	static const enum blk_op ops[] = { BLK_WRITE, BLK_WRITE,   BLK_WRITE, BLK_WRITE,
					   BLK_ZERO,  BLK_DISCARD, BLK_FLUSH };
	struct shot *s = truth.shot;
	uint64_t at, n, value;

	while (s->busy)
		s++;
	*s = (struct shot){ .busy = true,
			    .stamp = truth.acks,
			    .r = { .op = ops[qcow2_random(ARRAY_SIZE(ops))], .done = done } };
	truth.busy++;
	if (s->r.op != BLK_FLUSH) {
		at = qcow2_random(SECTORS);
		n = qcow2_random(3) ? 24 : 400;
		n = 1 + qcow2_random(MIN(SECTORS - at, n));
		s->number = ++truth.number;
		value = s->r.op == BLK_WRITE ? s->number : 0;
		for (uint64_t k = at; k < at + n; k++)
			if (s->r.op != BLK_DISCARD || discarded(k, at, at + n, b))
				note(k, s->number, value);
		s->r.offset_bytes = at * 512;
		s->r.len = n * 512;
		s->buf = malloc(s->r.len);
		for (uint64_t k = 0; k < n * 64; k++)
			s->buf[k] = value;
		s->iov = (struct iovec){ s->buf, s->r.len };
		s->r.iov = &s->iov;
		s->r.niov = s->r.op == BLK_WRITE;
	}
	BUG_ON(blk_submit(b, &s->r));
	blk_kick(b);
}

/* The content of a raw file: each sector is one value all over. */
static void read_values(const char *path, uint64_t *value)
{
	uint64_t *raw = malloc(SECTORS * 512);
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0 && raw);
	assert_int_equal(fd_pread_full(fd, raw, SECTORS * 512, 0), 0);
	for (uint64_t k = 0; k < SECTORS; k++) {
		value[k] = raw[k * 64];
		for (unsigned int i = 1; i < 64; i++)
			assert_int_equal(raw[k * 64 + i], value[k]);
	}
	close(fd);
	free(raw);
}

static void check_ours(const char *path, bool mend)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	struct qcow2_report rep;
	struct err e;

	if (qcow2_check(fd, mend, &rep, &e))
		fail_msg("check: %s", e.msg);
	assert_int_equal(rep.errors, 0);
	close(fd);
}

static void check_cut(const char *dir, bool lazy)
{
	static uint64_t value[SECTORS];

	bool mend = qcow2_random(2);

	/* Lazy refcounts must be made anew first, by us or by QEMU; what others leak may be given
	 * back. 3: leaked clusters. */
	check_ours(scratch_path(dir, "cut"), mend);
	if (lazy && !mend)
		sh("qemu-img check -q -f qcow2 -r all %s/cut >/dev/null 2>&1; true", dir);
	if (lazy || mend)
		sh("qemu-img check -q -f qcow2 %s/cut", dir);
	else
		sh("qemu-img check -q -f qcow2 %s/cut >%s/said 2>&1 || [ $? = 3 ] || "
		   "{ cat %s/said; false; }",
		   dir, dir, dir);
	sh("qemu-img convert -f qcow2 -O raw %s/cut %s/raw", dir, dir);
	read_values(scratch_path(dir, "raw"), value);
	for (uint64_t k = 0; k < SECTORS; k++) {
		bool found = false;

		for (unsigned int i = truth.floor[k]; i < truth.nr[k] && !found; i++)
			found = truth.change[k][i].value == value[k];
		if (!found)
			fail_msg("sector %llu holds %llx; what was flushed is %llx",
				 (unsigned long long)k, (unsigned long long)value[k],
				 (unsigned long long)truth.change[k][truth.floor[k]].value);
	}
}

/* ---- trials ---- */

static struct source *open_source(const char *dir)
{
	struct source_file files[2] = {
		{ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC), SOURCE_QCOW2 },
		{ open(scratch_path(dir, "below"), O_RDONLY | O_CLOEXEC), SOURCE_RAW },
	};
	struct source *s = NULL;
	struct err e;

	if (source_open(files, 2, &s, &e))
		fail_msg("%s", e.msg);
	return s;
}

static void begin(struct disk *d, const char *dir, uint64_t unit)
{
	static uint64_t value[SECTORS];

	memset(&truth, 0, sizeof(truth));
	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	read_values(scratch_path(dir, "all"), value);
	for (uint64_t k = 0; k < SECTORS; k++)
		note(k, 0, value[k]);
	model_begin();
	world.fd = open(scratch_path(dir, "top"), O_RDWR | O_CLOEXEC);
	assert_true(world.fd >= 0);
	disk_open_in(d, BLK_IN_QCOW2, open_source(dir), world.fd, scratch_path(dir, "all"), unit,
		     1);
	/* opening may have made the last cluster whole: that is waited for here */
	model_settled();
}

static void end(struct disk *d)
{
	blk_quiesce(d->blk);
	assert_int_equal(truth.busy, 0);
	disk_close(d);
	model_end();
	for (uint64_t k = 0; k < SECTORS; k++)
		free(truth.change[k]);
}

static void trial(const char *dir, const char *options, uint64_t unit)
{
	bool lazy = strstr(options, "lazy");
	struct disk d;
	struct err e;

	sh("qemu-img create -q -f qcow2 -o %s -b below -F raw %s/top %u", options, dir,
	   SECTORS * 512);
	sh("qemu-io -f qcow2 -c 'write -P 0x11 300k 200k' -c 'write -z 350k 64k' "
	   "-c 'write -P 0x22 1M 100k' %s/top >/dev/null",
	   dir);
	begin(&d, dir, unit);
	for (unsigned int k = 0; k < STEPS; k++) {
		if (truth.busy < 24 && qcow2_random(3))
			fire(d.blk);
		else
			blk_poll(d.blk);
		/* as for a fork: what is there stays, and is held */
		if (!qcow2_random(STEPS / 2)) {
			blk_quiesce(d.blk);
			assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
		}
		if (!qcow2_random(STEPS / CUTS)) {
			cut(scratch_path(dir, "cut"));
			check_cut(dir, lazy);
		}
	}
	end(&d);
	sh("qemu-img check -q -f qcow2 %s/top", dir);
}

static void test_crash__no_error_and_nothing_lost_that_was_flushed(void **state)
{
	static const struct {
		const char *options;
		uint64_t unit;
	} kind[] = {
		{ "cluster_size=512", 512 },
		{ "cluster_size=512,refcount_bits=64", 512 }, /* the refcount table moves often */
		{ "cluster_size=4096,refcount_bits=1", 4096 },
		{ "cluster_size=65536", 65536 },
		{ "cluster_size=4096,lazy_refcounts=on", 4096 },
		{ "cluster_size=512,refcount_bits=64,lazy_refcounts=on", 512 },
	};
	char *dir = scratch_make();

	(void)state;
	sh("yes 3333333 | tr '\\n' 3 | head -c %u >%s/below", SECTORS * 512 - 71680, dir);
	for (unsigned int round = 0; round < 3; round++)
		for (unsigned int i = 0; i < ARRAY_SIZE(kind); i++)
			trial(dir, kind[i].options, kind[i].unit);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crash__no_error_and_nothing_lost_that_was_flushed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
