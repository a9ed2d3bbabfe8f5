/* SPDX-License-Identifier: MIT */
/*
 * Netlink messages, for both sides of the project: the agent sets a guest's addresses, the host its
 * TAPs. A bounded writer of one or more messages and a reader of attributes; no allocation, no
 * state, no socket. (libmnl does the same, but Debian has no static one, and the agent is musl.)
 * rtnetlink(7), netlink(7).
 */
#ifndef CLONE_GUEST_NETLINK_H
#define CLONE_GUEST_NETLINK_H

#include <linux/netlink.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Messages one behind the other in a caller's buffer. `full` sticks: what did not fit is not there,
 * and nl_done says so. */
struct nl_msg {
	uint8_t *buf;
	size_t cap, len;
	size_t start; /* of the message being written */
	uint32_t seq; /* of the one begun last: counts from 1 */
	bool full;
};

static inline void nl_init(struct nl_msg *m, void *buf, size_t cap)
{
	*m = (struct nl_msg){ .buf = buf, .cap = cap };
}

/* n bytes, zero-padded to the alignment of 4; NULL when they do not fit. */
static inline void *nl_room(struct nl_msg *m, size_t n)
{
	size_t padded = (n + 3u) & ~(size_t)3u;
	void *p = m->buf + m->len;

	if (m->full || padded < n || padded > m->cap - m->len) {
		m->full = true;
		return NULL;
	}
	memset(p, 0, padded);
	m->len += padded;
	return p;
}

static inline void nl_len(struct nl_msg *m)
{
	uint32_t n = (uint32_t)(m->len - m->start);

	if (!m->full)
		memcpy(m->buf + m->start, &n, sizeof(n));
}

/* Begins a message with its family's own header, of n bytes. */
static inline void nl_begin(struct nl_msg *m, uint16_t type, uint16_t flags, const void *head,
			    size_t n)
{
	struct nlmsghdr h = { .nlmsg_type = type,
			      .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
			      .nlmsg_seq = ++m->seq };
	void *p;

	m->start = m->len;
	p = nl_room(m, sizeof(h));
	if (p)
		memcpy(p, &h, sizeof(h));
	p = nl_room(m, n);
	if (p)
		memcpy(p, head, n);
	nl_len(m);
}

static inline void nl_attr(struct nl_msg *m, uint16_t type, const void *data, size_t n)
{
	struct nlattr a = { .nla_len = (uint16_t)(sizeof(a) + n), .nla_type = type };
	uint8_t *p;

	if (n > UINT16_MAX - sizeof(a)) {
		m->full = true;
		return;
	}
	p = nl_room(m, sizeof(a) + n);
	if (p) {
		memcpy(p, &a, sizeof(a));
		if (n)
			memcpy(p + sizeof(a), data, n);
	}
	nl_len(m);
}

static inline void nl_u32(struct nl_msg *m, uint16_t type, uint32_t v)
{
	nl_attr(m, type, &v, sizeof(v));
}

static inline void nl_str(struct nl_msg *m, uint16_t type, const char *s)
{
	nl_attr(m, type, s, strlen(s) + 1);
}

/* A nested attribute: everything until nl_nest_end(m, nl_nest(m, type)) is inside it. */
static inline size_t nl_nest(struct nl_msg *m, uint16_t type)
{
	size_t at = m->len;

	nl_attr(m, type | NLA_F_NESTED, NULL, 0);
	return at;
}

static inline void nl_nest_end(struct nl_msg *m, size_t at)
{
	size_t n = m->len - at;
	uint16_t len = (uint16_t)n;

	if (n > UINT16_MAX)
		m->full = true;
	if (!m->full)
		memcpy(m->buf + at, &len, sizeof(len));
	nl_len(m);
}

/* The kernel answers to the message begun last, also when it does as it is told. */
static inline void nl_want_ack(struct nl_msg *m)
{
	struct nlmsghdr h;

	if (m->full)
		return;
	memcpy(&h, m->buf + m->start, sizeof(h));
	h.nlmsg_flags |= NLM_F_ACK;
	memcpy(m->buf + m->start, &h, sizeof(h));
}

/* Did all fit? Then buf[0..len) is to be sent. */
static inline bool nl_done(const struct nl_msg *m)
{
	return !m->full;
}

/* ---- reading ---- */

/* The next message in p[0..*n): its header copied to *h, its payload at *body, *n_body bytes; p and
 * n move on. False: there is no whole one. */
static inline bool nl_next(const uint8_t **p, size_t *n, struct nlmsghdr *h, const uint8_t **body,
			   size_t *n_body)
{
	size_t step;

	if (*n < sizeof(*h))
		return false;
	memcpy(h, *p, sizeof(*h));
	if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > *n)
		return false;
	*body = *p + sizeof(*h);
	*n_body = h->nlmsg_len - sizeof(*h);
	step = ((size_t)h->nlmsg_len + 3u) & ~(size_t)3u;
	step = step < *n ? step : *n;
	*p += step;
	*n -= step;
	return true;
}

/* The attribute of that type among p[0..n); NULL: there is none. */
static inline const uint8_t *nl_find(const uint8_t *p, size_t n, uint16_t type, size_t *len)
{
	struct nlattr a;

	while (n >= sizeof(a)) {
		size_t step;

		memcpy(&a, p, sizeof(a));
		if (a.nla_len < sizeof(a) || a.nla_len > n)
			return NULL;
		if ((a.nla_type & NLA_TYPE_MASK) == type) {
			*len = a.nla_len - sizeof(a);
			return p + sizeof(a);
		}
		step = ((size_t)a.nla_len + 3u) & ~(size_t)3u;
		step = step < n ? step : n;
		p += step;
		n -= step;
	}
	return NULL;
}

/* The same, of exactly n bytes, copied; false: there is none such. */
static inline bool nl_get(const uint8_t *p, size_t n_p, uint16_t type, void *out, size_t n)
{
	size_t len;
	const uint8_t *a = nl_find(p, n_p, type, &len);

	if (!a || len != n)
		return false;
	memcpy(out, a, n);
	return true;
}

#endif
