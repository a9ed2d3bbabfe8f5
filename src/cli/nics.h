/* SPDX-License-Identifier: MIT */
/*
 * A machine's NICs from the caller's side: the options that ask for them, places on networks for
 * one machine or for many forks at once, and those handed to VM processes. One thread.
 */
#ifndef CLONE_CLI_NICS_H
#define CLONE_CLI_NICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "network/network.h"

struct vmproc;

/* ---- options ---- */

struct nic_want {
	const char *network;
	uint64_t queues;	     /* 0: 1 */
	uint64_t rx_bytes, tx_bytes; /* a second, at most; 0: no limit */
};

struct nic_options {
	struct nic_want nic[NICS_MAX];
	size_t n;
	bool none; /* --network none */
	/* of the first NIC */
	bool has_ip4, has_mac;
	uint8_t ip4[4], mac[NIC_MAC];
	struct network_publish publish[NETWORK_PUBLISH_MAX];
	size_t nr_publish;
};

/* --network NAME[,queues=N][,rx=SIZE][,tx=SIZE] or none; cuts spec, which must outlive o.
 * --ip, --mac, -p HOST:GUEST[/udp]. -EINVAL. */
int nic_option_network(struct nic_options *o, char *spec, struct err *e);
int nic_option_ip(struct nic_options *o, const char *text, struct err *e);
int nic_option_mac(struct nic_options *o, const char *text, struct err *e);
int nic_option_publish(struct nic_options *o, const char *text, struct err *e);
/* The long ones' rows for getopt_long, and their help. */
enum { O_NIC_NETWORK = 2000, O_NIC_IP, O_NIC_MAC };
#define NIC_OPTIONS                                                                                \
	{ "network", required_argument, NULL, O_NIC_NETWORK },                                     \
		{ "ip", required_argument, NULL, O_NIC_IP },                                       \
		{ "mac", required_argument, NULL, O_NIC_MAC },                                     \
	{                                                                                          \
		"publish", required_argument, NULL, 'p'                                            \
	}
/* -ENOSYS: it is none of them. */
int nic_option(struct nic_options *o, int opt, char *arg, struct err *e);
/* Was anything said that only one machine can have? */
bool nic_options_single(const struct nic_options *o);

/* ---- a machine's NICs ---- */

struct nic_plan {
	char id[DEVICE_ID_MAX];
	char network[NETWORK_NAME_MAX + 1]; /* "": on none */
	unsigned int queues;
	uint64_t rx_bytes, tx_bytes;
	bool has_mac; /* it keeps its source's: there is no agent to give it another */
	uint8_t mac[NIC_MAC];
};

struct nics {
	struct nic_plan plan[NICS_MAX];
	size_t n;
};

/* For a machine that boots: what was asked for, or the default network where networks can be. */
int nics_new(const struct nic_options *o, struct nics *out, struct err *e);
/* For one that comes out of another: "networks" of what that is described by (vm.json, a
 * template's), each on the network that it was on, unless others are asked for (in order) or
 * none. -EINVAL: more are asked for than it has. */
int nics_of(const json_t *info, const struct nic_options *o, struct nics *out, struct err *e);

/* One machine's places. */
struct nic_ports {
	struct network_port port[NICS_MAX]; /* by plan */
	bool on[NICS_MAX];
};

/*
 * Places for `count` machines (vms: their names) on all networks of the plan: all or none. o: for
 * an address, a MAC and published ports of the first NIC; NULL: none. What network_attach fails
 * with; -EPERM.
 */
int nics_attach(const struct nics *k, const struct nic_options *o, const char *const *vms,
		size_t count, struct nic_ports *out, struct err *e);
void nics_detach(const struct nics *k, struct nic_ports *ports, size_t count);

/* Each descriptor of a machine, under PREFIX and the names of virtio/net.h. */
int nics_grant(const struct nics *k, const struct nic_ports *p, const char *prefix, int fdsock,
	       struct err *e);
/* The requests' list of identities; NULL: no memory. */
json_t *nics_request(const struct nics *k, const struct nic_ports *p);
/* PUT of each: of a machine that boots. */
int nics_put(struct vmproc *p, const struct nics *k, const struct nic_ports *ports, struct err *e);
/* vm.json's list. */
json_t *nics_info(const struct nics *k, const struct nic_ports *p, const struct nic_options *o);
/* More TAPs for the next ones, made in the background. */
void nics_refill(const struct nics *k);

#endif
