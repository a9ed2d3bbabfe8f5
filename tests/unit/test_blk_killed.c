/* SPDX-License-Identifier: MIT */
/*
 * kill -9 of who writes to a qcow2 file, at random moments under a load of writes and flushes: the
 * file is without error, and nothing that was acknowledged is lost. The kernel survives, so what
 * counts is the order in which things reach the file; power cuts are in test_blk_crash.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/source.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))
#define SECTORS 4096u
#define ROUNDS 200u
#define BATCH 8u /* writes at once; then a flush, then the acknowledgement */

/* What batch number `batch` of a load does: the same in both processes. */
struct change {
	uint64_t at, n, value; /* value 0: zeroed */
};

static uint64_t mix(uint64_t x)
{
	x ^= x >> 31;
	x *= 0x9e3779b97f4a7c15ull;
	x ^= x >> 29;
	x *= 0xbf58476d1ce4e5b9ull;
	return x ^ x >> 32;
}

static struct change change_of(uint64_t seed, uint64_t batch, unsigned int i)
{
	uint64_t x = mix(seed * 1000003 + batch * BATCH + i), at = x % SECTORS;
	uint64_t n = 1 + (x >> 20) % ((x >> 40) % 5 ? 24 : 300);

	return (struct change){ .at = at,
				.n = MIN(n, SECTORS - at),
				.value = (x >> 50) % 6 ? batch * BATCH + i + 1 : 0 };
}

struct shot {
	struct blk_req r;
	struct iovec iov;
	uint64_t buf[300 * 64];
};

static void done(struct blk_req *r, int result)
{
	(void)r;
	if (result)
		_exit(1);
}

_Noreturn static void load(struct disk *d, uint64_t seed, int ack)
{
	struct shot *shot = calloc(BATCH, sizeof(*shot));

	for (uint64_t batch = 0;; batch++) {
		for (unsigned int i = 0; i < BATCH; i++) {
			struct change c = change_of(seed, batch, i);
			struct shot *s = &shot[i];

			for (uint64_t k = 0; k < c.n * 64; k++)
				s->buf[k] = c.value;
			s->iov = (struct iovec){ s->buf, c.n * 512 };
			s->r = (struct blk_req){ .op = c.value ? BLK_WRITE : BLK_ZERO,
						 .offset_bytes = c.at * 512,
						 .len = c.n * 512,
						 .iov = &s->iov,
						 .niov = c.value != 0,
						 .done = done };
			BUG_ON(blk_submit(d->blk, &s->r));
		}
		blk_kick(d->blk);
		blk_quiesce(d->blk);
		if (disk_do(d, BLK_FLUSH, 0, NULL, 0))
			_exit(1);
		batch++;
		if (write(ack, &batch, sizeof(batch)) != sizeof(batch))
			_exit(1);
		batch--;
	}
}

/* Runs the load on dir/top until it is killed; how many batches it acknowledged. */
static uint64_t run_and_kill(const char *dir, uint64_t unit, uint64_t seed)
{
	uint64_t acked = 0, n;
	int p[2], st;
	pid_t pid;

	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		struct source_file files[2] = {
			{ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC), SOURCE_QCOW2 },
			{ open(scratch_path(dir, "below"), O_RDONLY | O_CLOEXEC), SOURCE_RAW },
		};
		struct source *s = NULL;
		struct disk d;
		struct err e;

		if (source_open(files, 2, &s, &e))
			_exit(1);
		disk_open_in(&d, BLK_IN_QCOW2, s,
			     open(scratch_path(dir, "top"), O_RDWR | O_CLOEXEC),
			     scratch_path(dir, "all"), unit, 1);
		load(&d, seed, p[1]);
	}
	close(p[1]);
	/* a first batch, so that it is under way, and then any moment */
	assert_int_equal(read(p[0], &acked, sizeof(acked)), sizeof(acked));
	usleep((useconds_t)qcow2_random(20000));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFSIGNALED(st));
	while (read(p[0], &n, sizeof(n)) == sizeof(n))
		acked = n;
	close(p[0]);
	return acked;
}

static void check(const char *dir, const uint64_t *before, uint64_t seed, uint64_t acked)
{
	uint64_t *got = malloc(SECTORS * 512);
	int fd;

	sh("qemu-img check -q -f qcow2 %s/top >%s/said 2>&1 || [ $? = 3 ] || "
	   "{ cat %s/said; false; }",
	   dir, dir, dir);
	sh("qemu-img convert -f qcow2 -O raw %s/top %s/raw", dir, dir);
	fd = open(scratch_path(dir, "raw"), O_RDONLY);
	assert_int_equal(fd_pread_full(fd, got, SECTORS * 512, 0), 0);
	close(fd);
	for (uint64_t k = 0; k < SECTORS; k++) {
		uint64_t may[2 * BATCH + 1], n = 1;

		may[0] = before[k * 64];
		for (uint64_t b = 0; b <= acked + 1; b++)
			for (unsigned int i = 0; i < BATCH; i++) {
				struct change c = change_of(seed, b, i);

				if (k < c.at || k >= c.at + c.n)
					continue;
				/* within a batch too, changes of a sector happen in order */
				n = b < acked ? 0 : n;
				may[n++] = c.value;
			}
		for (uint64_t j = 0; j <= n; j++) {
			if (j == n)
				fail_msg("sector %llu holds %llx after %llu batches",
					 (unsigned long long)k, (unsigned long long)got[k * 64],
					 (unsigned long long)acked);
			if (may[j] == got[k * 64])
				break;
		}
		for (unsigned int i = 1; i < 64; i++)
			assert_int_equal(got[k * 64 + i], got[k * 64]);
	}
	free(got);
}

static void test_killed__two_hundred_times_and_nothing_acknowledged_is_lost(void **state)
{
	static const uint64_t unit[] = { 65536, 4096, 512 };
	uint64_t *before = malloc(SECTORS * 512), total = 0;
	char *dir = scratch_make();
	int fd;

	(void)state;
	assert_non_null(before);
	sh("head -c %u /dev/zero | tr '\\0' 7 >%s/below", SECTORS * 512 / 2, dir);
	for (unsigned int i = 0; i < ROUNDS; i++) {
		uint64_t acked;

		/* a new file now and then; else what the last one left is gone on with */
		if (i % 20 == 0)
			sh("qemu-img create -q -f qcow2 -o cluster_size=%u -b below -F raw %s/top "
			   "%u",
			   (unsigned int)unit[i / 20 % ARRAY_SIZE(unit)], dir, SECTORS * 512);
		sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
		fd = open(scratch_path(dir, "all"), O_RDONLY);
		assert_int_equal(fd_pread_full(fd, before, SECTORS * 512, 0), 0);
		close(fd);
		acked = run_and_kill(dir, unit[i / 20 % ARRAY_SIZE(unit)], i + 1);
		check(dir, before, i + 1, acked);
		total += acked;
	}
	print_message("%llu batches acknowledged\n", (unsigned long long)total);
	free(before);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed__two_hundred_times_and_nothing_acknowledged_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
