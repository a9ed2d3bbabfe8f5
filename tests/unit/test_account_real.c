/* SPDX-License-Identifier: MIT */
/*
 * Accounting of real processes: children of this test that hold known counts of pages, in guest
 * memory as machines have it. Frame numbers and merging are root's to see; without, the fallback is
 * what is tested.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "account/account.h"
#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "mem/gmem.h"
#include "tests/lib/scratch.h"

#define RAM MIB(64)
#define PAGES(n) ((uint64_t)(n)*GMEM_PAGE)
#define KSM "/sys/kernel/mm/ksm/"

static void fill(struct gmem *gm, uint64_t page, uint64_t n, uint64_t salt)
{
	for (uint64_t i = page; i < page + n; i++) {
		uint64_t *p = gmem_fill(gm, PAGES(i), GMEM_PAGE);

		for (size_t k = 0; k < GMEM_PAGE / sizeof(*p); k++)
			p[k] = salt * 1000003 + i * 4099 + k + 1;
	}
}

static void read_pages(struct gmem *gm, uint64_t page, uint64_t n)
{
	for (uint64_t i = page; i < page + n; i++)
		(void)*(volatile char *)gmem_fill(gm, PAGES(i), 1);
}

static struct gmem *ram(void)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	struct gmem *gm;
	struct err e;

	assert_int_equal(gmem_create(RAM, &gm, &e), 0);
	assert_int_equal(gmem_regions(gm, r), 1);
	/* pages are counted here one by one */
	(void)madvise(r[0].hva, RAM, MADV_NOHUGEPAGE);
	return gm;
}

/* A child that does its part and then stands still until it is killed. */
static pid_t child(struct gmem *gm, void (*part)(struct gmem *gm))
{
	int ready[2];
	pid_t pid;
	char c;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that failed leaves nobody */
		part(gm);
		if (write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void add(struct account *a, pid_t pid)
{
	char path[32];
	struct err e;
	int dir;

	snprintf(path, sizeof(path), "/proc/%d", pid);
	dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(dir >= 0);
	assert_int_equal(account_add(a, path, ACCOUNT_VM, pid, dir, &e), 0);
}

static void measure(struct account *a, bool frames)
{
	struct err e;

	if (account_measure(a, frames, &e))
		fail_msg("%s", e.msg);
}

/* Not while the kernel moves pages: one in the midst of that is shown as swapped. */
static void measure_still(struct account *a)
{
	uint64_t swap, until = time_mono_ns() + 60 * NS_PER_SEC;

	do {
		measure(a, true);
		swap = 0;
		for (size_t i = 0; i < a->nr_procs; i++)
			if (!a->procs[i].gone && !a->procs[i].why[0])
				swap += a->procs[i].fig.swap;
	} while (a->frames && (a->moved || swap) && time_mono_ns() < until);
}

static bool privileged(void)
{
	return geteuid() == 0;
}

static void writes_a_hundred(struct gmem *gm)
{
	fill(gm, 0, 100, 1);
	read_pages(gm, 9000, 25); /* zeroes */
}

static void writes_seven(struct gmem *gm)
{
	fill(gm, 400, 7, 2);
}

static void test_real__family_has_exactly_what_it_wrote(void **state)
{
	struct gmem *gm = ram();
	struct account a = { 0 };
	struct account_figures *f;
	pid_t one, two;

	(void)state;
	fill(gm, 0, 500, 0);
	one = child(gm, writes_a_hundred);
	two = child(gm, writes_seven);
	add(&a, getpid());
	add(&a, one);
	add(&a, two);
	measure_still(&a);
	assert_int_equal(a.frames, privileged());
	for (int i = 0; i < 3; i++)
		assert_int_equal(a.procs[i].fig.ram, RAM);
	if (a.frames) {
		/* ours: the 100 are two's as well, the 7 are one's */
		f = &a.procs[0].fig;
		assert_int_equal(f->unique, 0);
		assert_int_equal(f->relatives, PAGES(500));
		f = &a.procs[1].fig;
		assert_int_equal(f->unique, PAGES(100));
		assert_int_equal(f->relatives, PAGES(400));
		assert_int_equal(f->zero, PAGES(25));
		assert_int_equal(f->untouched, RAM - PAGES(525));
		f = &a.procs[2].fig;
		assert_int_equal(f->unique, PAGES(7));
		assert_int_equal(f->relatives, PAGES(493));
		/* 100 pages by two, 393 by three: and each once in all */
		assert_in_range(f->relatives_share, PAGES(50) + PAGES(393) / 3 - 1,
				PAGES(50) + PAGES(393) / 3 + 1);
		for (int i = 0; i < 3; i++) {
			f = &a.procs[i].fig;
			assert_int_equal(f->template + f->ksm + f->swap, 0);
			/* the kernel's own division, which has the same to within its rounding */
			assert_in_range(f->pss, f->unique + f->relatives_share - 4096,
					f->unique + f->relatives_share + 4096);
		}
		assert_int_equal(a.moved, 0);
	}
	measure(&a, false);
	assert_false(a.frames);
	assert_int_equal(a.procs[1].fig.unique, PAGES(100));
	assert_int_equal(a.procs[1].fig.shared, PAGES(400));
	assert_int_equal(a.procs[2].fig.unique, PAGES(7));
	assert_true(a.procs[2].fig.relatives == ACCOUNT_UNKNOWN);
	assert_true(a.anon != ACCOUNT_UNKNOWN && a.anon > PAGES(607));
	end(one);
	end(two);
	account_fini(&a);
	gmem_destroy(gm);
}

static void test_real__both_methods_see_the_same_anonymous_memory(void **state)
{
	struct gmem *gm = ram();
	struct account a = { 0 };
	uint64_t frames, kernel;
	pid_t one, two;

	(void)state;
	fill(gm, 0, 2000, 0);
	one = child(gm, writes_a_hundred);
	two = child(gm, writes_seven);
	/* not us: our own heap grows by what the counting takes */
	add(&a, one);
	add(&a, two);
	measure(&a, true);
	frames = a.anon;
	measure(&a, false);
	kernel = a.anon;
	/* we have these pages, too, which the kernel divides by: but for that they are the same */
	assert_true(kernel < frames);
	assert_true(frames - kernel < frames / 3 + KIB(256));
	end(one);
	end(two);
	account_fini(&a);
	gmem_destroy(gm);
}

static void reads_the_template(struct gmem *gm)
{
	read_pages(gm, 0, 64);
	fill(gm, 32, 16, 3);
}

static void test_real__template_is_counted_once(void **state)
{
	const struct gmem_extent x = { 0, PAGES(256) };
	char *dir = scratch_make(), *path = strdup(scratch_path(dir, "ram"));
	char *data = calloc(1, x.len);
	struct gmem *gm = ram();
	struct account a = { 0 };
	struct account_figures *f;
	struct err e;
	pid_t one, two;
	int fd;

	(void)state;
	memset(data, 5, x.len);
	scratch_write(dir, "ram", data, x.len);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(gmem_map_file(gm, fd, &x, 1, &e), 0);
	/* each page by its own fault: the kernel maps neighbours unasked */
	madvise(gmem_fill(gm, 0, x.len), x.len, MADV_RANDOM);
	one = child(gm, reads_the_template);
	two = child(gm, reads_the_template);
	add(&a, one);
	add(&a, two);
	measure_still(&a);
	assert_int_equal(a.nr_files, 1);
	assert_string_equal(a.files[0].path, path);
	assert_int_equal(a.files[0].users, 2);
	assert_int_equal(a.files[0].cached, x.len);
	f = &a.procs[1].fig;
	if (a.frames) {
		assert_int_equal(f->unique, PAGES(16));
		assert_int_equal(f->relatives, 0);
		/* 48 that it read, or more: what the kernel mapped around them */
		assert_in_range(f->template, PAGES(48), x.len - PAGES(16));
		assert_int_equal(f->template, a.procs[0].fig.template);
		assert_int_equal(f->template_share, f->template / 2);
		assert_int_equal(a.files[0].mapped, f->template);
	}
	measure(&a, false);
	assert_int_equal(a.procs[1].fig.unique, PAGES(16));
	assert_true(a.files[0].mapped == ACCOUNT_UNKNOWN);
	end(one);
	end(two);
	account_fini(&a);
	gmem_destroy(gm);
	close(fd);
	free(data);
	free(path);
	scratch_remove(dir);
}

/* 64 MiB of RAM out of a file as large as a file can be; of that two pages are there, and one far
 * from what is mapped. */
static int endless(void)
{
	int fd = memfd_create("endless", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, INT64_MAX - GMEM_PAGE + 1), 0);
	assert_int_equal(pwrite(fd, "x", 1, 0), 1);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)PAGES(77)), 1);
	assert_int_equal(pwrite(fd, "x", 1, (off_t)GIB(1)), 1);
	return fd;
}

static void test_real__file_without_end_is_looked_at_where_it_is_mapped(void **state)
{
	const struct gmem_extent x = { 0, RAM };
	struct gmem *gm = ram();
	struct account a = { 0 };
	uint64_t begin = time_mono_ns();
	int fd = endless();
	struct err e;
	pid_t one;

	(void)state;
	assert_int_equal(gmem_map_file(gm, fd, &x, 1, &e), 0);
	one = child(gm, reads_the_template);
	add(&a, one);
	measure_still(&a);
	assert_int_equal(a.nr_files, 1);
	assert_int_equal(a.files[0].begin, 0);
	assert_int_equal(a.files[0].end, RAM);
	/* and what it read, which made them */
	assert_in_range(a.files[0].cached, PAGES(2), PAGES(2 + 64));
	/* two mappings of it, further apart than a machine has memory */
	assert_ptr_not_equal(mmap(gmem_fill(gm, MIB(32), GMEM_PAGE), MIB(32),
				  PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd,
				  (off_t)GMEM_MAX_BYTES),
			     MAP_FAILED);
	account_fini(&a);
	end(one);
	one = child(gm, reads_the_template);
	add(&a, one);
	measure_still(&a);
	assert_int_equal(a.files[0].end, GMEM_MAX_BYTES + MIB(32));
	assert_true(a.files[0].cached == ACCOUNT_UNKNOWN);
	assert_int_equal(a.procs[0].fig.unique, a.frames ? PAGES(16) : a.procs[0].fig.unique);
	assert_true(time_mono_ns() - begin < 120 * NS_PER_SEC); /* to its end would be hours */
	end(one);
	account_fini(&a);
	gmem_destroy(gm);
	close(fd);
}

/* A process as a directory in which smaps says that it has so much guest memory. */
static void add_made_up(struct account *a, const char *dir, const char *name, const char *smaps)
{
	cleanup_free char *path = strdup(scratch_path(dir, name));
	struct err e;
	int fd;

	assert_int_equal(mkdir(path, 0700), 0);
	if (smaps)
		scratch_write(path, "smaps", smaps, strlen(smaps));
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(account_add(a, name, ACCOUNT_VM, 1, fd, &e), 0);
}

static void test_real__one_that_cannot_be_read_spoils_no_others_figures(void **state)
{
	char *dir = scratch_make();
	struct gmem *gm = ram();
	struct account a = { 0 };
	pid_t one;

	(void)state;
	one = child(gm, writes_seven);
	add_made_up(&a, dir, "liar", "hello\n");
	add(&a, one);
	for (int frames = 0; frames < 2; frames++) {
		if (frames)
			measure_still(&a);
		else
			measure(&a, false);
		assert_string_equal(a.procs[0].why, "smaps: it does not begin with a mapping");
		assert_false(a.procs[0].gone);
		assert_true(a.procs[0].fig.ram == ACCOUNT_UNKNOWN &&
			    a.procs[0].fig.page_tables == ACCOUNT_UNKNOWN);
		assert_string_equal(a.procs[1].why, "");
		assert_int_equal(a.procs[1].fig.unique, PAGES(7));
		assert_true(a.anon >= PAGES(7) && a.anon < ACCOUNT_UNKNOWN);
	}
	end(one);
	account_fini(&a);
	gmem_destroy(gm);
	scratch_remove(dir);
}

/* 600 GiB of guest memory, of which a page is there. */
static const char large[] =
	"1000000000-1000200000 ---p 0 00:00 0\nRss: 0 kB\n"
	"1000200000-a600200000 rw-p 0 00:00 0\nRss: 4 kB\nPss: 4 kB\nPrivate_Dirty: 4 kB\n"
	"a600200000-a600400000 ---p 0 00:00 0\nRss: 0 kB\n";

static void test_real__helpers_together_are_walked_as_far_as_a_machine_goes(void **state)
{
	char *dir = scratch_make();

	(void)state;
	for (int seed = 0; seed < 2; seed++) {
		static const char *const names[] = {
			"m", "h1", "h2", "other", "M", "H1", "H2", "O"
		};
		struct account a = { 0 };

		for (int i = 0; i < 4; i++)
			add_made_up(&a, dir, names[4 * seed + i], large);
		a.procs[0].kind = seed ? ACCOUNT_SEED : ACCOUNT_VM;
		a.procs[1].kind = a.procs[2].kind = ACCOUNT_HELPER;
		a.procs[1].machine = a.procs[2].machine = 0;
		measure(&a, false);
		assert_int_equal(a.procs[0].fig.ram, GIB(600));
		assert_int_equal(a.procs[1].fig.ram, GIB(600));
		assert_int_equal(a.procs[3].fig.ram, GIB(600));
		if (seed) {
			assert_int_equal(a.procs[2].fig.ram, GIB(600));
		} else {
			assert_string_equal(a.procs[2].why, "not walked: helpers of m map more "
							    "than 1048576 MiB");
			assert_true(a.procs[2].fig.ram == ACCOUNT_UNKNOWN);
			assert_int_equal(a.procs[2].nr_ranges, 0);
		}
		account_fini(&a);
	}
	scratch_remove(dir);
}

static void nothing(struct gmem *gm)
{
	(void)gm;
}

static void test_real__one_that_has_ended_is_gone(void **state)
{
	struct gmem *gm = ram();
	struct account a = { 0 };
	pid_t one;

	(void)state;
	fill(gm, 0, 50, 0);
	one = child(gm, nothing);
	add(&a, getpid());
	add(&a, one);
	end(one);
	measure_still(&a);
	assert_true(a.procs[1].gone);
	assert_false(a.procs[0].gone);
	assert_int_equal(a.procs[0].fig.unique, PAGES(50));
	account_fini(&a);
	gmem_destroy(gm);
}

static bool ksm_set(const char *what, const char *value, char *old, size_t n)
{
	cleanup_close int fd = -1;
	char path[80];
	ssize_t r;

	snprintf(path, sizeof(path), KSM "%s", what);
	fd = open(path, O_RDWR | O_CLOEXEC);
	r = fd < 0 ? -1 : old ? pread(fd, old, n - 1, 0) : 0;
	if (old && r >= 0)
		old[r] = '\0';
	return r >= 0 && pwrite(fd, value, strlen(value), 0) > 0;
}

static void repeats_itself(struct gmem *gm)
{
	for (uint64_t i = 0; i < 40; i++)
		memset(gmem_fill(gm, PAGES(i), GMEM_PAGE), 0x5a, GMEM_PAGE);
	fill(gm, 100, 10, (uint64_t)getpid());
	if (madvise(gmem_fill(gm, 0, RAM), RAM, MADV_MERGEABLE))
		_exit(1);
}

/* Shares of k whole pages, k small: each page of KSM's is divided by who maps it, all of whom are
 * ours. Mostly k is 1; the kernel may have merged each process's pages before both together. */
static bool whole_pages(uint64_t shares)
{
	uint64_t k = (shares + PAGES(1) / 2) / PAGES(1);

	return k >= 1 && k <= 4 && shares + 80 >= PAGES(k) && shares <= PAGES(k) + 80;
}

/* Where the kernel merges pages: two processes with the same 40 pages have next to none. */
static void test_real__merged_pages_are_told_apart(void **state)
{
	char run[16] = "", scan[16] = "", sleep_ms[16] = "";
	struct gmem *gm = ram();
	struct account a = { 0 };
	uint64_t until = time_mono_ns() + 300 * NS_PER_SEC; /* it may have much else to scan */
	bool can;
	pid_t one, two;

	(void)state;
	/* where it runs already it is left so */
	can = privileged() && ksm_set("run", "1", run, sizeof(run)) &&
	      ksm_set("pages_to_scan", "20000", scan, sizeof(scan)) &&
	      ksm_set("sleep_millisecs", "10", sleep_ms, sizeof(sleep_ms));
	one = child(gm, repeats_itself);
	two = child(gm, repeats_itself);
	add(&a, one);
	add(&a, two);
	do {
		measure(&a, true);
		usleep(20000);
	} while (can && a.procs[0].fig.ksm + a.procs[1].fig.ksm < PAGES(80) &&
		 time_mono_ns() < until);
	if (can) { /* what stands still can be counted */
		ksm_set("run", "0", NULL, 0);
		measure_still(&a);
	}
	for (int i = 0; i < 2 && can; i++) {
		assert_int_equal(a.procs[i].fig.ksm, PAGES(40));
		assert_int_equal(a.procs[i].fig.unique, PAGES(10));
	}
	if (can)
		assert_true(whole_pages(a.procs[0].fig.ksm_share + a.procs[1].fig.ksm_share));
	end(one);
	end(two);
	if (scan[0])
		ksm_set("pages_to_scan", scan, NULL, 0);
	if (sleep_ms[0])
		ksm_set("sleep_millisecs", sleep_ms, NULL, 0);
	if (run[0])
		ksm_set("run", run, NULL, 0);
	account_fini(&a);
	gmem_destroy(gm);
}

/* How far unaccounted moves while 64 MiB are taken. */
static uint64_t books_off(uint64_t *error)
{
	struct account_host before, after;
	struct gmem *gm = ram();
	struct err e;
	int64_t d;

	assert_int_equal(account_host_read(&before, &e), 0);
	gmem_populate(gm, 0, RAM);
	assert_int_equal(account_host_read(&after, &e), 0);
	gmem_destroy(gm);
	*error = before.error + after.error;
	d = after.unaccounted - before.unaccounted;
	return (uint64_t)(d < 0 ? -d : d);
}

/* Two readings of this host, one with 64 MiB more in use: named for what it is. Others may take
 * driver's pages meanwhile, which have no name: one of a few tries is undisturbed. */
static void test_real__hosts_sum_holds_when_memory_is_taken(void **state)
{
	uint64_t least = UINT64_MAX, error = 0, until = time_mono_ns() + 120 * NS_PER_SEC;

	(void)state;
	for (bool first = true; first || (least > error && time_mono_ns() < until); first = false) {
		uint64_t off = books_off(&error);

		least = MIN(least, off);
		if (least > error)
			usleep(50000);
	}
	assert_in_range(least, 0, error);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_real__family_has_exactly_what_it_wrote),
		cmocka_unit_test(test_real__both_methods_see_the_same_anonymous_memory),
		cmocka_unit_test(test_real__template_is_counted_once),
		cmocka_unit_test(test_real__file_without_end_is_looked_at_where_it_is_mapped),
		cmocka_unit_test(test_real__one_that_cannot_be_read_spoils_no_others_figures),
		cmocka_unit_test(test_real__helpers_together_are_walked_as_far_as_a_machine_goes),
		cmocka_unit_test(test_real__one_that_has_ended_is_gone),
		cmocka_unit_test(test_real__merged_pages_are_told_apart),
		cmocka_unit_test(test_real__hosts_sum_holds_when_memory_is_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
