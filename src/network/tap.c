/* SPDX-License-Identifier: MIT */
/*
 * TAPs, and what the host has on them: one gateway's address and MAC on every TAP, a route to its
 * guest and a neighbour that nobody can change. A guest that comes from another TAP (a fork) finds
 * all of that where it was.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_bridge.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/ip.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/util.h"
#include "net/responder.h"
#include "network/private.h"

#define TUN_PATH "/dev/net/tun"
#define HEADER_BYTES 12
#define BATCH_TAPS 32u
#define TAP_BYTES 1024u /* of messages, at most */
#define TAP_GROUP 0xc1000000u

/* fe80::1 on every TAP. */
static const uint8_t gateway6[16] = { 0xfe, 0x80, [15] = 1 };
static const uint8_t gateway_mac[NIC_MAC] = NIC_GATEWAY_MAC;

static int one_queue(const char *name, short flags, int *out, struct err *e)
{
	struct ifreq ifr = { .ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags) };
	cleanup_close int fd = open(TUN_PATH, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int header = HEADER_BYTES;

	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return err_set(e, ENOENT, TUN_PATH " is missing: modprobe tun");
	if (fd < 0)
		return err_sys(e, errno, TUN_PATH);
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(fd, TUNSETIFF, &ifr))
		return errno == EPERM && need_admin(e) ? -EPERM : err_sys(e, errno, "TAP %s", name);
	if (ioctl(fd, TUNSETVNETHDRSZ, &header))
		return err_sys(e, errno, "TAP %s: header", name);
	/* without an owner anybody who can open /dev/net/tun may attach to it by its name */
	if (ioctl(fd, TUNSETOWNER, 0ul))
		return err_sys(e, errno, "TAP %s: owner", name);
	*out = take_fd(&fd);
	return 0;
}

int tap_open(const char *name, unsigned int queues, int *fd, struct err *e)
{
	short flags = queues > 1 ? IFF_MULTI_QUEUE : 0;

	for (unsigned int i = 0; i < queues; i++) {
		int r = one_queue(name, flags, &fd[i], e);

		if (r) {
			while (i--)
				close(take_fd(&fd[i]));
			return r;
		}
	}
	return 0;
}

int tap_persist(int fd, bool on, struct err *e)
{
	return ioctl(fd, TUNSETPERSIST, (unsigned long)on) ? err_sys(e, errno, "TAP: persistence")
							   : 0;
}

bool tap_is_persistent(int fd)
{
	struct ifreq ifr = { 0 };

	return !ioctl(fd, TUNGETIFF, &ifr) && (ifr.ifr_flags & IFF_PERSIST);
}

int tap_packet_socket(const char *name, struct err *e)
{
	/* not of a protocol before it is bound: it would hear all interfaces */
	cleanup_close int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_ll to = { .sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_P_ALL),
				  .sll_ifindex = (int)if_nametoindex(name) };
	int on = 1;

	int r = fd < 0 ? err_sys(e, errno, "packet socket") : responder_filter(fd, e);

	if (r)
		return r;
	if (!to.sll_ifindex ||
	    setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) ||
	    bind(fd, (struct sockaddr *)&to, sizeof(to)))
		return err_sys(e, errno, "packet socket on %s", name);
	return take_fd(&fd);
}

/* ---- messages ---- */

static void link_begin(struct nl_msg *m, uint16_t type, int index, bool up)
{
	struct ifinfomsg ifi = { .ifi_index = index };

	if (up)
		ifi.ifi_flags = ifi.ifi_change = IFF_UP;
	nl_begin(m, type, 0, &ifi, sizeof(ifi));
}

static void ask_link(struct nl_msg *m, const struct network *nw, const struct lease *l, int index,
		     unsigned int bridge, bool ip6)
{
	/* a bridge takes the lowest MAC among its ports: ours is never that */
	uint8_t high[NIC_MAC] = { 0xfe,
				  0xc1,
				  (uint8_t)(nw->id >> 8),
				  (uint8_t)nw->id,
				  (uint8_t)(l->slot >> 8),
				  (uint8_t)l->slot };
	uint8_t none = IN6_ADDR_GEN_MODE_NONE;
	size_t spec, family, conf;

	link_begin(m, RTM_NEWLINK, index, false);
	nl_attr(m, IFLA_ADDRESS, bridge ? high : gateway_mac, NIC_MAC);
	nl_u32(m, IFLA_MTU, nw->mtu);
	nl_u32(m, IFLA_GROUP, TAP_GROUP | nw->id);
	spec = nl_nest(m, IFLA_AF_SPEC);
	family = nl_nest(m, AF_INET);
	conf = nl_nest(m, IFLA_INET_CONF);
	nl_u32(m, IPV4_DEVCONF_ARP_IGNORE, 1);
	/* also for ARP, which nft does not see: no neighbour but the guest is learned, or it could
	 * fill the host's table; and when somebody has flushed the rules */
	if (!bridge)
		nl_u32(m, IPV4_DEVCONF_RP_FILTER, 1);
	nl_u32(m, IPV4_DEVCONF_ACCEPT_REDIRECTS, 0);
	nl_u32(m, IPV4_DEVCONF_SEND_REDIRECTS, 0);
	nl_u32(m, IPV4_DEVCONF_ROUTE_LOCALNET, l->nr_publish > 0);
	nl_nest_end(m, conf);
	nl_nest_end(m, family);
	if (ip6) {
		family = nl_nest(m, AF_INET6);
		nl_attr(m, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof(none));
		nl_nest_end(m, family);
	}
	nl_nest_end(m, spec);
	if (bridge)
		nl_u32(m, IFLA_MASTER, bridge);
}

/* What a bridge does with this port: no way to others of its kind, and no spanning tree of a
 * guest's. */
static void ask_port(struct nl_msg *m, const struct network *nw, int index)
{
	struct ifinfomsg ifi = { .ifi_family = AF_BRIDGE, .ifi_index = index };
	uint8_t isolated = !(nw->allow & NETWORK_ALLOW_PEERS), guard = 1;
	size_t at;

	nl_begin(m, RTM_SETLINK, 0, &ifi, sizeof(ifi));
	at = nl_nest(m, IFLA_PROTINFO);
	nl_attr(m, IFLA_BRPORT_ISOLATED, &isolated, 1);
	nl_attr(m, IFLA_BRPORT_GUARD, &guard, 1);
	nl_nest_end(m, at);
}

static void ask_address(struct nl_msg *m, uint8_t family, const uint8_t *a, size_t n,
			uint8_t prefix, uint32_t flags, int index)
{
	struct ifaddrmsg ifa = { .ifa_family = family,
				 .ifa_prefixlen = prefix,
				 .ifa_index = (unsigned int)index };

	if (family == AF_INET6)
		ifa.ifa_scope = RT_SCOPE_LINK;
	nl_begin(m, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &ifa, sizeof(ifa));
	nl_attr(m, IFA_LOCAL, a, n);
	nl_attr(m, IFA_ADDRESS, a, n);
	nl_u32(m, IFA_FLAGS, flags);
}

static void ask_route(struct nl_msg *m, uint8_t family, const uint8_t *a, size_t n, uint8_t prefix,
		      const uint8_t *src, int index)
{
	struct rtmsg rt = { .rtm_family = family,
			    .rtm_dst_len = prefix,
			    .rtm_table = RT_TABLE_MAIN,
			    .rtm_protocol = RTPROT_STATIC,
			    .rtm_scope = family == AF_INET ? RT_SCOPE_LINK : RT_SCOPE_UNIVERSE,
			    .rtm_type = RTN_UNICAST };

	nl_begin(m, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &rt, sizeof(rt));
	nl_attr(m, RTA_DST, a, n);
	nl_u32(m, RTA_OIF, (uint32_t)index);
	if (src)
		nl_attr(m, RTA_PREFSRC, src, n);
}

static void ask_neighbour(struct nl_msg *m, uint8_t family, const uint8_t *a, size_t n,
			  const uint8_t *mac, int index)
{
	struct ndmsg nd = { .ndm_family = family,
			    .ndm_ifindex = index,
			    .ndm_state = NUD_PERMANENT };

	nl_begin(m, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &nd, sizeof(nd));
	nl_attr(m, NDA_DST, a, n);
	nl_attr(m, NDA_LLADDR, mac, NIC_MAC);
}

static void ask_all(struct nl_msg *m, const struct network *nw, const struct lease *l, int index,
		    unsigned int bridge, bool ip6)
{
	uint8_t gw[4], net6[16] = { 0 };

	ask_link(m, nw, l, index, bridge, ip6);
	if (bridge)
		ask_port(m, nw, index);
	link_begin(m, RTM_NEWLINK, index, true);
	if (bridge)
		return;
	if (!bytes_are_zero(l->ip4, 4)) {
		gateway_ip4(nw, gw);
		ask_address(m, AF_INET, gw, 4, 32, IFA_F_NOPREFIXROUTE, index);
		ask_route(m, AF_INET, l->ip4, 4, 32, gw, index);
		ask_neighbour(m, AF_INET, l->ip4, 4, l->mac, index);
	}
	if (ip6 && !bytes_are_zero(l->ip6, 16)) {
		memcpy(net6, l->ip6, 8);
		ask_address(m, AF_INET6, gateway6, 16, 64, IFA_F_NODAD, index);
		ask_route(m, AF_INET6, net6, 16, 64, NULL, index);
		ask_neighbour(m, AF_INET6, l->ip6, 16, l->mac, index);
	}
}

/* A guest is no router of the host's; beside the rules, which drop what it would say. */
static void no_advertisements(const char *tap)
{
	cleanup_close int fd = -1;
	char path[96];

	snprintf(path, sizeof(path), "/proc/sys/net/ipv6/conf/%s/accept_ra", tap);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0)
		(void)!write(fd, "0", 1);
}

static int setup_batch(int sock, const struct network *nw, const struct lease *l, size_t n,
		       unsigned int bridge, struct err *e)
{
	bool ip6 = host_has_ip6() && nw->mtu >= 1280;
	cleanup_free uint8_t *buf = malloc(n * TAP_BYTES);
	struct nl_msg m;

	if (!buf)
		return err_set(e, ENOMEM, "TAPs: out of memory");
	nl_init(&m, buf, n * TAP_BYTES);
	for (size_t i = 0; i < n; i++) {
		unsigned int index = if_nametoindex(l[i].tap);

		if (!index)
			return err_sys(e, errno, "TAP %s", l[i].tap);
		if (ip6)
			no_advertisements(l[i].tap);
		ask_all(&m, nw, &l[i], (int)index, bridge, ip6);
	}
	nl_want_ack(&m);
	return nl_run(sock, &m, 0, n == 1 ? l->tap : "TAPs", e);
}

int taps_setup(const struct network *nw, const struct lease *l, size_t n, struct err *e)
{
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, e);
	unsigned int bridge = 0;
	int r = MIN(sock, 0);

	if (!r && nw->mode == NETWORK_BRIDGE) {
		r = bridge_check(nw->bridge, NULL, e);
		bridge = if_nametoindex(nw->bridge);
	}
	for (size_t at = 0; !r && at < n; at += BATCH_TAPS)
		r = setup_batch(sock, nw, l + at, MIN(n - at, BATCH_TAPS), bridge, e);
	return r;
}

void tap_delete(const char *name)
{
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, NULL);
	struct ifinfomsg ifi = { .ifi_family = AF_UNSPEC };
	uint8_t buf[256];
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_DELLINK, NLM_F_ACK, &ifi, sizeof(ifi));
	nl_str(&m, IFLA_IFNAME, name);
	if (sock >= 0)
		nl_run(sock, &m, ENODEV, name, NULL);
}

void taps_delete_all(const struct network *nw)
{
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, NULL);
	struct ifinfomsg ifi = { .ifi_family = AF_UNSPEC };
	uint8_t buf[256];
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_DELLINK, NLM_F_ACK, &ifi, sizeof(ifi));
	nl_u32(&m, IFLA_GROUP, TAP_GROUP | nw->id);
	if (sock >= 0)
		nl_run(sock, &m, ENODEV, nw->name, NULL);
}
