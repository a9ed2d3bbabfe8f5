/* SPDX-License-Identifier: MIT */
/*
 * What clone doctor makes of the kernel's settings of memory: each setting that matters is said,
 * and what should be otherwise is a warning that says how.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/doctor.h"
#include "cli/ksm.h"
#include "tests/lib/scratch.h"

struct dir {
	char *path;
};

static int setup(void **state)
{
	static struct dir d;

	d.path = scratch_make();
	setenv("CLONE_RUN_DIR", scratch_path(d.path, "run"), 1);
	*state = &d;
	return 0;
}

static int teardown(void **state)
{
	struct dir *d = *state;

	scratch_remove(d->path);
	unsetenv("CLONE_RUN_DIR");
	return 0;
}

static void assert_found(enum status (*look)(const struct check *, struct finding *),
			 const char *arg, enum status want, const char *found, const char *advice)
{
	const struct check c = { .name = "x", .look = look, .arg = arg };
	struct finding f = { 0 };

	assert_int_equal(look(&c, &f), want);
	assert_string_equal(f.found, found);
	assert_string_equal(f.advice, advice);
}

static void test_doctor__ksm_is_explained_by_its_settings(void **state)
{
	struct dir *d = *state;
	const char *ksm = scratch_path(d->path, "ksm");

	assert_found(look_ksm, ksm, WARN, "this kernel has none: --ksm is refused", "");
	scratch_text(d->path, "ksm/run", "0\n");
	assert_found(look_ksm, ksm, OK, "there, and off: --ksm would merge nothing", "");
	scratch_text(d->path, "ksm/run", "1\n");
	scratch_text(d->path, "ksm/pages_to_scan", "100\n");
	scratch_text(d->path, "ksm/sleep_millisecs", "20\n");
	scratch_text(d->path, "ksm/max_page_sharing", "256\n");
	scratch_text(d->path, "ksm/merge_across_nodes", "1\n");
	scratch_text(d->path, "ksm/use_zero_pages", "0\n");
	assert_found(
		look_ksm, ksm, OK,
		"on: 100 pages each 20 ms, so 1 GiB is looked at in 52 s; at most 256 share one; "
		"across memory nodes; pages of zeroes are merged like others",
		"");
	scratch_text(d->path, "ksm/pages_to_scan", "20000\n");
	scratch_text(d->path, "ksm/sleep_millisecs", "200\n");
	scratch_text(d->path, "ksm/merge_across_nodes", "0\n");
	scratch_text(d->path, "ksm/use_zero_pages", "1\n");
	assert_found(look_ksm, ksm, OK,
		     "on: 20000 pages each 200 ms, so 1 GiB is looked at in 2 s; at most 256 share "
		     "one; not across memory nodes; pages of zeroes become the kernel's one",
		     "");
}

static void test_doctor__a_domain_that_merges_nothing_is_a_warning(void **state)
{
	struct dir *d = *state;
	char *ksm = strdup(scratch_path(d->path, "ksm"));
	char advice[200];
	struct err e;
	int fd;

	scratch_text(d->path, "ksm/run", "0\n");
	fd = ksm_claim("school", &e);
	assert_true(fd >= 0);
	snprintf(advice, sizeof(advice), "echo 1 > %s/run", ksm);
	assert_found(look_ksm, ksm, WARN,
		     "there, and off: --ksm would merge nothing; the trust domain school has it",
		     advice);
	close(fd);
	assert_found(look_ksm, ksm, OK, "there, and off: --ksm would merge nothing", "");
	free(ksm);
}

static void test_doctor__huge_pages_that_cost_are_a_warning(void **state)
{
	struct dir *d = *state;
	char *thp = strdup(scratch_path(d->path, "thp"));
	char advice[200];

	assert_found(look_thp, thp, WARN, "this kernel has none: forks of big VMs are slower", "");
	scratch_text(d->path, "thp/enabled", "always [madvise] never\n");
	scratch_text(d->path, "thp/shmem_enabled",
		     "always within_size advise [never] deny force\n");
	scratch_text(d->path, "thp/defrag", "always defer defer+madvise [madvise] never\n");
	scratch_text(d->path, "thp/khugepaged/max_ptes_shared", "0\n");
	assert_found(
		look_thp, thp, OK,
		"madvise, of shared memory never; defrag madvise; khugepaged makes private huge "
		"pages of up to 0 shared ones in 512",
		"");
	scratch_text(d->path, "thp/enabled", "[always] madvise never\n");
	scratch_text(d->path, "thp/defrag", "[always] defer defer+madvise madvise never\n");
	scratch_text(d->path, "thp/khugepaged/max_ptes_shared", "256\n");
	snprintf(advice, sizeof(advice), "echo madvise > %s/defrag", thp);
	assert_found(
		look_thp, thp, WARN,
		"always, of shared memory never; defrag always (a guest's first touch may stall); "
		"khugepaged makes private huge pages of up to 256 shared ones in 512, which costs "
		"sharing",
		advice);
	scratch_text(d->path, "thp/enabled", "always madvise [never]\n");
	scratch_text(d->path, "thp/defrag", "always defer defer+madvise [madvise] never\n");
	assert_found(look_thp, thp, WARN,
		     "never, of shared memory never; defrag madvise; khugepaged makes private huge "
		     "pages of up to 256 shared ones in 512",
		     "");
	free(thp);
}

static void test_doctor__what_a_full_host_does_is_said(void **state)
{
	static const char head[] = "Filename Type Size Used Priority\n";
	struct dir *d = *state;
	char *swaps = strdup(scratch_path(d->path, "swaps")), two[200];
	const char *over = scratch_path(d->path, "over");

	scratch_text(d->path, "swaps", head);
	assert_found(look_swap, swaps, OK, "none: when memory is full, something is killed", "");
	snprintf(two, sizeof(two), "%s/dev/sda2 partition 1 0 -2\n/swap file 1 0 -3\n", head);
	scratch_text(d->path, "swaps", two);
	assert_found(
		look_swap, swaps, OK,
		"2 areas: a full host is slow before it kills; a VM with a quota is not swapped "
		"out",
		"");
	scratch_text(d->path, "over", "0\n");
	assert_found(look_overcommit, over, OK, "0", "");
	scratch_text(d->path, "over", "2\n");
	assert_found(look_overcommit, over, WARN,
		     "2: the kernel refuses forks whose copies might not fit", "");
	free(swaps);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_doctor__ksm_is_explained_by_its_settings),
		T(test_doctor__a_domain_that_merges_nothing_is_a_warning),
		T(test_doctor__huge_pages_that_cost_are_a_warning),
		T(test_doctor__what_a_full_host_does_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
