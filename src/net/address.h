/* SPDX-License-Identifier: MIT */
/*
 * What a network gives to one NIC: the addresses that its guest uses, and what it must know to use
 * them. The guest's agent is told them (guest/proto.h), the responder tells them to a DHCP client,
 * the host's rules hold the guest to them. Plain data; all addresses in network byte order.
 */
#ifndef CLONE_NET_ADDRESS_H
#define CLONE_NET_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#define NIC_MAC 6
#define NIC_DNS_MAX 4
/* The host's side of every TAP: a fork, which is on another TAP than its parent, finds its gateway
 * under the MAC that it knows. */
#define NIC_GATEWAY_MAC                                                                            \
	{                                                                                          \
		0x02, 0xc1, 0x00, 0x00, 0x00, 0x01                                                 \
	}
#define NIC_MTU_MIN 576u
#define NIC_MTU_MAX 65521u

struct nic_dns {
	uint8_t family; /* 4 or 6 */
	uint8_t addr[16];
};

struct nic_address {
	uint8_t mac[NIC_MAC]; /* unicast, not zero */
	uint16_t mtu;	      /* NIC_MTU_MIN..NIC_MTU_MAX; 0: unsaid */
	uint8_t prefix4; /* 1..32; 0: no IPv4 address (somebody else on the network gives one) */
	uint8_t ip4[4], gw4[4]; /* gw4 zero: no way out */
	uint8_t prefix6;	/* 1..128; 0: none */
	uint8_t ip6[16], gw6[16];
	uint8_t nr_dns;
	struct nic_dns dns[NIC_DNS_MAX];
	/* For the responder; the guest is not told. */
	bool respond; /* we are its DHCP server, its ARP neighbours and its router */
	bool peers;   /* other guests of the network can be reached, so ARP for them is answered */
};

#define MAC_TEXT 18 /* bytes of "02:c1:00:00:00:01" */

/* False: it is no unicast MAC. */
bool mac_from_text(const char *text, uint8_t mac[NIC_MAC]);
void mac_to_text(const uint8_t mac[NIC_MAC], char text[MAC_TEXT]);

#endif
