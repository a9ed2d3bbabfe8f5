/* SPDX-License-Identifier: MIT */
/*
 * What networks do to a host that has others on it: their tables stay as they are, settings go
 * back, and what is in guests' way is said. And definitions: which are refused, and why.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"
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
	network_sweep();
	netns_end(*state);
	return 0;
}

static void refused(const char *name, const struct network_options *o, int want, const char *why)
{
	struct network nw;
	struct err e;
	char **names;
	size_t n, before;

	assert_int_equal(network_list(&names, &before, NULL), 0);
	network_list_free(names, before);
	assert_int_equal(network_create(name, o, &nw, &e), want);
	if (!strstr(e.msg, why))
		fail_msg("'%s' does not say '%s'", e.msg, why);
	assert_int_equal(network_list(&names, &n, NULL), 0);
	network_list_free(names, n);
	assert_int_equal(n, before);
}

#define OPTIONS(...) (&(struct network_options){ __VA_ARGS__ })

static void test_create__refuses_what_makes_no_sense(void **state)
{
	(void)state;
	refused("../x", OPTIONS(0), -EINVAL, "cannot be a network's name");
	refused("none", OPTIONS(0), -EINVAL, "not 'none'");
	refused("abcdefghijklmnopqrstuvwxyzabcdefg", OPTIONS(0), -EINVAL, "1 to 32");
	refused("n", OPTIONS(.subnet4 = "10.1.0.0"), -EINVAL, "ADDRESS/PREFIX");
	refused("n", OPTIONS(.subnet4 = "10.1.0.0/"), -EINVAL, "not an IPv4 subnet");
	refused("n", OPTIONS(.subnet4 = "10.1.0.0/20x"), -EINVAL, "not an IPv4 subnet");
	refused("n", OPTIONS(.subnet4 = "10.1.0/20"), -EINVAL, "not an IPv4 subnet");
	refused("n", OPTIONS(.subnet4 = "10.1.0.1/20"), -EINVAL, "bits behind the prefix");
	refused("n", OPTIONS(.subnet4 = "10.0.0.0/15"), -EINVAL, "16 to 29");
	refused("n", OPTIONS(.subnet4 = "10.1.0.0/30"), -EINVAL, "16 to 29");
	refused("n", OPTIONS(.subnet4 = "224.1.0.0/20"), -EINVAL, "hosts can have");
	refused("n", OPTIONS(.subnet6 = "fd00::/64"), -EINVAL, "must be 48");
	refused("n", OPTIONS(.subnet6 = "fe80::/48"), -EINVAL, "hosts can have");
	refused("n", OPTIONS(.dns = "1.1.1.1,x"), -EINVAL, "'x' is not an address");
	refused("n", OPTIONS(.dns = "127.0.0.53"), -EINVAL, "cannot reach");
	refused("n", OPTIONS(.dns = "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5"), -EINVAL, "at most");
	refused("n", OPTIONS(.mtu = 100), -EINVAL, "MTU");
	refused("n", OPTIONS(.mtu = 1200, .subnet6 = "fd00::/48"), -EINVAL, "1280");
	refused("n", OPTIONS(.mode = NETWORK_BRIDGE), -EINVAL, "which bridge");
	refused("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "nobr"), -ENODEV, "no interface");
	refused("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "lo"), -ENODEV, "not a bridge");
	refused("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "a\"b"), -EINVAL, "interface");
	refused("n", OPTIONS(.bridge = "lo"), -EINVAL, "--mode bridge");
	netns_network("n", OPTIONS(0));
	refused("n", OPTIONS(0), -EEXIST, "already");
}

static void test_create__subnets_do_not_overlap(void **state)
{
	struct network a, b;

	(void)state;
	assert_int_equal(netns_run(0, "ip link add x type veth peer name y && "
				      "ip addr add 10.77.3.1/24 dev x && ip link set x up && "
				      "ip route add 10.77.32.0/24 dev x && "
				      "ip addr add fd12::1/48 dev x nodad"),
			 0);
	a = netns_network("a", OPTIONS(0));
	assert_memory_equal(a.subnet4, "\x0a\x4d\x10\x00", 4); /* 10.77.16.0 */
	b = netns_network("b", OPTIONS(0));
	assert_memory_equal(b.subnet4, "\x0a\x4d\x30\x00", 4); /* 10.77.48.0 */
	assert_int_not_equal(a.id, b.id);
	assert_memory_not_equal(a.subnet6, b.subnet6, 6);
	refused("c", OPTIONS(.subnet4 = "10.77.16.0/24"), -EINVAL, "that of network a");
	refused("c", OPTIONS(.subnet4 = "10.77.0.0/16"), -EINVAL, "that of network");
	refused("c", OPTIONS(.subnet4 = "10.77.3.128/25"), -EINVAL, "which the host uses");
	refused("c", OPTIONS(.subnet6 = "fd12::/48"), -EINVAL, "which the host uses");
	netns_network("c", OPTIONS(.subnet4 = "10.77.4.0/24", .subnet6 = "none"));
}

static void test_open__default_is_made(void **state)
{
	struct network a, b;
	struct err e;

	(void)state;
	assert_int_equal(network_open("other", &a, &e), -ENOENT);
	assert_int_equal(network_open(NETWORK_DEFAULT, &a, &e), 0);
	assert_int_equal(a.mode, NETWORK_NAT);
	assert_int_equal(network_open(NETWORK_DEFAULT, &b, &e), 0);
	assert_memory_equal(&a, &b, sizeof(a));
}

static void test_definition__survives_its_file(void **state)
{
	struct network a = netns_network(
			       "a", OPTIONS(.mode = NETWORK_ISOLATED,
					    .allow = NETWORK_ALLOW_PEERS | NETWORK_ALLOW_HOST,
					    .subnet4 = "10.9.0.0/24", .subnet6 = "fd00:1:2::/48",
					    .dns = "9.9.9.9,2620:fe::fe", .mtu = 1400)),
		       b;
	struct err e;

	assert_int_equal(network_open("a", &b, &e), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	scratch_text(*state, "state/networks/a.json", "{\"name\": \"a\", \"mode\": \"nat\"}");
	assert_int_equal(network_open("a", &b, &e), -EBADMSG);
	assert_int_equal(network_open("../state/networks/a", &b, &e), -EINVAL);
}

static void test_remove__not_while_somebody_is_on_it(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	cleanup_free char *before = netns_state();
	cleanup_free char *after = NULL;
	struct network_port p;
	struct err e;

	(void)state;
	netns_attach(&nw, "web", NULL, 0, &p);
	assert_int_equal(network_refill(&nw, 2, &e), 0);
	assert_int_equal(network_remove("n", &e), -EBUSY);
	assert_non_null(strstr(e.msg, "VM web is on it"));
	network_port_close(&p);
	/* not swept: it goes all the same */
	assert_int_equal(network_remove("n", &e), 0);
	after = netns_state();
	assert_string_equal(after, before);
	assert_int_equal(network_remove("n", &e), -ENOENT);
}

static const char *const theirs =
	"table ip theirs {\n"
	"	chain f { type filter hook forward priority 10; policy accept; ip saddr "
	"203.0.113.9 drop; }\n"
	"	chain n { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 "
	"masquerade; }\n"
	"}\n"
	"table ip filter {\n"
	"	chain DOCKER-USER { counter return; }\n"
	"	chain FORWARD { type filter hook forward priority filter; policy drop;\n"
	"		counter jump DOCKER-USER\n"
	"		iifname \"docker0\" counter accept\n"
	"	}\n"
	"}\n";

static bool ping(pid_t from, const char *to)
{
	return !netns_run(from, "ping -q -c 2 -i 0.1 -W 1 -w 2 %s >/dev/null 2>&1", to);
}

/* That somebody does answer is tried again: the machine may have much else to do. */
static bool answers(pid_t from, const char *to)
{
	for (int i = 0; i < 30; i++)
		if (ping(from, to))
			return true;
	return false;
}

static size_t warnings(const struct network *nw, const char *what)
{
	cleanup_json json_t *j = NULL;
	size_t n = 0, i;
	struct err e;
	json_t *v;

	if (network_describe(nw, &j, &e))
		fail_msg("%s", e.msg);
	json_array_foreach(json_object_get(j, "warnings"), i,
			   v) if (strstr(json_string_value(v), what)) n++;
	return n;
}

static void test_docker__lets_guests_through_and_is_left_as_it_was(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	cleanup_free char *before = NULL, *with = NULL, *after = NULL;
	pid_t out = netns_outside(), guest;
	struct network_port p, q;

	scratch_text(*state, "theirs", theirs);
	assert_int_equal(netns_run(0, "nft -f %s", scratch_path(*state, "theirs")), 0);
	before = netns_out(0, "nft -s list ruleset");
	netns_attach(&nw, "a", NULL, 0, &p);
	guest = netns_guest(&p);
	assert_true(answers(guest, "192.0.2.2"));
	assert_int_equal(warnings(&nw, "forwarding is dropped"), 0);
	with = netns_out(0, "nft -s list table ip theirs; nft -s list chain ip filter FORWARD");
	assert_non_null(strstr(before, "policy drop"));
	netns_attach(&nw, "b", NULL, 0, &q);
	assert_int_equal(netns_run(0, "test $(nft list chain ip filter DOCKER-USER | grep -c "
				      "clone) = 2"),
			 0);
	netns_kill(guest);
	network_port_close(&p);
	network_port_close(&q);
	network_sweep();
	after = netns_out(0, "nft -s list ruleset");
	assert_string_equal(after, before);
	/* they were there while it was off */
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 0"), 0);
	netns_kill(out);
}

static void test_obstacle__is_said(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	pid_t out = netns_outside(), guest;
	struct network_port p;

	(void)state;
	assert_int_equal(warnings(&nw, "forwarding"), 0);
	assert_int_equal(
		netns_run(0,
			  "nft add table inet fw && nft \"add chain inet fw hook_f { type filter "
			  "hook forward priority 0; policy drop; }\""),
		0);
	netns_attach(&nw, "a", NULL, 0, &p);
	guest = netns_guest(&p);
	assert_false(ping(guest, "192.0.2.2"));
	assert_int_equal(warnings(&nw, "forwarding is dropped by table inet fw, chain hook_f"), 1);
	netns_kill(guest);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list table inet fw | grep -q \"policy drop\""), 0);
	netns_kill(out);
}

/* A host that lives by router advertisements does so while it forwards, and after. */
static void test_settings__advertisements_are_kept(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	pid_t out = netns_outside();
	struct network_port p;

	(void)state;
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/up0/accept_ra) = 1"), 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/up0/accept_ra) = 2"), 0);
	assert_int_equal(
		netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/%s/accept_ra) = 0", p.tap), 0);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/all/forwarding) = 1"), 0);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/up0/accept_ra) = 1"), 0);
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv6/conf/all/forwarding) = 0"), 0);
	netns_kill(out);
}

/* What was on before is on after. */
static void test_settings__of_others_stay(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	struct network_port p;

	(void)state;
	assert_int_equal(netns_run(0, "echo 1 >/proc/sys/net/ipv4/ip_forward"), 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 1"), 0);
}

static void test_ipv6__host_without_does_without(void **state)
{
	struct network nw = netns_network("n", OPTIONS(0));
	pid_t out = netns_outside(), guest;
	struct network_port p;

	(void)state;
	assert_int_equal(netns_run(0, "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6; "
				      "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6"),
			 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(p.addr.prefix6, 0);
	guest = netns_guest(&p);
	assert_true(answers(guest, "192.0.2.2"));
	netns_kill(guest);
	network_port_close(&p);
	netns_kill(out);
}

/* ---- a bridge that is somebody else's ---- */

static void make_bridge(void)
{
	assert_int_equal(netns_run(0, "ip link add br0 address 02:00:00:00:00:10 type bridge && "
				      "ip addr add 10.5.0.1/24 dev br0 && ip link set br0 up"),
			 0);
}

static void test_bridge__guest_is_on_it_by_its_own_mac_only(void **state)
{
	struct network nw;
	struct network_port p, q;
	cleanup_free char *before = NULL, *after = NULL;
	uint8_t ip_a[4] = { 10, 5, 0, 20 }, ip_b[4] = { 10, 5, 0, 21 };
	struct network_want w[2] = { { .vm = "a", .queues = 1, .ip4 = ip_a },
				     { .vm = "b", .queues = 1, .ip4 = ip_b } };
	pid_t a, b;
	struct err e;

	(void)state;
	make_bridge();
	nw = netns_network("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "br0"));
	before = netns_out(0, "ip -d link; ip route; nft list ruleset");
	if (network_attach(&nw, &w[0], 1, &p, &e) || network_attach(&nw, &w[1], 1, &q, &e))
		fail_msg("%s", e.msg);
	assert_int_equal(p.addr.prefix4, 24);
	assert_false(p.addr.respond);
	assert_int_equal(p.addr.mac[0] & 3, 2);
	a = netns_guest(&p);
	b = netns_guest(&q);
	assert_true(answers(a, "10.5.0.1"));
	assert_true(answers(0, "10.5.0.21"));
	/* not each other */
	assert_false(ping(a, "10.5.0.21"));
	/* a bridge's own forwarding is none of ours */
	assert_int_equal(netns_run(0, "test $(cat /proc/sys/net/ipv4/ip_forward) = 0"), 0);
	assert_int_equal(netns_run(0, "ip link show br0 | grep -q 02:00:00:00:00:10"), 0);
	assert_int_equal(netns_run(a, "ip link set eth0 address 02:00:00:00:00:99"), 0);
	assert_false(ping(a, "10.5.0.1"));
	netns_kill(a);
	netns_kill(b);
	network_port_close(&p);
	network_port_close(&q);
	network_sweep();
	after = netns_out(0, "ip -d link; ip route; nft list ruleset");
	assert_non_null(before);
	assert_int_equal(netns_run(0, "ip -o link | grep -q clone-"), 1);
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

/* A broadcast of that type, tag or not, from the guest's own MAC. */
static void send_frame(pid_t guest, const uint8_t mac[6], const uint8_t *type, size_t n)
{
	uint8_t frame[64] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct sockaddr_ll to = { .sll_family = AF_PACKET };
	pid_t pid = fork();
	char path[64];
	int status;

	if (!pid) {
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)guest);
		if (setns(open(path, O_RDONLY), CLONE_NEWNET))
			_exit(1);
		memcpy(frame + 6, mac, 6);
		memcpy(frame + 12, type, n);
		fd = socket(AF_PACKET, SOCK_RAW, 0);
		to.sll_ifindex = (int)if_nametoindex("eth0");
		_exit(sendto(fd, frame, sizeof(frame), 0, (struct sockaddr *)&to, sizeof(to)) !=
		      sizeof(frame));
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
}

static void test_bridge__no_tags_of_guests(void **state)
{
	static const uint8_t plain[] = { 0x88, 0xb5 }, tagged[] = { 0x81, 0x00, 0, 5, 0x88, 0xb5 };
	struct network nw;
	struct network_port p;
	pid_t a;

	make_bridge();
	scratch_text(*state, "count",
		     "table bridge t { counter plain { }\n counter tagged { }\n"
		     "chain c { type filter hook prerouting priority 0; policy accept;\n"
		     "ether type 0x88b5 counter name plain\nether type 8021q counter name "
		     "tagged\n}\n}\n");
	assert_int_equal(netns_run(0, "nft -f %s", scratch_path(*state, "count")), 0);
	nw = netns_network("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "br0"));
	netns_attach(&nw, "a", NULL, 0, &p);
	a = netns_guest(&p);
	send_frame(a, p.addr.mac, plain, sizeof(plain));
	send_frame(a, p.addr.mac, tagged, sizeof(tagged));
	assert_true(netns_until(0, "nft list counter bridge t plain | grep -q \"packets 1 \""));
	usleep(200000);
	assert_int_equal(netns_run(0, "nft list counter bridge t tagged | grep -q \"packets 0 \""),
			 0);
	assert_int_equal(netns_run(0, "nft delete table bridge t"), 0);
	netns_kill(a);
	network_port_close(&p);
}

/* A guest's claim to be the segment's DHCP server or router. */
static void test_bridge__no_server_among_guests(void **state)
{
	struct network nw;
	struct network_port p;
	uint8_t ip[4] = { 10, 5, 0, 20 };
	struct network_want w = { .vm = "a", .queues = 1, .ip4 = ip };
	cleanup_free char *got = NULL;
	pid_t a, s;
	struct err e;

	(void)state;
	make_bridge();
	nw = netns_network("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "br0"));
	assert_int_equal(network_attach(&nw, &w, 1, &p, &e), 0);
	a = netns_guest(&p);
	assert_true(answers(a, "10.5.0.1")); /* what follows is sent once */
	s = netns_start(0, "socat -u UDP4-RECV:68 OPEN:%s,creat,append",
			scratch_path(*state, "got"));
	assert_true(netns_until(0, "ss -Hlun | grep -q \":68 \""));
	assert_int_equal(netns_run(a, "echo from67 | socat -u - UDP4:10.5.0.1:68,bind=:67; "
				      "echo from99 | socat -u - UDP4:10.5.0.1:68,bind=:99"),
			 0);
	assert_true(netns_until(0, "grep -q from99 %s", scratch_path(*state, "got")));
	got = netns_out(0, "cat %s", scratch_path(*state, "got"));
	assert_string_equal(got, "from99");
	netns_kill(s);
	netns_kill(a);
	network_port_close(&p);
}

static void test_bridge__peers_and_pool(void **state)
{
	struct network nw;
	struct network_port first, p, q;
	uint8_t ip_b[4] = { 10, 5, 0, 21 };
	struct network_want w = { .vm = "b", .queues = 1, .ip4 = ip_b };
	pid_t a, b;
	struct err e;

	(void)state;
	make_bridge();
	nw = netns_network("n", OPTIONS(.mode = NETWORK_BRIDGE, .bridge = "br0",
					.allow = NETWORK_ALLOW_PEERS));
	netns_attach(&nw, "first", NULL, 0, &first);
	assert_int_equal(network_refill(&nw, 1, &e), 0);
	netns_attach(&nw, "a", NULL, 0, &p);
	assert_int_equal(p.addr.prefix4, 0);
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), 0);
	a = netns_guest(&p);
	b = netns_guest(&q);
	assert_int_equal(netns_run(a, "ip addr add 10.5.0.30/24 dev eth0"), 0);
	assert_true(answers(a, "10.5.0.21"));
	assert_true(answers(b, "10.5.0.30"));
	netns_kill(a);
	netns_kill(b);
	network_port_close(&first);
	network_port_close(&p);
	network_port_close(&q);
	/* the bridge goes before the network */
	assert_int_equal(netns_run(0, "ip link del br0"), 0);
	assert_int_equal(network_attach(&nw, &w, 1, &q, &e), -ENODEV);
	network_sweep();
	assert_int_equal(netns_run(0, "nft list ruleset | grep -q ."), 1);
}

static void settings_are(const char *redirects, const char *forwarding)
{
	cleanup_free char *a = netns_out(0, "cat /proc/sys/net/ipv4/conf/all/accept_redirects");
	cleanup_free char *b = netns_out(0, "cat /proc/sys/net/ipv4/conf/e1/forwarding");

	assert_string_equal(a, redirects);
	assert_string_equal(b, forwarding);
}

/* Those that the kernel changes with forwarding, and a firewall that was there before. */
static void test_settings__that_forwarding_changes_come_back(void **state)
{
	struct network_port p;
	struct network nw;

	(void)state;
	assert_int_equal(netns_run(0, "ip link add e1 type veth peer name e2"), 0);
	assert_int_equal(netns_run(0, "echo 0 >/proc/sys/net/ipv4/conf/all/accept_redirects; "
				      "echo 1 >/proc/sys/net/ipv4/conf/e1/forwarding"),
			 0);
	assert_int_equal(netns_run(0, "nft 'add table inet filter; add chain inet filter forward "
				      "{ type filter hook forward priority 0; }'"),
			 0);
	nw = netns_nat("one");
	netns_attach(&nw, "vm-a", NULL, 0, &p);
	assert_int_equal(netns_run(0, "grep -q 1 /proc/sys/net/ipv4/ip_forward"), 0);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "grep -q 0 /proc/sys/net/ipv4/ip_forward"), 0);
	settings_are("0", "1");
	/* who comes while it is on may rely on it: it stays */
	netns_attach(&nw, "vm-a", NULL, 0, &p);
	assert_int_equal(netns_run(0, "nft 'add table ip vpn; add chain ip vpn out { type nat hook "
				      "postrouting priority 100; }'"),
			 0);
	network_port_close(&p);
	network_sweep();
	assert_int_equal(netns_run(0, "grep -q 1 /proc/sys/net/ipv4/ip_forward"), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_create__refuses_what_makes_no_sense),
		TEST(test_create__subnets_do_not_overlap),
		TEST(test_open__default_is_made),
		TEST(test_definition__survives_its_file),
		TEST(test_remove__not_while_somebody_is_on_it),
		TEST(test_docker__lets_guests_through_and_is_left_as_it_was),
		TEST(test_obstacle__is_said),
		TEST(test_settings__advertisements_are_kept),
		TEST(test_settings__of_others_stay),
		TEST(test_settings__that_forwarding_changes_come_back),
		TEST(test_ipv6__host_without_does_without),
		TEST(test_bridge__guest_is_on_it_by_its_own_mac_only),
		TEST(test_bridge__no_tags_of_guests),
		TEST(test_bridge__no_server_among_guests),
		TEST(test_bridge__peers_and_pool),
	};

	if (!netns_possible())
		return 77;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
