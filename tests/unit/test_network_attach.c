/* SPDX-License-Identifier: MIT */
/*
 * NICs on a network: addresses are given once, come back to whom they belonged, and nothing is left
 * of a network that nobody is on, however its users ended. In network namespaces of the tests' own.
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
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

static void test_attach__close_and_sweep_leave_nothing(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct network_publish pub[] = { { false, 8080, 80 }, { true, 5353, 53 } };
	struct network_port p;

	(void)state;
	netns_attach(&nw, "vm", pub, 2, &p);
	assert_int_equal(netns_run(0, "ip link show dev %s >/dev/null", p.tap), 0);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 1"), 0);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 0);
	assert_int_equal(netns_on_it(&nw), 1);
	assert_int_equal(p.nr_publish_fd, 4);
	network_sweep();
	assert_int_equal(netns_on_it(&nw), 1);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 0);
	network_port_close(&p);
	network_sweep();
	netns_unchanged(before);
	assert_int_equal(netns_run(0, "ls $CLONE_RUN_DIR/networks | grep -q ."), 1);
}

static void test_attach__killed_holder_is_swept(void **state)
{
	struct network nw = netns_nat("n");
	cleanup_free char *before = netns_state();
	struct network_port p, other;
	pid_t pid;
	int go[2];

	(void)state;
	netns_attach(&nw, "other", NULL, 0, &other);
	assert_int_equal(pipe(go), 0);
	pid = fork();
	if (!pid) {
		netns_attach(&nw, "vm", NULL, 0, &p);
		if (write(go[1], &p, sizeof(p)) == sizeof(p))
			for (;;)
				pause();
		_exit(1);
	}
	assert_int_equal(read(go[0], &p, sizeof(p)), sizeof(p));
	assert_int_equal(netns_on_it(&nw), 2);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(netns_run(0, "ip link show dev %s 2>/dev/null >&2", p.tap), 1);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 0);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 1);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", other.tap), 0);
	assert_int_equal(netns_on_it(&nw), 1);
	network_port_close(&other);
	network_sweep();
	netns_unchanged(before);
}

/* The network's lease is what its holder has open, whoever made it. */
static void test_attach__lease_lives_in_another_process(void **state)
{
	struct network nw = netns_nat("n");
	struct network_port p;
	pid_t pid;

	(void)state;
	netns_attach(&nw, "vm", NULL, 0, &p);
	pid = fork();
	if (!pid)
		for (;;)
			pause();
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_on_it(&nw), 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	network_sweep();
	assert_int_equal(netns_on_it(&nw), 0);
}

static void test_attach__all_are_distinct(void **state)
{
	enum { N = 100 };
	struct network nw = netns_nat("n");
	struct network_want w[N];
	struct network_port *p = calloc(N, sizeof(*p));
	struct err e;

	(void)state;
	assert_non_null(p);
	for (size_t i = 0; i < N; i++)
		w[i] = (struct network_want){ .queues = 1 };
	if (network_attach(&nw, w, N, p, &e))
		fail_msg("%s", e.msg);
	for (size_t i = 0; i < N; i++) {
		assert_true(p[i].tap_fd[0] >= 0 && p[i].packet_fd >= 0 && p[i].lease_fd >= 0);
		assert_int_equal(p[i].addr.prefix4, 20);
		assert_int_equal(p[i].addr.prefix6, 64);
		for (size_t k = 0; k < i; k++) {
			assert_string_not_equal(p[i].tap, p[k].tap);
			assert_memory_not_equal(p[i].addr.ip4, p[k].addr.ip4, 4);
			assert_memory_not_equal(p[i].addr.ip6, p[k].addr.ip6, 16);
			assert_memory_not_equal(p[i].addr.mac, p[k].addr.mac, 6);
		}
	}
	for (size_t i = 0; i < N; i++)
		network_port_close(&p[i]);
	network_sweep();
	free(p);
}

static void test_attach__address_is_remembered(void **state)
{
	struct network nw = netns_nat("n");
	struct network_port a, b, c, again;
	struct nic_address was;

	(void)state;
	netns_attach(&nw, "a", NULL, 0, &a);
	netns_attach(&nw, "b", NULL, 0, &b);
	was = a.addr;
	network_port_close(&a);
	network_sweep();
	netns_attach(&nw, "c", NULL, 0, &c);
	assert_memory_not_equal(c.addr.ip4, was.ip4, 4);
	netns_attach(&nw, "a", NULL, 0, &again);
	assert_memory_equal(again.addr.ip4, was.ip4, 4);
	assert_memory_equal(again.addr.mac, was.mac, 6);
	network_port_close(&again);
	network_port_close(&b);
	network_port_close(&c);
	network_sweep();
}

static void test_attach__wishes(void **state)
{
	struct network nw = netns_nat("n");
	uint8_t ip4[4], mac[6] = { 2, 1, 2, 3, 4, 5 }, bad[6] = { 1, 1, 2, 3, 4, 5 };
	struct network_want w = { .vm = "a", .ip4 = ip4, .mac = mac, .queues = 4 };
	struct network_port p, q;
	struct err e;

	(void)state;
	memcpy(ip4, nw.subnet4, 4);
	ip4[3] = 77;
	assert_int_equal(network_attach(&nw, &w, 1, &p, &e), 0);
	assert_memory_equal(p.addr.ip4, ip4, 4);
	assert_memory_equal(p.addr.mac, mac, 6);
	assert_true(p.tap_fd[3] >= 0 && p.tap_fd[4] < 0);
	w.queues = 1;
	w.vm = "b";
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "taken by VM a"));
	ip4[3] = 1; /* the gateway's */
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EINVAL);
	ip4[0] ^= 1;
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EINVAL);
	w.ip4 = NULL;
	w.mac = bad;
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EINVAL);
	w.mac = NULL;
	w.queues = 0;
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EINVAL);
	w.queues = 1;
	w.vm = "../x";
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EINVAL);
	network_port_close(&p);
	network_sweep();
}

static void test_attach__subnet_is_used_up_all_or_none(void **state)
{
	struct network nw =
		netns_network("n", &(struct network_options){ .subnet4 = "10.99.0.0/29" });
	struct network_want w[6] = { { .queues = 1 }, { .queues = 1 }, { .queues = 1 },
				     { .queues = 1 }, { .queues = 1 }, { .queues = 1 } };
	cleanup_free char *before = netns_state();
	struct network_port p[6];
	struct err e;

	(void)state;
	assert_int_equal(network_attach(&nw, w, 6, p, &e), -ENOSPC);
	netns_unchanged(before);
	assert_int_equal(network_attach(&nw, w, 5, p, &e), 0);
	assert_int_equal(network_attach(&nw, w, 1, &p[5], &e), -ENOSPC);
	assert_int_equal(netns_on_it(&nw), 5);
	/* what waits is not lost to those who ask for more than that */
	network_port_close(&p[0]);
	assert_int_equal(network_attach(&nw, w, 1, &p[0], &e), 0);
	for (size_t i = 0; i < 5; i++)
		network_port_close(&p[i]);
	network_sweep();
	netns_unchanged(before);
}

static void test_publish__taken_port_says_by_whom(void **state)
{
	struct network nw = netns_nat("n");
	struct network_publish pub = { false, 8080, 80 };
	struct network_want w = { .vm = "b", .queues = 1, .publish = &pub, .nr_publish = 1 };
	struct sockaddr_in any = { .sin_family = AF_INET, .sin_port = htons(8081) };
	struct network_port p, q;
	struct err e;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	netns_attach(&nw, "a", &pub, 1, &p);
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "port 8080/tcp of the host is taken by VM a"));
	assert_int_equal(netns_on_it(&nw), 1);
	pub.host_port = 8081;
	assert_int_equal(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0);
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "port 8081/tcp of the host is taken"));
	close(fd);
	/* the port of a VM that died, not swept yet */
	pub.host_port = 8080;
	network_port_close(&p);
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), 0);
	network_port_close(&q);
	network_sweep();
}

static void test_attach__two_run_directories_share_a_host(void **state)
{
	struct network nw = netns_nat("n"), other;
	struct network_port p, q;
	struct network_want w = { .queues = 1 };
	char run[300], tap[NETWORK_TAP_MAX];
	struct err e;

	snprintf(run, sizeof(run), "%s", getenv("CLONE_RUN_DIR"));
	netns_attach(&nw, "a", NULL, 0, &p);
	setenv("CLONE_RUN_DIR", scratch_path(*state, "run2"), 1);
	/* the same definition means the same addresses */
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "in use from "));
	setenv("CLONE_STATE_DIR", scratch_path(*state, "state2"), 1);
	other = netns_nat("n");
	assert_memory_not_equal(other.subnet4, nw.subnet4, 4);
	netns_attach(&other, "a", NULL, 0, &q);
	snprintf(tap, sizeof(tap), "%s", q.tap);
	/* the last of one is not the last of all */
	network_port_close(&q);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", p.tap), 0);
	assert_int_equal(netns_run(0, "nft list table inet clone | grep -q %s", tap), 1);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 1"), 0);
	setenv("CLONE_RUN_DIR", run, 1);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 0"), 0);
}

static void test_attach__without_privilege_says_so(void **state)
{
	struct network nw = netns_nat("n");
	pid_t pid = fork();
	int status;

	(void)state;
	if (!pid) {
		struct network_want w = { .queues = 1 };
		struct network_port p;
		struct err e;

		_exit(chmod(*state, 0755) || setresuid(65534, 65534, 65534) ||
		      network_attach(&nw, &w, 1, &p, &e) != -EPERM ||
		      !strstr(e.msg, "use --network none"));
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_attach__close_and_sweep_leave_nothing),
		TEST(test_attach__killed_holder_is_swept),
		TEST(test_attach__lease_lives_in_another_process),
		TEST(test_attach__all_are_distinct),
		TEST(test_attach__address_is_remembered),
		TEST(test_attach__wishes),
		TEST(test_attach__subnet_is_used_up_all_or_none),
		TEST(test_publish__taken_port_says_by_whom),
		TEST(test_attach__two_run_directories_share_a_host),
		TEST(test_attach__without_privilege_says_so),
	};

	if (!netns_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
