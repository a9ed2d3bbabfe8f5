/* SPDX-License-Identifier: MIT */
/*
 * Inside the responder: a frame whose Ethernet header was read, and what its answers have in
 * common. Pure functions.
 */
#ifndef CLONE_NET_RESPONDER_INT_H
#define CLONE_NET_RESPONDER_INT_H

#include "base/buf.h"
#include "net/address.h"

#define RESP_ETHER_BYTES 14

struct resp_frame {
	const struct nic_address *a;
	const uint8_t *gw_mac;
	uint8_t src[NIC_MAC]; /* who sent it: not a group */
	struct rbuf r;	      /* what follows the Ethernet header */
};

/* The bits of an IPv4 address that number hosts; prefix4 1 to 32. */
static inline uint32_t resp_host_bits(uint8_t prefix4)
{
	return UINT32_MAX >> (prefix4 - 1) >> 1;
}

/* Our own IPv4 address on this NIC's network: the gateway's, or without one the first address of
 * the subnet that is not the guest's. */
void resp_own_ip4(const struct nic_address *a, uint8_t own[4]);

void resp_ether(struct wbuf *w, const uint8_t dst[NIC_MAC], const uint8_t src[NIC_MAC],
		uint16_t type);
/* RFC 1071: the complement of n bytes' sum in 16-bit words, beginning with sum. 0 when the bytes
 * hold their own checksum and it is right. */
uint16_t resp_checksum(uint32_t sum, const uint8_t *p, size_t n);

/* Answers an IPv4 packet: a whole frame in w, or nothing. */
void resp_dhcp(const struct resp_frame *f, struct wbuf *w);

#endif
