/* SPDX-License-Identifier: MIT */
/*
 * Disks under fork(2): parent and child go their own ways from the same content, to any depth, and
 * share no descriptor that either of them writes to. In children nothing of cmocka may run: they
 * end with a status.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk_int.h"
#include "tests/lib/disk.h"
#include "tests/lib/qcow2.h"
#include "tests/lib/scratch.h"

static bool child_ok(pid_t pid)
{
	int st;

	return waitpid(pid, &st, 0) == pid && WIFEXITED(st) && WEXITSTATUS(st) == 0;
}

static int opened_again(int fd)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* As the parent of a fork does: what was written becomes a layer, read through a descriptor that
 * cannot write. */
static int rotate(struct disk *d, struct err *e)
{
	int data = disk_file(), reader = opened_again(data);
	int r = blk_rotate(d->blk, data, e);

	if (r)
		close(reader);
	else
		blk_set_reader(d->blk, reader);
	return r;
}

/*
 * Random requests, and forks in between: the child goes on in the same way one generation deeper
 * while the parent goes on itself; all must match their own models, which forked with them.
 */
static bool live(struct disk *d, unsigned int depth, unsigned int rounds)
{
	pid_t kids[4];
	unsigned int n = 0;
	bool ok = true;
	struct err e;

	for (unsigned int k = 0; k < rounds && ok; k++) {
		ok = disk_storm(d, 1 + (unsigned int)disk_random(d, 24));
		if (!depth || n == ARRAY_SIZE(kids) || disk_random(d, 3))
			continue;
		if (rotate(d, &e)) {
			fprintf(stderr, "rotate: %s\n", e.msg);
			return false;
		}
		kids[n] = fork();
		if (kids[n] == 0) {
			d->rng += 1000 + k;
			ok = disk_child(d) && disk_matches(d) && live(d, depth - 1, rounds);
			_exit(ok ? 0 : 1);
		}
		ok = kids[n++] > 0;
	}
	ok = ok && disk_matches(d);
	while (n)
		ok = child_ok(kids[--n]) && ok;
	return ok && disk_matches(d);
}

static void test_blk_fork__parents_and_children_diverge_and_match_their_models(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct disk d;

		disk_open(&d, MIB(3) + 512 * seed, MIB(2) - 512 * seed, seed);
		assert_true(live(&d, 3, 8));
		disk_close(&d);
	}
}

/* What is below the overlay is fetched by whoever needs it first, before and after forks. */
static void test_blk_fork__over_chains_of_qcow2(void **state)
{
	char *dir = scratch_make();

	(void)state;
	for (unsigned int packed = 0; packed < 2; packed++) {
		qcow2_chain_make(dir, packed);
		for (unsigned int n = 1; n <= QCOW2_CHAIN; n++) {
			struct disk d;

			qcow2_chain_content(dir, n, "all");
			disk_open_over(&d, qcow2_chain_open(dir, n), scratch_path(dir, "all"), n);
			assert_true(live(&d, 2, 6));
			disk_close(&d);
		}
	}
	scratch_remove(dir);
}

/* Of a qcow2 file that is written: children share what was in it, the parent writes on. */
static void test_blk_fork__of_a_qcow2_file_that_is_written(void **state)
{
	static const struct {
		unsigned int cluster;
		const char *more;
		bool below;
	} kind[] = { { 512, "refcount_bits=64", true },	 { 512, "lazy_refcounts=on", false },
		     { 4096, "refcount_bits=16", true }, { 4096, "refcount_bits=1", false },
		     { 512, "compat=0.10", false },	 { 65536, "refcount_bits=16", true } };
	const uint64_t bytes = MIB(3) + 512 * 7;
	char *dir = scratch_make();

	(void)state;
	qcow2_make_raw(dir, "below", MIB(2) + 512 * 3);
	for (unsigned int i = 0; i < ARRAY_SIZE(kind); i++) {
		struct disk d;

		free(scratch_sh("qemu-img create -q -f qcow2 -o cluster_size=%u,%s %s %s/top %llu",
				kind[i].cluster, kind[i].more,
				kind[i].below ? "-b below -F raw" : "", dir,
				(unsigned long long)bytes));
		for (unsigned int round = 0; round < 2; round++) {
			qcow2_scribble(scratch_path(dir, "top"), bytes, 6);
			qcow2_top_open(&d, dir, kind[i].below, kind[i].cluster, i + 1);
			assert_true(live(&d, 2, 8));
			qcow2_top_close(&d, dir);
		}
	}
	scratch_remove(dir);
}

/* A child that has read nothing yet reads what was, when its parent has changed all of it. */
static void test_blk_fork__a_qcow2_file_stays_what_it_was_to_a_child(void **state)
{
	const uint64_t bytes = MIB(8);
	uint8_t *all = malloc(bytes);
	char *dir = scratch_make();
	struct blk_stats st;
	struct disk d;
	struct err e;
	pid_t pid;
	int go[2];

	(void)state;
	assert_non_null(all);
	qcow2_make_raw(dir, "raw", bytes);
	free(scratch_sh("qemu-img convert -f raw -O qcow2 -o cluster_size=4096 %s/raw %s/top", dir,
			dir));
	qcow2_top_open(&d, dir, false, 4096, 1);
	assert_int_equal(pipe(go), 0);
	fdtab_add(d.fds, go[0], FD_KEEP, "test");
	assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	pid = fork();
	if (pid == 0) {
		char c;

		_exit(disk_child(&d) && read(go[0], &c, 1) == 0 && disk_matches(&d) ? 0 : 1);
	}
	assert_true(pid > 0);
	for (unsigned int k = 0; k < 100; k++) {
		uint64_t n = k < 2 ? bytes : 8192;

		memset(all, (int)k, n);
		memcpy(d.model, all, n);
		assert_int_equal(disk_do(&d, BLK_WRITE, 0, all, n), 0);
		assert_int_equal(disk_do(&d, BLK_FLUSH, 0, NULL, 0), 0);
		assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	}
	blk_stats(d.blk, &st);
	assert_true(st.layers <= BLK_SMALL_LAYERS + 1);
	close(go[1]);
	assert_true(child_ok(pid));
	assert_true(disk_matches(&d));
	qcow2_top_close(&d, dir);
	close(go[0]);
	free(all);
	scratch_remove(dir);
}

static int mode_of(int fd)
{
	return fcntl(fd, F_GETFL) & O_ACCMODE;
}

static void test_blk_fork__children_cannot_write_what_they_share(void **state)
{
	struct overlay *o;
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 17);
	o = &d.blk->ov;
	blk_set_reader(d.blk, opened_again(o->layers[o->cur].fd));
	for (unsigned int gen = 0; gen < 3; gen++) {
		assert_true(disk_storm(&d, 20));
		assert_int_equal(rotate(&d, &e), 0);
		for (unsigned int i = 0; i < o->cap_layers; i++)
			if (o->layers[i].fd >= 0)
				assert_int_equal(mode_of(o->layers[i].fd),
						 i == o->cur ? O_RDWR : O_RDONLY);
		assert_true(disk_matches(&d));
	}
	/* nothing was written: the file stays current, and its reader its reader */
	assert_int_equal(rotate(&d, &e), 0);
	assert_true(d.blk->reader_fd >= 0);
	assert_true(disk_storm(&d, 20));
	assert_int_equal(rotate(&d, &e), 0);
	assert_true(disk_matches(&d));
	/* another file's is refused */
	blk_set_reader(d.blk, opened_again(STDIN_FILENO));
	disk_close(&d);
}

static bool descend(struct disk *d, unsigned int depth)
{
	struct blk_stats st;
	struct err e;
	pid_t pid;

	if (!disk_storm(d, 2) || !disk_matches(d))
		return false;
	blk_stats(d->blk, &st);
	if (st.layers > BLK_SMALL_LAYERS + 1) {
		fprintf(stderr, "%llu layers\n", (unsigned long long)st.layers);
		return false;
	}
	if (!depth)
		return true;
	if (rotate(d, &e))
		return false;
	pid = fork();
	if (pid == 0)
		_exit(disk_child(d) && descend(d, depth - 1) ? 0 : 1);
	/* the parent writes on while its descendants read what they share */
	return pid > 0 && disk_storm(d, 8) && child_ok(pid) && disk_matches(d);
}

static void test_blk_fork__ninety_generations_deep(void **state)
{
	struct disk d;

	(void)state;
	disk_open(&d, KIB(256), KIB(64), 9);
	assert_true(descend(&d, 90));
	disk_close(&d);
}

static void test_blk_fork__many_children_of_one_moment(void **state)
{
	pid_t kids[16];
	struct disk d;
	struct err e;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 11);
	assert_true(disk_storm(&d, 40));
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++) {
		kids[i] = fork();
		if (kids[i] == 0) {
			bool ok = disk_child(&d) && disk_matches(&d);

			d.rng += i;
			for (unsigned int k = 0; k < 20 && ok; k++)
				ok = disk_storm(&d, 16);
			_exit(ok && disk_matches(&d) ? 0 : 1);
		}
		assert_true(kids[i] > 0);
	}
	assert_true(disk_storm(&d, 64));
	for (unsigned int i = 0; i < ARRAY_SIZE(kids); i++)
		assert_true(child_ok(kids[i]));
	assert_true(disk_matches(&d));
	disk_close(&d);
}

static void test_blk_fork__child_of_an_unrotated_parent_is_refused(void **state)
{
	uint8_t buf[4096] = { 1 };
	struct disk d;
	pid_t pid;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 11);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, sizeof(buf)), 0);
	pid = fork();
	if (pid == 0) {
		struct err e = { "" };
		int out, r;

		fdtab_child(d.fds);
		/* by chance the parent's number: nothing of ours may be read or written there */
		out = disk_file();
		r = blk_save_layer(d.blk, out, &e);
		if (r != -EINVAL || loop_create(&d.lock, &d.loop, &e))
			_exit(1);
		r = blk_adopt(d.blk, d.loop, d.fds, disk_file(), &e);
		_exit(r == -EINVAL && strstr(e.msg, "rotate") ? 0 : 2);
	}
	assert_true(child_ok(pid));
	disk_close(&d);
}

/* Device and inode of every descriptor that is open for writing. */
static size_t writable_files(struct stat *out, size_t max)
{
	size_t n = 0;

	for (int fd = 3; fd < 256 && n < max; fd++) {
		int fl = fcntl(fd, F_GETFL);

		if (fl >= 0 && (fl & O_ACCMODE) != O_RDONLY && !fstat(fd, &out[n]) &&
		    S_ISREG(out[n].st_mode))
			n++;
	}
	return n;
}

static void test_blk_fork__child_holds_only_what_it_needs(void **state)
{
	struct stat mine[16];
	uint8_t buf[4096] = { 1 };
	struct disk d;
	struct err e;
	pid_t pid;
	size_t n;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 11);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	assert_int_equal(disk_do(&d, BLK_WRITE, 0, buf, sizeof(buf)), 0);
	assert_int_equal(blk_rotate(d.blk, disk_file(), &e), 0);
	n = writable_files(mine, ARRAY_SIZE(mine)); /* base copy, one layer, data */
	assert_int_equal(n, 3);
	pid = fork();
	if (pid == 0) {
		struct stat his[16];
		size_t k, same = 0;

		if (!disk_child(&d))
			_exit(1);
		k = writable_files(his, ARRAY_SIZE(his));
		for (size_t i = 0; i < n; i++)
			for (size_t j = 0; j < k; j++)
				same += mine[i].st_ino == his[j].st_ino;
		/* the base copy of the test and the layer; each has its own data file */
		_exit(k == 3 && same == 2 ? 0 : 2);
	}
	assert_true(child_ok(pid));
	disk_close(&d);
}

static void test_blk_fork__parents_ring_dies_with_the_parent(void **state)
{
	char maps[4096];
	struct disk d;
	pid_t pid;

	(void)state;
	disk_open(&d, MIB(1), MIB(1), 11);
	pid = fork();
	if (pid == 0) {
		FILE *f = fopen("/proc/self/maps", "r");
		bool found = false;

		while (f && fgets(maps, sizeof(maps), f))
			found = found || strstr(maps, "io_uring");
		_exit(f && !found ? 0 : 1);
	}
	assert_true(child_ok(pid));
	disk_close(&d);
}

static unsigned int discards;

static void discarded(struct blk_req *r, int result)
{
	(void)r;
	assert_int_equal(result, 0);
	discards--;
}

static size_t heap(void)
{
	return mallinfo2().uordblks + mallinfo2().hblkhd;
}

/* More than the map of the file can hold at once is given back, all of it, and not all at once. */
static void test_blk_fork__a_discarded_qcow2_file_is_given_back(void **state)
{
	static struct blk_req q[8];
	size_t before, most = 0;
	char *dir = scratch_make(), *used;
	struct source_file file;
	struct source *s = NULL;
	struct disk d;
	struct err e;

	(void)state;
	free(scratch_sh("qemu-img create -q -f qcow2 -o cluster_size=4096,preallocation=metadata "
			"%s/top 8G && truncate -s 4096 %s/all",
			dir, dir));
	file = (struct source_file){ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
				     SOURCE_QCOW2 };
	assert_int_equal(source_open(&file, 1, &s, &e), 0);
	/* a small disk beside its model; the engine sees the whole file */
	disk_open(&d, MIB(1), 0, 1);
	blk_destroy(d.blk);
	assert_int_equal(blk_create(&(struct blk_cfg){ .writes = BLK_IN_QCOW2 }, s,
				    open(scratch_path(dir, "top"), O_RDWR | O_CLOEXEC), &d.blk, &e),
			 0);
	disk_adopt(&d);
	assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	before = heap();
	discards = ARRAY_SIZE(q);
	for (unsigned int i = 0; i < ARRAY_SIZE(q); i++) {
		q[i] = (struct blk_req){ .op = BLK_DISCARD,
					 .offset_bytes = i * GIB(1),
					 .len = GIB(1),
					 .done = discarded };
		assert_int_equal(blk_submit(d.blk, &q[i]), 0);
	}
	while (discards) {
		blk_poll(d.blk);
		most = MAX(most, heap());
	}
	/* the map takes 16 MiB; 4096 L2 tables would be as much again, if all were copied at once
	 */
	assert_in_range(most - before, 0, MIB(28));
	disk_close(&d);
	free(scratch_sh("qemu-img check -q -f qcow2 %s/top", dir));
	used = scratch_sh("qemu-img map -f qcow2 --output=json %s/top | grep -c '\"data\": true' ; "
			  "true",
			  dir);
	assert_string_equal(used, "0\n");
	free(used);
	scratch_remove(dir);
}

/* An L2 entry refers to a cluster that nobody counts, so that it looks free: who shares the file
 * reads it all the same. */
static void test_blk_fork__what_a_damaged_file_gives_twice_is_not_given(void **state)
{
	static uint8_t buf[4096], got[4096];
	struct source_file file;
	char *dir = scratch_make();
	struct source *s = NULL;
	int go[2], fd, status;
	struct qcow2_head h;
	uint64_t l2, data;
	struct stat st;
	struct disk d;
	struct err e;
	pid_t pid;
	be64 v;

	(void)state;
	free(scratch_sh("qemu-img create -q -f qcow2 -o cluster_size=4096 %s/top 1M && "
			"qemu-io -f qcow2 -c 'write -P 0x11 0 8k' %s/top >/dev/null && "
			"qemu-img convert -f qcow2 -O raw %s/top %s/all",
			dir, dir, dir, dir));
	fd = open(scratch_path(dir, "top"), O_RDWR | O_CLOEXEC);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(qcow2_read_head(fd, (uint64_t)st.st_size, &h, &e), 0);
	assert_int_equal(fd_pread_full(fd, &v, 8, h.l1_off), 0);
	l2 = be64_get(v) & ~QWRITER_COPIED;
	assert_int_equal(fd_pread_full(fd, &v, 8, l2), 0);
	data = be64_get(v) & ~QWRITER_COPIED;
	assert_int_equal(fd_pread_full(fd, &v, 8, h.refcount_off), 0);
	memset(got, 0, sizeof(got));
	assert_int_equal(fd_pwrite_full(fd, got, 4, be64_get(v) + data / 4096 * 2), 0);
	file = (struct source_file){ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
				     SOURCE_QCOW2 };
	assert_int_equal(source_open(&file, 1, &s, &e), 0);
	disk_open_in(&d, BLK_IN_QCOW2, s, fd, scratch_path(dir, "all"), 4096, 1);
	assert_int_equal(pipe(go), 0);
	fdtab_add(d.fds, go[0], FD_KEEP, "test");
	assert_int_equal(blk_rotate(d.blk, -1, &e), 0);
	pid = fork();
	if (pid == 0) {
		char c;

		_exit(disk_child(&d) && read(go[0], &c, 1) == 0 &&
				      !disk_do(&d, BLK_READ, 4096, got, 4096) && got[0] == 0x11
			      ? 0
			      : 1);
	}
	memset(buf, 0xee, sizeof(buf));
	for (unsigned int k = 16; k < 32; k++)
		assert_int_equal(disk_do(&d, BLK_WRITE, k * 4096, buf, 4096), 0);
	close(go[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(go[0]);
	disk_close(&d);
	scratch_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_blk_fork__parents_and_children_diverge_and_match_their_models),
		cmocka_unit_test(test_blk_fork__over_chains_of_qcow2),
		cmocka_unit_test(test_blk_fork__of_a_qcow2_file_that_is_written),
		cmocka_unit_test(test_blk_fork__a_qcow2_file_stays_what_it_was_to_a_child),
		cmocka_unit_test(test_blk_fork__a_discarded_qcow2_file_is_given_back),
		cmocka_unit_test(test_blk_fork__what_a_damaged_file_gives_twice_is_not_given),
		cmocka_unit_test(test_blk_fork__children_cannot_write_what_they_share),
		cmocka_unit_test(test_blk_fork__ninety_generations_deep),
		cmocka_unit_test(test_blk_fork__many_children_of_one_moment),
		cmocka_unit_test(test_blk_fork__child_of_an_unrotated_parent_is_refused),
		cmocka_unit_test(test_blk_fork__child_holds_only_what_it_needs),
		cmocka_unit_test(test_blk_fork__parents_ring_dies_with_the_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
