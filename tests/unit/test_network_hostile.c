/* SPDX-License-Identifier: MIT */
/*
 * What somebody who means harm can do with what a network gave him: a guest with frames, a VM
 * process that was taken over with its descriptors, a local user with /dev/net/tun; and an
 * administrator who flushes all rules and means well.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "network/network.h"
#include "tests/lib/netns.h"

#define HEADER 12u /* of virtio-net, before each frame */

static int setup(void **state)
{
	*state = netns_begin();
	return 0;
}

static int teardown(void **state)
{
	network_sweep();
	netns_end(*state);
	return 0;
}

static void close_and_sweep(struct network_port *p)
{
	network_port_close(p);
	network_sweep();
}

static bool forwarding(void)
{
	cleanup_free char *s = netns_out(0, "cat /proc/sys/net/ipv4/ip_forward");

	return !strcmp(s, "1");
}

/* Somebody restarts their firewall: the next command of any kind repairs all networks. */
static void test_flush__any_command_repairs_all_networks(void **state)
{
	struct network a = netns_nat("one"), b = netns_nat("two");
	struct network_port p, q;
	cleanup_free char *before = NULL;

	(void)state;
	netns_attach(&a, "vm-a", NULL, 0, &p);
	netns_attach(&b, "vm-b", NULL, 0, &q);
	before = netns_state();
	assert_int_equal(netns_run(0, "nft flush ruleset"), 0);
	network_sweep();
	netns_unchanged(before);
	/* of one table alone, too */
	assert_int_equal(netns_run(0, "nft delete table inet clone"), 0);
	network_sweep();
	netns_unchanged(before);
	close_and_sweep(&p);
	close_and_sweep(&q);
}

/* The end of one VM while all rules are gone is not the end of the other's network. */
static void test_flush__the_host_goes_back_with_the_last_network_only(void **state)
{
	cleanup_free char *before = netns_state();
	struct network a = netns_nat("one"), b = netns_nat("two");
	struct network_port p, q;

	(void)state;
	assert_false(forwarding());
	netns_attach(&a, "vm-a", NULL, 0, &p);
	netns_attach(&b, "vm-b", NULL, 0, &q);
	assert_int_equal(netns_run(0, "nft flush ruleset"), 0);
	close_and_sweep(&p);
	assert_true(forwarding());
	assert_int_equal(netns_run(0, "nft list counter inet clone net_%04x >/dev/null", b.id), 0);
	close_and_sweep(&q);
	assert_false(forwarding());
	netns_unchanged(before);
}

/* The descriptor of its lease is a VM process's: what it writes there is nobody's truth. */
static void test_lease__what_its_holder_writes_is_not_read(void **state)
{
	static const char lie[] =
		"{\"vm\":\"x\",\"tap\":\"eth0\",\"mac\":\"02:00:00:00:00:99\",\"ipv4\":"
		"\"192.0.2.99\",\"ipv6\":\"2001:db8::9\",\"publish\":[\"22:2222/tcp\"]}";
	const struct network_publish pub = { false, 8088, 80 };
	struct network nw = netns_nat("one");
	struct network_port p;
	cleanup_free char *before = NULL;

	(void)state;
	netns_attach(&nw, "vm-a", &pub, 1, &p);
	before = netns_state();
	assert_int_equal(pwrite(p.lease_fd, lie, sizeof(lie) - 1, 0), sizeof(lie) - 1);
	assert_int_equal(netns_run(0, "nft flush ruleset"), 0);
	network_sweep();
	netns_unchanged(before);
	assert_int_equal(netns_on_it(&nw), 1);
	close_and_sweep(&p);
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

/* ARP for the gateway with a sender of the guest's choice. */
static void send_arp(int tap, unsigned int n)
{
	uint8_t f[HEADER + 60] = { 0 }, *arp = f + HEADER + 14;

	memset(f + HEADER, 0xff, 6);
	f[HEADER + 6] = 0x02;
	memcpy(f + HEADER + 8, &n, 4);
	memcpy(f + HEADER + 12, "\x08\x06", 2);
	memcpy(arp, "\x00\x01\x08\x00\x06\x04\x00\x01", 8);
	memcpy(arp + 8, f + HEADER + 6, 6);
	memcpy(arp + 14, (uint8_t[4]){ 10, 77, (uint8_t)(n >> 8 & 15), (uint8_t)n }, 4);
	memcpy(arp + 24, (uint8_t[4]){ 10, 77, 0, 1 }, 4);
	assert_true(write(tap, f, sizeof(f)) == sizeof(f) || errno == EAGAIN);
}

/* The host's table of neighbours is one for all its networks: a guest that filled it would cut the
 * host off. */
static void test_guest__cannot_fill_the_hosts_neighbours(void **state)
{
	struct network nw = netns_nat("one");
	struct network_port p;
	cleanup_free char *n = NULL;

	(void)state;
	netns_attach(&nw, "vm-a", NULL, 0, &p);
	for (unsigned int i = 0; i < 2000; i++)
		send_arp(p.tap_fd[0], i);
	n = netns_out(0, "ip neigh show dev %s | wc -l", p.tap);
	assert_in_range(atoi(n), 1, 8);
	close_and_sweep(&p);
}

/* What holds a port for a VM is good for nothing else. */
static void test_published__its_socket_reaches_nobody(void **state)
{
	const struct network_publish pub[] = { { false, 8088, 80 }, { true, 8089, 53 } };
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
				 .sin_port = htons(6379) };
	int server = socket(AF_INET, SOCK_STREAM, 0), type;
	struct network nw = netns_nat("one");
	struct network_port p;

	(void)state;
	assert_false(bind(server, (struct sockaddr *)&a, sizeof(a)) || listen(server, 8));
	netns_attach(&nw, "vm-a", pub, ARRAY_SIZE(pub), &p);
	for (size_t i = 0; i < p.nr_publish_fd; i++) {
		int fd = p.publish_fd[i];
		struct sockaddr_in me;
		socklen_t len = sizeof(type), me_len = sizeof(me);
		struct pollfd w = { .fd = fd, .events = POLLOUT };

		assert_false(getsockname(fd, (struct sockaddr *)&me, &me_len));
		if (me.sin_family != AF_INET)
			continue;
		assert_false(getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len));
		fcntl(fd, F_SETFL, O_NONBLOCK);
		if (type == SOCK_DGRAM) {
			assert_true(sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&a,
					   sizeof(a)) < 0);
			continue;
		}
		assert_true(connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0);
		assert_int_equal(poll(&w, 1, 500), 0); /* it hears no answer */
		assert_true(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &type, sizeof(type)) < 0);
	}
	close(server);
	close_and_sweep(&p);
}

/* /dev/net/tun is everybody's on a Debian host. */
static void test_tap__is_nobody_elses(void **state)
{
	int tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC), status;
	struct network nw = netns_nat("one");
	struct network_port p;
	struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	cleanup_free char *waits = NULL;
	pid_t pid;

	(void)state;
	assert_true(tun >= 0);
	netns_attach(&nw, "vm-a", NULL, 0, &p);
	assert_int_equal(network_refill(&nw, 2, NULL), 0);
	waits = netns_out(0, "ip -o link | grep -o 'clone-[0-9a-f]*' | grep -v %s | head -1",
			  p.tap);
	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", waits);
	pid = fork();
	if (!pid) {
		if (setgid(65534) || setuid(65534))
			_exit(2);
		_exit(!ioctl(tun, TUNSETIFF, &r) || errno != EPERM);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(tun);
	close_and_sweep(&p);
}

/* The host joined the subnet's addresses after the network was made. */
static void test_attach__a_subnet_that_is_anothers_by_now_is_refused(void **state)
{
	struct network nw = netns_nat("one");
	struct network_want w = { .vm = "vm-a", .queues = 1 };
	char *addr, *before;
	struct network_port p;
	struct err e;

	(void)state;
	assert_int_equal(
		asprintf(&addr, "%d.%d.%d.2", nw.subnet4[0], nw.subnet4[1], nw.subnet4[2]) < 0, 0);
	assert_int_equal(netns_run(0,
				   "ip link add e1 type veth peer name e2; ip link set e1 up; "
				   "ip addr add %s/24 dev e1",
				   addr),
			 0);
	before = netns_state();
	assert_int_equal(network_attach(&nw, &w, 1, &p, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "make it anew"));
	network_sweep();
	netns_unchanged(before);
	assert_int_equal(netns_run(0, "ip link del e1"), 0);
	netns_attach(&nw, "vm-a", NULL, 0, &p);
	close_and_sweep(&p);
	free(before);
	free(addr);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_flush__any_command_repairs_all_networks),
		TEST(test_flush__the_host_goes_back_with_the_last_network_only),
		TEST(test_lease__what_its_holder_writes_is_not_read),
		TEST(test_guest__cannot_fill_the_hosts_neighbours),
		TEST(test_published__its_socket_reaches_nobody),
		TEST(test_tap__is_nobody_elses),
		TEST(test_attach__a_subnet_that_is_anothers_by_now_is_refused),
	};

	if (!netns_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
