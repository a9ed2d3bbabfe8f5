/* SPDX-License-Identifier: MIT */
/*
 * What guests of a network can reach and who reaches them: real packets between a guest, the host
 * and an outside, each in a network namespace. Every claim that something is refused stands beside
 * the same thing allowed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "network/network.h"
#include "tests/lib/netns.h"
#include "tests/lib/scratch.h"

struct world {
	char *dir;
	pid_t outside;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	w->dir = netns_begin();
	w->outside = netns_outside();
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	network_sweep();
	netns_kill(w->outside);
	netns_end(w->dir);
	free(w);
	return 0;
}

static struct network make(const struct network_options *o)
{
	struct network nw;
	struct err e;

	if (network_create("n", o, &nw, &e))
		fail_msg("%s", e.msg);
	return nw;
}

/* A machine of the test: its port and the process that is it. */
struct vm {
	struct network_port port;
	pid_t pid;
	char ip4[64], ip6[64];
};

static struct vm boot(const struct network *nw, const char *name, const struct network_publish *pub,
		      size_t n)
{
	struct vm v;

	netns_attach(nw, name, pub, n, &v.port);
	v.pid = netns_guest(&v.port);
	inet_ntop(AF_INET, v.port.addr.ip4, v.ip4, sizeof(v.ip4));
	inet_ntop(AF_INET6, v.port.addr.ip6, v.ip6, sizeof(v.ip6));
	return v;
}

static void end(struct vm *v)
{
	netns_kill(v->pid);
	network_port_close(&v->port);
}

/* A server that says who asked, on TCP. */
static pid_t serve(pid_t where, const char *listen)
{
	pid_t pid = netns_start(
		where, "socat %s,fork,reuseaddr SYSTEM:\"echo from \\$SOCAT_PEERADDR\"", listen);

	assert_true(
		netns_until(where, "ss -Hltn | grep -q \":%d \"", atoi(strchr(listen, ':') + 1)));
	return pid;
}

/* One attempt of a second: enough to say that nobody answers. */
static bool reach(pid_t from, const char *to)
{
	return !netns_run(
		from, "timeout 1 socat -u -T1 %s,connect-timeout=1 - 2>/dev/null | grep -q ^from",
		to);
}

static char *asked_as(pid_t from, const char *to)
{
	return netns_out(from, "timeout 120 socat -u -T120 %s -", to);
}

static bool ping(pid_t from, const char *to)
{
	return !netns_run(from, "ping -q -c 2 -i 0.1 -W 1 -w 2 %s >/dev/null 2>&1", to);
}

/* That somebody does answer is tried again: the machine may have much else to do. */
static bool soon(bool (*once)(pid_t from, const char *to), pid_t from, const char *to)
{
	for (int i = 0; i < 30; i++)
		if (once(from, to))
			return true;
	return false;
}

static void test_nat__out_by_the_hosts_address(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_NAT });
	struct world *w = *state;
	struct vm v = boot(&nw, "a", NULL, 0);
	pid_t s4 = serve(w->outside, "TCP4-LISTEN:80"), s6 = serve(w->outside, "TCP6-LISTEN:81");
	cleanup_free char *as4 = NULL, *as6 = NULL;

	assert_true(soon(ping, v.pid, "192.0.2.2"));
	assert_true(soon(ping, v.pid, "2001:db8::2"));
	as4 = asked_as(v.pid, "TCP4:192.0.2.2:80");
	assert_string_equal(as4, "from 192.0.2.1");
	as6 = asked_as(v.pid, "TCP6:[2001:db8::2]:81");
	assert_string_equal(as6, "from [2001:0db8:0000:0000:0000:0000:0000:0001]");
	/* nobody comes in, even who knows the way */
	assert_int_equal(netns_run(w->outside, "ip route add 10.77.0.0/16 via 192.0.2.1"), 0);
	assert_false(ping(w->outside, v.ip4));
	/* but the host */
	assert_true(soon(ping, 0, v.ip4));
	assert_true(soon(ping, 0, v.ip6));
	netns_kill(s4);
	netns_kill(s6);
	end(&v);
}

static void test_nat__from_the_pool_too(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_NAT });
	struct network_port first;
	struct vm v;
	struct err e;

	(void)state;
	netns_attach(&nw, "first", NULL, 0, &first);
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	v = boot(&nw, "a", NULL, 0);
	assert_true(soon(ping, v.pid, "192.0.2.2"));
	assert_true(soon(ping, v.pid, "2001:db8::2"));
	assert_true(soon(ping, 0, v.ip4));
	end(&v);
	network_port_close(&first);
}

static void test_isolated__reaches_nobody(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_ISOLATED });
	struct world *w = *state;
	struct vm v = boot(&nw, "a", NULL, 0);

	assert_int_equal(netns_run(w->outside, "ip route add 10.77.0.0/16 via 192.0.2.1"), 0);
	assert_false(ping(v.pid, "192.0.2.2"));
	assert_false(ping(v.pid, "2001:db8::2"));
	assert_false(ping(v.pid, "192.0.2.1"));
	assert_true(soon(ping, 0, v.ip4));
	assert_true(soon(ping, 0, v.ip6));
	end(&v);
}

static void test_host__is_refused_unless_allowed(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_NAT });
	struct network open;
	struct vm v = boot(&nw, "a", NULL, 0), q;
	pid_t s = serve(0, "TCP4-LISTEN:8022");
	struct err e;

	(void)state;
	assert_int_equal(network_create("open",
					&(struct network_options){ .allow = NETWORK_ALLOW_HOST },
					&open, &e),
			 0);
	q = boot(&open, "b", NULL, 0);
	assert_false(reach(v.pid, "TCP4:192.0.2.1:8022"));
	assert_false(reach(v.pid, "TCP4:10.77.0.1:8022"));
	assert_false(ping(v.pid, "2001:db8::1"));
	assert_true(soon(reach, q.pid, "TCP4:192.0.2.1:8022"));
	assert_true(soon(reach, q.pid, "TCP4:10.77.16.1:8022"));
	assert_true(soon(ping, q.pid, "2001:db8::1"));
	netns_kill(s);
	end(&v);
	end(&q);
}

static void test_peers__are_refused_unless_allowed(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_NAT });
	struct network open;
	struct vm a = boot(&nw, "a", NULL, 0), b = boot(&nw, "b", NULL, 0), c, d;
	struct err e;

	(void)state;
	assert_int_equal(network_create("open",
					&(struct network_options){ .mode = NETWORK_ISOLATED,
								   .allow = NETWORK_ALLOW_PEERS },
					&open, &e),
			 0);
	c = boot(&open, "c", NULL, 0);
	d = boot(&open, "d", NULL, 0);
	assert_false(ping(a.pid, b.ip4));
	assert_false(ping(a.pid, b.ip6));
	assert_true(soon(ping, c.pid, d.ip4));
	assert_true(soon(ping, c.pid, d.ip6));
	/* never those of another network */
	assert_false(ping(a.pid, c.ip4));
	assert_false(ping(c.pid, a.ip4));
	assert_false(ping(c.pid, a.ip6));
	end(&a);
	end(&b);
	end(&c);
	end(&d);
}

static void test_metadata__is_refused_unless_allowed(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_NAT }), open;
	struct world *w = *state;
	struct vm v = boot(&nw, "a", NULL, 0), q;
	struct err e;

	assert_int_equal(
		network_create("open", &(struct network_options){ .allow = NETWORK_ALLOW_METADATA },
			       &open, &e),
		0);
	q = boot(&open, "b", NULL, 0);
	(void)w;
	assert_true(soon(ping, 0, "169.254.169.254"));
	assert_false(ping(v.pid, "169.254.169.254"));
	assert_false(ping(v.pid, "fd00:ec2::254"));
	assert_true(soon(ping, q.pid, "169.254.169.254"));
	assert_true(soon(ping, q.pid, "fd00:ec2::254"));
	end(&v);
	end(&q);
}

static void test_dns__is_let_through_wherever_it_is(void **state)
{
	struct network nw = make(&(struct network_options){ .mode = NETWORK_ISOLATED,
							    .dns = "169.254.169.254,192.0.2.1" });
	struct world *w = *state;
	struct vm v = boot(&nw, "a", NULL, 0);
	pid_t s = serve(w->outside, "TCP4-LISTEN:53"), t = serve(0, "TCP4-LISTEN:53"),
	      u = serve(w->outside, "TCP4-LISTEN:54");

	assert_int_equal(v.port.addr.nr_dns, 2);
	assert_true(soon(reach, v.pid, "TCP4:169.254.169.254:53"));
	assert_true(soon(reach, v.pid, "TCP4:192.0.2.1:53"));
	assert_false(reach(v.pid, "TCP4:169.254.169.254:54"));
	assert_false(reach(v.pid, "TCP4:192.0.2.2:53"));
	netns_kill(s);
	netns_kill(t);
	netns_kill(u);
	end(&v);
}

static void test_publish__from_outside_and_localhost(void **state)
{
	static const struct network_publish pub[] = { { false, 8080, 80 }, { true, 5353, 53 } };
	struct network nw = make(&(struct network_options){ .mode = NETWORK_ISOLATED });
	struct world *w = *state;
	struct vm v = boot(&nw, "a", pub, 2), other = boot(&nw, "b", NULL, 0);
	pid_t s = serve(v.pid, "TCP6-LISTEN:80,ipv6-v6only=0"), t = serve(v.pid, "TCP4-LISTEN:81");
	pid_t u = netns_start(v.pid, "socat UDP4-LISTEN:53,fork EXEC:cat");
	cleanup_free char *as = NULL;

	/* by its own address */
	as = asked_as(w->outside, "TCP4:192.0.2.1:8080");
	assert_string_equal(as, "from [0000:0000:0000:0000:0000:ffff:c000:0202]");
	assert_true(soon(reach, w->outside, "TCP6:[2001:db8::1]:8080"));
	assert_true(soon(reach, 0, "TCP4:127.0.0.1:8080"));
	assert_true(soon(reach, 0, "TCP4:192.0.2.1:8080"));
	assert_true(soon(reach, 0, "TCP6:[2001:db8::1]:8080"));
	assert_true(soon(reach, 0, "TCP:localhost:8080"));
	assert_true(netns_until(
		w->outside,
		"echo ping | timeout 2 socat -T0.5 - UDP4:192.0.2.1:5353 | grep -qx ping"));
	/* what is not published is not reached */
	assert_int_equal(netns_run(w->outside, "ip route add 10.77.0.0/16 via 192.0.2.1"), 0);
	assert_false(reach(w->outside, "TCP4:192.0.2.1:81"));
	{
		char direct[96];

		snprintf(direct, sizeof(direct), "TCP4:%s:81", v.ip4);
		assert_false(reach(w->outside, direct));
		assert_true(soon(reach, 0, direct));
	}
	/* no hairpin: guests do not come back in by the host */
	assert_false(reach(other.pid, "TCP4:192.0.2.1:8080"));
	netns_kill(s);
	netns_kill(t);
	netns_kill(u);
	end(&v);
	end(&other);
	network_sweep();
	assert_false(reach(w->outside, "TCP4:192.0.2.1:8080"));
}

static unsigned long spoofed(void)
{
	cleanup_free char *n = netns_out(0, "nft list counter inet clone spoofed | grep -o "
					    "\"packets [0-9]*\" | cut -d\" \" -f2");

	return strtoul(n, NULL, 10);
}

static void soon_enough(uint64_t until)
{
	assert_true(time_mono_ns() < until);
	usleep(20000);
}

/* The guest's packets have to be carried to the host first. */
static void spoofed_becomes(unsigned long n)
{
	uint64_t until = time_mono_ns() + 120 * NS_PER_SEC;

	while (spoofed() < n)
		soon_enough(until);
	assert_int_equal(spoofed(), n);
}

static void test_spoofing__is_dropped(void **state)
{
	struct network nw = make(&(struct network_options){
		.mode = NETWORK_NAT, .allow = NETWORK_ALLOW_PEERS | NETWORK_ALLOW_HOST });
	struct vm v = boot(&nw, "a", NULL, 0), other = boot(&nw, "b", NULL, 0);
	char mac[32];
	unsigned long before;
	uint64_t until;

	(void)state;
	assert_true(soon(ping, v.pid, "192.0.2.2"));
	assert_true(soon(ping, v.pid, "192.0.2.1"));
	/* another's address: whole packets arrive at nobody */
	before = spoofed();
	assert_int_equal(netns_run(v.pid, "ip addr add %s/32 dev eth0", other.ip4), 0);
	assert_int_equal(
		netns_run(v.pid, "ping -q -c 2 -i 0.1 -W 1 -I %s 192.0.2.2 >/dev/null", other.ip4),
		1);
	spoofed_becomes(before + 2);
	assert_int_equal(netns_run(v.pid, "ip addr del %s/32 dev eth0", other.ip4), 0);
	/* addresses of its own /64 are its own, others are not */
	assert_int_equal(netns_run(v.pid, "ip addr add %s3/64 dev eth0 nodad", v.ip6), 0);
	assert_true(netns_until(v.pid, "ping -q -c 1 -W 1 -I %s3 2001:db8::2 >/dev/null", v.ip6));
	assert_int_equal(spoofed(), before + 2);
	assert_int_equal(netns_run(v.pid, "ip addr add fd00::7/128 dev eth0 nodad"), 0);
	assert_int_equal(
		netns_run(v.pid, "ping -q -c 1 -W 1 -I fd00::7 2001:db8::2 >/dev/null 2>&1"), 1);
	spoofed_becomes(before + 3);
	/* link-local: only to find the gateway */
	assert_int_equal(netns_run(v.pid, "ping -q -c 1 -W 1 fe80::1%%eth0 >/dev/null 2>&1"), 1);
	assert_int_equal(spoofed(), before + 3);
	/* the host's loopback, from a guest with published ports or without */
	assert_int_equal(netns_run(v.pid, "ip link set lo down; ip addr flush dev lo; ip route add "
					  "127.0.0.0/8 via 10.77.0.1; sysctl -qw "
					  "net.ipv4.conf.all.route_localnet=1"),
			 0);
	assert_false(ping(v.pid, "127.0.0.1"));
	/* another MAC */
	assert_true(soon(ping, v.pid, "192.0.2.2"));
	snprintf(mac, sizeof(mac), "02:c1:ff:ff:00:99");
	before = spoofed();
	assert_int_equal(netns_run(v.pid,
				   "ip link set eth0 address %s; ip route replace default via "
				   "10.77.0.1 dev eth0 onlink",
				   mac),
			 0);
	assert_false(ping(v.pid, "192.0.2.2"));
	until = time_mono_ns() + 120 * NS_PER_SEC;
	while (spoofed() == before)
		soon_enough(until);
	end(&v);
	end(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_nat__out_by_the_hosts_address, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_nat__from_the_pool_too, setup, teardown),
		cmocka_unit_test_setup_teardown(test_isolated__reaches_nobody, setup, teardown),
		cmocka_unit_test_setup_teardown(test_host__is_refused_unless_allowed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_peers__are_refused_unless_allowed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_metadata__is_refused_unless_allowed, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_dns__is_let_through_wherever_it_is, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_publish__from_outside_and_localhost, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_spoofing__is_dropped, setup, teardown),
	};

	if (!netns_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
