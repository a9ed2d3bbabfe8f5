/* SPDX-License-Identifier: MIT */
/*
 * Ends the TCP connections that a fork has inherited and that led out of the machine: their other
 * end belongs to the parent. Their programs get ECONNABORTED now, instead of waiting for an answer
 * that never comes. Called while the addresses are the parent's and the link is down, so that
 * nothing of it is heard outside. Agent's thread. sock_diag(7).
 */
#include "net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netsock.h"

#define VICTIMS_MAX 65536u
#define BATCH 64u /* answers that surely fit into the socket's buffer */
/* By number: TCP_LISTEN, TCP_CLOSE and TCP_TIME_WAIT have no program that waits for a peer. */
#define STATES (1u << 1 | 1u << 2 | 1u << 3 | 1u << 4 | 1u << 5 | 1u << 8 | 1u << 9 | 1u << 11)
#define STATE_NEW_SYN_RECV (1u << 12)

struct victim {
	struct inet_diag_sockid id;
	uint8_t family;
	bool held; /* by a program: one that is not may be beyond being ended */
};

struct victims {
	struct victim *v;
	size_t n, cap;
	bool more; /* than we could note */
};

static bool loopback(uint8_t family, const void *addr)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff }, one[16] = { [15] = 1 };
	const uint8_t *p = addr;

	if (family == AF_INET)
		return p[0] == 127;
	return !memcmp(p, one, sizeof(one)) || (!memcmp(p, mapped, sizeof(mapped)) && p[12] == 127);
}

static bool room(struct victims *all)
{
	size_t cap = all->cap ? 2 * all->cap : 64;
	struct victim *v;

	if (all->n < all->cap)
		return true;
	v = cap <= VICTIMS_MAX ? realloc(all->v, cap * sizeof(*v)) : NULL;
	if (!v) {
		all->more = true;
		return false;
	}
	all->v = v;
	all->cap = cap;
	return true;
}

static void on_socket(void *arg, const uint8_t *body, size_t n)
{
	struct victims *all = arg;
	struct inet_diag_msg s;

	if (n < sizeof(s))
		return;
	memcpy(&s, body, sizeof(s));
	if (loopback(s.idiag_family, s.id.idiag_src) || loopback(s.idiag_family, s.id.idiag_dst))
		return;
	if (room(all))
		all->v[all->n++] = (struct victim){ .id = s.id,
						    .family = s.idiag_family,
						    .held = s.idiag_inode != 0 };
}

static int find(int fd, uint8_t family, struct victims *all)
{
	struct inet_diag_req_v2 q = { .sdiag_family = family,
				      .sdiag_protocol = IPPROTO_TCP,
				      .idiag_states = STATES | STATE_NEW_SYN_RECV };
	uint8_t buf[128];
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &q, sizeof(q));
	return netsock_dump(fd, &m, on_socket, all);
}

/* Ends n of them. The first failure that matters goes to *why. Returns how many are left alive. */
static size_t end(int fd, const struct victim *v, size_t n, int *why)
{
	uint8_t buf[BATCH * (sizeof(struct nlmsghdr) + sizeof(struct inet_diag_req_v2))];
	int result[BATCH], r;
	size_t alive = 0;
	struct nl_msg m;

	nl_init(&m, buf, sizeof(buf));
	for (size_t i = 0; i < n; i++) {
		struct inet_diag_req_v2 q = { .sdiag_family = v[i].family,
					      .sdiag_protocol = IPPROTO_TCP,
					      .id = v[i].id };

		result[i] = 0;
		nl_begin(&m, SOCK_DESTROY, NLM_F_ACK, &q, sizeof(q));
	}
	r = netsock_batch(fd, &m, result);
	for (size_t i = 0; i < n; i++) {
		int one = r ? r : result[i];

		/* One that ended by itself meanwhile is no failure, nor is what nobody holds. */
		if (!one || one == -ENOENT || (one == -EOPNOTSUPP && !v[i].held))
			continue;
		alive++;
		*why = *why ? *why : one;
	}
	return alive;
}

void tcp_refuse(struct identity *id)
{
	struct victims all = { 0 };
	size_t alive = 0;
	int fd = netsock_open(NETLINK_SOCK_DIAG), why = 0, r = fd < 0 ? fd : 0;

	if (!r)
		r = find(fd, AF_INET, &all);
	if (!r)
		r = find(fd, AF_INET6, &all);
	for (size_t i = 0; i < all.n; i += BATCH)
		alive += end(fd, all.v + i, all.n - i < BATCH ? all.n - i : BATCH, &why);
	if (r)
		identity_remark(id, "inherited TCP connections cannot be looked for: %s",
				r == -ENOENT ? "the kernel has no tcp_diag" : strerror(-r));
	if (alive)
		identity_remark(id, "%zu inherited TCP connections cannot be ended: %s", alive,
				strerror(-why));
	if (all.more)
		identity_remark(id, "more inherited TCP connections than %zu", all.n);
	free(all.v);
	if (fd >= 0)
		close(fd);
}
