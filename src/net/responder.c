/* SPDX-License-Identifier: MIT */
/*
 * The responder's socket: what the kernel lets through to it, how much of that is looked at, and
 * the advertisement that is repeated. See responder.h. Main thread; what is answered is decided in
 * responder_answer.c.
 */
#include "net/responder.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"

#define FRAME_NS (NS_PER_SEC / RESPONDER_PER_SECOND)
/* A third of what an advertisement's lifetimes say, so that one may be lost. */
#define ADVERT_NS (600 * NS_PER_SEC)

struct responder {
	struct fdtab *fds;
	int fd;
	struct loop_io *io;
	struct loop_timer *rest;   /* until a frame may be looked at again */
	struct loop_timer *advert; /* until the next unasked advertisement */
	uint64_t paid_ns;	   /* when the frames seen so far are paid for, at FRAME_NS each */
	uint8_t gw_mac[NIC_MAC];
	struct nic_address a;
};

/*
 * Classic BPF. Offsets are of the Ethernet header; a load beyond the frame's end drops it. Jumps
 * count instructions to skip, for true and for false.
 */
#define STMT(code, k) BPF_STMT(code, k)
#define JUMP(code, k, t, f) BPF_JUMP(BPF_JMP | (code) | BPF_K, k, t, f)
#define DROP 21 /* the last two instructions */
#define TAKE 22
#define TO(to, here) ((to) - (here)-1)

static const struct sock_filter filter[] = {
	/* 0: what the host sends to the guest comes by here, too */
	STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_AD_OFF + SKF_AD_PKTTYPE),
	JUMP(BPF_JEQ, PACKET_OUTGOING, TO(DROP, 1), 0),
	/* 2: the kernel has taken a VLAN tag out of the frame before we see it */
	STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT),
	JUMP(BPF_JEQ, 0, 0, TO(DROP, 3)),
	/* 4: the EtherType */
	STMT(BPF_LD | BPF_H | BPF_ABS, 12),
	JUMP(BPF_JEQ, ETHERTYPE_ARP, TO(8, 5), 0),
	JUMP(BPF_JEQ, ETHERTYPE_IP, TO(10, 6), 0),
	JUMP(BPF_JEQ, ETHERTYPE_IPV6, TO(17, 7), TO(DROP, 7)),
	/* 8: ARP: the operation is a request */
	STMT(BPF_LD | BPF_H | BPF_ABS, 14 + 6),
	JUMP(BPF_JEQ, ARPOP_REQUEST, TO(TAKE, 9), TO(DROP, 9)),
	/* 10: IPv4: the protocol */
	STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 9),
	JUMP(BPF_JEQ, IPPROTO_UDP, 0, TO(DROP, 11)),
	/* 12: a fragment's offset is not 0, or there are more of them */
	STMT(BPF_LD | BPF_H | BPF_ABS, 14 + 6),
	JUMP(BPF_JSET, 0x3fff, TO(DROP, 13), 0),
	/* 14: X = the header's length; behind it and 2 bytes, the port is a DHCP server's */
	STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
	STMT(BPF_LD | BPF_H | BPF_IND, 14 + 2),
	JUMP(BPF_JEQ, 67, TO(TAKE, 16), TO(DROP, 16)),
	/* 17: IPv6: ICMPv6 is the first header */
	STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 6),
	JUMP(BPF_JEQ, IPPROTO_ICMPV6, 0, TO(DROP, 18)),
	/* 19: its type */
	STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 40),
	JUMP(BPF_JEQ, ND_ROUTER_SOLICIT, TO(TAKE, 20), TO(DROP, 20)),
	/* 21: nothing of it; 22: as much as anybody looks at */
	STMT(BPF_RET | BPF_K, 0),
	STMT(BPF_RET | BPF_K, RESPONDER_FRAME_MAX),
};

int responder_filter(int packet_fd, struct err *e)
{
	/* the kernel copies it; its type just is not const */
	struct sock_fprog prog = { .len = ARRAY_SIZE(filter),
				   .filter = (struct sock_filter *)(uintptr_t)filter };
	int yes = 1;

	_Static_assert(ARRAY_SIZE(filter) == TAKE + 1, "jumps go where they say");
	if (setsockopt(packet_fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof(prog)) ||
	    setsockopt(packet_fd, SOL_SOCKET, SO_LOCK_FILTER, &yes, sizeof(yes)))
		return err_sys(e, errno, "responder: filter of its socket");
	return 0;
}

/* May another frame be looked at? Takes it from the budget. */
static bool pay(struct responder *r, uint64_t now)
{
	if (r->paid_ns > now + NS_PER_SEC - FRAME_NS)
		return false;
	r->paid_ns = MAX(r->paid_ns, now) + FRAME_NS;
	return true;
}

static void reply(struct responder *r, const uint8_t *frame, size_t n)
{
	/* an error is a frame that got lost, which whoever asked makes good */
	if (n)
		(void)!send(r->fd, frame, n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/*
 * All frames are paid for, also those without an answer and errors (a TAP that goes down or away).
 * When there is no budget the socket is not watched, so a flood costs this process a hundred
 * frames a second and is dropped by the kernel for the rest.
 */
static void on_frames(void *arg, int fd, unsigned int events)
{
	uint8_t in[RESPONDER_FRAME_MAX], out[RESPONDER_FRAME_MAX];
	uint64_t now = time_mono_ns();
	struct responder *r = arg;
	ssize_t n;

	(void)events;
	for (unsigned int i = 0; i < RESPONDER_TURN; i++) {
		if (!pay(r, now)) {
			loop_set_io(r->io, 0);
			loop_set_timer(r->rest, RESPONDER_TURN * FRAME_NS);
			return;
		}
		n = recv(fd, in, sizeof(in), MSG_DONTWAIT | MSG_TRUNC);
		if (n < 0 && errno == EAGAIN) {
			r->paid_ns -= FRAME_NS;
			return;
		}
		if (n > 0 && (size_t)n <= sizeof(in))
			reply(r, out,
			      responder_answer(&r->a, r->gw_mac, in, (size_t)n, out, sizeof(out)));
	}
}

static void on_rested(void *arg)
{
	struct responder *r = arg;

	loop_set_io(r->io, LOOP_READ);
}

static void on_advert(void *arg)
{
	uint8_t out[RESPONDER_FRAME_MAX];
	struct responder *r = arg;

	reply(r, out, responder_advert(&r->a, r->gw_mac, out, sizeof(out)));
	loop_set_timer(r->advert, ADVERT_NS);
}

int responder_create(struct loop *l, struct fdtab *fds, int packet_fd, const struct nic_address *a,
		     const char *who, struct responder **out, struct err *e)
{
	struct responder *r = calloc(1, sizeof(*r));
	struct sockaddr_ll ll = { 0 };
	socklen_t len = sizeof(ll);
	int ret;

	if (!r) {
		close(packet_fd);
		return err_set(e, ENOMEM, "responder: no memory");
	}
	r->fds = fds;
	r->fd = packet_fd;
	r->a = *a;
	fdtab_add(fds, packet_fd, FD_CLOSE, who);
	if (getsockname(packet_fd, (struct sockaddr *)&ll, &len)) {
		ret = err_sys(e, errno, "responder: address of its socket");
		goto fail;
	}
	if (len < offsetof(struct sockaddr_ll, sll_addr) || ll.sll_family != AF_PACKET ||
	    ll.sll_hatype != ARPHRD_ETHER || ll.sll_halen != NIC_MAC) {
		ret = err_set(e, EINVAL, "responder: its socket is not one of an Ethernet TAP");
		goto fail;
	}
	memcpy(r->gw_mac, ll.sll_addr, NIC_MAC);
	r->io = loop_add_io(l, packet_fd, LOOP_READ, on_frames, r);
	r->rest = loop_add_timer(l, on_rested, r);
	r->advert = loop_add_timer(l, on_advert, r);
	if (!r->io || !r->rest || !r->advert) {
		ret = err_set(e, ENOMEM, "responder: no memory to watch its socket");
		goto fail;
	}
	on_advert(r);
	*out = r;
	return 0;
fail:
	responder_destroy(r);
	return ret;
}

void responder_set_address(struct responder *r, const struct nic_address *a)
{
	r->a = *a;
	on_advert(r);
}

void responder_destroy(struct responder *r)
{
	if (!r)
		return;
	loop_del_io(r->io);
	loop_del_timer(r->rest);
	loop_del_timer(r->advert);
	fdtab_del(r->fds, r->fd);
	close(r->fd);
	free(r);
}

void responder_forget(struct responder *r)
{
	free(r);
}
