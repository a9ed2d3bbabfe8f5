/* SPDX-License-Identifier: MIT */
/*
 * The KVM probe (src/kvm/probe.c), whose answer differs from machine to machine: these claims hold
 * whatever it is. That it tells a stock KVM from an interpreting one, the rig's selftest shows.
 */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "kvm/probe.h"

static int count_fds(void)
{
	DIR *d = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void test_probe__no_has_a_one_line_reason_and_yes_has_none(void **state)
{
	char why[160];
	int rc;

	(void)state;
	memset(why, 'x', sizeof(why));
	rc = kvm_probe_stock(1000, why, sizeof(why));
	assert_in_range(rc, 0, 1);
	assert_non_null(memchr(why, '\0', sizeof(why)));
	assert_int_equal(strlen(why) > 0, rc == 0);
	assert_null(strchr(why, '\n'));
}

static void test_probe__reason_is_cut_to_the_buffer(void **state)
{
	char why[16];

	(void)state;
	memset(why, 'x', sizeof(why));
	kvm_probe_stock(1000, why, 4);
	assert_non_null(memchr(why, '\0', 4));
	for (size_t i = 4; i < sizeof(why); i++)
		assert_int_equal(why[i], 'x');
	assert_in_range(kvm_probe_stock(1000, NULL, 0), 0, 1);
}

static void test_probe__keeps_its_deadline(void **state)
{
	struct timespec a, b;
	char why[160];

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &a);
	/* 1 ms is too short for the loop on any CPU, so this ends at the deadline or earlier. */
	assert_int_equal(kvm_probe_stock(1, why, sizeof(why)), 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true(why[0]);
	/* A KVM that runs the loop to its end needs 30 ms, one that interprets it 30 s. */
	assert_true(b.tv_sec - a.tv_sec < 5);
}

static void test_probe__no_deadline_is_refused(void **state)
{
	char why[8] = "x";

	(void)state;
	assert_int_equal(kvm_probe_stock(0, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "");
	assert_int_equal(kvm_probe_stock(-1, why, sizeof(why)), -EINVAL);
}

static void test_probe__leaves_no_fd_and_no_child(void **state)
{
	int before = count_fds();

	(void)state;
	for (int i = 0; i < 5; i++) {
		kvm_probe_stock(1000, NULL, 0);
		kvm_probe_stock(1, NULL, 0);
	}
	assert_int_equal(count_fds(), before);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe__no_has_a_one_line_reason_and_yes_has_none),
		cmocka_unit_test(test_probe__reason_is_cut_to_the_buffer),
		cmocka_unit_test(test_probe__keeps_its_deadline),
		cmocka_unit_test(test_probe__no_deadline_is_refused),
		cmocka_unit_test(test_probe__leaves_no_fd_and_no_child),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
