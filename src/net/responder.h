/* SPDX-License-Identifier: MIT */
/*
 * The responder: what answers a guest's DHCPv4 requests, ARP and router solicitations on a network
 * of ours, so that a guest which nobody told its address gets it the way it is used to. It sits on
 * an AF_PACKET socket bound to the NIC's TAP on the host: what the guest sends arrives there, what
 * is sent there reaches the guest.
 *
 * The guest is hostile, and all it can get is an answer meant for itself: an answer is a function
 * of one frame and of what the network gave the NIC. Main thread, in the jailed VM process.
 */
#ifndef CLONE_NET_RESPONDER_H
#define CLONE_NET_RESPONDER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "net/address.h"

#define RESPONDER_FRAME_MAX 1600 /* no request that we answer, and no answer, is longer */
#define RESPONDER_PER_SECOND 100 /* frames looked at; as many once, at the start */
#define RESPONDER_TURN 16	 /* frames before others of the loop get their turn */

/*
 * The answer to one Ethernet frame of a guest's, as its length in out; 0 for none (also when it
 * exceeds cap, and for all frames when !a->respond). No state, no allocation.
 *
 * DHCPv4 (RFC 2131) offers and confirms a->ip4 alone: a request for another address gets a NAK,
 * which is how a fork that renews its parent's is brought to its own. ARP (RFC 826) is answered for
 * the gateway, and for the whole subnet when other guests can be reached through it; never for the
 * guest's own address, so that its duplicate detection (RFC 5227) finds nobody. A router
 * solicitation (RFC 4861) gets fe80::1, the /64 of a->ip6 and the name servers.
 */
size_t responder_answer(const struct nic_address *a, const uint8_t gw_mac[NIC_MAC],
			const uint8_t *frame, size_t n, uint8_t *out, size_t cap);
/*
 * The router advertisement that nobody asked for, to all nodes (RFC 4861 6.2.4): what a
 * solicitation is told expires. Its length in out; 0: there is nothing to say.
 */
size_t responder_advert(const struct nic_address *a, const uint8_t gw_mac[NIC_MAC], uint8_t *out,
			size_t cap);

/*
 * Lets nothing through packet_fd (AF_PACKET, SOCK_RAW) but what responder_answer may answer, for
 * good: the filter is locked. Any thread; before the socket is bound, or what came in between is
 * still read. 0 or -errno.
 */
int responder_filter(int packet_fd, struct err *e);

struct fdtab;
struct loop;
struct responder;

/*
 * Answers on packet_fd (bound to a TAP, whose address is the gateway's MAC; owned from now on, also
 * on failure) until destroy, in the name of `a` (copied). `who` is a string literal for the fd
 * table. Nothing blocks, and what cannot be sent is lost, as on any wire. 0, -ENOMEM, or -errno of
 * getsockname (-EINVAL: no bound Ethernet packet socket).
 */
int responder_create(struct loop *l, struct fdtab *fds, int packet_fd, const struct nic_address *a,
		     const char *who, struct responder **out, struct err *e);
/* From now on in the name of another address; the guest hears of a new IPv6 prefix at once. */
void responder_set_address(struct responder *r, const struct nic_address *a);
/* Closes packet_fd; loop and fd table must still be there. NULL is fine. */
void responder_destroy(struct responder *r);
/* In a fork's child instead of destroy: frees r; its parent's loop and descriptor, which the child
 * does not have, are not touched. NULL is fine. */
void responder_forget(struct responder *r);

#endif
