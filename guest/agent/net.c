/* SPDX-License-Identifier: MIT */
/*
 * The network's part of IDENTITY, over rtnetlink: one dump of the interfaces and one of their
 * addresses say what there is, then a batch of changes for each interface makes it what it is to
 * be. It is on the critical path of a fork, so few system calls matter more than few messages.
 * Agent's thread. rtnetlink(7).
 */
#include "net.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netlook.h"
#include "netsock.h"

#define STEPS_MAX 64   /* a batch: their answers fit into the socket's buffer */
#define STEP_BYTES 128 /* none is longer */
#define METRIC6 1024u  /* what the kernel takes for none */

/* What may come of a step beside success. */
#define FINE_GONE 1u  /* what was to be removed is not there */
#define FINE_THERE 2u /* what was to be added is */
#define FINE_V6 4u    /* this guest does without IPv6 */
#define FINE_BUSY 8u  /* not while the interface is up */

struct step {
	const char *name, *what;
	unsigned int fine;
};

struct net {
	struct identity *id;
	int fd;
	struct netlook l;
	/* The batch being made, and what came of it and those before. */
	struct nl_msg m;
	uint8_t buf[STEPS_MAX * STEP_BYTES];
	struct step steps[STEPS_MAX];
	int err; /* of the first step that failed: then id->step names it */
	bool busy, no_v6;
};

/* ---- a batch ---- */

static void batch_begin(struct net *t)
{
	nl_init(&t->m, t->buf, sizeof(t->buf));
}

static void judge(struct net *t, const struct step *s, int r)
{
	if (!r || t->err)
		return;
	if ((s->fine & FINE_GONE) && (r == -EADDRNOTAVAIL || r == -ESRCH))
		return;
	if ((s->fine & FINE_THERE) && r == -EEXIST)
		return;
	if ((s->fine & FINE_V6) && (r == -EOPNOTSUPP || r == -EAFNOSUPPORT || r == -EACCES)) {
		t->no_v6 = true;
		return;
	}
	if ((s->fine & FINE_BUSY) && r == -EBUSY) {
		t->busy = true;
		return;
	}
	t->err = r;
	snprintf(t->id->step, sizeof(t->id->step), "network: %s: %s", s->name, s->what);
}

/* Sends what is in the batch, and begins another. */
static void batch_send(struct net *t)
{
	static const struct step all = { "netlink", "answers", 0 };
	int result[STEPS_MAX] = { 0 }, r;

	if (t->m.seq && !t->err) {
		r = netsock_batch(t->fd, &t->m, result);
		for (uint32_t i = 0; i < t->m.seq; i++)
			judge(t, &t->steps[i], result[i]);
		judge(t, &all, r);
	}
	batch_begin(t);
}

/* Begins a message; `what` is a literal, of people's words. */
static void step(struct net *t, const struct step *s, uint16_t type, uint16_t flags,
		 const void *head, size_t n)
{
	if (t->m.seq == STEPS_MAX)
		batch_send(t);
	t->steps[t->m.seq] = *s;
	nl_begin(&t->m, type, NLM_F_ACK | flags, head, n);
}

static void set_link(struct net *t, const struct step *s, int index, unsigned int flags,
		     unsigned int change)
{
	struct ifinfomsg h = { .ifi_family = AF_UNSPEC,
			       .ifi_index = index,
			       .ifi_flags = flags,
			       .ifi_change = change };

	step(t, s, RTM_NEWLINK, 0, &h, sizeof(h));
}

/* ---- the changes ---- */

static void drop(struct net *t, const struct nic *c, const struct address *a)
{
	struct ifaddrmsg h = { .ifa_family = a->family,
			       .ifa_prefixlen = a->prefix,
			       .ifa_index = (uint32_t)c->index };
	struct step s = { c->name, "remove an address", FINE_GONE };

	step(t, &s, RTM_DELADDR, 0, &h, sizeof(h));
	nl_attr(&t->m, IFA_LOCAL, a->bytes, a->family == AF_INET ? 4 : 16);
}

static void add4(struct net *t, const struct nic *c)
{
	const struct proto_nic *w = c->want;
	struct ifaddrmsg h = { .ifa_family = AF_INET,
			       .ifa_prefixlen = w->prefix4,
			       .ifa_index = (uint32_t)c->index };
	struct step s = { c->name, "IPv4 address", 0 };
	uint8_t broadcast[4];

	step(t, &s, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &h, sizeof(h));
	nl_attr(&t->m, IFA_LOCAL, w->ip4, 4);
	nl_attr(&t->m, IFA_ADDRESS, w->ip4, 4);
	if (w->prefix4 > 30)
		return;
	for (unsigned int i = 0; i < 4; i++) {
		unsigned int net_bits = w->prefix4 > 8 * i ? w->prefix4 - 8 * i : 0;

		broadcast[i] = (uint8_t)(w->ip4[i] | (net_bits < 8 ? 0xffu >> net_bits : 0));
	}
	nl_attr(&t->m, IFA_BROADCAST, broadcast, 4);
}

/* Without duplicate address detection: nobody may have it, and it would cost a second. */
static void add6(struct net *t, const struct nic *c, const uint8_t *ip, uint8_t prefix,
		 const char *what)
{
	struct ifaddrmsg h = { .ifa_family = AF_INET6,
			       .ifa_prefixlen = prefix,
			       .ifa_flags = IFA_F_NODAD,
			       .ifa_index = (uint32_t)c->index };
	struct step s = { c->name, what, FINE_V6 | FINE_THERE };

	step(t, &s, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &h, sizeof(h));
	nl_attr(&t->m, IFA_ADDRESS, ip, 16);
}

static bool in_prefix(const uint8_t *a, const uint8_t *b, unsigned int bits)
{
	for (unsigned int i = 0; i < bits; i++)
		if ((a[i / 8] ^ b[i / 8]) & (0x80u >> i % 8))
			return false;
	return true;
}

/* gw NULL: removes the route. */
static void default_route(struct net *t, const struct nic *c, int family, const uint8_t *gw,
			  bool direct)
{
	size_t len = family == AF_INET ? 4 : 16;
	struct rtmsg h = { .rtm_family = (uint8_t)family,
			   .rtm_table = RT_TABLE_MAIN,
			   .rtm_protocol = gw ? RTPROT_STATIC : RTPROT_UNSPEC,
			   .rtm_scope = gw ? RT_SCOPE_UNIVERSE : RT_SCOPE_NOWHERE,
			   .rtm_type = gw ? RTN_UNICAST : RTN_UNSPEC,
			   .rtm_flags = gw && !direct ? RTNH_F_ONLINK : 0 };
	struct step s = { c->name, family == AF_INET ? "IPv4 default route" : "IPv6 default route",
			  (family == AF_INET6 ? FINE_V6 : 0) | (gw ? 0 : FINE_GONE) };

	step(t, &s, gw ? RTM_NEWROUTE : RTM_DELROUTE, gw ? NLM_F_CREATE | NLM_F_REPLACE : 0, &h,
	     sizeof(h));
	nl_u32(&t->m, RTA_OIF, (uint32_t)c->index);
	if (!gw)
		return;
	nl_attr(&t->m, RTA_GATEWAY, gw, len);
	/* The first of the list is preferred; two of one metric would replace each other. */
	nl_u32(&t->m, RTA_PRIORITY, (uint32_t)(c - t->l.nics) + (family == AF_INET6 ? METRIC6 : 0));
}

/* The link-local address that the kernel makes of a MAC. */
static void link_local(uint8_t ip[16], const uint8_t mac[6])
{
	const uint8_t made[16] = { 0xfe, 0x80, [8] = mac[0] ^ 2, mac[1], mac[2],
				   0xff, 0xfe, mac[3],		 mac[4], mac[5] };

	memcpy(ip, made, 16);
}

static bool is_link_local(const struct address *a)
{
	return a->family == AF_INET6 && a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

/* Is this one to go? */
static bool unwanted(const struct net *t, const struct nic *c, const struct address *a)
{
	const struct proto_nic *w = c->want;
	uint8_t old[16], new[16];

	if (is_link_local(a)) {
		link_local(old, c->mac);
		link_local(new, w->mac);
		if (!memcmp(a->bytes, new, 16))
			return false;
		return t->id->fork || !memcmp(a->bytes, old, 16);
	}
	if (t->id->fork)
		return true;
	if (a->family == AF_INET)
		return w->prefix4 && (a->prefix != w->prefix4 || memcmp(a->bytes, w->ip4, 4) != 0);
	return w->prefix6 && (a->prefix != w->prefix6 || memcmp(a->bytes, w->ip6, 16) != 0);
}

/* Removes what is to go. True: a link-local address went, or there must be one now. */
static bool drop_inherited(struct net *t, const struct nic *c)
{
	bool need = c->want->prefix6 != 0, v6 = false;

	for (size_t i = 0; i < t->l.naddrs; i++) {
		const struct address *a = &t->l.addrs[i];

		if (a->index != c->index)
			continue;
		v6 |= a->family == AF_INET6;
		if (!unwanted(t, c, a))
			continue;
		drop(t, c, a);
		need |= is_link_local(a);
	}
	/* IPv4 routes go with the last address. Of IPv6 there may be ours and one that a router
	 * has told. */
	for (int i = 0; t->id->fork && v6 && i < 2; i++)
		default_route(t, c, AF_INET6, NULL, true);
	return need;
}

static void configure(struct net *t, const struct nic *c, bool restart)
{
	static const uint8_t none[16];
	const struct proto_nic *w = c->want;
	uint8_t ll[16];
	bool need_ll;

	if (restart)
		set_link(t, &(struct step){ c->name, "set down", 0 }, c->index, 0, IFF_UP);
	if (memcmp(c->mac, w->mac, 6) != 0) {
		set_link(t, &(struct step){ c->name, "MAC", restart ? 0 : FINE_BUSY }, c->index, 0,
			 0);
		nl_attr(&t->m, IFLA_ADDRESS, w->mac, 6);
	}
	/* one that was made for a smaller MTU goes on with that: smaller packets get through */
	if (w->mtu && w->mtu != c->mtu && (!c->max_mtu || w->mtu <= c->max_mtu)) {
		set_link(t, &(struct step){ c->name, "MTU", 0 }, c->index, 0, 0);
		nl_u32(&t->m, IFLA_MTU, w->mtu);
	}
	need_ll = drop_inherited(t, c);
	if (restart || (!c->up && (w->prefix4 || w->prefix6)))
		set_link(t, &(struct step){ c->name, "set up", 0 }, c->index, IFF_UP, IFF_UP);
	if (need_ll) {
		/* The kernel makes one when an interface comes up, not when its MAC changes. */
		link_local(ll, w->mac);
		add6(t, c, ll, 64, "link-local address");
	}
	if (w->prefix4)
		add4(t, c);
	if (w->prefix6)
		add6(t, c, w->ip6, w->prefix6, "IPv6 address");
	if (w->prefix4 && memcmp(w->gw4, none, 4) != 0)
		default_route(t, c, AF_INET, w->gw4, in_prefix(w->gw4, w->ip4, w->prefix4));
	if (w->prefix6 && memcmp(w->gw6, none, 16) != 0)
		default_route(t, c, AF_INET6, w->gw6,
			      w->gw6[0] == 0xfe || in_prefix(w->gw6, w->ip6, w->prefix6));
	batch_send(t);
}

static void change(struct net *t)
{
	batch_begin(t);
	if (t->l.lo)
		set_link(t, &(struct step){ "lo", "set up", 0 }, t->l.lo, IFF_UP, IFF_UP);
	for (size_t i = 0; i < t->l.nnics && !t->err; i++) {
		struct nic *c = &t->l.nics[i];
		const uint8_t *m = c->want->driver_mac;

		if (!c->rank) {
			identity_remark(t->id, "no interface has MAC %02x:%02x:%02x:%02x:%02x:%02x",
					m[0], m[1], m[2], m[3], m[4], m[5]);
			continue;
		}
		t->busy = t->no_v6 = false;
		configure(t, c, false);
		if (t->busy && !t->err)
			configure(t, c, true);
		if (t->no_v6 && c->want->prefix6)
			identity_remark(t->id, "%s: IPv6 is off", c->name);
	}
	batch_send(t); /* lo alone */
}

int net_apply(struct identity *id, const struct proto_identity *x)
{
	struct net *t;
	int r;

	if (!x->nnics)
		return 0;
	snprintf(id->step, sizeof(id->step), "network");
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->id = id;
	t->l.nnics = x->nnics;
	for (size_t i = 0; i < t->l.nnics; i++)
		t->l.nics[i].want = &x->nics[i];
	t->fd = netsock_open(NETLINK_ROUTE);
	r = t->fd < 0 ? t->fd : netlook(t->fd, &t->l);
	if (!r) {
		if (id->fork)
			tcp_refuse(id);
		change(t);
		r = t->err;
		resolv_apply(id, x);
	}
	if (t->fd >= 0)
		close(t->fd);
	netlook_fini(&t->l);
	free(t);
	return r;
}
