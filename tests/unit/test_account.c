/* SPDX-License-Identifier: MIT */
/*
 * Accounting over made-up pages, made-up smaps and made-up hosts: every class, every sum. Long,
 * because each figure of `clone stats` is a row over the same made-up processes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "account/account.h"
#include "account/pages.h"
#include "base/util.h"

#define P ACCOUNT_PRESENT
#define FILE_PAGE (ACCOUNT_PRESENT | ACCOUNT_FILE)
#define ZERO_PFN 7u
#define HUGE_ZERO 1024u
#define FIRST 16u /* number of the first page of every process */
#define WORDS 6000u

/* Processes as their page table words, each from page FIRST on. */
struct scene {
	struct account a;
	uint64_t *words[4];
	size_t n[4];
	/* ends when it is read for the dies_at'th time (0: never) */
	unsigned int dies, dies_at, reads, dies_again;
	uint64_t merged; /* frame */
	unsigned int flag_reads;
};

static int scene_read(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n)
{
	struct scene *s = arg;

	assert_false(s->a.procs[proc].gone);
	if (s->dies_at && (proc == s->dies || s->dies_again) && ++s->reads >= s->dies_at)
		return -ESRCH;
	assert_true(first >= FIRST && n && first - FIRST + n <= s->n[proc]);
	memcpy(words, s->words[proc] + (first - FIRST), n * sizeof(*words));
	return 0;
}

static int scene_flags(void *arg, uint64_t pfn, uint64_t *words, unsigned int n)
{
	struct scene *s = arg;

	assert_int_equal(pfn % n, 0);
	s->flag_reads++;
	memset(words, 0, n * sizeof(*words));
	if (s->merged >= pfn && s->merged < pfn + n)
		words[s->merged - pfn] = 1u << 21;
	return 0;
}

/* A process with one range of these words; ram pages of RAM in all. */
static void add(struct scene *s, const uint64_t *words, size_t n, int file, uint64_t ram)
{
	size_t i = s->a.nr_procs;
	struct account_range r = { FIRST, n, file, true };
	struct err e;

	assert_int_equal(account_add(&s->a, "p", ACCOUNT_VM, 1, -1, &e), 0);
	s->words[i] = calloc(n, sizeof(*words));
	memcpy(s->words[i], words, n * sizeof(*words));
	s->n[i] = n;
	s->a.procs[i].ranges = calloc(1, sizeof(r));
	s->a.procs[i].ranges[0] = r;
	s->a.procs[i].nr_ranges = 1;
	s->a.procs[i].fig.ram = ram * ACCOUNT_PAGE;
}

static void add_file(struct scene *s)
{
	s->a.files = realloc(s->a.files, (s->a.nr_files + 1) * sizeof(*s->a.files));
	s->a.files[s->a.nr_files++] = (struct account_file){ .path = "t" };
}

static int classify(struct scene *s, struct err *e)
{
	struct account_source src = { .read = scene_read,
				      .flags = s->merged ? scene_flags : NULL,
				      .arg = s,
				      .zero_pfn = ZERO_PFN,
				      .huge_zero_pfn = HUGE_ZERO };

	return account_classify(&s->a, &src, e);
}

static void must_classify(struct scene *s)
{
	struct err e;

	if (classify(s, &e))
		fail_msg("%s", e.msg);
}

static void scene_fini(struct scene *s)
{
	for (size_t i = 0; i < ARRAY_SIZE(s->words); i++)
		free(s->words[i]);
	account_fini(&s->a);
}

#define pages(field) ((field) / ACCOUNT_PAGE)

static void test_classify__every_class_is_told_apart(void **state)
{
	const uint64_t one[] = {
		P | 100,
		P | 101,
		P | 102, /* its own, two */
		P | 200, /* a relative's as well */
		FILE_PAGE | 300,
		FILE_PAGE | 301, /* the template's */
		P | ZERO_PFN,
		P | HUGE_ZERO,	       /* zeroes, */
		P | (HUGE_ZERO + 511), /* small and huge */
		ACCOUNT_SWAPPED | 55,  /* swapped: not a frame number */
		P | 400,	       /* merged */
		0,		       /* never touched */
		P | (HUGE_ZERO + 512), /* its own: just behind the zeroes */
	};
	const uint64_t two[] = { P | 200, P | 102, FILE_PAGE | 300, P | 400, P | 400 };
	struct scene s = { .merged = 400 };
	struct account_figures *f;

	(void)state;
	add_file(&s);
	add(&s, one, ARRAY_SIZE(one), 0, 20);
	add(&s, two, ARRAY_SIZE(two), 0, 5);
	must_classify(&s);
	f = &s.a.procs[0].fig;
	assert_int_equal(pages(f->unique), 3);
	assert_int_equal(pages(f->relatives), 2);
	assert_int_equal(f->relatives_share, ACCOUNT_PAGE);
	assert_int_equal(pages(f->template), 2);
	assert_int_equal(f->template_share, ACCOUNT_PAGE + ACCOUNT_PAGE / 2);
	assert_int_equal(pages(f->zero), 3);
	assert_int_equal(pages(f->swap), 1);
	assert_int_equal(pages(f->ksm), 1);
	assert_int_equal(f->ksm_share, (ACCOUNT_PAGE + 1) / 3);
	assert_int_equal(pages(f->shared), 5);
	assert_int_equal(pages(f->untouched), 20 - 12);
	f = &s.a.procs[1].fig;
	assert_int_equal(f->unique, 0);
	assert_int_equal(pages(f->relatives), 2);
	assert_int_equal(pages(f->template), 1);
	assert_int_equal(pages(f->ksm), 2);
	assert_int_equal(f->ksm_share, 2 * ACCOUNT_PAGE / 3 + 1); /* rounded */
	assert_int_equal(f->untouched, 0);
	/* 100, 101, the one behind the zeroes, 102, 200, 400; the template's 300 and 301 */
	assert_int_equal(pages(s.a.anon), 6);
	assert_int_equal(pages(s.a.files[0].mapped), 2);
	assert_int_equal(s.a.moved, 0);
	scene_fini(&s);
}

/* Each page once, whoever maps it: that is what shares are for. */
static void test_classify__shares_of_all_make_each_page_once(void **state)
{
	uint64_t words[3][WORDS], sum = 0;
	struct scene s = { 0 };

	(void)state;
	for (uint64_t i = 0; i < WORDS; i++) { /* more than are read in one go */
		words[0][i] = P | (100000 + i);
		words[1][i] = P | (i % 2 ? 100000 + i : 200000 + i);
		words[2][i] = P | (i % 3 ? 300000 + i : 100000 + i);
	}
	for (int i = 0; i < 3; i++)
		add(&s, words[i], WORDS, -1, WORDS);
	must_classify(&s);
	for (int i = 0; i < 3; i++)
		sum += s.a.procs[i].fig.unique + s.a.procs[i].fig.relatives_share;
	assert_int_equal(pages(s.a.anon), WORDS + WORDS / 2 + WORDS * 2 / 3);
	assert_in_range(sum, s.a.anon - 3, s.a.anon + 3);
	assert_in_range(s.a.moved, 0, 3);
	/* of the first: even and no multiple of 3 */
	assert_int_equal(pages(s.a.procs[0].fig.unique), WORDS / 3);
	assert_int_equal(pages(s.a.procs[0].fig.relatives), WORDS - WORDS / 3);
	scene_fini(&s);
}

static void test_classify__the_vmms_own_pages_are_no_guest_memory(void **state)
{
	const uint64_t own[] = { P | 10, P | 11, FILE_PAGE | 12, P | ZERO_PFN, 0, ACCOUNT_SWAPPED };
	const uint64_t kid[] = { P | 11 };
	struct scene s = { 0 };

	(void)state;
	add(&s, own, ARRAY_SIZE(own), -1, 0);
	add(&s, kid, ARRAY_SIZE(kid), -1, 0);
	s.a.procs[0].ranges[0].ram = s.a.procs[1].ranges[0].ram = false;
	must_classify(&s);
	assert_int_equal(s.a.procs[0].fig.unique + s.a.procs[0].fig.shared, 0);
	assert_int_equal(s.a.procs[0].fig.zero + s.a.procs[0].fig.swap, 0);
	assert_int_equal(s.a.procs[0].fig.vmm_anon, ACCOUNT_PAGE + ACCOUNT_PAGE / 2);
	assert_int_equal(s.a.procs[1].fig.vmm_anon, ACCOUNT_PAGE / 2);
	assert_int_equal(pages(s.a.anon), 2);
	scene_fini(&s);
}

static void test_classify__one_that_ends_is_as_if_it_had_not_been(void **state)
{
	const uint64_t both[] = { P | 100, P | 101 };

	(void)state;
	for (unsigned int at = 1; at <= 2; at++) { /* in either walk */
		struct scene s = { .dies = 0, .dies_at = at };

		add(&s, both, 2, -1, 2);
		add(&s, both, 2, -1, 2);
		must_classify(&s);
		assert_true(s.a.procs[0].gone);
		assert_int_equal(s.a.procs[0].fig.relatives + s.a.procs[0].fig.unique, 0);
		assert_int_equal(pages(s.a.procs[1].fig.unique), 2);
		assert_int_equal(s.a.procs[1].fig.relatives, 0);
		assert_int_equal(pages(s.a.anon), 2);
		assert_int_equal(s.a.moved, 0);
		scene_fini(&s);
	}
}

static void test_classify__all_may_end(void **state)
{
	const uint64_t word = P | 100;
	struct scene s = { .dies_at = 2, .dies_again = 1 };

	(void)state;
	for (int i = 0; i < 4; i++)
		add(&s, &word, 1, -1, 1);
	must_classify(&s);
	/* the first was read once; from then on each that is read ends */
	for (int i = 0; i < 4; i++)
		assert_true(s.a.procs[i].gone);
	/* what the last of them was counted for is told as moved */
	assert_true(s.a.moved <= ACCOUNT_PAGE && s.a.anon <= ACCOUNT_PAGE);
	scene_fini(&s);
}

static int refusing_read(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n)
{
	struct scene *s = arg;

	assert_true(!s->a.procs[proc].why[0]);
	return proc == 1 ? -EIO : scene_read(arg, proc, first, words, n);
}

static int no_memory(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n)
{
	(void)arg;
	(void)proc;
	(void)first;
	(void)words;
	(void)n;
	return -ENOMEM;
}

/* Two, the other of which fails: the first has its figures. */
static void assert_other_unread(struct scene *s, const struct account_source *src, const char *why)
{
	const struct account_proc *p = s->a.procs;
	struct err e;

	assert_int_equal(account_classify(&s->a, src, &e), 0);
	assert_string_equal(p[1].why, why);
	assert_true(p[1].fig.unique == ACCOUNT_UNKNOWN && p[1].fig.ram == ACCOUNT_UNKNOWN);
	assert_true(p[1].fig.swap == ACCOUNT_UNKNOWN && p[1].fig.pss == ACCOUNT_UNKNOWN);
	assert_int_equal(p[1].nr_ranges, 0);
	assert_string_equal(p[0].why, "");
	assert_int_equal(pages(p[0].fig.unique), 1);
	assert_int_equal(pages(s->a.anon), 1);
	assert_int_equal(s->a.moved, 0);
}

static void test_classify__one_that_cannot_be_read_has_no_figures(void **state)
{
	const uint64_t word = P | 100, wild = P | PAGES_PFN_MAX;
	struct scene s = { 0 }, t = { 0 };
	struct account_source src = { .read = refusing_read, .arg = &s };
	struct err e;

	(void)state;
	add(&s, &word, 1, -1, 1);
	add(&s, &word, 1, -1, 1);
	assert_other_unread(&s, &src, "reading its page tables: Input/output error");
	add(&t, &word, 1, -1, 1);
	add(&t, &wild, 1, -1, 1);
	src = (struct account_source){ .read = scene_read, .arg = &t };
	assert_other_unread(&t, &src, "reading its page tables: Numerical result out of range");
	src.read = no_memory;
	assert_int_equal(account_classify(&t.a, &src, &e), -ENOMEM);
	scene_fini(&s);
	scene_fini(&t);
}

/* What moves between the two walks. */
static int moving_read(void *arg, unsigned int proc, uint64_t first, uint64_t *words, size_t n)
{
	struct scene *s = arg;

	(void)proc;
	(void)first;
	for (size_t i = 0; i < n; i++)
		words[i] = P | (100 + i);
	if (s->reads++)
		words[0] = P | 999;
	else
		words[1] = 0;
	return 0;
}

static void test_classify__what_came_meanwhile_is_told(void **state)
{
	const uint64_t words[4] = { 0 };
	struct scene s = { 0 };
	struct account_source src = { .read = moving_read, .arg = &s };
	struct err e;

	(void)state;
	add(&s, words, 4, -1, 4);
	assert_int_equal(account_classify(&s.a, &src, &e), 0);
	assert_int_equal(pages(s.a.anon), 3);
	assert_int_equal(pages(s.a.procs[0].fig.unique), 4);
	assert_int_equal(pages(s.a.moved), 1);
	scene_fini(&s);
}

static void test_pages__counts_stop_at_their_end(void **state)
{
	struct pages *p = pages_create();

	(void)state;
	assert_non_null(p);
	assert_int_equal(pages_seen(p, 5), 0);
	for (int i = 1; i <= 70000; i++)
		assert_int_equal(pages_see(p, 5), MIN(i, 65535));
	assert_int_equal(pages_seen(p, 5), 65535);
	assert_int_equal(pages_seen(p, 4) + pages_seen(p, 6), 0);
	/* far apart, in any order */
	assert_int_equal(pages_see(p, 1ull << 30), 1);
	assert_int_equal(pages_see(p, 3), 1);
	assert_int_equal(pages_seen(p, 1ull << 30), 1);
	assert_int_equal(pages_seen(p, 1ull << 35), 0);
	assert_int_equal(pages_see(p, PAGES_PFN_MAX), -ERANGE);
	assert_int_equal(pages_see(p, UINT64_MAX), -ERANGE);
	pages_destroy(p);
}

static void test_pages__flags_are_asked_for_once_a_block(void **state)
{
	struct scene s = { .merged = 1025 };
	struct pages *p = pages_create();

	(void)state;
	assert_false(pages_merged(p, 1025, scene_flags, &s));
	assert_int_equal(s.flag_reads, 0);
	pages_see(p, 1025);
	for (uint64_t pfn = 1024; pfn < 1024 + PAGES_BLOCK; pfn++)
		assert_int_equal(pages_merged(p, pfn, scene_flags, &s), pfn == 1025);
	assert_int_equal(s.flag_reads, 1);
	assert_false(pages_merged(p, 1023, scene_flags, &s));
	assert_false(pages_merged(p, 1024 + PAGES_BLOCK, scene_flags, &s));
	assert_int_equal(s.flag_reads, 3);
	pages_destroy(p);
}

/* ---- smaps ---- */

#define GUARD(from, to) from "-" to " ---p 00000000 00:00 0 \n"
#define VMA(from, to, perms, file) from "-" to " " perms " 00001000 fe:01 " file "\n"
#define KB(rss, pss, clean, dirty, anon, huge, swap)                                               \
	"Size: 1 kB\nRss: " rss " kB\nPss: " pss " kB\nPss_Dirty: 999 kB\nShared_Clean: 999 kB\n"  \
	"Private_Clean: " clean " kB\nPrivate_Dirty: " dirty " kB\nReferenced: 999 kB\n"           \
	"Anonymous: " anon " kB\nAnonHugePages: " huge " kB\nSwap: " swap " kB\nSwapPss: 9 kB\n"   \
	"VmFlags: rd wr mr mw me ac sd\n"

/* 64 MiB of RAM at 0x40000000 in three mappings, the middle one a template's; a heap; a program. */
static const char machine[] = VMA("00400000", "00500000", "r-xp",
				  "77 /usr/bin/clone") KB("400", "100", "0", "0", "0", "0", "0")
	VMA("00600000", "00601000", "rw-p", "77 /usr/bin/clone") KB(
		"4", "4", "0", "4", "4", "0", "0") VMA("00700000", "00800000", "rw-p", "0 [heap]")
		KB("80", "30", "0", "20", "80", "0", "0") GUARD("3fc00000", "40000000") KB(
			"0", "0", "0", "0", "0", "0", "0") VMA("40000000", "41000000", "rw-p", "0 ")
			KB("4096", "3000", "8", "2000", "4096", "2048", "0")
				VMA("41000000", "43000000", "rw-p", "88 /var/lib/t/a ram")
					KB("1000", "500", "300", "40", "60", "0", "12")
						VMA("43000000", "44000000", "rw-p", "0 ")
							KB("0", "0", "0", "0", "0", "0", "0")
								GUARD("44000000", "44200000")
									KB("0", "0", "0", "0", "0",
									   "0", "0");

static int parse(struct account *a, const char *text, struct err *e)
{
	FILE *f = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int r;

	assert_non_null(f);
	r = account_smaps(a, 0, f, e);
	fclose(f);
	return r;
}

static void test_smaps__guest_memory_is_what_lies_between_guards(void **state)
{
	struct account a = { 0 };
	struct account_figures *f;
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(parse(&a, machine, &e), 0);
	f = &a.procs[0].fig;
	assert_int_equal(f->ram, 64 << 20);
	assert_int_equal(f->vmm, 134 << 10);
	assert_int_equal(f->pss, 3500 << 10);
	assert_int_equal(f->huge, 2048 << 10);
	assert_int_equal(f->swap, 12 << 10);
	/* 8 + 2000 of the anonymous one, 40 of the template's */
	assert_int_equal(f->unique, 2048 << 10);
	assert_int_equal(f->shared, (5096 - 2048) << 10);
	assert_int_equal(f->untouched, (64 << 20) - (5108 << 10));
	assert_true(f->template == ACCOUNT_UNKNOWN && f->relatives == ACCOUNT_UNKNOWN);
	/* the program's data, the heap, and of RAM what holds anything */
	assert_int_equal(a.procs[0].nr_ranges, 4);
	assert_int_equal(a.procs[0].ranges[3].first, 0x41000000 >> 12);
	assert_int_equal(a.procs[0].ranges[3].pages, 0x2000000 >> 12);
	assert_int_equal(a.procs[0].ranges[3].file, 0);
	assert_false(a.procs[0].ranges[1].ram);
	assert_true(a.procs[0].ranges[2].ram);
	/* the program is no template */
	assert_int_equal(a.nr_files, 1);
	assert_string_equal(a.files[0].path, "/var/lib/t/a ram");
	assert_int_equal(a.files[0].inode, 88);
	assert_int_equal(a.files[0].from, 0x41000000);
	assert_int_equal(a.files[0].users, 1);
	account_fini(&a);
}

static void test_smaps__one_file_of_two_machines_is_one_template(void **state)
{
	struct account a = { 0 };
	struct err e;
	FILE *f;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	account_add(&a, "n", ACCOUNT_VM, 2, -1, &e);
	assert_int_equal(parse(&a, machine, &e), 0);
	f = fmemopen((void *)(uintptr_t)machine, strlen(machine), "r");
	assert_int_equal(account_smaps(&a, 1, f, &e), 0);
	fclose(f);
	assert_int_equal(a.nr_files, 1);
	assert_int_equal(a.files[0].users, 2);
	assert_int_equal(a.files[0].proc, 0);
	account_fini(&a);
}

/* The same text with one string in it replaced. */
static char *changed(const char *from, const char *to)
{
	const char *at = strstr(machine, from);
	char *text = calloc(1, sizeof(machine) + 64);

	assert_non_null(at);
	snprintf(text, sizeof(machine) + 64, "%.*s%s%s", (int)(at - machine), machine, to,
		 at + strlen(from));
	return text;
}

static void test_smaps__other_shapes_are_no_guest_memory(void **state)
{
	static const char *const rows[][2] = {
		{ "44000000-44200000 ---p", "44000000-44200000 r--p" }, /* no guard above */
		{ "44000000-44200000", "44000000-44100000" },		/* a small one */
		{ "44000000-44200000", "44001000-44300000" },		/* a gap before it */
		{ "3fc00000-40000000", "3fc00000-3ffff000" },		/* a gap below */
		{ "41000000-43000000 rw-p", "41000000-43000000 rw-s" },
		{ "41000000-43000000 rw-p", "41000000-43000000 r--p" },
		{ "41000000-43000000", "41000000-42fff000" }, /* a gap within */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char *text = changed(rows[i][0], rows[i][1]);
		struct account a = { 0 };
		struct err e;

		account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
		assert_int_equal(parse(&a, text, &e), 0);
		if (a.procs[0].fig.ram || a.nr_files)
			fail_msg("row %zu is taken for RAM", i);
		account_fini(&a);
		free(text);
	}
}

static void test_smaps__nonsense_is_refused(void **state)
{
	struct account a = { 0 };
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(parse(&a, "Rss: 1 kB\n", &e), -EBADMSG);
	assert_int_equal(parse(&a, "hello\n", &e), -EBADMSG);
	assert_int_equal(parse(&a, "2000-1000 rw-p 0 0:0 0\n", &e), -EBADMSG);
	assert_int_equal(parse(&a, "1000-2001 rw-p 0 0:0 0\n", &e), -EBADMSG);
	assert_int_equal(a.nr_files, 0);
	account_fini(&a);
}

/* Between two reads mappings change: neighbours merge, and the merged one is shown from its
 * beginning; one is unmapped, and another lies across its end. Each address counts once. */
static void test_smaps__what_is_shown_twice_counts_once(void **state)
{
	static const char merged[] = VMA("1000", "2000", "rw-p", "0 ")
		KB("4", "4", "0", "4", "4", "0", "0") VMA("2000", "3000", "rw-p", "0 ")
			KB("4", "4", "0", "4", "4", "0", "0") VMA("1000", "5000", "rw-p", "0 ")
				KB("12", "12", "0", "12", "12", "0", "0")
					VMA("2000", "4000", "rw-p", "0 ")
						KB("8", "8", "0", "8", "8", "0", "0");
	static const char across[] =
		VMA("1000", "3000", "rw-p", "0 ") KB("8", "8", "0", "8", "8", "0", "0")
			VMA("2000", "4000", "rw-p", "0 ") KB("8", "8", "0", "8", "8", "0", "0");
	struct account a = { 0 };
	struct account_proc *p;
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	p = &a.procs[0];
	assert_int_equal(parse(&a, merged, &e), 0);
	assert_int_equal(p->nr_ranges, 1);
	assert_int_equal(p->ranges[0].first, 1);
	assert_int_equal(p->ranges[0].pages, 4);
	assert_int_equal(p->fig.vmm, 12 << 10);
	assert_int_equal(parse(&a, across, &e), 0);
	assert_int_equal(p->nr_ranges, 2);
	assert_int_equal(p->ranges[0].pages, 2);
	assert_int_equal(p->ranges[1].first, 3);
	assert_int_equal(p->ranges[1].pages, 1);
	assert_int_equal(p->fig.vmm, 12 << 10); /* of what was cut no more than it is large */
	account_fini(&a);
}

/* Guest memory too is whole when the kernel shows a part of it again. */
static void test_smaps__guest_memory_that_merges_meanwhile_is_found(void **state)
{
	char *text = changed("43000000-44000000", "42000000-44000000");
	struct account a = { 0 };
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(parse(&a, text, &e), 0);
	assert_int_equal(a.procs[0].fig.ram, 64 << 20);
	assert_int_equal(a.nr_files, 1);
	assert_int_equal(a.files[0].begin, 0x1000);
	assert_int_equal(a.files[0].end, 0x1000 + 0x2000000);
	free(text);
	account_fini(&a);
}

static void add_line(FILE *f, uint64_t page, const char *perms, unsigned int inode)
{
	fprintf(f, "%llx-%llx %s 0 fe:01 %u /f\n", (unsigned long long)page << 12,
		(unsigned long long)(page + 1) << 12, perms, inode);
}

/* One that was taken over has as many as it likes, but not for the others. */
static void test_smaps__more_than_a_machine_has_is_refused(void **state)
{
	struct account a = { 0 };
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	for (unsigned int kind = 0; kind < 3; kind++) {
		static const unsigned int many[] = { 257, ACCOUNT_RANGES_MAX + 1,
						     2 * ACCOUNT_RANGES_MAX + 1 };
		cleanup_free char *text = NULL;
		size_t n;
		FILE *f = open_memstream(&text, &n);

		/* files, mappings, the same one again and again */
		for (unsigned int i = 0; i < many[kind]; i++)
			add_line(f, kind == 2 ? 1 : i + 1, kind ? "r--p" : "rw-p", i + 1);
		fclose(f);
		assert_int_equal(parse(&a, text, &e), -E2BIG);
		assert_int_equal(a.nr_files, 0);
	}
	account_fini(&a);
}

/* The end of a name that is longer than a line is no mapping. */
static void test_smaps__name_cannot_pretend_to_be_a_mapping(void **state)
{
	struct account a = { 0 };
	cleanup_free char *text = NULL;
	struct err e;
	size_t n;
	FILE *f = open_memstream(&text, &n);
	int head;

	(void)state;
	head = fprintf(f, "1000-2000 r--p 0 fe:01 1 /");
	for (int i = head; i < 4399; i++)
		fputc('x', f);
	fputs("3000-4000 rw-p 0 fe:01 2 /\nAnonymous: 4 kB\nPss: 4 kB\n", f);
	fclose(f);
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(parse(&a, text, &e), 0);
	assert_int_equal(a.procs[0].nr_ranges, 1);
	assert_int_equal(a.procs[0].ranges[0].first, 1);
	account_fini(&a);
}

/* One that was taken over maps terabytes for a page: that is not walked, but counted. */
static void test_smaps__terabytes_are_not_walked(void **state)
{
	static const char many[] = VMA("100000000000", "7f0000000000", "rw-p", "0 ")
		KB("8", "6", "0", "4", "8", "0", "0")
			VMA("7f0000000000", "7f0000001000", "rw-p", "0 ")
				KB("4", "4", "0", "4", "4", "0", "0");
	static const char ram[] =
		GUARD("1000000000", "1000200000") KB("0", "0", "0", "0", "0", "0", "0")
			VMA("1000200000", "7f0000000000", "rw-p", "0 ")
				KB("4", "4", "0", "4", "4", "0", "0")
					GUARD("7f0000000000", "7f0000200000")
						KB("0", "0", "0", "0", "0", "0", "0");
	struct account a = { 0 };
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(parse(&a, many, &e), 0);
	assert_int_equal(a.procs[0].nr_ranges, 1);
	assert_int_equal(a.procs[0].ranges[0].pages, 1);
	assert_int_equal(a.procs[0].not_walked, 6 << 10);
	assert_int_equal(a.procs[0].fig.vmm, 10 << 10);
	assert_int_equal(parse(&a, ram, &e), 0);
	assert_int_equal(a.procs[0].fig.ram, 0);
	assert_int_equal(a.procs[0].nr_ranges, 0);
	account_fini(&a);
}

/* A process that has ended has an empty smaps. */
static void test_smaps__empty_is_ended(void **state)
{
	struct account a = { 0 };
	FILE *f = fopen("/dev/null", "r");
	struct err e;

	(void)state;
	account_add(&a, "m", ACCOUNT_VM, 1, -1, &e);
	assert_int_equal(account_smaps(&a, 0, f, &e), -ESRCH);
	fclose(f);
	account_fini(&a);
}

/* ---- the host ---- */

static const char meminfo[] =
	"MemTotal:       100000 kB\nMemFree:         40000 kB\nMemAvailable:    50000 kB\n"
	"Buffers:          1000 kB\nCached:          11000 kB\nSwapCached:          0 kB\n"
	"Active:           9999 kB\nActive(file):     4000 kB\nInactive(file):   6000 kB\n"
	"AnonPages:       20000 kB\nKReclaimable:     5000 kB\nSlab:             8000 kB\n"
	"SUnreclaim:       3000 kB\nPageTables:        700 kB\nSecPageTables:     300 kB\n"
	"VmallocTotal:   99999999 kB\nVmallocUsed:      900 kB\nPercpu:            100 kB\n"
	"HugePages_Total:       0\nHugetlb:          4000 kB\n";
static const char zoneinfo[] = "Node 0, zone   Normal\n  pages free     1\n  pagesets\n    cpu: 0\n"
			       "              count:    100\n              high:     999\n"
			       "  vm stats threshold: 24\n    cpu: 1\n"
			       "              count:    25\n  vm stats threshold: 16\n";

static void test_host__what_is_not_available_is_named(void **state)
{
	FILE *m = fmemopen((void *)(uintptr_t)meminfo, strlen(meminfo), "r");
	FILE *z = fmemopen((void *)(uintptr_t)zoneinfo, strlen(zoneinfo), "r");
	struct account_host h;
	struct err e;

	(void)state;
	assert_int_equal(account_host_parse(&h, m, z, &e), 0);
	fclose(m);
	fclose(z);
	assert_int_equal(h.total, 100000 << 10);
	assert_int_equal(h.available, 50000 << 10);
	/* 40000 free + 10000 of the page cache + 5000 of slab, less 50000 */
	assert_int_equal(h.held_back, 5000 << 10);
	assert_int_equal(h.pinned_cache, 2000 << 10);
	assert_int_equal(h.per_cpu_free, 125 * 4096);
	assert_int_equal(h.error, 40 * 4096 * 10);
	assert_int_equal(h.slab, 8000 << 10);
	/* 50000 less: */
	assert_int_equal(h.unaccounted,
			 (50000 - 5000 - 500 - 20000 - 2000 - 3000 - 700 - 300 - 900 - 100 - 4000) *
				 1024);
}

static void test_host__a_text_without_the_sums_is_refused(void **state)
{
	FILE *m = fmemopen((void *)(uintptr_t)meminfo, 60, "r");
	struct account_host h;
	struct err e;

	(void)state;
	assert_int_equal(account_host_parse(&h, m, NULL, &e), -EBADMSG);
	fclose(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_classify__every_class_is_told_apart),
		cmocka_unit_test(test_classify__shares_of_all_make_each_page_once),
		cmocka_unit_test(test_classify__the_vmms_own_pages_are_no_guest_memory),
		cmocka_unit_test(test_classify__one_that_ends_is_as_if_it_had_not_been),
		cmocka_unit_test(test_classify__all_may_end),
		cmocka_unit_test(test_classify__one_that_cannot_be_read_has_no_figures),
		cmocka_unit_test(test_classify__what_came_meanwhile_is_told),
		cmocka_unit_test(test_pages__counts_stop_at_their_end),
		cmocka_unit_test(test_pages__flags_are_asked_for_once_a_block),
		cmocka_unit_test(test_smaps__guest_memory_is_what_lies_between_guards),
		cmocka_unit_test(test_smaps__one_file_of_two_machines_is_one_template),
		cmocka_unit_test(test_smaps__other_shapes_are_no_guest_memory),
		cmocka_unit_test(test_smaps__nonsense_is_refused),
		cmocka_unit_test(test_smaps__what_is_shown_twice_counts_once),
		cmocka_unit_test(test_smaps__guest_memory_that_merges_meanwhile_is_found),
		cmocka_unit_test(test_smaps__more_than_a_machine_has_is_refused),
		cmocka_unit_test(test_smaps__name_cannot_pretend_to_be_a_mapping),
		cmocka_unit_test(test_smaps__terabytes_are_not_walked),
		cmocka_unit_test(test_smaps__empty_is_ended),
		cmocka_unit_test(test_host__what_is_not_available_is_named),
		cmocka_unit_test(test_host__a_text_without_the_sums_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
