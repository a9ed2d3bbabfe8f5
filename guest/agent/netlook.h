/* SPDX-License-Identifier: MIT */
/*
 * What a guest's network is before IDENTITY changes it: the interfaces of the NICs in its list, and
 * their addresses.
 */
#ifndef CLONE_AGENT_NETLOOK_H
#define CLONE_AGENT_NETLOOK_H

#include <linux/if.h>

#include "../proto.h"

struct nic { /* an interface that is one of the list */
	const struct proto_nic *want;
	int index, rank; /* how surely it is this one; 0: there is none */
	char name[IFNAMSIZ];
	uint8_t mac[6];
	uint32_t mtu, max_mtu; /* max_mtu 0: the kernel does not say */
	bool up;
};

struct address {
	int index;
	uint8_t family, prefix, bytes[16];
};

struct netlook {
	struct nic nics[PROTO_MAX_NICS]; /* `want` is the caller's to set */
	size_t nnics;
	int lo; /* when it is down */
	struct address *addrs;
	size_t naddrs, cap;
	bool more; /* addresses than we could note */
};

/* Two dumps on a NETLINK_ROUTE socket. Returns 0 or -errno (-E2BIG: see `more`); netlook_fini
 * either way. */
int netlook(int fd, struct netlook *l);
void netlook_fini(struct netlook *l);

#endif
