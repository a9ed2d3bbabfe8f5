/* SPDX-License-Identifier: MIT */
/*
 * TAPs that are made ahead: taking one needs no program and no lock, whatever others do meanwhile,
 * and none is ever given out without its rules.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/netpool.h"
#include "network/network.h"
#include "tests/lib/netns.h"
#include "tests/lib/scratch.h"

static int setup(void **state)
{
	*state = netns_begin();
	return 0;
}

static int teardown(void **state)
{
	netns_end(*state);
	return 0;
}

/* Nothing is run and nobody is waited for: nft is not even there. */
static void test_pool__needs_no_program(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct network_port first, p[3], q;
	struct network_want w[3] = { { .queues = 1 }, { .queues = 1 }, { .queues = 1 } };
	struct err e;
	pid_t pid;
	int status;

	(void)state;
	netns_attach(&nw, "first", NULL, 0, &first);
	assert_int_equal(network_refill(&nw, 3, &e), 0);
	assert_int_equal(netns_waiting(&nw), 3);
	network_sweep();
	assert_int_equal(netns_waiting(&nw), 3);
	pid = fork();
	if (!pid) {
		if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
		    mount("/dev/null", "/usr/sbin/nft", NULL, MS_BIND, NULL))
			_exit(1);
		if (network_attach(&nw, w, 3, p, &e))
			_exit(2);
		for (size_t i = 0; i < 3; i++)
			if (p[i].tap_fd[0] < 0 || p[i].packet_fd < 0)
				_exit(3);
		/* the pool is empty: now it is needed, and said */
		if (network_attach(&nw, w, 1, &q, &e) != -ENOENT || !strstr(e.msg, "nftables"))
			_exit(4);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	/* what it had died with it, TAPs included */
	network_sweep();
	assert_int_equal(netns_waiting(&nw), 0);
	assert_int_equal(netns_run(0, "test $(ip -o link | grep -c clone-) = 1"), 0);
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	assert_int_equal(netns_waiting(&nw), 2);
	network_port_close(&first);
	network_sweep();
	netns_unchanged(before);
	/* nobody is on it: it is not worth it */
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	netns_unchanged(before);
}

static void test_pool__hold_keeps_it(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct err e;
	int hold = network_hold(&nw, &e);

	(void)state;
	assert_true(hold >= 0);
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	network_sweep();
	assert_int_equal(netns_waiting(&nw), 2);
	close(hold);
	network_sweep();
	netns_unchanged(before);
}

/* Somebody restarts their firewall, which flushes everybody's rules. */
static void test_rules__flushed_ones_come_back(void **state)
{
	struct network nw = netns_nat("n");
	struct network_publish pub = { false, 8080, 80 };
	struct network_port p, q, r;
	cleanup_free char *rules = NULL, *after = NULL;
	struct err e;

	(void)state;
	netns_attach(&nw, "a", &pub, 1, &p);
	assert_int_equal(network_refill(&nw, 1, &e), 0);
	netns_attach(&nw, "b", NULL, 0, &q);
	assert_int_equal(netns_waiting(&nw), 0);
	assert_int_equal(network_refill(&nw, 1, &e), 0);
	rules = netns_out(0,
			  "nft -s list ruleset | grep -o \"clone-[0-9a-f]*\\\" . [^,}]*\" | sort");
	assert_non_null(strstr(rules, p.tap));
	assert_int_equal(netns_run(0, "nft flush ruleset"), 0);
	/* a TAP waits, but it would come up unguarded */
	netns_attach(&nw, "c", NULL, 0, &r);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 0);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", q.tap), 0);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", r.tap), 0);
	assert_int_equal(netns_run(0, "nft list map inet clone publish4 | grep -q 8080"), 0);
	network_port_close(&p);
	network_port_close(&q);
	network_port_close(&r);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

/* A TAP of the pool that somebody removed is not given to anybody. */
static void test_pool__removed_tap_is_not_used(void **state)
{
	struct network nw = netns_nat("n");
	struct network_port first, p;
	struct err e;

	(void)state;
	netns_attach(&nw, "first", NULL, 0, &first);
	assert_int_equal(network_refill(&nw, 1, &e), 0);
	assert_int_equal(netns_run(0,
				   "ip link del $(ip -o link | grep -o \"clone-[0-9a-f]*\" | "
				   "grep -v %s)",
				   first.tap),
			 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(netns_run(0, "ip route | grep -q %s", p.tap), 0);
	network_port_close(&first);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

/* Somebody removed the run directory: what is left of it bears our names. */
static void test_pool__lost_run_directory_is_no_obstacle(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct network_port p;
	struct err e;

	(void)state;
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	network_port_close(&p);
	assert_int_equal(netns_run(0, "rm -r $CLONE_RUN_DIR"), 0);
	assert_int_equal(netns_run(0, "test $(ip -o link | grep -c clone-) = 2"), 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(netns_run(0, "test $(ip -o link | grep -c clone-) = 1"), 0);
	network_port_close(&p);
	network_sweep();
	netns_unchanged(before);
}

/* The program runs itself for that, which here is this test: see main. */
static void test_pool__is_filled_in_the_background(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct network_port p;
	int i;

	(void)state;
	setenv("CLONE_TAP_POOL", "3", 1);
	netns_attach(&nw, "a", NULL, 0, &p);
	network_refill_later("n");
	for (i = 0; i < 3000 && netns_waiting(&nw) != 3; i++)
		usleep(20000);
	assert_int_equal(netns_waiting(&nw), 3);
	setenv("CLONE_TAP_POOL", "0", 1);
	assert_int_equal(network_pool_size(), 0);
	unsetenv("CLONE_TAP_POOL");
	/* it has none of ours open: the lease is free once we let go */
	network_port_close(&p);
	network_sweep();
	netns_unchanged(before);
}

static int refill(const char *name)
{
	struct network nw;
	struct err e;

	return network_open(name, &nw, &e) || network_refill(&nw, network_pool_size(), &e);
}

static void attach_many(const struct network *nw, int out)
{
	enum { N = 50 };
	struct network_port *p = calloc(N, sizeof(*p));

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (size_t i = 0; i < N; i++) {
		struct network_want w = { .queues = 1 };
		struct err e;

		if (network_attach(nw, &w, 1, &p[i], &e) || write(out, p[i].addr.ip4, 4) != 4)
			_exit(1);
	}
	pause();
}

static void test_attach__two_processes_at_once_with_a_pool(void **state)
{
	struct network nw = netns_nat("n");
	uint8_t got[100][4];
	struct err e;
	pid_t pid[3];
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0);
	for (size_t i = 0; i < 2; i++) {
		pid[i] = fork();
		if (!pid[i])
			attach_many(&nw, p[1]);
	}
	/* and one that fills the pool and sweeps meanwhile */
	pid[2] = fork();
	if (!pid[2] && !prctl(PR_SET_PDEATHSIG, SIGKILL))
		for (;;) {
			network_refill(&nw, 4, &e);
			network_sweep();
		}
	for (size_t i = 0; i < 100; i++)
		assert_int_equal(read(p[0], got[i], 4), 4);
	for (size_t i = 0; i < 100; i++)
		for (size_t k = 0; k < i; k++)
			assert_memory_not_equal(got[i], got[k], 4);
	kill(pid[2], SIGKILL);
	waitpid(pid[2], NULL, 0);
	/* what it had started and not yet become another program had its leases open too */
	for (int i = 0; i < 3000 && netns_on_it(&nw) != 100; i++)
		usleep(20000);
	assert_int_equal(netns_on_it(&nw), 100);
	for (size_t i = 0; i < 2; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], NULL, 0);
	}
	network_sweep();
	assert_int_equal(netns_run(0, "ip -o link | grep -q clone-"), 1);
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

/* Figures for people; nothing is claimed of them. */
static void test_attach__times(void **state)
{
	static const size_t many[] = { 1, 64 };
	struct network nw = netns_nat("n");
	struct network_port *p = calloc(64, sizeof(*p)), first;
	struct network_want w[64];
	struct err e;

	(void)state;
	for (size_t i = 0; i < 64; i++)
		w[i] = (struct network_want){ .queues = 1 };
	netns_attach(&nw, "first", NULL, 0, &first);
	for (size_t k = 0; k < ARRAY_SIZE(many); k++) {
		for (int pool = 0; pool < 2; pool++) {
			uint64_t t;

			if (pool)
				assert_int_equal(network_refill(&nw, (unsigned int)many[k], &e), 0);
			t = time_mono_ns();
			assert_int_equal(network_attach(&nw, w, many[k], p, &e), 0);
			t = time_mono_ns() - t;
			print_message("%zu %s: %.2f ms\n", many[k], pool ? "from the pool" : "made",
				      (double)t / 1e6);
			t = time_mono_ns();
			for (size_t i = 0; i < many[k]; i++)
				network_port_close(&p[i]);
			print_message("  close: %.2f ms\n", (double)(time_mono_ns() - t) / 1e6);
			t = time_mono_ns();
			network_sweep();
			print_message("  sweep: %.2f ms\n", (double)(time_mono_ns() - t) / 1e6);
		}
	}
	network_port_close(&first);
	network_sweep();
	free(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_pool__needs_no_program),
		TEST(test_pool__hold_keeps_it),
		TEST(test_rules__flushed_ones_come_back),
		TEST(test_pool__is_filled_in_the_background),
		TEST(test_pool__removed_tap_is_not_used),
		TEST(test_pool__lost_run_directory_is_no_obstacle),
		TEST(test_attach__two_processes_at_once_with_a_pool),
		TEST(test_attach__times),
	};

	if (argc == 4 && !strcmp(argv[1], "network") && !strcmp(argv[2], "refill"))
		return refill(argv[3]);
	if (!netns_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
