/* SPDX-License-Identifier: MIT */
/*
 * Frames of a guest's and a parser of what answers them: see netframe.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "tests/lib/netframe.h"

#define PAGE 4096u

static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };

const uint8_t nf_gw_mac[6] = { 0x02, 0xc1, 0, 0, 0, 1 };
const uint8_t nf_mac[6] = { 0x02, 0xc1, 0, 0, 0, 7 };

const struct nic_address nf_address = {
	.mac = { 0x02, 0xc1, 0, 0, 0, 7 },
	.mtu = 1400,
	.prefix4 = 20,
	.ip4 = { 10, 1, 2, 3 },
	.gw4 = { 10, 1, 0, 1 },
	.prefix6 = 64,
	.ip6 = { 0xfd, 0xc1, 0, 1, 0, 2, 0, 3, [15] = 9 },
	.gw6 = { 0xfe, 0x80, [15] = 1 },
	.nr_dns = 4,
	.dns = { { 4, { 1, 1, 1, 1 } },
		 { 6, { 0x20, 1, [15] = 0x53 } },
		 { 4, { 9, 9, 9, 9 } },
		 { 6, { 0x20, 2, [15] = 0x54 } } },
	.respond = true,
};

void nf_put(struct nf_frame *f, uint64_t v, unsigned int bytes)
{
	while (bytes--)
		f->b[f->n++] = (uint8_t)(bytes < sizeof(v) ? v >> 8 * bytes : 0);
}

void nf_put_bytes(struct nf_frame *f, const void *p, size_t n)
{
	memcpy(f->b + f->n, p, n);
	f->n += n;
}

uint32_t nf_get(const uint8_t *p, unsigned int bytes)
{
	uint32_t v = 0;

	while (bytes--)
		v = v << 8 | *p++;
	return v;
}

/* The sum of RFC 1071, folded: 0xffff over what holds a right checksum. */
static uint32_t sum(uint32_t s, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i + 1 < n; i += 2)
		s += nf_get(p + i, 2);
	s += n % 2 ? p[n - 1] * 256u : 0;
	return (s >> 16) + (s & 0xffff) > 0xffff ? ((s >> 16) + (s & 0xffff) + 1) & 0xffff
						 : (s >> 16) + (s & 0xffff);
}

void nf_ip_checksum(struct nf_frame *f)
{
	uint32_t s;

	f->b[24] = f->b[25] = 0;
	s = ~sum(0, f->b + 14, (f->b[14] & 15u) * 4);
	f->b[24] = (uint8_t)(s >> 8);
	f->b[25] = (uint8_t)s;
}

struct nf_frame nf_dhcp(const struct nf_ask *q)
{
	struct nf_frame f = { .n = 0 };
	size_t head = 20 + q->ip_options * 4, udp;

	nf_put_bytes(&f, broadcast, 6);
	nf_put_bytes(&f, nf_mac, 6);
	nf_put(&f, 0x0800, 2);
	nf_put(&f, 0x40 | head / 4, 1);
	nf_put(&f, 0, 11); /* length, checksum: below */
	f.b[22] = 64;
	f.b[23] = 17;
	nf_put(&f, q->ciaddr, 4);
	nf_put(&f, q->ciaddr ? NF_GW : 0xffffffff, 4);
	nf_put(&f, 0, 0);
	memset(f.b + f.n, 1, q->ip_options * 4);
	f.n += q->ip_options * 4;
	udp = f.n;
	nf_put(&f, 68, 2);
	nf_put(&f, 67, 2);
	nf_put(&f, 0, 2);
	nf_put(&f, 0x1234, 2); /* a partial checksum */
	nf_put(&f, 0x01010600, 4);
	nf_put(&f, 0xdeadbeef, 4);
	nf_put(&f, 3, 2);
	nf_put(&f, q->flags, 2);
	nf_put(&f, q->ciaddr, 4);
	f.n += 12;
	nf_put_bytes(&f, nf_mac, 6);
	f.n += 10 + 64 + 128;
	nf_put(&f, 0x63825363, 4);
	nf_put(&f, 0x350100 | q->type, 3);
	nf_put(&f, 0x0037, 2); /* padding, what is asked for */
	nf_put(&f, 0x020103, 3);
	if (q->wanted) {
		nf_put(&f, 0x3204, 2);
		nf_put(&f, q->wanted, 4);
	}
	if (q->server) {
		nf_put(&f, 0x3604, 2);
		nf_put(&f, q->server, 4);
	}
	nf_put_bytes(&f, q->more ? q->more : "", q->more_bytes);
	nf_put(&f, 255, 1);
	f.b[16] = (uint8_t)((f.n - 14) >> 8);
	f.b[17] = (uint8_t)(f.n - 14);
	f.b[udp + 4] = (uint8_t)((f.n - udp) >> 8);
	f.b[udp + 5] = (uint8_t)(f.n - udp);
	nf_ip_checksum(&f);
	return f;
}

struct nf_frame nf_arp(uint16_t op, uint32_t from, uint32_t to)
{
	struct nf_frame f = { .n = 0 };

	nf_put_bytes(&f, broadcast, 6);
	nf_put_bytes(&f, nf_mac, 6);
	nf_put(&f, 0x080600010800, 6);
	nf_put(&f, 0x0604, 2);
	nf_put(&f, op, 2);
	nf_put_bytes(&f, nf_mac, 6);
	nf_put(&f, from, 4);
	nf_put(&f, 0, 6);
	nf_put(&f, to, 4);
	return f;
}

/* From a link-local address with the link-layer option, or from :: without. */
struct nf_frame nf_solicit(bool unspecified)
{
	struct nf_frame f = { .n = 0 };

	nf_put_bytes(&f, "\x33\x33\0\0\0\2", 6);
	nf_put_bytes(&f, nf_mac, 6);
	nf_put(&f, 0x86dd60000000, 6);
	nf_put(&f, unspecified ? 8 : 16, 2);
	nf_put(&f, 58, 1);
	nf_put(&f, 255, 1);
	nf_put(&f, unspecified ? 0 : 0xfe80, 2);
	nf_put(&f, 0, 6);
	nf_put(&f, unspecified ? 0 : 0xc1fffe000007, 8);
	nf_put(&f, 0xff02, 2);
	nf_put(&f, 0, 6);
	nf_put(&f, 2, 8);
	nf_put(&f, 133, 1);
	nf_put(&f, 0, 7);
	if (!unspecified) {
		nf_put(&f, 0x0101, 2);
		nf_put_bytes(&f, nf_mac, 6);
	}
	return f;
}

/* Lengths, checksums and addresses are right, whatever the answer says. */
static void nf_parse(struct nf_answer *r)
{
	const uint8_t *b = r->f.b, *end = b + r->f.n, *p;

	assert_in_range(r->f.n, 42, 14 + 576);
	assert_memory_equal(b + 6, nf_gw_mac, 6);
	if (nf_get(b + 12, 2) == 0x0800) {
		assert_int_equal(nf_get(b + 14, 1), 0x45);
		assert_int_equal(nf_get(b + 16, 2), r->f.n - 14);
		assert_int_equal(nf_get(b + 20, 2) & 0x3fff, 0);
		assert_int_equal(b[23], 17);
		assert_int_equal(sum(0, b + 14, 20), 0xffff);
		assert_int_equal(nf_get(b + 34, 4), 67 << 16 | 68);
		assert_int_equal(nf_get(b + 38, 2), r->f.n - 34);
		assert_int_not_equal(nf_get(b + 40, 2), 0);
		assert_int_equal(sum(17 + nf_get(b + 38, 2), b + 26, r->f.n - 26), 0xffff);
		assert_true(r->f.n >= 42 + 300);
		r->bootp = b + 42;
		assert_int_equal(nf_get(r->bootp, 4), 0x02010600);
		assert_int_equal(nf_get(r->bootp + 236, 4), 0x63825363);
		for (p = r->bootp + 240; *p != 255; p += 2 + p[1]) {
			assert_true(p + 2 < end && p + 2 + p[1] < end && !r->opt[*p]);
			r->opt[*p] = p + 2;
			r->len[*p] = p[1];
		}
		assert_true(p < end && bytes_are_zero(p + 1, (size_t)(end - p) - 1));
	} else if (nf_get(b + 12, 2) == 0x86dd) {
		assert_int_equal(nf_get(b + 14, 4), 0x60000000);
		assert_int_equal(nf_get(b + 18, 2), r->f.n - 54);
		assert_int_equal(nf_get(b + 20, 2), 58 << 8 | 255);
		assert_memory_equal(b + 22, "\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16);
		assert_int_equal(sum(58 + nf_get(b + 18, 2), b + 22, r->f.n - 22), 0xffff);
		assert_int_equal(nf_get(b + 54, 2), 134 << 8);
		for (p = b + 70; p < end; p += 8 * p[1]) {
			assert_true(p[1] && p + 8 * p[1] <= end && !r->opt[*p]);
			r->opt[*p] = p;
			r->len[*p] = p[1];
		}
	} else {
		assert_int_equal(nf_get(b + 12, 4), 0x08060001);
		assert_int_equal(r->f.n, 42);
		assert_memory_equal(b + 16, "\x08\0\6\4\0\2", 6);
		assert_memory_equal(b + 22, nf_gw_mac, 6);
	}
}

/* The last n bytes of pages in front of one that cannot be touched. */
uint8_t *nf_edge(unsigned int which, size_t n)
{
	static uint8_t *map[2];

	if (!map[which]) {
		map[which] = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		assert_true(map[which] != MAP_FAILED);
		assert_int_equal(mprotect(map[which] + PAGE, PAGE, PROT_NONE), 0);
	}
	return map[which] + PAGE - n;
}

/* Is there an answer? Then it is a good one. */
bool nf_answered(const struct nic_address *a, const struct nf_frame *f, struct nf_answer *r)
{
	uint8_t *in = nf_edge(0, f->n), *out = nf_edge(1, RESPONDER_FRAME_MAX);

	memset(r, 0, sizeof(*r));
	memset(out, 0xa5, RESPONDER_FRAME_MAX);
	memcpy(in, f->b, f->n);
	r->f.n = responder_answer(a, nf_gw_mac, in, f->n, out, RESPONDER_FRAME_MAX);
	assert_true(r->f.n <= RESPONDER_FRAME_MAX);
	memcpy(r->f.b, out, r->f.n);
	if (r->f.n)
		nf_parse(r);
	return r->f.n;
}
