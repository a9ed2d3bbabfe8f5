/* SPDX-License-Identifier: MIT */
/*
 * The responder's DHCPv4 server (RFC 2131, options of RFC 2132), which has one address for its one
 * client and so nothing to remember. Pure functions, called by responder_answer.
 */
#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "net/responder_int.h"

#define SERVER_PORT 67
#define CLIENT_PORT 68
#define IP4_BYTES 20
#define UDP_BYTES 8
#define BOOTP_BYTES_MIN 300 /* RFC 1542 2.1: with padding */
#define DHCP_COOKIE 0x63825363u
#define FLAG_BROADCAST 0x8000u
#define LEASE_S 3600u
/* Its answer is not to exceed what any client takes (576 bytes of IP), so a longer one is not
 * repeated. Known ones have 7 to 19 bytes. */
#define CLIENT_ID_MAX 64

enum { BOOTREQUEST = 1, BOOTREPLY };
enum { DISCOVER = 1, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM };

enum {
	OPT_PAD = 0,
	OPT_MASK = 1,
	OPT_ROUTER = 3,
	OPT_DNS = 6,
	OPT_MTU = 26,
	OPT_BROADCAST = 28,
	OPT_WANTED = 50,
	OPT_LEASE = 51,
	OPT_TYPE = 53,
	OPT_SERVER = 54,
	OPT_T1 = 58,
	OPT_T2 = 59,
	OPT_CLIENT_ID = 61,
	OPT_END = 255,
};

struct request {
	uint32_t xid;
	uint16_t flags;
	uint8_t ciaddr[4];
	uint8_t type;
	bool has_wanted, has_server;
	uint8_t wanted[4], server[4];
	uint8_t id_len; /* 0: none */
	uint8_t id[CLIENT_ID_MAX];
};

/*
 * Finds the payload of an unfragmented UDP packet to our port. Its source is not looked at, and
 * neither is its destination: of a client that renews where it was before, it is a server of there.
 * Nor is UDP's checksum: a TAP's frames may leave that to a NIC that is not there.
 */
static bool udp_payload(const struct resp_frame *f, struct rbuf *out)
{
	struct rbuf ip = f->r, r = f->r;
	uint8_t first = rbuf_u8(&r), proto;
	size_t head = (first & 15u) * 4;
	const uint8_t *p = rbuf_view(&ip, head);
	uint16_t total, frag, port, len;

	rbuf_u8(&r); /* service */
	total = rbuf_be16(&r);
	rbuf_be16(&r); /* identification */
	frag = rbuf_be16(&r);
	rbuf_u8(&r); /* time to live */
	proto = rbuf_u8(&r);
	if (!p || r.bad || first >> 4 != 4 || head < IP4_BYTES || resp_checksum(0, p, head) != 0 ||
	    total < head || total - head > rbuf_left(&ip) || (frag & 0x3fff) ||
	    proto != IPPROTO_UDP)
		return false;
	rbuf_init(&ip, rbuf_view(&ip, total - head), total - head); /* without Ethernet's padding */
	rbuf_be16(&ip);
	port = rbuf_be16(&ip);
	len = rbuf_be16(&ip);
	rbuf_be16(&ip);
	if (ip.bad || port != SERVER_PORT || len < UDP_BYTES ||
	    (size_t)len - UDP_BYTES > rbuf_left(&ip))
		return false;
	rbuf_init(out, rbuf_view(&ip, len - UDP_BYTES), len - UDP_BYTES);
	return true;
}

/* Reads one option's value; false: it is none. */
static bool option_read(struct rbuf *v, uint8_t code, struct request *q)
{
	size_t n = rbuf_left(v);

	switch (code) {
	case OPT_TYPE:
		q->type = rbuf_u8(v);
		return rbuf_done(v);
	case OPT_WANTED:
		q->has_wanted = true;
		rbuf_bytes(v, q->wanted, sizeof(q->wanted));
		return rbuf_done(v);
	case OPT_SERVER:
		q->has_server = true;
		rbuf_bytes(v, q->server, sizeof(q->server));
		return rbuf_done(v);
	case OPT_CLIENT_ID:
		q->id_len = n <= sizeof(q->id) ? (uint8_t)n : 0;
		rbuf_bytes(v, q->id, q->id_len);
		return true;
	}
	return true;
}

/* Options in the fields of the server's and the file's name (overload, 52) are not read: nobody's
 * request is that long. */
static bool options_read(struct rbuf *r, struct request *q)
{
	struct rbuf v;
	uint8_t code, n;

	while (!r->bad && rbuf_left(r)) {
		code = rbuf_u8(r);
		if (code == OPT_END)
			break;
		if (code == OPT_PAD)
			continue;
		n = rbuf_u8(r);
		rbuf_init(&v, rbuf_view(r, n), n);
		if (r->bad || !option_read(&v, code, q))
			return false;
	}
	return !r->bad;
}

static bool request_read(struct rbuf *r, const struct resp_frame *f, struct request *q)
{
	uint8_t op = rbuf_u8(r), htype = rbuf_u8(r), hlen = rbuf_u8(r), giaddr[4];
	const uint8_t *chaddr;

	memset(q, 0, sizeof(*q));
	rbuf_u8(r); /* hops */
	q->xid = rbuf_be32(r);
	rbuf_be16(r); /* seconds */
	q->flags = rbuf_be16(r);
	rbuf_bytes(r, q->ciaddr, sizeof(q->ciaddr));
	rbuf_view(r, 8); /* yiaddr, siaddr */
	rbuf_bytes(r, giaddr, sizeof(giaddr));
	chaddr = rbuf_view(r, 16);
	rbuf_view(r, 64 + 128); /* names of a server and of a file */
	if (rbuf_be32(r) != DHCP_COOKIE || op != BOOTREQUEST || htype != 1 || hlen != NIC_MAC ||
	    !bytes_are_zero(giaddr, sizeof(giaddr)) || memcmp(chaddr, f->src, NIC_MAC) != 0)
		return false;
	return options_read(r, q);
}

/* The type of the answer; 0: none. RFC 2131 4.3. */
static uint8_t decide(const struct nic_address *a, const uint8_t own[4], const struct request *q)
{
	bool bound = !bytes_are_zero(q->ciaddr, sizeof(q->ciaddr));
	const uint8_t *wanted;

	switch (q->type) {
	case DISCOVER:
		return OFFER;
	case INFORM:
		return bound ? ACK : 0;
	case REQUEST:
		break;
	default: /* one that is declined or released is the guest's still */
		return 0;
	}
	if (q->has_server && memcmp(q->server, own, sizeof(q->server)) != 0)
		return 0; /* selecting: took another's offer */
	if (bound && !q->has_server)
		wanted = q->ciaddr; /* renewing, rebinding */
	else if (q->has_wanted)
		wanted = q->wanted; /* selecting, or back from a reboot */
	else if (bound)
		wanted = q->ciaddr; /* selecting, of a client that takes it for renewing */
	else
		return 0;
	return memcmp(wanted, a->ip4, sizeof(a->ip4)) ? NAK : ACK;
}

static void option_u32(struct wbuf *w, uint8_t code, uint32_t v)
{
	wbuf_u8(w, code);
	wbuf_u8(w, 4);
	wbuf_be32(w, v);
}

static void option_bytes(struct wbuf *w, uint8_t code, const void *p, uint8_t n)
{
	wbuf_u8(w, code);
	wbuf_u8(w, n);
	wbuf_bytes(w, p, n);
}

static void option_dns(struct wbuf *w, const struct nic_address *a)
{
	uint8_t addrs[NIC_DNS_MAX * 4], n = 0;

	for (unsigned int i = 0; i < MIN(a->nr_dns, NIC_DNS_MAX); i++) {
		if (a->dns[i].family != 4)
			continue;
		memcpy(addrs + n, a->dns[i].addr, 4);
		n = (uint8_t)(n + 4);
	}
	if (n)
		option_bytes(w, OPT_DNS, addrs, n);
}

/* What the network is like. All of it, asked for or not: it fits. */
static void options_network(struct wbuf *w, const struct nic_address *a)
{
	uint32_t host = resp_host_bits(a->prefix4);
	be32 ip;

	memcpy(ip.b, a->ip4, sizeof(ip.b));
	option_u32(w, OPT_MASK, ~host);
	if (!bytes_are_zero(a->gw4, sizeof(a->gw4)))
		option_bytes(w, OPT_ROUTER, a->gw4, sizeof(a->gw4));
	option_dns(w, a);
	if (a->mtu) {
		wbuf_u8(w, OPT_MTU);
		wbuf_u8(w, 2);
		wbuf_be16(w, a->mtu);
	}
	if (host > 1)
		option_u32(w, OPT_BROADCAST, be32_get(ip) | host);
}

static void bootp_write(struct wbuf *w, const struct resp_frame *f, const struct request *q,
			uint8_t type, const uint8_t own[4])
{
	static const uint8_t none[4];
	bool lease = type != NAK && q->type != INFORM;
	size_t at = w->len;

	wbuf_u8(w, BOOTREPLY);
	wbuf_u8(w, 1);
	wbuf_u8(w, NIC_MAC);
	wbuf_u8(w, 0);
	wbuf_be32(w, q->xid);
	wbuf_be16(w, 0);
	wbuf_be16(w, q->flags);
	wbuf_bytes(w, type == ACK ? q->ciaddr : none, 4);
	wbuf_bytes(w, lease ? f->a->ip4 : none, 4);
	wbuf_reserve(w, 8); /* siaddr, giaddr */
	wbuf_bytes(w, f->src, NIC_MAC);
	wbuf_reserve(w, 16 - NIC_MAC + 64 + 128);
	wbuf_be32(w, DHCP_COOKIE);
	option_bytes(w, OPT_TYPE, &type, 1);
	option_bytes(w, OPT_SERVER, own, 4);
	if (lease) {
		option_u32(w, OPT_LEASE, LEASE_S);
		option_u32(w, OPT_T1, LEASE_S / 2);
		option_u32(w, OPT_T2, LEASE_S / 8 * 7);
	}
	if (type != NAK)
		options_network(w, f->a);
	if (q->id_len) /* RFC 6842: in all answers */
		option_bytes(w, OPT_CLIENT_ID, q->id, q->id_len);
	wbuf_u8(w, OPT_END);
	if (w->len - at < BOOTP_BYTES_MIN)
		wbuf_reserve(w, BOOTP_BYTES_MIN - (w->len - at));
}

/* Whom an answer goes to (RFC 2131 4.1), as its MAC; to: as its address. */
static const uint8_t *receiver(const struct resp_frame *f, const struct request *q, uint8_t type,
			       uint8_t to[4])
{
	static const uint8_t all[NIC_MAC] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	bool bound = !bytes_are_zero(q->ciaddr, sizeof(q->ciaddr));

	if (type == NAK || (!bound && q->flags & FLAG_BROADCAST)) {
		memcpy(to, all, 4);
		return all;
	}
	memcpy(to, bound ? q->ciaddr : f->a->ip4, 4);
	return f->src;
}

void resp_dhcp(const struct resp_frame *f, struct wbuf *w)
{
	size_t ip = RESP_ETHER_BYTES, udp = ip + IP4_BYTES;
	uint8_t own[4], to[4], type;
	const uint8_t *mac;
	struct rbuf payload;
	struct request q;
	uint32_t len;
	uint16_t sum;

	if (!f->a->prefix4 || !udp_payload(f, &payload) || !request_read(&payload, f, &q))
		return;
	resp_own_ip4(f->a, own);
	type = decide(f->a, own, &q);
	if (!type)
		return;
	mac = receiver(f, &q, type, to);
	resp_ether(w, mac, f->gw_mac, ETHERTYPE_IP);
	wbuf_be16(w, 0x4500); /* version 4, five words */
	wbuf_be16(w, 0);      /* length: below */
	wbuf_be32(w, 0x4000); /* do not fragment */
	wbuf_u8(w, 64);
	wbuf_u8(w, IPPROTO_UDP);
	wbuf_be16(w, 0); /* checksum: below */
	wbuf_bytes(w, own, sizeof(own));
	wbuf_bytes(w, to, sizeof(to));
	wbuf_be16(w, SERVER_PORT);
	wbuf_be16(w, CLIENT_PORT);
	wbuf_be32(w, 0); /* length and checksum: below */
	bootp_write(w, f, &q, type, own);
	if (w->bad)
		return;
	len = (uint32_t)(w->len - udp);
	wbuf_patch_be16(w, ip + 2, (uint16_t)(w->len - ip));
	wbuf_patch_be16(w, ip + 10, resp_checksum(0, w->data + ip, IP4_BYTES));
	wbuf_patch_be16(w, udp + 4, (uint16_t)len);
	/* the pseudo header: addresses, which stand in front, length, protocol */
	sum = resp_checksum(len + IPPROTO_UDP, w->data + udp - 8, len + 8);
	wbuf_patch_be16(w, udp + 6, sum ? sum : 0xffff); /* 0 would say that there is none */
}
