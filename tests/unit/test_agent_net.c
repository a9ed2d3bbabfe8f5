/* SPDX-License-Identifier: MIT */
/*
 * The network's part of clone-agent's IDENTITY, in the agent's own network namespace: a veth pair
 * is its NIC, the other end of which is in a second namespace, the network. iproute2 makes and
 * shows what there is. Long, because all rows need the same two namespaces and the same look at
 * them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/lib/guest_agent.h"

#define MAC_A "\x02\x00\x00\x00\x00\x0a"
#define MAC_B "\x02\x00\x00\x00\x00\x0b"
#define PORT 7000

static const uint8_t gen_a[PROTO_GEN] = { 1 }, gen_b[PROTO_GEN] = { 2 };

struct world {
	struct guest g;
	int home, inside, outside; /* network namespaces: ours, the guest's, the network's */
};

/* Runs a command where we are; what it prints, to be freed. */
__attribute__((format(printf, 1, 2))) static char *run(const char *fmt, ...)
{
	char cmd[512], *out = calloc(1, 4096);
	va_list ap;
	size_t n;
	FILE *p;

	assert_non_null(out);
	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	p = popen(cmd, "re");
	assert_non_null(p);
	n = fread(out, 1, 4095, p);
	out[n] = '\0';
	if (pclose(p))
		fail_msg("%s", cmd);
	return out;
}

static void expect(const char *cmd, const char *want)
{
	char *out = run("%s", cmd);

	if (strcmp(out, want) != 0)
		fail_msg("%s: \"%s\" instead of \"%s\"", cmd, out, want);
	free(out);
}

static void do_it(const char *cmd)
{
	expect(cmd, "");
}

#define LINK "ip -o link show dev v0 | sed 's/.*mtu \\([0-9]*\\).*ether \\([^ ]*\\).*/\\1 \\2/'"
#define UP "ip -o link show up dev v0 | wc -l"
#define ADDRS4 "ip -o -4 addr show dev v0 | awk '{print $4, $5, $6}'"
#define ADDRS6 "ip -o -6 addr show dev v0 | awk '{print $4}' | sort"
#define ROUTES4 "ip -4 route show default | sed 's/ *$//'"
#define ROUTES6 "ip -6 route show default | sed 's/ *$//'"

static void start(struct world *w, void (*prepare)(void))
{
	char path[64];

	guest_start_with(&w->g, false, NULL, prepare);
	w->home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", w->g.ns);
	w->inside = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	w->outside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(w->home >= 0 && w->inside >= 0 && w->outside >= 0);
	free(run("ip link add v1 type veth peer name v0 address 02:00:00:00:00:0a netns "
		 "/proc/%d/fd/%d",
		 getpid(), w->inside));
	do_it("ip link set v1 up && ip addr add 10.1.0.254/24 dev v1 && "
	      "ip addr add 10.2.0.254/24 dev v1 && ip addr add fd01::fe/64 dev v1 nodad");
	assert_int_equal(setns(w->inside, CLONE_NEWNET), 0);
}

static int setup(void **state)
{
	static struct world w;

	start(&w, NULL);
	*state = &w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	assert_int_equal(setns(w->home, CLONE_NEWNET), 0);
	close(w->home);
	close(w->inside);
	close(w->outside);
	guest_stop(&w->g);
	return 0;
}

/* A NIC as the host tells it: 10.2.0.NUMBER and fd02::NUMBER. */
static struct proto_nic nic(const char *driver_mac, const char *mac, uint8_t number)
{
	struct proto_nic c = { .mtu = 1400,
			       .prefix4 = 24,
			       .ip4 = { 10, 2, 0, number },
			       .gw4 = { 10, 2, 0, 254 },
			       .prefix6 = 64,
			       .ip6 = { 0xfd, 2, [15] = number },
			       .gw6 = { 0xfe, 0x80, [15] = 1 } };

	memcpy(c.driver_mac, driver_mac, 6);
	memcpy(c.mac, mac, 6);
	return c;
}

/* Gives it `n` of them. The outcome's text is checked if `want` is not NULL. */
static uint8_t give(struct world *w, bool fork, const struct proto_nic *c, size_t n,
		    const char *want)
{
	struct proto_identity_args a = {
		.gen = gen_a, .flags = fork ? PROTO_IDENTITY_FORK : 0, .nics = c, .nnics = n
	};
	uint8_t frame[1024], type;
	struct outcome o;

	type = ask(&w->g, frame, proto_put_identity(frame, sizeof(frame), &a), &o);
	if (want)
		assert_string_equal(o.text, want);
	if (type == PROTO_ERROR)
		assert_int_equal(o.stage, PROTO_STAGE_IDENTITY);
	outcome_free(&o);
	return type;
}

static void assert_given(struct world *w, bool fork, const struct proto_nic *c, size_t n)
{
	assert_int_equal(give(w, fork, c, n, ""), PROTO_ACK);
}

static void test_agent_net__a_boot_sets_what_is_given(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);

	assert_given(*state, false, &c, 1);
	expect(LINK, "1400 02:00:00:00:00:0b\n");
	expect(UP, "1\n");
	expect("ip -o link show up dev lo | wc -l", "1\n");
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	expect(ADDRS6, "fd02::7/64\nfe80::ff:fe00:b/64\n");
	expect("ip -o -6 addr show dev v0 to fd02::/16 tentative", "");
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static\n");
	expect(ROUTES6, "default via fe80::1 dev v0 proto static metric 1024 pref medium\n");
	/* The connected routes come with the addresses: neighbours can be spoken to. */
	do_it("ip route get 10.2.0.9 >/dev/null && ip -6 route get fd02::9 >/dev/null");
	/* The same again changes nothing, under whichever MAC the interface is known. */
	assert_given(*state, false, &c, 1);
	memcpy(c.driver_mac, MAC_B, 6);
	assert_given(*state, false, &c, 1);
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	expect(ADDRS6, "fd02::7/64\nfe80::ff:fe00:b/64\n");
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static\n");
}

/* What a parent may have had: addresses of its network, of its own making, and others' routes. */
static void parents(void)
{
	do_it("ip link set v0 up && ip addr add 10.1.0.1/24 brd + dev v0 && "
	      "ip addr add 10.1.0.2/24 dev v0 && ip addr add 169.254.7.7/16 scope link dev v0 && "
	      "ip addr add fd01::1/64 dev v0 nodad && "
	      "ip addr add fd01::2/64 dev v0 valid_lft 1000 preferred_lft 1000 nodad && "
	      "ip addr add fe80::77/64 dev v0 nodad && ip route add default via 10.1.0.254 && "
	      "ip route add 10.99.0.0/16 via 10.1.0.254 && "
	      "ip -6 route add default via fd01::fe dev v0 metric 512 && "
	      "ip -6 route add default via fe80::fe dev v0 proto ra");
}

static void test_agent_net__a_fork_has_nothing_of_its_parents(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);

	parents();
	assert_given(*state, true, &c, 1);
	expect(LINK, "1400 02:00:00:00:00:0b\n");
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	expect(ADDRS6, "fd02::7/64\nfe80::ff:fe00:b/64\n");
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static\n");
	expect("ip -4 route show 10.99.0.0/16", "");
	expect(ROUTES6, "default via fe80::1 dev v0 proto static metric 1024 pref medium\n");
	/* Its own fork has its MAC, and is in the same network without IPv6 and without a way out.
	 */
	c = nic(MAC_B, MAC_A, 8);
	c.mtu = c.prefix6 = 0;
	memset(c.gw4, 0, 4);
	assert_given(*state, true, &c, 1);
	expect(LINK, "1400 02:00:00:00:00:0a\n");
	expect(ADDRS4, "10.2.0.8/24 brd 10.2.0.255\n");
	expect(ADDRS6, "fe80::ff:fe00:a/64\n");
	expect(ROUTES4, "");
	expect(ROUTES6, "");
}

static void test_agent_net__many_addresses_are_removed_too(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);

	do_it("ip link set v0 up; for i in $(seq 1 200); do echo addr add 10.1.0.$i/24 dev v0; "
	      "done | ip -batch -");
	assert_given(*state, true, &c, 1);
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
}

static void test_agent_net__without_an_address_somebody_else_gives_it(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);

	c.mtu = c.prefix4 = c.prefix6 = 0;
	parents();
	assert_given(*state, false, &c, 1);
	expect(LINK, "1500 02:00:00:00:00:0b\n");
	expect(ADDRS4, "169.254.7.7/16 scope link\n10.1.0.1/24 brd 10.1.0.255\n"
		       "10.1.0.2/24 scope global\n");
	expect("ip -4 route show default", "default via 10.1.0.254 dev v0 \n");
	memcpy(c.driver_mac, MAC_B, 6);
	memcpy(c.mac, MAC_A, 6);
	assert_given(*state, true, &c, 1);
	expect(LINK, "1500 02:00:00:00:00:0a\n");
	expect(ADDRS4, "");
	expect(ADDRS6, "fe80::ff:fe00:a/64\n");
	expect("ip route show table all dev v0 type unicast | wc -l", "1\n"); /* fe80::/64 */
	expect(UP, "1\n");
	/* One that is down stays so: whoever asks for an address will bring it up. */
	do_it("ip link set v0 down");
	assert_given(*state, true, &c, 1);
	expect(UP, "0\n");
}

static void test_agent_net__a_gateway_may_be_beyond_the_prefix(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_A, 7);

	c.prefix4 = 32;
	assert_given(*state, true, &c, 1);
	expect(ADDRS4, "10.2.0.7/32 scope global\n");
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static onlink\n");
}

static void test_agent_net__the_first_of_two_leads_out(void **state)
{
	struct proto_nic c[2] = { nic(MAC_A, MAC_A, 7), nic(MAC_B, MAC_B, 8) };

	do_it("ip link add w0 address 02:00:00:00:00:0b type veth peer name w1");
	assert_given(*state, true, c, 2);
	expect("ip -o -4 addr show | awk '$2 != \"lo\" {print $2, $4}' | sort",
	       "v0 10.2.0.7/24\nw0 10.2.0.8/24\n");
	expect("ip -4 route show default | awk '{print $5, $9}' | sort", "v0 \nw0 1\n");
	expect("ip -6 route show default | awk '{print $5, $9}' | sort", "v0 1024\nw0 1025\n");
}

static void test_agent_net__an_interface_that_is_not_there_is_a_remark(void **state)
{
	struct proto_nic c[2] = { nic("\2zzzzz", MAC_B, 9), nic(MAC_A, MAC_B, 7) };

	assert_int_equal(give(*state, true, c, 1, "no interface has MAC 02:7a:7a:7a:7a:7a"),
			 PROTO_ACK);
	expect("ip -o link show up dev lo | wc -l", "1\n");
	memcpy(c[0].mac, MAC_A, 6); /* v0 has it, but the other knows v0 better */
	memcpy(c[1].driver_mac, MAC_A, 6);
	c[0].prefix4 = c[0].prefix6 = 0;
	memcpy(c[0].mac, "\2zzzzz", 6);
	assert_int_equal(give(*state, true, c, 2, "no interface has MAC 02:7a:7a:7a:7a:7a"),
			 PROTO_ACK);
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
}

static void test_agent_net__a_step_that_fails_is_named(void **state)
{
	struct proto_exec_args x = { .gen = gen_a };
	struct proto_nic c = nic(MAC_A, MAC_A, 7);
	struct world *w = *state;
	struct outcome o;
	struct link l;

	c.mtu = 20;
	assert_int_equal(give(w, true, &c, 1, "network: v0: MTU: Invalid argument"), PROTO_ERROR);
	c.mtu = 0;
	c.gw4[3] = 255; /* everybody is no gateway */
	assert_int_equal(give(w, true, &c, 1, "network: v0: IPv4 default route: Invalid argument"),
			 PROTO_ERROR);
	link_open(&l, &w->g);
	exec_send(&l, &x, (const char *const[]){ "true", NULL });
	exec_collect(&l, &o);
	assert_int_equal(o.error, ESTALE);
	outcome_free(&o);
	memset(c.gw4, 0, 4);
	assert_given(w, true, &c, 1);
}

static void test_agent_net__a_guest_without_ipv6_is_a_remark(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);

	do_it("echo 1 > /proc/sys/net/ipv6/conf/v0/disable_ipv6");
	assert_int_equal(give(*state, true, &c, 1, "v0: IPv6 is off"), PROTO_ACK);
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	expect(ADDRS6, "");
}

/* ---- connections ---- */

struct pair {
	int ours, theirs;
};

static socklen_t address(struct sockaddr_storage *ss, const char *text, uint16_t port)
{
	struct sockaddr_in6 *six = (void *)ss;
	struct sockaddr_in *four = (void *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, text, &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		return sizeof(*four);
	}
	assert_int_equal(inet_pton(AF_INET6, text, &six->sin6_addr), 1);
	six->sin6_family = AF_INET6;
	six->sin6_port = htons(port);
	return sizeof(*six);
}

/* A connection to `to`, of a listener that stays in `ns`. */
static struct pair connection(const struct world *w, int ns, const char *to, uint16_t port,
			      int *listener)
{
	struct sockaddr_storage ss;
	socklen_t n = address(&ss, to, port);
	struct pair p;

	assert_int_equal(setns(ns, CLONE_NEWNET), 0);
	*listener = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(*listener, (void *)&ss, n), 0);
	assert_int_equal(listen(*listener, 1), 0);
	assert_int_equal(setns(w->inside, CLONE_NEWNET), 0);
	p.ours = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(p.ours, (void *)&ss, n))
		fail_msg("connect to %s: %s", to, strerror(errno));
	p.theirs = accept(*listener, NULL, NULL);
	assert_true(p.theirs >= 0);
	return p;
}

static void pair_close(struct pair *p, int listener)
{
	close(p->ours);
	close(p->theirs);
	close(listener);
}

/* What a program that waits in recv gets, now. */
static int received(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char c;

	if (!poll(&p, 1, 0))
		return -EAGAIN;
	return recv(fd, &c, 1, MSG_DONTWAIT) < 0 ? -errno : c;
}

static void assert_lives(const struct pair *p)
{
	struct pollfd in = { .fd = p->ours, .events = POLLIN };

	assert_int_equal(send(p->theirs, "x", 1, MSG_NOSIGNAL), 1);
	assert_int_equal(poll(&in, 1, 60000), 1);
	assert_int_equal(received(p->ours), 'x');
}

static void test_agent_net__connections_end_that_leave_the_machine(void **state)
{
	static const char *const remote[] = { "10.1.0.254", "fd01::fe", "::ffff:10.1.0.254" },
				 *const local[] = { "127.0.0.1", "::1", "::ffff:127.0.0.1" };
	struct proto_nic c = nic(MAC_A, MAC_B, 7);
	struct pair away[3], here[3];
	struct world *w = *state;
	int l_away[3], l_here[3];

	do_it("ip link set lo up");
	parents();
	for (int i = 0; i < 3; i++) {
		away[i] = connection(w, w->outside, remote[i], (uint16_t)(PORT + i), &l_away[i]);
		here[i] = connection(w, w->inside, local[i], (uint16_t)(PORT + i), &l_here[i]);
	}
	assert_given(w, false, &c, 1); /* a boot is nobody's heir */
	for (int i = 0; i < 3; i++)
		assert_int_equal(received(away[i].ours), -EAGAIN);
	memcpy(c.driver_mac, MAC_B, 6);
	assert_given(w, true, &c, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(received(away[i].ours), -ECONNABORTED);
		assert_lives(&here[i]);
		pair_close(&away[i], l_away[i]);
		pair_close(&here[i], l_here[i]);
	}
}

/* As in a fork: the link is down until the identity is acknowledged. */
static void test_agent_net__nothing_is_heard_before_the_link_is_up(void **state)
{
	static const char *const to[] = { "10.2.0.254", "fd02::fe" };
	struct proto_nic c = nic(MAC_A, MAC_B, 7);
	struct world *w = *state;
	struct pair old, new;
	int listener;

	parents();
	old = connection(w, w->outside, "10.1.0.254", PORT, &listener);
	assert_int_equal(setns(w->outside, CLONE_NEWNET), 0);
	do_it("ip addr add fd02::fe/64 dev v1 nodad && ip link set v1 down");
	assert_int_equal(setns(w->inside, CLONE_NEWNET), 0);
	expect("ip -o link show dev v0 | grep -c NO-CARRIER", "1\n");
	assert_given(w, true, &c, 1);
	expect(LINK, "1400 02:00:00:00:00:0b\n");
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	expect(ADDRS6, "fd02::7/64\nfe80::ff:fe00:b/64\n");
	expect("ip -o -6 addr show dev v0 tentative", "");
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static linkdown\n");
	assert_int_equal(setns(w->outside, CLONE_NEWNET), 0);
	do_it("ip link set v1 up && ip addr replace fd02::fe/64 dev v1 nodad");
	assert_int_equal(received(old.ours), -ECONNABORTED);
	assert_int_equal(received(old.theirs), -EAGAIN); /* it will never know */
	pair_close(&old, listener);
	for (int i = 0; i < 2; i++) {
		new = connection(w, w->outside, to[i], PORT + 1, &listener);
		assert_lives(&new);
		pair_close(&new, listener);
	}
	expect(ROUTES4, "default via 10.2.0.254 dev v0 proto static\n");
	expect(ROUTES6, "default via fe80::1 dev v0 proto static metric 1024 pref medium\n");
	expect(ADDRS6, "fd02::7/64\nfe80::ff:fe00:b/64\n");
}

static void test_agent_net__hundreds_of_connections_end(void **state)
{
	enum { MANY = 300 };
	static int fd[MANY];
	struct proto_nic c = nic(MAC_A, MAC_B, 7);
	struct sockaddr_storage ss;
	struct world *w = *state;
	struct pair first;
	socklen_t n;
	int listener;

	parents();
	first = connection(w, w->outside, "10.1.0.254", PORT, &listener);
	listen(listener, MANY);
	n = address(&ss, "10.1.0.254", PORT);
	for (int i = 0; i < MANY; i++) {
		fd[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		assert_int_equal(connect(fd[i], (void *)&ss, n), 0);
	}
	assert_given(w, true, &c, 1);
	assert_int_equal(received(first.ours), -ECONNABORTED);
	for (int i = 0; i < MANY; i++) {
		assert_int_equal(received(fd[i]), -ECONNABORTED);
		close(fd[i]);
	}
	pair_close(&first, listener);
}

/* A kernel without sock_diag. */
static void no_sock_diag(void)
{
	scmp_filter_ctx f = seccomp_init(SCMP_ACT_ALLOW);

	if (!f ||
	    seccomp_rule_add(f, SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), 2,
			     SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
			     SCMP_A2(SCMP_CMP_EQ, NETLINK_SOCK_DIAG)) ||
	    seccomp_load(f))
		_exit(90);
	seccomp_release(f);
}

static void test_agent_net__a_kernel_that_cannot_end_them_is_a_remark(void **state)
{
	struct proto_nic c = nic(MAC_A, MAC_B, 7);
	struct pair p;
	struct world w;
	int listener;

	(void)state;
	start(&w, no_sock_diag);
	parents();
	p = connection(&w, w.outside, "10.1.0.254", PORT, &listener);
	assert_int_equal(give(&w, true, &c, 1,
			      "inherited TCP connections cannot be looked for: "
			      "Protocol not supported"),
			 PROTO_ACK);
	expect(ADDRS4, "10.2.0.7/24 brd 10.2.0.255\n");
	assert_int_equal(received(p.ours), -EAGAIN);
	pair_close(&p, listener);
	teardown((void *[]){ &w });
}

/* ---- name servers ---- */

static void assert_resolv(struct world *w, const char *want)
{
	char *text = guest_read(&w->g, "/etc/resolv.conf");

	assert_non_null(text);
	assert_string_equal(text, want);
	free(text);
}

static void test_agent_net__name_servers_are_the_guests(void **state)
{
	static const char old[] = "search a.example\nnameserver 9.9.9.9\noptions ndots:2";
	struct proto_nic c = nic(MAC_A, MAC_A, 7);
	struct world *w = *state;
	char cmd[512];

	guest_write(&w->g, "/etc/hosts", "", 0, 0644);
	assert_given(w, true, &c, 1); /* none is said: no file */
	assert_null(guest_read(&w->g, "/etc/resolv.conf"));
	c.ndns = 2;
	c.dns[0] = (struct proto_dns){ 4, { 10, 2, 0, 1 } };
	c.dns[1] = (struct proto_dns){ 6, { 0xfd, 2, [15] = 1 } };
	assert_given(w, true, &c, 1);
	assert_resolv(w, "# by clone\nnameserver 10.2.0.1\nnameserver fd02::1\n");
	guest_write(&w->g, "/etc/resolv.conf", old, strlen(old), 0644);
	assert_given(w, true, &c, 1);
	assert_resolv(w, "# by clone\nnameserver 10.2.0.1\nnameserver fd02::1\n"
			 "search a.example\noptions ndots:2\n");
	c.ndns = 1;
	assert_given(w, true, &c, 1);
	assert_resolv(w, "# by clone\nnameserver 10.2.0.1\nsearch a.example\noptions ndots:2\n");
	snprintf(cmd, sizeof(cmd),
		 "cd %s/etc && rm resolv.conf && ln -s ../run/systemd/resolve/stub resolv.conf",
		 w->g.root);
	do_it(cmd);
	assert_int_equal(give(w, true, &c, 1,
			      "/etc/resolv.conf is a link to ../run/systemd/resolve/stub: "
			      "no name servers written"),
			 PROTO_ACK);
	snprintf(cmd, sizeof(cmd), "cd %s/etc && rm resolv.conf && mkdir resolv.conf", w->g.root);
	do_it(cmd);
	assert_int_equal(give(w, true, &c, 1, "/etc/resolv.conf: Is a directory"), PROTO_ACK);
}

/* ---- lists that are none ---- */

static void assert_refused(struct world *w, const uint8_t *frame, size_t n)
{
	struct outcome o;

	assert_int_equal(ask(&w->g, frame, n, &o), PROTO_ERROR);
	assert_int_equal(o.stage, PROTO_STAGE_PROTOCOL);
	outcome_free(&o);
}

static void test_agent_net__lists_out_of_range_are_malformed(void **state)
{
	/* Offsets in a NIC: driver_mac, mac, prefix4, prefix6, ndns, family of the only server. */
	static const struct {
		size_t at;
		uint8_t value;
	} bad[] = { { 0, 1 },  { 6, 3 },    { 14, 33 }, { 14, 255 }, { 23, 129 }, { 56, 5 },
		    { 56, 0 }, { 56, 255 }, { 57, 0 },	{ 57, 5 },   { 57, 10 },  { 56, 2 } };
	struct proto_nic c[PROTO_MAX_NICS + 1];
	struct proto_identity_args a = { .gen = gen_b, .nics = c, .nnics = 1 };
	uint8_t frame[1024];
	size_t n, at;

	for (size_t i = 0; i < PROTO_MAX_NICS + 1; i++) {
		c[i] = nic(MAC_A, MAC_B, 7);
		c[i].ndns = 1;
		c[i].dns[0].family = 4;
	}
	n = proto_put_identity(frame, sizeof(frame), &a);
	at = n - 57 - 17;
	assert_int_equal(frame[at - 1], 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint8_t was = frame[at + bad[i].at];

		frame[at + bad[i].at] = bad[i].value;
		assert_refused(*state, frame, n);
		frame[at + bad[i].at] = was;
	}
	frame[at - 1] = 2; /* more than there are */
	assert_refused(*state, frame, n);
	frame[at - 1] = 0;
	assert_refused(*state, frame, n);
	frame[at - 1] = 1;
	memset(frame + at, 0, 6);
	assert_refused(*state, frame, n);
	/* One beyond the limit, which no sender of ours makes. */
	a.nnics = PROTO_MAX_NICS + 1;
	assert_int_equal(proto_put_identity(frame, sizeof(frame), &a), 0);
	a.nnics = PROTO_MAX_NICS;
	n = proto_put_identity(frame, sizeof(frame), &a);
	memcpy(frame + n, frame + n - 74, 74);
	frame[n - PROTO_MAX_NICS * 74 - 1]++;
	proto_header(frame, PROTO_IDENTITY, (uint32_t)(n + 74 - PROTO_HEADER));
	assert_refused(*state, frame, n + 74);
	expect(LINK, "1500 02:00:00:00:00:0a\n"); /* and nothing was done */
	c[0].mac[0] = 1;
	a.nnics = 1;
	assert_int_equal(proto_put_identity(frame, sizeof(frame), &a), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_agent_net__a_boot_sets_what_is_given),
		T(test_agent_net__a_fork_has_nothing_of_its_parents),
		T(test_agent_net__many_addresses_are_removed_too),
		T(test_agent_net__without_an_address_somebody_else_gives_it),
		T(test_agent_net__a_gateway_may_be_beyond_the_prefix),
		T(test_agent_net__the_first_of_two_leads_out),
		T(test_agent_net__an_interface_that_is_not_there_is_a_remark),
		T(test_agent_net__a_step_that_fails_is_named),
		T(test_agent_net__a_guest_without_ipv6_is_a_remark),
		T(test_agent_net__connections_end_that_leave_the_machine),
		T(test_agent_net__nothing_is_heard_before_the_link_is_up),
		T(test_agent_net__hundreds_of_connections_end),
		cmocka_unit_test(test_agent_net__a_kernel_that_cannot_end_them_is_a_remark),
		T(test_agent_net__name_servers_are_the_guests),
		T(test_agent_net__lists_out_of_range_are_malformed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
