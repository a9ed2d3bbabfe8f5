/* SPDX-License-Identifier: MIT */
/*
 * Our rules, as text for nft(8). The chains are static: they name sets, and what comes and goes are
 * their elements. A guest is known by the TAP that its packets come from, which must fit the MAC
 * and the address in them (chain source); from then on its address says which network it is on, so
 * that what a network may do is one element each. The text has nothing in it but what we formatted
 * from numbers, and names that were checked.
 *
 * "clone-" is TAP_PREFIX. Only what comes from a TAP or goes to one ever meets a verdict here.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "network/private.h"

static const char tables[] =
	"table inet clone {\n"
	"	counter spoofed { }\n"
	"	set nd { type ifname; flags dynamic; size 65535; timeout 10s; }\n"
	"	set mac { type ifname . ether_addr; }\n"
	"	set source4 { type ifname . ether_addr . ipv4_addr; }\n"
	"	set source6 { type ifname . ether_addr . ipv6_addr; flags interval; }\n"
	"	set subnet4 { type ipv4_addr; flags interval; }\n"
	"	set subnet6 { type ipv6_addr; flags interval; }\n"
	"	set out4 { type ipv4_addr; flags interval; }\n"
	"	set out6 { type ipv6_addr; flags interval; }\n"
	"	set host4 { type ipv4_addr; flags interval; }\n"
	"	set host6 { type ipv6_addr; flags interval; }\n"
	"	set metadata4 { type ipv4_addr; flags interval; }\n"
	"	set metadata6 { type ipv6_addr; flags interval; }\n"
	"	set peers4 { type ipv4_addr . ipv4_addr; flags interval; }\n"
	"	set peers6 { type ipv6_addr . ipv6_addr; flags interval; }\n"
	"	set dns4 { type ipv4_addr . ipv4_addr; flags interval; }\n"
	"	set dns6 { type ipv6_addr . ipv6_addr; flags interval; }\n"
	"	map publish4 { type inet_proto . inet_service : ipv4_addr . inet_service; }\n"
	"	map publish6 { type inet_proto . inet_service : ipv6_addr . inet_service; }\n"
	"	chain raw {\n"
	"		type filter hook prerouting priority raw; policy accept;\n"
	"		iifname \"clone-*\" jump source\n"
	"	}\n"
	"	chain source {\n"
	/* a TAP with published ports has route_localnet */
	"		ip daddr 127.0.0.0/8 drop\n"
	/* each may make a neighbour of the host's, whose table is one for all */
	"		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } "
	"update @nd { iifname limit rate over 4/second burst 10 packets } drop\n"
	"		iifname . ether saddr . ip saddr @source4 accept\n"
	"		iifname . ether saddr . ip6 saddr @source6 accept\n"
	/* it looks for its gateway before it has an address; a RA of its own is none of these */
	"		ip6 saddr { ::, fe80::/10 } ip6 hoplimit 255 icmpv6 type { "
	"nd-neighbor-solicit, "
	"nd-neighbor-advert, nd-router-solicit } iifname . ether saddr @mac accept\n"
	/* what any machine says on its link, and is for nobody: not worth counting */
	"		ip6 saddr { ::, fe80::/10 } iifname . ether saddr @mac drop\n"
	"		ip saddr 0.0.0.0 udp dport 67 drop\n"
	"		counter name spoofed drop\n"
	"	}\n"
	"	chain forward {\n"
	"		type filter hook forward priority filter; policy accept;\n"
	"		iifname \"clone-*\" jump forward_from\n"
	"		oifname \"clone-*\" jump forward_to\n"
	"	}\n"
	"	chain forward_from {\n"
	"		ct state invalid drop\n"
	"		ct state established,related accept\n"
	"		oifname != \"clone-*\" meta l4proto { tcp, udp } th dport 53 ip saddr . ip "
	"daddr "
	"@dns4 accept\n"
	"		oifname != \"clone-*\" meta l4proto { tcp, udp } th dport 53 ip6 saddr . "
	"ip6 "
	"daddr @dns6 accept\n"
	"		oifname \"clone-*\" ip saddr . ip daddr @peers4 accept\n"
	"		oifname \"clone-*\" ip6 saddr . ip6 daddr @peers6 accept\n"
	"		oifname \"clone-*\" drop\n"
	/* where clouds tell a machine its secrets: AWS and most others, Azure, Alibaba, Google */
	"		ip daddr { 169.254.0.0/16, 168.63.129.16, 100.100.100.200 } ip saddr != "
	"@metadata4 drop\n"
	"		ip6 daddr { fd00:ec2::/32, fd20:ce::/32 } ip6 saddr != @metadata6 drop\n"
	"		ip saddr @out4 accept\n"
	"		ip6 saddr @out6 accept\n"
	"		drop\n"
	"	}\n"
	"	chain forward_to {\n"
	"		ct state established,related accept\n"
	"		ct status dnat accept\n"
	"		drop\n"
	"	}\n"
	"	chain input {\n"
	"		type filter hook input priority filter; policy accept;\n"
	"		iifname \"clone-*\" jump input_from\n"
	"	}\n"
	"	chain input_from {\n"
	"		ct state established,related accept\n"
	"		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } "
	"accept\n"
	"		meta l4proto { tcp, udp } th dport 53 ip saddr . ip daddr @dns4 accept\n"
	"		meta l4proto { tcp, udp } th dport 53 ip6 saddr . ip6 daddr @dns6 accept\n"
	"		ip saddr @host4 accept\n"
	"		ip6 saddr @host6 accept\n"
	"		drop\n"
	"	}\n"
	"	chain dnat_in {\n"
	"		type nat hook prerouting priority dstnat; policy accept;\n"
	"		iifname != \"clone-*\" fib daddr type local jump publish\n"
	"	}\n"
	"	chain dnat_out {\n"
	"		type nat hook output priority -100; policy accept;\n"
	/* there is no route_localnet for IPv6: refused at once, so that who asked for localhost
	 * goes on to 127.0.0.1 */
	"		ip6 daddr ::1 accept\n"
	"		fib daddr type local jump publish\n"
	"	}\n"
	"	chain publish {\n"
	"		meta nfproto ipv4 dnat ip to meta l4proto . th dport map @publish4\n"
	"		meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @publish6\n"
	"	}\n"
	"	chain masquerade_out {\n"
	"		type nat hook postrouting priority srcnat; policy accept;\n"
	"		oifname != \"clone-*\" ip saddr @subnet4 masquerade\n"
	"		oifname != \"clone-*\" ip6 saddr @subnet6 masquerade\n"
	"		oifname \"clone-*\" ip saddr 127.0.0.0/8 masquerade\n"
	"	}\n"
	"}\n"
	"table bridge clone {\n"
	"	set source { type ifname . ether_addr; }\n"
	"	chain raw {\n"
	"		type filter hook prerouting priority -300; policy accept;\n"
	"		iifname \"clone-*\" jump source\n"
	"	}\n"
	"	chain source {\n"
	"		iifname . ether saddr != @source drop\n"
	/* spanning tree and its kin */
	"		ether daddr 01:80:c2:00:00:00-01:80:c2:00:00:0f drop\n"
	/* inside of a tag the rest would not be seen */
	"		ether type { 8021q, 8021ad } drop\n"
	"		meta l4proto udp udp sport { 67, 547 } drop\n"
	"		icmpv6 type { nd-router-advert, nd-redirect } drop\n"
	"	}\n"
	"}\n";

static void say(struct wbuf *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct wbuf *w, const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	BUG_ON(n < 0 || (size_t)n >= sizeof(line));
	wbuf_bytes(w, line, (size_t)n);
}

void rules_tables(struct wbuf *w)
{
	wbuf_bytes(w, tables, sizeof(tables) - 1);
}

void rules_no_tables(struct wbuf *w)
{
	/* made first, because to remove what is not there is an error */
	say(w, "table inet clone {}\ndelete table inet clone\n"
	       "table bridge clone {}\ndelete table bridge clone\n");
}

static const char *verb(enum rules_verb v)
{
	return v == RULES_ADD ? "add" : "delete";
}

static void one_prefix(struct wbuf *w, enum rules_verb v, const char *set, const char *prefix)
{
	say(w, "%s element inet clone %s { %s }\n", verb(v), set, prefix);
}

static void one_family(struct wbuf *w, enum rules_verb v, const struct network *nw, int family,
		       const char *prefix, const struct nic_dns *dns, uint8_t nr_dns)
{
	char set[16];

	snprintf(set, sizeof(set), "subnet%d", family);
	one_prefix(w, v, set, prefix);
	snprintf(set, sizeof(set), "out%d", family);
	if (nw->mode == NETWORK_NAT)
		one_prefix(w, v, set, prefix);
	snprintf(set, sizeof(set), "host%d", family);
	if (nw->allow & NETWORK_ALLOW_HOST)
		one_prefix(w, v, set, prefix);
	snprintf(set, sizeof(set), "metadata%d", family);
	if (nw->allow & NETWORK_ALLOW_METADATA)
		one_prefix(w, v, set, prefix);
	if (nw->allow & NETWORK_ALLOW_PEERS)
		say(w, "%s element inet clone peers%d { %s . %s }\n", verb(v), family, prefix,
		    prefix);
	for (size_t i = 0; i < nr_dns; i++) {
		char text[ADDR_TEXT];

		if (dns[i].family != family)
			continue;
		dns_text(&dns[i], text, sizeof(text));
		say(w, "%s element inet clone dns%d { %s . %s }\n", verb(v), family, prefix, text);
	}
}

void rules_network(struct wbuf *w, enum rules_verb v, const struct network *nw,
		   const struct nic_dns *dns, uint8_t nr_dns)
{
	char prefix[ADDR_TEXT + 8];
	char text[ADDR_TEXT];

	/* the mark by which nft.c knows that the network's rules are there */
	say(w,
	    v == RULES_ADD ? "add counter inet clone net_%04x\n"
			   : "delete counter inet clone net_%04x\n",
	    nw->id);
	if (nw->mode == NETWORK_BRIDGE)
		return;
	ip4_text(nw->subnet4, text, sizeof(text));
	snprintf(prefix, sizeof(prefix), "%s/%u", text, nw->prefix4);
	one_family(w, v, nw, 4, prefix, dns, nr_dns);
	if (!nw->prefix6)
		return;
	ip6_text(nw->subnet6, text, sizeof(text));
	snprintf(prefix, sizeof(prefix), "%s/%u", text, nw->prefix6);
	one_family(w, v, nw, 6, prefix, dns, nr_dns);
}

static void lease_publish(struct wbuf *w, enum rules_verb v, const struct lease *l)
{
	char text[ADDR_TEXT];

	for (size_t i = 0; i < l->nr_publish; i++) {
		const struct network_publish *p = &l->publish[i];

		if (!bytes_are_zero(l->ip4, 4)) {
			ip4_text(l->ip4, text, sizeof(text));
			say(w, "%s element inet clone publish4 { %s . %u : %s . %u }\n", verb(v),
			    p->udp ? "udp" : "tcp", p->host_port, text, p->guest_port);
		}
		if (!bytes_are_zero(l->ip6, 16)) {
			ip6_text(l->ip6, text, sizeof(text));
			say(w, "%s element inet clone publish6 { %s . %u : %s . %u }\n", verb(v),
			    p->udp ? "udp" : "tcp", p->host_port, text, p->guest_port);
		}
	}
}

void rules_lease(struct wbuf *w, enum rules_verb v, const struct network *nw, const struct lease *l)
{
	char mac[MAC_TEXT], text[ADDR_TEXT];

	if (bytes_are_zero(l->mac, NIC_MAC)) /* its maker died before it was written */
		return;
	mac_to_text(l->mac, mac);
	if (nw->mode == NETWORK_BRIDGE) {
		say(w, "%s element bridge clone source { \"%s\" . %s }\n", verb(v), l->tap, mac);
		return;
	}
	say(w, "%s element inet clone mac { \"%s\" . %s }\n", verb(v), l->tap, mac);
	if (!bytes_are_zero(l->ip4, 4)) {
		ip4_text(l->ip4, text, sizeof(text));
		say(w, "%s element inet clone source4 { \"%s\" . %s . %s }\n", verb(v), l->tap, mac,
		    text);
	}
	if (!bytes_are_zero(l->ip6, 16)) {
		uint8_t net[16] = { 0 };

		memcpy(net, l->ip6, 8);
		ip6_text(net, text, sizeof(text));
		say(w, "%s element inet clone source6 { \"%s\" . %s . %s/64 }\n", verb(v), l->tap,
		    mac, text);
	}
	lease_publish(w, v, l);
}

void rules_lease_remove(struct wbuf *w, const struct network *nw, const struct lease *l)
{
	/* nft 1.0.6 has no way to say "if it is there" */
	rules_lease(w, RULES_ADD, nw, l);
	rules_lease(w, RULES_DELETE, nw, l);
}
