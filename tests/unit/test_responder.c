/* SPDX-License-Identifier: MIT */
/*
 * What the responder answers, as a pure function: answers are read by a parser of the test's own,
 * requests end at a page that cannot be read, and answers at one that cannot be written.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "net/responder.h"
#include "tests/lib/netframe.h"

#define IP NF_IP
#define GUEST NF_GUEST
#define GW NF_GW

static const uint8_t all_mac[6] = { 255, 255, 255, 255, 255, 255 };

static const struct nf_ask discover = { .type = 1 }, inform = { .type = 8, .ciaddr = GUEST };
static const struct nf_ask selecting = { .type = 3, .wanted = GUEST, .server = GW };
static const struct nf_ask rebooted = { .type = 3, .wanted = GUEST };
static const struct nf_ask renewing = { .type = 3, .ciaddr = GUEST };

static bool asked(const struct nic_address *a, const struct nf_ask *q, struct nf_answer *r)
{
	struct nf_frame f = nf_dhcp(q);

	return nf_answered(a, &f, r);
}

/* A DHCP answer: its type, whom it is for, the addresses in it. */
static void assert_dhcp(const struct nf_answer *r, uint8_t type, const uint8_t *to_mac,
			uint32_t to_ip, uint32_t yiaddr)
{
	assert_memory_equal(r->f.b, to_mac, 6);
	assert_int_equal(nf_get(r->f.b + 26, 4), GW);
	assert_int_equal(nf_get(r->f.b + 30, 4), to_ip);
	assert_int_equal(nf_get(r->bootp + 4, 4), 0xdeadbeef);
	assert_int_equal(nf_get(r->bootp + 16, 4), yiaddr);
	assert_true(bytes_are_zero(r->bootp + 20, 8));
	assert_memory_equal(r->bootp + 28, nf_mac, 6);
	assert_true(bytes_are_zero(r->bootp + 34, 202));
	assert_int_equal(r->len[53], 1);
	assert_int_equal(*r->opt[53], type);
	assert_int_equal(r->len[54], 4);
	assert_int_equal(nf_get(r->opt[54], 4), GW);
	assert_int_equal(!!r->opt[51], !!yiaddr);
	assert_int_equal(!!r->opt[1], type != 6);
}

static void assert_u32(const struct nf_answer *r, uint8_t code, uint32_t v)
{
	assert_int_equal(r->len[code], 4);
	assert_int_equal(nf_get(r->opt[code], 4), v);
}

static void test_dhcp__discover_is_offered_the_address_and_what_the_network_is(void **state)
{
	struct nf_answer r;

	(void)state;
	assert_true(asked(&nf_address, &discover, &r));
	assert_dhcp(&r, 2, nf_mac, GUEST, GUEST);
	assert_u32(&r, 1, 0xfffff000);
	assert_u32(&r, 3, GW);
	assert_u32(&r, 28, IP(10, 1, 15, 255));
	assert_u32(&r, 51, 3600);
	assert_u32(&r, 58, 1800);
	assert_u32(&r, 59, 3150);
	assert_int_equal(r.len[6], 8);
	assert_memory_equal(r.opt[6], "\1\1\1\1\x9\x9\x9\x9", 8);
	assert_int_equal(r.len[26], 2);
	assert_int_equal(nf_get(r.opt[26], 2), 1400);
	assert_null(r.opt[61]);
}

static void test_dhcp__what_a_network_does_not_have_is_not_said(void **state)
{
	struct nic_address a = nf_address;
	struct nf_answer r;

	(void)state;
	a.mtu = a.nr_dns = 0;
	memset(a.gw4, 0, sizeof(a.gw4));
	assert_true(asked(&a, &discover, &r));
	assert_dhcp(&r, 2, nf_mac, GUEST, GUEST); /* the first address is the server's */
	assert_true(!r.opt[3] && !r.opt[6] && !r.opt[26]);
	memcpy(a.ip4, "\xa\1\0\1", 4);
	assert_true(asked(&a, &discover, &r));
	assert_u32(&r, 54, IP(10, 1, 0, 2)); /* unless the guest has it */
	a.prefix4 = 32;
	assert_true(asked(&a, &discover, &r));
	assert_u32(&r, 1, 0xffffffff);
	assert_null(r.opt[28]);
	assert_u32(&r, 54, IP(10, 1, 0, 2));
	a.prefix4 = 0;
	assert_false(asked(&a, &discover, &r));
	a = nf_address;
	a.respond = false;
	assert_false(asked(&a, &discover, &r));
}

static void test_dhcp__a_request_for_the_address_is_confirmed_in_each_state(void **state)
{
	static const struct nf_ask odd = { .type = 3, .ciaddr = GUEST, .server = GW };
	struct nf_answer r;

	(void)state;
	assert_true(asked(&nf_address, &selecting, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, GUEST);
	assert_int_equal(nf_get(r.bootp + 12, 4), 0);
	assert_true(asked(&nf_address, &rebooted, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, GUEST);
	assert_true(asked(&nf_address, &renewing, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, GUEST);
	assert_int_equal(nf_get(r.bootp + 12, 4), GUEST);
	assert_true(asked(&nf_address, &odd, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, GUEST);
}

static void test_dhcp__a_request_for_another_address_gets_a_nak_in_each_state(void **state)
{
	static const struct nf_ask asks[] = {
		{ .type = 3, .wanted = GUEST + 1, .server = GW },
		{ .type = 3, .wanted = GUEST + 1 },
		{ .type = 3, .ciaddr = GUEST + 1 },
		/* renewing tells its address by ciaddr */
		{ .type = 3, .ciaddr = GUEST + 1, .wanted = GUEST },
	};
	struct nf_answer r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(asks); i++) {
		assert_true(asked(&nf_address, &asks[i], &r));
		assert_dhcp(&r, 6, all_mac, 0xffffffff, 0);
		assert_int_equal(nf_get(r.bootp + 12, 4), 0);
		assert_true(!r.opt[3] && !r.opt[6]);
	}
}

static void test_dhcp__inform_is_told_the_network_without_a_lease(void **state)
{
	static const struct nf_ask other = { .type = 8, .ciaddr = GUEST + 9 };
	struct nf_answer r;

	(void)state;
	assert_true(asked(&nf_address, &inform, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, 0);
	assert_u32(&r, 3, GW);
	assert_true(!r.opt[58] && !r.opt[59]);
	assert_true(asked(&nf_address, &other, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST + 9, 0);
}

static void test_dhcp__broadcast_is_honoured_until_there_is_an_address(void **state)
{
	struct nf_ask q = discover;
	struct nf_answer r;

	(void)state;
	q.flags = 0x8000;
	assert_true(asked(&nf_address, &q, &r));
	assert_dhcp(&r, 2, all_mac, 0xffffffff, GUEST);
	assert_int_equal(nf_get(r.bootp + 10, 2), 0x8000);
	q = renewing;
	q.flags = 0x8000;
	assert_true(asked(&nf_address, &q, &r));
	assert_dhcp(&r, 5, nf_mac, GUEST, GUEST);
}

static void test_dhcp__a_client_id_comes_back_unless_it_is_huge(void **state)
{
	char id[2 + 65] = { 61, 65, 1 };
	struct nf_ask q = discover;
	struct nf_answer r;

	(void)state;
	q.more = id;
	q.more_bytes = sizeof(id);
	assert_true(asked(&nf_address, &q, &r));
	assert_null(r.opt[61]);
	id[1] = 64;
	q.more_bytes = sizeof(id) - 1;
	assert_true(asked(&nf_address, &q, &r));
	assert_int_equal(r.len[61], 64);
	assert_memory_equal(r.opt[61], id + 2, 64);
	id[1] = 0;
	q.more_bytes = 2;
	assert_true(asked(&nf_address, &q, &r));
	assert_null(r.opt[61]);
}

static void test_dhcp__what_is_not_for_us_is_ignored(void **state)
{
	static const struct nf_ask asks[] = {
		{ .type = 0 },
		{ .type = 2 },
		{ .type = 4, .wanted = GUEST, .server = GW },
		{ .type = 5 },
		{ .type = 6 },
		{ .type = 7, .ciaddr = GUEST, .server = GW },
		{ .type = 9 },
		{ .type = 8 }, /* inform of nobody */
		{ .type = 3 }, /* wants nothing */
		{ .type = 3, .wanted = GUEST, .server = GW + 1 },
		{ .type = 1, .more = "\x35\2\1\1", .more_bytes = 4 }, /* a type of two bytes */
		{ .type = 1, .more = "\x32\3\1\1\1", .more_bytes = 5 },
		{ .type = 1, .more = "\x36\0", .more_bytes = 2 },
		{ .type = 1, .more = "\xc\x7f", .more_bytes = 2 }, /* beyond the end */
		{ .type = 1, .more = "\xc", .more_bytes = 1 },
	};
	static const struct {
		size_t at;
		uint8_t v;
		const char *why;
	} changes[] = {
		{ 6, 3, "from a group" },
		{ 11, 8, "from another than chaddr" },
		{ 14, 0x55, "version" },
		{ 14, 0x44, "header too short" },
		{ 17, 0, "length" },
		{ 20, 0x20, "more fragments" },
		{ 21, 1, "a later fragment" },
		{ 23, 6, "protocol" },
		{ 37, 68, "port" },
		{ 38, 8, "beyond the packet" },
		{ 42, 2, "a reply" },
		{ 43, 6, "hardware" },
		{ 44, 8, "hardware's length" },
		{ 66, 10, "relayed" },
		{ 278, 0, "cookie" },
	};
	struct nf_frame f, g;
	struct nf_answer r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(asks); i++)
		assert_false(asked(&nf_address, &asks[i], &r));
	f = nf_dhcp(&discover);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		g = f;
		g.b[changes[i].at] = changes[i].v;
		nf_ip_checksum(&g);
		if (nf_answered(&nf_address, &g, &r))
			fail_msg("answered: %s", changes[i].why);
	}
	g = f;
	g.b[25] ^= 1; /* the header's checksum */
	assert_false(nf_answered(&nf_address, &g, &r));
	g.n = 0;
	nf_put_bytes(&g, f.b, 12);
	nf_put(&g, 0x81000001, 4);
	nf_put_bytes(&g, f.b + 12, f.n - 12);
	assert_false(nf_answered(&nf_address, &g, &r)); /* in a VLAN */
}

static void test_dhcp__ip_options_padding_and_no_end_are_read_over(void **state)
{
	struct nf_ask q = discover;
	struct nf_answer r;
	struct nf_frame f;

	(void)state;
	q.ip_options = 10;
	assert_true(asked(&nf_address, &q, &r));
	f = nf_dhcp(&discover);
	f.b[f.n - 1] = 0; /* padding in the place of the end */
	assert_true(nf_answered(&nf_address, &f, &r));
	f = nf_dhcp(&discover);
	nf_put(&f, 0x3503, 2); /* Ethernet's padding is none of it */
	assert_true(nf_answered(&nf_address, &f, &r));
	assert_dhcp(&r, 2, nf_mac, GUEST, GUEST);
	/* offloaded checksums: any is fine */
	f.b[40] = 0xff;
	assert_true(nf_answered(&nf_address, &f, &r));
}

static void assert_arp(const struct nic_address *a, uint32_t from, uint32_t to, bool is)
{
	struct nf_frame f = nf_arp(1, from, to);
	struct nf_answer r;

	assert_int_equal(nf_answered(a, &f, &r), is);
	if (!is)
		return;
	assert_memory_equal(r.f.b, nf_mac, 6);
	assert_int_equal(nf_get(r.f.b + 28, 4), to);
	assert_memory_equal(r.f.b + 32, nf_mac, 6);
	assert_int_equal(nf_get(r.f.b + 38, 4), from);
}

static void test_arp__is_answered_for_the_gateway_and_for_peers_that_can_be_reached(void **state)
{
	struct nic_address a = nf_address;

	(void)state;
	for (int peers = 0; peers < 2; peers++) {
		a.peers = peers;
		assert_arp(&a, GUEST, GW, true);
		assert_arp(&a, GUEST + 5, GW, true); /* one that has its parent's address still */
		assert_arp(&a, 0, GW, true);
		assert_arp(&a, GUEST, IP(10, 1, 2, 4), peers);
		assert_arp(&a, 0, IP(10, 1, 2, 4), peers);
		assert_arp(&a, GUEST, IP(10, 1, 15, 254), peers);
		/* the guest's own, the subnet's own, the broadcast address, others */
		assert_arp(&a, 0, GUEST, false);
		assert_arp(&a, GUEST, GUEST, false);
		assert_arp(&a, GUEST + 1, GUEST, false);
		assert_arp(&a, GUEST, IP(10, 1, 0, 0), false);
		assert_arp(&a, GUEST, IP(10, 1, 15, 255), false);
		assert_arp(&a, GUEST, IP(10, 1, 16, 1), false);
		assert_arp(&a, GUEST, IP(10, 0, 255, 255), false);
		assert_arp(&a, 0, 0, false);
		/* announcements */
		assert_arp(&a, GW, GW, false);
		assert_arp(&a, IP(10, 1, 2, 4), IP(10, 1, 2, 4), false);
	}
	memset(a.gw4, 0, sizeof(a.gw4));
	a.peers = false;
	assert_arp(&a, GUEST, GW, true); /* the DHCP server's */
	a.prefix4 = 0;
	assert_arp(&a, GUEST, GW, false);
}

static void test_arp__nothing_but_requests_of_ethernet_and_ipv4_is_answered(void **state)
{
	static const uint8_t at[] = { 6, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 27 };
	struct nf_frame f = nf_arp(2, GUEST, GW);
	struct nf_answer r;

	(void)state;
	assert_false(nf_answered(&nf_address, &f, &r));
	for (size_t i = 0; i < ARRAY_SIZE(at); i++) {
		f = nf_arp(1, GUEST, GW);
		f.b[at[i]] ^= 1;
		assert_false(nf_answered(&nf_address, &f, &r));
	}
}

static void test_solicit__is_told_router_prefix_mtu_and_name_servers(void **state)
{
	struct nf_answer r;

	(void)state;
	for (int unspecified = 0; unspecified < 2; unspecified++) {
		struct nf_frame f = nf_solicit(unspecified);

		assert_true(nf_answered(&nf_address, &f, &r));
		assert_memory_equal(r.f.b,
				    unspecified ? (const uint8_t *)"\x33\x33\0\0\0\1" : nf_mac, 6);
		assert_memory_equal(r.f.b + 38,
				    unspecified ? "\xff\2\0\0\0\0\0\0\0\0\0\0\0\0\0\1"
						: (const char *)f.b + 22,
				    16);
		assert_int_equal(nf_get(r.f.b + 58, 4), 64 << 24 | 1800);
		assert_true(bytes_are_zero(r.f.b + 62, 8));
		assert_memory_equal(r.opt[1] + 2, nf_gw_mac, 6);
		assert_int_equal(nf_get(r.opt[5], 4), 5 << 24 | 1 << 16);
		assert_int_equal(nf_get(r.opt[5] + 4, 4), 1400);
		assert_int_equal(nf_get(r.opt[3], 4), 3 << 24 | 4 << 16 | 64 << 8 | 0x40);
		assert_true(nf_get(r.opt[3] + 4, 4) >= nf_get(r.opt[3] + 8, 4) &&
			    nf_get(r.opt[3] + 8, 4));
		assert_memory_equal(r.opt[3] + 12, "\0\0\0\0\xfd\xc1\0\1\0\2\0\3\0\0\0\0\0\0\0\0",
				    20);
		assert_int_equal(nf_get(r.opt[25], 4), 25 << 24 | 5 << 16);
		assert_int_equal(nf_get(r.opt[25] + 4, 4), 1800);
		assert_memory_equal(r.opt[25] + 8, nf_address.dns[1].addr, 16);
		assert_memory_equal(r.opt[25] + 24, nf_address.dns[3].addr, 16);
	}
}

static void test_solicit__what_a_network_does_not_have_is_not_said(void **state)
{
	struct nf_frame f = nf_solicit(false);
	struct nic_address a = nf_address;
	struct nf_answer r;

	(void)state;
	memset(a.gw6, 0, sizeof(a.gw6));
	a.mtu = 1279;
	a.prefix6 = 65;
	a.nr_dns = 1;
	assert_true(nf_answered(&a, &f, &r));
	assert_int_equal(nf_get(r.f.b + 60, 2), 0);
	assert_int_equal(r.f.n, 14 + 40 + 16 + 8);
	a.prefix6 = 0;
	assert_false(nf_answered(&a, &f, &r));
	assert_int_equal(responder_advert(&a, nf_gw_mac, r.f.b, sizeof(r.f.b)), 0);
	a = nf_address;
	a.respond = false;
	assert_false(nf_answered(&a, &f, &r));
	assert_int_equal(responder_advert(&a, nf_gw_mac, r.f.b, sizeof(r.f.b)), 0);
}

static void test_solicit__an_invalid_one_is_ignored(void **state)
{
	static const struct {
		size_t at;
		uint8_t v;
	} changes[] = {
		{ 14, 0x40 }, { 19, 17 },  { 19, 7 }, { 20, 0 }, { 21, 254 },
		{ 22, 0xff }, { 54, 134 }, { 55, 1 }, { 63, 0 }, { 63, 2 },
	};
	struct nf_frame f = nf_solicit(false), g;
	struct nf_answer r;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		g = f;
		g.b[changes[i].at] = changes[i].v;
		if (nf_answered(&nf_address, &g, &r))
			fail_msg("answered with byte %zu changed", changes[i].at);
	}
	memset(f.b + 22, 0, 16); /* from :: there is no link-layer address to tell */
	assert_false(nf_answered(&nf_address, &f, &r));
}

static void test_advert__is_what_a_solicitation_of_nobody_gets(void **state)
{
	struct nf_frame f = nf_solicit(true);
	struct nf_answer r;
	uint8_t out[RESPONDER_FRAME_MAX];

	(void)state;
	assert_true(nf_answered(&nf_address, &f, &r));
	assert_int_equal(responder_advert(&nf_address, nf_gw_mac, out, sizeof(out)), r.f.n);
	assert_memory_equal(out, r.f.b, r.f.n);
	assert_int_equal(responder_advert(&nf_address, nf_gw_mac, out, r.f.n - 1), 0);
}

static size_t all(struct nf_frame f[9])
{
	size_t n = 0;
	struct nf_ask nak = renewing, id = discover;

	nak.ciaddr++;
	id.more = "\x3d\7\1\2\xc1\0\0\0\7";
	id.more_bytes = 9;
	f[n++] = nf_dhcp(&discover);
	f[n++] = nf_dhcp(&selecting);
	f[n++] = nf_dhcp(&renewing);
	f[n++] = nf_dhcp(&nak);
	f[n++] = nf_dhcp(&inform);
	f[n++] = nf_dhcp(&id);
	f[n++] = nf_arp(1, GUEST, GW);
	f[n++] = nf_solicit(false);
	f[n++] = nf_solicit(true);
	return n;
}

static void test_hostile__no_truncated_frame_is_answered_and_no_answer_truncated(void **state)
{
	struct nf_frame f[9], g;
	struct nf_answer r;
	size_t n = all(f), full;

	(void)state;
	for (size_t i = 0; i < n; i++) {
		for (g = f[i]; g.n;) {
			g.n--;
			assert_false(nf_answered(&nf_address, &g, &r));
		}
		assert_true(nf_answered(&nf_address, &f[i], &r));
		full = r.f.n;
		for (size_t cap = 0; cap <= full; cap++)
			assert_int_equal(responder_answer(&nf_address, nf_gw_mac, f[i].b, f[i].n,
							  nf_edge(1, cap), cap),
					 cap < full ? 0 : full);
	}
}

/* The kernel's verdict on a frame. Filters are the same on any socket. */
static bool passes(int pair[2], const struct nf_frame *f)
{
	uint8_t b[RESPONDER_FRAME_MAX];
	ssize_t n;

	assert_int_equal(send(pair[0], f->b, f->n, 0), f->n);
	n = recv(pair[1], b, sizeof(b), MSG_DONTWAIT);
	assert_true(n < 0 || ((size_t)n == f->n && !memcmp(b, f->b, f->n)));
	return n >= 0;
}

static void test_hostile__each_flip_is_ignored_or_answered_well_and_the_filter_agrees(void **state)
{
	struct nic_address a = nf_address;
	struct nf_frame f[9];
	struct nf_answer r;
	size_t n = all(f), yes = 0, no = 0;
	int pair[2];

	(void)state;
	a.peers = true;
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	assert_int_equal(responder_filter(pair[1], NULL), 0);
	for (size_t i = 0; i < n; i++) {
		assert_true(passes(pair, &f[i]));
		for (size_t bit = 0; bit < f[i].n * 8; bit++) {
			f[i].b[bit / 8] ^= (uint8_t)(1u << bit % 8);
			if (nf_answered(&a, &f[i], &r)) {
				yes++;
				assert_true(passes(pair, &f[i]));
			} else {
				no++;
			}
			f[i].b[bit / 8] ^= (uint8_t)(1u << bit % 8);
		}
	}
	assert_true(yes > 1000 && no > 1000);
	close(pair[0]);
	close(pair[1]);
}

static void test_filter__passes_nothing_else_and_stays(void **state)
{
	struct nf_ask far = discover;
	struct nf_frame f;
	int pair[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
	assert_int_equal(responder_filter(pair[1], NULL), 0);
	far.ip_options = 10;
	f = nf_dhcp(&far);
	assert_true(passes(pair, &f));
	f.b[14 + 60 + 3]++; /* the port, wherever it is */
	assert_false(passes(pair, &f));
	f = nf_dhcp(&discover);
	f.b[20] = 0x20; /* a fragment */
	assert_false(passes(pair, &f));
	f = nf_dhcp(&discover);
	f.b[21] = 1;
	assert_false(passes(pair, &f));
	f = nf_dhcp(&discover);
	f.b[23] = 6;
	assert_false(passes(pair, &f));
	f.n = 20; /* loads end */
	assert_false(passes(pair, &f));
	f = nf_arp(2, GUEST, GW);
	assert_false(passes(pair, &f));
	f = nf_solicit(false);
	f.b[54] = 135;
	assert_false(passes(pair, &f));
	f.b[54] = 133;
	f.b[20] = 0;
	assert_false(passes(pair, &f));
	f.b[12] = 0x88;
	assert_false(passes(pair, &f));
	assert_int_not_equal(setsockopt(pair[1], SOL_SOCKET, SO_DETACH_FILTER, &pair, sizeof(int)),
			     0);
	assert_int_not_equal(responder_filter(pair[1], NULL), 0);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(
			test_dhcp__discover_is_offered_the_address_and_what_the_network_is),
		cmocka_unit_test(test_dhcp__what_a_network_does_not_have_is_not_said),
		cmocka_unit_test(test_dhcp__a_request_for_the_address_is_confirmed_in_each_state),
		cmocka_unit_test(test_dhcp__a_request_for_another_address_gets_a_nak_in_each_state),
		cmocka_unit_test(test_dhcp__inform_is_told_the_network_without_a_lease),
		cmocka_unit_test(test_dhcp__broadcast_is_honoured_until_there_is_an_address),
		cmocka_unit_test(test_dhcp__a_client_id_comes_back_unless_it_is_huge),
		cmocka_unit_test(test_dhcp__what_is_not_for_us_is_ignored),
		cmocka_unit_test(test_dhcp__ip_options_padding_and_no_end_are_read_over),
		cmocka_unit_test(
			test_arp__is_answered_for_the_gateway_and_for_peers_that_can_be_reached),
		cmocka_unit_test(test_arp__nothing_but_requests_of_ethernet_and_ipv4_is_answered),
		cmocka_unit_test(test_solicit__is_told_router_prefix_mtu_and_name_servers),
		cmocka_unit_test(test_solicit__what_a_network_does_not_have_is_not_said),
		cmocka_unit_test(test_solicit__an_invalid_one_is_ignored),
		cmocka_unit_test(test_advert__is_what_a_solicitation_of_nobody_gets),
		cmocka_unit_test(
			test_hostile__no_truncated_frame_is_answered_and_no_answer_truncated),
		cmocka_unit_test(
			test_hostile__each_flip_is_ignored_or_answered_well_and_the_filter_agrees),
		cmocka_unit_test(test_filter__passes_nothing_else_and_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
