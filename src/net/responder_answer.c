/* SPDX-License-Identifier: MIT */
/*
 * Which frame of a guest's is answered and how: ARP and IPv6's router solicitations here, DHCP in
 * responder_dhcp.c. Pure functions, called by responder.c on main.
 *
 * Where a frame was sent to is not looked at. A TAP has two ends: whatever the guest sends comes to
 * us, and one that was moved to another network knows MAC addresses of the old one. VLAN tags are
 * another EtherType, so they get no answer.
 */
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "net/responder.h"
#include "net/responder_int.h"

/* How long what an advertisement says is true, in seconds: three times the interval at which it is
 * repeated (responder.c), and for the prefix what routers commonly say. */
#define ROUTER_LIFETIME 1800
#define DNS_LIFETIME 1800
#define PREFIX_VALID 86400
#define PREFIX_PREFERRED 14400

#define IP6_BYTES 40
#define IP6_HOPS 255 /* of neighbour discovery: proves that no router forwarded it */
#define IP6_MTU_MIN 1280
#define OPT_RDNSS 25 /* RFC 8106 */

static const uint8_t router_ip6[16] = { 0xfe, 0x80, [15] = 1 };
static const uint8_t all_nodes_ip6[16] = { 0xff, 2, [15] = 1 };
static const uint8_t all_nodes_mac[NIC_MAC] = { 0x33, 0x33, 0, 0, 0, 1 };

void resp_ether(struct wbuf *w, const uint8_t dst[NIC_MAC], const uint8_t src[NIC_MAC],
		uint16_t type)
{
	wbuf_bytes(w, dst, NIC_MAC);
	wbuf_bytes(w, src, NIC_MAC);
	wbuf_be16(w, type);
}

uint16_t resp_checksum(uint32_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum += i & 1 ? p[i] : (uint32_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static uint32_t ip4_get(const uint8_t ip4[4])
{
	be32 v;

	memcpy(v.b, ip4, sizeof(v.b));
	return be32_get(v);
}

void resp_own_ip4(const struct nic_address *a, uint8_t own[4])
{
	uint32_t guest = ip4_get(a->ip4), host = resp_host_bits(a->prefix4), first;
	be32 v;

	if (!bytes_are_zero(a->gw4, sizeof(a->gw4))) {
		memcpy(own, a->gw4, 4);
		return;
	}
	/* subnets of one or two addresses have none that is set aside (RFC 3021) */
	first = (guest & ~host) + (host > 1);
	v = be32_put(first + (first == guest));
	memcpy(own, v.b, 4);
}

/* Do we say that ip is here, at the gateway's MAC? */
static bool arp_is_ours(const struct nic_address *a, const uint8_t ip[4])
{
	uint32_t host = resp_host_bits(a->prefix4), addr = ip4_get(ip);
	uint8_t own[4];

	if (!memcmp(ip, a->ip4, 4))
		return false;
	resp_own_ip4(a, own);
	if (!memcmp(ip, own, 4))
		return true;
	if (!a->peers || (addr ^ ip4_get(a->ip4)) & ~host)
		return false;
	/* the subnet's own and the broadcast address are nobody's */
	return host <= 1 || ((addr & host) && (addr & host) != host);
}

static void arp(struct resp_frame *f, struct wbuf *w)
{
	uint16_t hrd = rbuf_be16(&f->r), pro = rbuf_be16(&f->r);
	uint8_t hln = rbuf_u8(&f->r), pln = rbuf_u8(&f->r);
	uint16_t op = rbuf_be16(&f->r);
	uint8_t sha[NIC_MAC], spa[4], tpa[4];

	rbuf_bytes(&f->r, sha, sizeof(sha));
	rbuf_bytes(&f->r, spa, sizeof(spa));
	rbuf_view(&f->r, NIC_MAC); /* what is asked for */
	rbuf_bytes(&f->r, tpa, sizeof(tpa));
	if (f->r.bad || hrd != ARPHRD_ETHER || pro != ETHERTYPE_IP || hln != NIC_MAC || pln != 4 ||
	    op != ARPOP_REQUEST || memcmp(sha, f->src, NIC_MAC) != 0)
		return;
	/* an announcement (RFC 5227 3) asks nobody */
	if (!f->a->prefix4 || !memcmp(spa, tpa, sizeof(spa)) || !arp_is_ours(f->a, tpa))
		return;
	resp_ether(w, sha, f->gw_mac, ETHERTYPE_ARP);
	wbuf_be16(w, hrd);
	wbuf_be16(w, pro);
	wbuf_u8(w, hln);
	wbuf_u8(w, pln);
	wbuf_be16(w, ARPOP_REPLY);
	wbuf_bytes(w, f->gw_mac, NIC_MAC);
	wbuf_bytes(w, tpa, sizeof(tpa));
	wbuf_bytes(w, sha, sizeof(sha));
	wbuf_bytes(w, spa, sizeof(spa));
}

/* RFC 8106 5.1: one option for all servers. */
static void advert_dns(struct wbuf *w, const struct nic_address *a)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < MIN(a->nr_dns, NIC_DNS_MAX); i++)
		n += a->dns[i].family == 6;
	if (!n)
		return;
	wbuf_u8(w, OPT_RDNSS);
	wbuf_u8(w, (uint8_t)(1 + 2 * n)); /* in units of 8 bytes, as all lengths of options */
	wbuf_be16(w, 0);
	wbuf_be32(w, DNS_LIFETIME);
	for (unsigned int i = 0; i < MIN(a->nr_dns, NIC_DNS_MAX); i++)
		if (a->dns[i].family == 6)
			wbuf_bytes(w, a->dns[i].addr, 16);
}

/* RFC 4861 4.2 and 4.6. */
static void advert_options(struct wbuf *w, const struct nic_address *a, const uint8_t *gw_mac)
{
	wbuf_u8(w, ND_OPT_SOURCE_LINKADDR);
	wbuf_u8(w, 1);
	wbuf_bytes(w, gw_mac, NIC_MAC);
	if (a->mtu >= IP6_MTU_MIN) { /* a smaller one is ignored by who hears it */
		wbuf_u8(w, ND_OPT_MTU);
		wbuf_u8(w, 1);
		wbuf_be16(w, 0);
		wbuf_be32(w, a->mtu);
	}
	if (a->prefix6 <= 64) {
		wbuf_u8(w, ND_OPT_PREFIX_INFORMATION);
		wbuf_u8(w, 4);
		wbuf_u8(w, 64);
		/* not on link: all but the router is reached through the router */
		wbuf_u8(w, ND_OPT_PI_FLAG_AUTO);
		wbuf_be32(w, PREFIX_VALID);
		wbuf_be32(w, PREFIX_PREFERRED);
		wbuf_be32(w, 0);
		wbuf_bytes(w, a->ip6, 8);
		wbuf_reserve(w, 8);
	}
	advert_dns(w, a);
}

static void advert(const struct nic_address *a, const uint8_t *gw_mac, const uint8_t *mac,
		   const uint8_t *ip6, struct wbuf *w)
{
	size_t ip = RESP_ETHER_BYTES, icmp = ip + IP6_BYTES;

	resp_ether(w, mac, gw_mac, ETHERTYPE_IPV6);
	wbuf_be32(w, 6u << 28);
	wbuf_be16(w, 0); /* length: below */
	wbuf_u8(w, IPPROTO_ICMPV6);
	wbuf_u8(w, IP6_HOPS);
	wbuf_bytes(w, router_ip6, sizeof(router_ip6));
	wbuf_bytes(w, ip6, 16);
	wbuf_u8(w, ND_ROUTER_ADVERT);
	wbuf_u8(w, 0);
	wbuf_be16(w, 0); /* checksum: below */
	wbuf_u8(w, 64);	 /* the hop limit of what the guest sends */
	wbuf_u8(w, 0);	 /* there is no DHCPv6 */
	wbuf_be16(w, bytes_are_zero(a->gw6, sizeof(a->gw6)) ? 0 : ROUTER_LIFETIME);
	wbuf_be32(w, 0); /* reachable time and retransmission timer: the guest's own */
	wbuf_be32(w, 0);
	advert_options(w, a, gw_mac);
	if (w->bad)
		return;
	wbuf_patch_be16(w, ip + 4, (uint16_t)(w->len - icmp));
	/* the pseudo header (RFC 8200 8.1): addresses, which stand in front, length, protocol */
	wbuf_patch_be16(w, icmp + 2,
			resp_checksum((uint32_t)(w->len - icmp) + IPPROTO_ICMPV6, w->data + ip + 8,
				      w->len - ip - 8));
}

/* RFC 4861 6.1.1, but for the checksum: a TAP's frames may leave that to a NIC that is not there.
 */
static bool solicit_is_valid(struct rbuf *packet, uint8_t src[16])
{
	struct rbuf r = *packet;
	uint32_t first = rbuf_be32(&r);
	uint16_t len = rbuf_be16(&r);
	uint8_t next = rbuf_u8(&r), hops = rbuf_u8(&r), type, code, opt, units;

	rbuf_bytes(&r, src, 16);
	rbuf_view(&r, 16);
	if (r.bad || first >> 28 != 6 || next != IPPROTO_ICMPV6 || hops != IP6_HOPS ||
	    src[0] == 0xff || len > rbuf_left(&r))
		return false;
	rbuf_init(&r, rbuf_view(&r, len), len);
	type = rbuf_u8(&r);
	code = rbuf_u8(&r);
	rbuf_view(&r, 6); /* checksum, reserved */
	while (!r.bad && rbuf_left(&r)) {
		opt = rbuf_u8(&r);
		units = rbuf_u8(&r);
		if (!units || (opt == ND_OPT_SOURCE_LINKADDR && bytes_are_zero(src, 16)))
			return false;
		rbuf_view(&r, units * 8u - 2);
	}
	return !r.bad && type == ND_ROUTER_SOLICIT && !code;
}

static void solicit(struct resp_frame *f, struct wbuf *w)
{
	uint8_t src[16];

	if (!f->a->prefix6 || !solicit_is_valid(&f->r, src))
		return;
	if (bytes_are_zero(src, sizeof(src)))
		advert(f->a, f->gw_mac, all_nodes_mac, all_nodes_ip6, w);
	else
		advert(f->a, f->gw_mac, f->src, src, w);
}

size_t responder_advert(const struct nic_address *a, const uint8_t gw_mac[NIC_MAC], uint8_t *out,
			size_t cap)
{
	struct wbuf w;

	wbuf_init_over(&w, out, cap);
	if (a->respond && a->prefix6)
		advert(a, gw_mac, all_nodes_mac, all_nodes_ip6, &w);
	return w.bad ? 0 : w.len;
}

size_t responder_answer(const struct nic_address *a, const uint8_t gw_mac[NIC_MAC],
			const uint8_t *frame, size_t n, uint8_t *out, size_t cap)
{
	struct resp_frame f = { .a = a, .gw_mac = gw_mac };
	struct wbuf w;
	uint16_t type;

	rbuf_init(&f.r, frame, n);
	rbuf_view(&f.r, NIC_MAC);
	rbuf_bytes(&f.r, f.src, sizeof(f.src));
	type = rbuf_be16(&f.r);
	if (!a->respond || f.r.bad || f.src[0] & 1)
		return 0;
	wbuf_init_over(&w, out, cap);
	switch (type) {
	case ETHERTYPE_ARP:
		arp(&f, &w);
		break;
	case ETHERTYPE_IP:
		resp_dhcp(&f, &w);
		break;
	case ETHERTYPE_IPV6:
		solicit(&f, &w);
		break;
	}
	return w.bad ? 0 : w.len;
}
