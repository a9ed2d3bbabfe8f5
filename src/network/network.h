/* SPDX-License-Identifier: MIT */
/*
 * Networks of the host, from the privileged side: what they are, the TAPs, addresses and rules that
 * VMs get on them, and their removal. No daemon: a definition is a file, an address is taken by
 * whoever has its lease file locked, a TAP lives as long as somebody has it open, and what a crash
 * left is found and removed by the next command.
 *
 * How a network is made (nat and isolated): each NIC has a TAP of its own, with a route to its
 * guest's address; there is no bridge and guests share no segment. Every TAP has the same host-side
 * MAC and the gateway's address, so that a fork, which moves to another TAP, finds its gateway
 * where it was. Rules are in one nftables table of ours ("inet clone"): static, with an element in
 * sets and maps for each TAP.
 *
 * One thread; blocks. Needs CAP_NET_ADMIN, but for reading definitions.
 */
#ifndef CLONE_NETWORK_NETWORK_H
#define CLONE_NETWORK_NETWORK_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "net/address.h"

#define NETWORK_NAME_MAX 32
#define NETWORK_DEFAULT "default"
#define NETWORK_QUEUES_MAX 8
#define NETWORK_PUBLISH_MAX 32
#define NETWORK_TAP_MAX 16 /* IFNAMSIZ */

enum network_mode {
	NETWORK_NAT,	  /* guests reach out by the host's address */
	NETWORK_ISOLATED, /* guests reach nobody; the host reaches them, and so do published ports
			   */
	NETWORK_BRIDGE,	  /* guests are on an existing bridge's network, whose DHCP serves them */
};

/* What guests may reach beside the outside (nat). */
enum { NETWORK_ALLOW_PEERS = 1, NETWORK_ALLOW_HOST = 2, NETWORK_ALLOW_METADATA = 4 };

struct network {
	char name[NETWORK_NAME_MAX + 1];
	enum network_mode mode;
	uint16_t id;		      /* in TAPs' names; drawn when it was made */
	unsigned int allow;	      /* NETWORK_ALLOW_* */
	uint8_t subnet4[4], prefix4;  /* the gateway is its first address */
	uint8_t subnet6[16], prefix6; /* a /48 with a /64 for each guest; prefix6 0: no IPv6 */
	char bridge[NETWORK_TAP_MAX]; /* NETWORK_BRIDGE: the interface */
	uint16_t mtu;
	uint8_t nr_dns; /* 0: the host's resolvers as they are when a guest is attached */
	struct nic_dns dns[NIC_DNS_MAX];
};

/* What `network create` was told; what is zero or NULL is chosen. */
struct network_options {
	enum network_mode mode;
	unsigned int allow;
	const char *subnet4; /* "10.1.0.0/20"; /16 to /29 */
	const char *subnet6; /* "fd12:3456:789a::/48", or "none" */
	const char *bridge;
	const char *dns;  /* "1.1.1.1,2606:4700::1111" */
	unsigned int mtu; /* 0: 1500, or the bridge's */
};

/*
 * -EINVAL (says what is wrong: a subnet that overlaps a network's or a route of the host's, a name,
 * an option), -EEXIST, -ENODEV (no such bridge), -EPERM. Nothing is half-made.
 */
int network_create(const char *name, const struct network_options *o, struct network *out,
		   struct err *e);
/* -ENOENT. NETWORK_DEFAULT is made when it is not there: nat. */
int network_open(const char *name, struct network *out, struct err *e);
/* -ENOENT; -EBUSY: names a VM that is on it. Takes all of it off the host. */
int network_remove(const char *name, struct err *e);
/* Names, sorted. */
int network_list(char ***names, size_t *n, struct err *e);
void network_list_free(char **names, size_t n);
const char *network_mode_name(enum network_mode m);
int network_mode_parse(const char *s, enum network_mode *m);
/* "peers,host" */
int network_allow_parse(const char *list, unsigned int *allow, struct err *e);
/* For people and machines: definition, "vms": [{"vm","tap","mac","ipv4","ipv6","publish"}],
 * "waiting" (TAPs made ahead), "warnings": sentences about what keeps it from working. */
int network_describe(const struct network *nw, json_t **out, struct err *e);

/* What of the host keeps guests' packets: an array of sentences (empty: nothing). Runs nft. */
int network_obstacles(json_t **out, struct err *e);

struct network_publish {
	bool udp;
	uint16_t host_port, guest_port;
};

/* What one NIC of one VM asks for. */
struct network_want {
	const char *vm;	     /* name: it gets the address that it had last, when that is free */
	const uint8_t *ip4;  /* or NULL */
	const uint8_t *mac;  /* or NULL */
	unsigned int queues; /* pairs: 1..NETWORK_QUEUES_MAX */
	const struct network_publish *publish;
	size_t nr_publish;
};

/* What it gets. Descriptors are the caller's, close-on-exec; those of a zeroed-and-initialised port
 * are -1. */
struct network_port {
	struct nic_address addr;
	char tap[NETWORK_TAP_MAX];
	int tap_fd[NETWORK_QUEUES_MAX]; /* attached, IFF_VNET_HDR with a header of 12 bytes */
	int packet_fd;			/* AF_PACKET on the TAP, with the responder's filter */
	int lease_fd; /* locked: the address is taken as long as anybody has this open */
	/* Bound, not listening: the host's ports are taken as long as these are open. */
	int publish_fd[2 * NETWORK_PUBLISH_MAX];
	size_t nr_publish_fd;
};

void network_port_init(struct network_port *p);
/*
 * n NICs on one network, all or none; in one go, so that a hundred forks wait once. Puts the
 * host's side (table, forwarding) in order first when it is not. -ENOENT; -ENOSPC: the subnet is
 * used up; -EADDRINUSE: an address or a port of the host is taken (says by whom, if known);
 * -EINVAL: an address outside of the subnet; -EPERM; -ENODEV.
 */
int network_attach(const struct network *nw, const struct network_want *want, size_t n,
		   struct network_port *out, struct err *e);
/* Closes our copies. What nobody else holds is free, and swept at the next occasion. */
void network_port_close(struct network_port *p);

/*
 * Removes what dead VMs left (rules, leases, TAPs) and, when no lease of a network is held, all of
 * it, pool included; when none of any network is, the table, and host settings that we changed go
 * back. Cheap when there is nothing to do; silent; errors are nobody's concern. Does nothing
 * without CAP_NET_ADMIN.
 */
void network_sweep(void);
/*
 * Makes TAPs ahead until `spare` wait on the network, if anybody is on it or holds it. For a
 * process in the background.
 */
int network_refill(const struct network *nw, unsigned int spare, struct err *e);
/*
 * Keeps the network and the TAPs that wait although nobody is on it, as long as the descriptor that
 * is returned is open anywhere: for whoever will want one soon (a seed). -errno.
 */
int network_hold(const struct network *nw, struct err *e);

#endif
