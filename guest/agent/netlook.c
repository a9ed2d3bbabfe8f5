/* SPDX-License-Identifier: MIT */
/*
 * See netlook.h. Agent's thread. rtnetlink(7).
 */
#include "netlook.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "netsock.h"

#define ADDRESSES_MAX 4096u /* of all interfaces */

/*
 * A permanent address names its interface for good; the others have only the one they use now,
 * which what is stacked on them (a VLAN) has too. The new one is there when it was given before, or
 * when the guest has booted again since.
 */
static int rank(const struct proto_nic *want, const uint8_t *permanent, const uint8_t *mac)
{
	if (permanent && !memcmp(permanent, want->driver_mac, 6))
		return 4;
	if (permanent)
		return memcmp(permanent, want->mac, 6) != 0 ? 0 : 3;
	if (!memcmp(mac, want->driver_mac, 6))
		return 2;
	return memcmp(mac, want->mac, 6) != 0 ? 0 : 1;
}

static void on_link(void *arg, const uint8_t *body, size_t n)
{
	struct netlook *l = arg;
	struct ifinfomsg h;
	uint8_t mac[6], permanent[6];
	const uint8_t *name;
	bool has_permanent;
	uint32_t mtu = 0, max_mtu = 0;
	size_t len = 0;

	if (n < sizeof(h))
		return;
	memcpy(&h, body, sizeof(h));
	body += sizeof(h);
	n -= sizeof(h);
	if (h.ifi_flags & IFF_LOOPBACK) {
		l->lo = h.ifi_flags & IFF_UP ? 0 : h.ifi_index;
		return;
	}
	if (!nl_get(body, n, IFLA_ADDRESS, mac, sizeof(mac)))
		return;
	has_permanent = nl_get(body, n, IFLA_PERM_ADDRESS, permanent, sizeof(permanent));
	nl_get(body, n, IFLA_MTU, &mtu, sizeof(mtu));
	nl_get(body, n, IFLA_MAX_MTU, &max_mtu, sizeof(max_mtu));
	name = nl_find(body, n, IFLA_IFNAME, &len);
	for (size_t i = 0; i < l->nnics; i++) {
		struct nic *c = &l->nics[i];
		int r = rank(c->want, has_permanent ? permanent : NULL, mac);

		if (r <= c->rank)
			continue;
		c->rank = r;
		c->index = h.ifi_index;
		c->up = h.ifi_flags & IFF_UP;
		c->mtu = mtu;
		c->max_mtu = max_mtu;
		memcpy(c->mac, mac, sizeof(mac));
		snprintf(c->name, sizeof(c->name), "%.*s", (int)len, name ? (char *)name : "");
	}
}

static bool is_ours(const struct netlook *l, int index)
{
	for (size_t i = 0; i < l->nnics; i++)
		if (l->nics[i].rank && l->nics[i].index == index)
			return true;
	return false;
}

static bool room(struct netlook *l)
{
	size_t cap = l->cap ? 2 * l->cap : 32;
	struct address *a;

	if (l->naddrs < l->cap)
		return true;
	a = cap <= ADDRESSES_MAX ? realloc(l->addrs, cap * sizeof(*a)) : NULL;
	if (!a)
		return false;
	l->addrs = a;
	l->cap = cap;
	return true;
}

static void on_address(void *arg, const uint8_t *body, size_t n)
{
	struct netlook *l = arg;
	struct address a = { 0 };
	struct ifaddrmsg h;
	size_t len;

	if (n < sizeof(h))
		return;
	memcpy(&h, body, sizeof(h));
	body += sizeof(h);
	n -= sizeof(h);
	if (!is_ours(l, (int)h.ifa_index) || (h.ifa_family != AF_INET && h.ifa_family != AF_INET6))
		return;
	if (h.ifa_scope == RT_SCOPE_HOST) /* nobody else can mistake that for its own */
		return;
	a.index = (int)h.ifa_index;
	a.family = h.ifa_family;
	a.prefix = h.ifa_prefixlen;
	len = a.family == AF_INET ? 4 : 16;
	/* IFA_ADDRESS is the peer's where there is one. */
	if (!nl_get(body, n, IFA_LOCAL, a.bytes, len) &&
	    !nl_get(body, n, IFA_ADDRESS, a.bytes, len))
		return;
	if (room(l))
		l->addrs[l->naddrs++] = a;
	else
		l->more = true;
}

int netlook(int fd, struct netlook *l)
{
	struct ifinfomsg links = { .ifi_family = AF_UNSPEC };
	struct ifaddrmsg addrs = { .ifa_family = AF_UNSPEC };
	uint8_t buf[128];
	struct nl_msg m;
	size_t found = 0;
	int r;

	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETLINK, NLM_F_DUMP, &links, sizeof(links));
	r = netsock_dump(fd, &m, on_link, l);
	for (size_t i = 0; i < l->nnics; i++)
		found += l->nics[i].rank != 0;
	if (r || !found)
		return r;
	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETADDR, NLM_F_DUMP, &addrs, sizeof(addrs));
	r = netsock_dump(fd, &m, on_address, l);
	return !r && l->more ? -E2BIG : r;
}

void netlook_fini(struct netlook *l)
{
	free(l->addrs);
	l->addrs = NULL;
}
