/* SPDX-License-Identifier: MIT */
/*
 * What clone-agent reports of its machine: against what this one's kernel says of itself.
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

#include "tests/lib/guest_agent.h"

/* The first number behind a key in a file of the kernel's. */
static uint64_t kernel_number(const char *path, const char *key)
{
	char line[256];
	uint64_t v = UINT64_MAX;
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)))
			v = strtoull(line + strlen(key), NULL, 10);
	fclose(f);
	assert_true(v != UINT64_MAX);
	return v;
}

static void test_agent_activity__says_what_the_kernel_says(void **state)
{
	bool psi = !access("/proc/pressure/memory", R_OK);
	uint64_t kills = kernel_number("/proc/vmstat", "oom_kill "),
		 swapped = kernel_number("/proc/vmstat", "pswpin "),
		 swap = kernel_number("/proc/meminfo", "SwapTotal:"),
		 swap_free = kernel_number("/proc/meminfo", "SwapFree:"), user;
	uint8_t frame[PROTO_SMALL_FRAME];
	struct proto_report p;
	struct proto_frame f;
	struct link l;

	user = kernel_number("/proc/stat", "cpu ");
	link_open(&l, *state);
	link_send(&l, frame, proto_put_empty(frame, sizeof(frame), PROTO_ACTIVITY));
	assert_true(link_next(&l, &f));
	assert_true(proto_get_report(f.payload, &p));
	link_close(&l);
	assert_true(p.more);
	assert_int_equal(p.flags, psi ? PROTO_REPORT_PSI : 0);
	assert_true(p.oom_kills >= kills && p.oom_kills < kills + 1000);
	assert_true(p.swap_in_pages >= swapped && p.swap_in_pages < swapped + 1000000);
	assert_true(p.swap_total_bytes == swap * 1024);
	assert_true(p.swap_used_bytes / 1024 + 65536 >= swap - swap_free &&
		    p.swap_used_bytes <= p.swap_total_bytes);
	assert_true(p.mem_free_bytes > 0 && p.mem_free_bytes < p.mem_total_bytes);
	assert_true(p.mem_cached_bytes > 0 && p.mem_cached_bytes < p.mem_total_bytes);
	assert_true(p.cpu_busy_ms >= user * 10 && p.cpu_idle_ms > 0);
	assert_true(p.psi_some_x100 <= 10000 && p.psi_full_x100 <= p.psi_some_x100 + 100);
	if (psi)
		assert_true(p.psi_some_us <= p.uptime_ms * 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_agent_activity__says_what_the_kernel_says,
						guest_setup, guest_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
