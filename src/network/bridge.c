/* SPDX-License-Identifier: MIT */
/*
 * What we ask of a bridge that is somebody else's.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

struct seen {
	bool bridge;
	uint32_t mtu, oif;
	uint8_t gw[4];
};

static int see_link(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n)
{
	size_t head = NLMSG_ALIGN(sizeof(struct ifinfomsg)), len, kind_len;
	const uint8_t *info, *kind;
	struct seen *s = arg;

	if (h->nlmsg_type != RTM_NEWLINK || n < head)
		return 0;
	nl_get(body + head, n - head, IFLA_MTU, &s->mtu, sizeof(s->mtu));
	info = nl_find(body + head, n - head, IFLA_LINKINFO, &len);
	kind = info ? nl_find(info, len, IFLA_INFO_KIND, &kind_len) : NULL;
	s->bridge = kind && kind_len >= 6 && !memcmp(kind, "bridge", 6);
	return 0;
}

int bridge_check(const char *name, unsigned int *mtu, struct err *e)
{
	struct ifinfomsg ifi = { .ifi_family = AF_UNSPEC };
	struct seen s = { .bridge = false };
	cleanup_close int sock = -1;
	uint8_t buf[256];
	struct nl_msg m;
	int r;

	if (!if_name_ok(name))
		return err_set(e, EINVAL, "'%.40s' cannot be an interface", name);
	sock = nl_socket(NETLINK_ROUTE, e);
	if (sock < 0)
		return sock;
	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETLINK, NLM_F_ACK, &ifi, sizeof(ifi));
	nl_str(&m, IFLA_IFNAME, name);
	r = nl_dump(sock, &m, see_link, &s, e);
	if (r == -ENODEV)
		return err_set(e, ENODEV,
			       "there is no interface %s: make the bridge first (ip link add %s "
			       "type bridge)",
			       name, name);
	if (r)
		return r;
	if (!s.bridge)
		return err_set(e, ENODEV, "%s is not a bridge", name);
	if (mtu)
		*mtu = s.mtu;
	return 0;
}

static int see_route(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n)
{
	size_t head = NLMSG_ALIGN(sizeof(struct rtmsg));
	struct seen *s = arg;
	struct rtmsg rt;
	uint32_t oif;

	if (h->nlmsg_type != RTM_NEWROUTE || n < head)
		return 0;
	memcpy(&rt, body, sizeof(rt));
	if (!rt.rtm_dst_len && nl_get(body + head, n - head, RTA_OIF, &oif, sizeof(oif)) &&
	    oif == s->oif)
		nl_get(body + head, n - head, RTA_GATEWAY, s->gw, sizeof(s->gw));
	return 0;
}

/* The host's own way out, if that leads over the bridge. */
static void gateway_of(const char *name, uint8_t gw[4])
{
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, NULL);
	struct rtmsg rt = { .rtm_family = AF_INET };
	struct seen s = { .oif = if_nametoindex(name) };
	uint8_t buf[128];
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETROUTE, NLM_F_DUMP, &rt, sizeof(rt));
	if (sock >= 0)
		nl_dump(sock, &m, see_route, &s, NULL);
	memcpy(gw, s.gw, 4);
}

bool bridge_prefix(const char *name, uint8_t *prefix, uint8_t gw[4])
{
	struct ifaddrs *all = NULL;
	bool found = false;

	if (getifaddrs(&all))
		return false;
	for (struct ifaddrs *i = all; i && !found; i = i->ifa_next) {
		struct sockaddr_in mask;

		if (strcmp(i->ifa_name, name) || !i->ifa_addr || !i->ifa_netmask ||
		    i->ifa_addr->sa_family != AF_INET)
			continue;
		memcpy(&mask, i->ifa_netmask, sizeof(mask));
		*prefix = (uint8_t)__builtin_popcount(mask.sin_addr.s_addr);
		found = *prefix > 0;
	}
	freeifaddrs(all);
	if (found)
		gateway_of(name, gw);
	return found;
}
