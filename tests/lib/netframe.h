/* SPDX-License-Identifier: MIT */
/*
 * Frames that a guest's DHCP client, ARP and IPv6 send, as tests of the responder need them, and a
 * parser of its answers that shares no code with it. One thread.
 */
#ifndef TESTS_LIB_NETFRAME_H
#define TESTS_LIB_NETFRAME_H

#include <stdbool.h>

#include "net/responder.h"

#define NF_IP(a, b, c, d) ((uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d))
#define NF_GUEST NF_IP(10, 1, 2, 3)
#define NF_GW NF_IP(10, 1, 0, 1)

extern const uint8_t nf_gw_mac[6], nf_mac[6];
/* All that a network can give, without peers. */
extern const struct nic_address nf_address;

struct nf_frame {
	uint8_t b[RESPONDER_FRAME_MAX];
	size_t n;
};

/* A DHCP request; what is 0 is not said. */
struct nf_ask {
	uint8_t type;
	uint16_t flags;
	uint32_t ciaddr, wanted, server;
	const char *more; /* more options: code, length, bytes */
	size_t more_bytes;
	unsigned int ip_options; /* in words */
};

struct nf_answer {
	struct nf_frame f;
	const uint8_t *bootp;
	const uint8_t *opt[256]; /* the value */
	uint8_t len[256];
};

/* Appends v in network byte order, with as many zeros in front as it takes. */
void nf_put(struct nf_frame *f, uint64_t v, unsigned int bytes);
void nf_put_bytes(struct nf_frame *f, const void *p, size_t n);
uint32_t nf_get(const uint8_t *p, unsigned int bytes);
/* Makes the IPv4 header's checksum right. */
void nf_ip_checksum(struct nf_frame *f);

struct nf_frame nf_dhcp(const struct nf_ask *q);
struct nf_frame nf_arp(uint16_t op, uint32_t from, uint32_t to);
/* From a link-local address with the link-layer option, or from :: without. */
struct nf_frame nf_solicit(bool unspecified);

/* The last n bytes of a page in front of one that cannot be touched; which: 0 or 1. */
uint8_t *nf_edge(unsigned int which, size_t n);
/* Is there an answer? Then its lengths, checksums and addresses are right (asserted). */
bool nf_answered(const struct nic_address *a, const struct nf_frame *f, struct nf_answer *r);

#endif
