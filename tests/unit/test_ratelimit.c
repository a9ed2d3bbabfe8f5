/* SPDX-License-Identifier: MIT */
/*
 * Token buckets, on a clock of the test's own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>

#include "base/time.h"
#include "base/util.h"
#include "virtio/ratelimit.h"

/* How many requests of n tokens pass in a time, asking again as soon as it is said. */
static uint64_t passed(struct rate_bucket *b, uint64_t n, uint64_t for_ns)
{
	uint64_t count = 0, wait;

	for (uint64_t now = 0; now < for_ns; now += wait) {
		wait = rate_wait_ns(b);
		if (!wait) {
			rate_take(b, n);
			count++;
			continue;
		}
		rate_pass(b, wait);
	}
	return count;
}

static void test_rate__what_passes_is_the_bucket_and_what_refills_it(void **state)
{
	struct rate_bucket b = { .size = 1000, .refill_ms = 1000 };

	(void)state;
	/* ten seconds: the bucket, once, and ten times what refills it */
	assert_in_range(passed(&b, 1, 10 * NS_PER_SEC), 10990, 11010);
	/* and of bytes, in requests of 4 KiB at 1 MiB a second */
	b = (struct rate_bucket){ .size = MIB(1), .refill_ms = 1000 };
	assert_in_range(passed(&b, 4096, 10 * NS_PER_SEC), 2810, 2822);
	/* the same rate as a smaller bucket that is refilled more often */
	b = (struct rate_bucket){ .size = 100, .refill_ms = 100 };
	assert_in_range(passed(&b, 1, 10 * NS_PER_SEC), 10090, 10110);
}

static void test_rate__burst_is_given_once(void **state)
{
	struct rate_bucket b = { .size = 100, .refill_ms = 1000, .burst = 5000 };

	(void)state;
	assert_in_range(passed(&b, 10, NS_PER_SEC), 519, 521);
	assert_int_equal(b.burst, 0);
	rate_pass(&b, 3600 * NS_PER_SEC);
	assert_in_range(passed(&b, 10, NS_PER_SEC), 19, 21);
}

static void test_rate__what_is_bigger_than_the_bucket_passes_and_is_paid_for(void **state)
{
	struct rate_bucket b = { .size = 1000, .refill_ms = 1000 };

	(void)state;
	assert_int_equal(rate_wait_ns(&b), 0);
	rate_take(&b, 5000);
	/* not before 4 seconds, and another millisecond for its own token */
	assert_int_equal(rate_wait_ns(&b), 4 * NS_PER_SEC + NS_PER_MS);
	rate_pass(&b, 4 * NS_PER_SEC);
	assert_int_equal(rate_wait_ns(&b), NS_PER_MS);
	rate_pass(&b, NS_PER_MS);
	assert_int_equal(rate_wait_ns(&b), 0);
}

static void test_rate__no_limit_never_waits_and_extremes_do_not_overflow(void **state)
{
	struct rate_bucket none = { 0 }, b = { .size = 1, .refill_ms = RATE_REFILL_MAX_MS };

	(void)state;
	for (unsigned int i = 0; i < 100; i++) {
		rate_take(&none, UINT64_MAX);
		rate_take(&b, UINT64_MAX);
		assert_int_equal(rate_wait_ns(&none), 0);
		assert_int_equal(rate_check(&b, NULL), 0);
	}
	assert_true(rate_wait_ns(&b) > NS_PER_SEC);
	rate_pass(&b, UINT64_MAX);
	assert_int_equal(rate_wait_ns(&b), 0);
}

static void test_rate__damaged_state_is_refused(void **state)
{
	static const struct rate_bucket bad[] = {
		{ .size = 0, .refill_ms = 1 },
		{ .size = 0, .burst = 1 },
		{ .size = 0, .ahead_ns = 1 },
		{ .size = 1, .refill_ms = 0 },
		{ .size = RATE_SIZE_MAX + 1, .refill_ms = 1 },
		{ .size = 1, .refill_ms = RATE_REFILL_MAX_MS + 1 },
		{ .size = 1, .refill_ms = 1, .burst = RATE_SIZE_MAX + 1 },
		{ .size = 1, .refill_ms = 1, .ahead_ns = UINT64_MAX },
	};
	struct err e;

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++)
		assert_int_equal(rate_check(&bad[i], &e), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rate__what_passes_is_the_bucket_and_what_refills_it),
		cmocka_unit_test(test_rate__burst_is_given_once),
		cmocka_unit_test(test_rate__what_is_bigger_than_the_bucket_passes_and_is_paid_for),
		cmocka_unit_test(test_rate__no_limit_never_waits_and_extremes_do_not_overflow),
		cmocka_unit_test(test_rate__damaged_state_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
