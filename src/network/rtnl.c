/* SPDX-License-Identifier: MIT */
/*
 * Talking to the kernel by netlink: batches, dumps, and what src/network asks of the host's
 * addresses and routes. rtnetlink(7).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/capability.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/util.h"
#include "network/private.h"

#define ANSWER_BYTES (64u << 10)

int nl_socket(int protocol, struct err *e)
{
	cleanup_close int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct timeval patience = { .tv_sec = 10 };
	int on = 1;

	if (fd < 0 || connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)))
		return err_sys(e, errno, "netlink");
	/* an answer that never comes must not hold the host lock for ever */
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
	return take_fd(&fd);
}

static ssize_t answer(int sock, uint8_t *buf)
{
	ssize_t n;

	do
		n = recv(sock, buf, ANSWER_BYTES, 0);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

/* What the kernel says to a failure, if anything. */
static void words_of(const struct nlmsghdr *h, const uint8_t *body, size_t n, char *buf, size_t cap)
{
	const uint8_t *text;
	size_t len, at = sizeof(struct nlmsgerr);

	buf[0] = '\0';
	if (!(h->nlmsg_flags & NLM_F_ACK_TLVS))
		return;
	if (!(h->nlmsg_flags & NLM_F_CAPPED)) {
		struct nlmsgerr m;

		memcpy(&m, body, sizeof(m));
		at = sizeof(int) + ((m.msg.nlmsg_len + 3u) & ~3u);
	}
	if (at > n)
		return;
	text = nl_find(body + at, n - at, NLMSGERR_ATTR_MSG, &len);
	if (text)
		snprintf(buf, cap, " (%.*s)", (int)strnlen((const char *)text, len),
			 (const char *)text);
}

int nl_run(int sock, const struct nl_msg *m, int ignore, const char *what, struct err *e)
{
	cleanup_free uint8_t *buf = malloc(ANSWER_BYTES);
	int result = 0;

	if (!buf || !nl_done(m))
		return err_set(e, ENOMEM, "%s: no room for the message", what);
	if (send(sock, m->buf, m->len, 0) < 0)
		return err_sys(e, errno, "%s: netlink", what);
	for (;;) {
		ssize_t got = answer(sock, buf);
		const uint8_t *p = buf, *body;
		size_t left = got < 0 ? 0 : (size_t)got, n;
		struct nlmsghdr h;

		if (got < 0)
			return result ? result : err_sys(e, (int)-got, "%s: netlink", what);
		while (nl_next(&p, &left, &h, &body, &n)) {
			char words[160];
			int err;

			if (h.nlmsg_type != NLMSG_ERROR || n < sizeof(struct nlmsgerr))
				continue;
			memcpy(&err, body, sizeof(err));
			if (err && err != -ignore && !result) {
				words_of(&h, body, n, words, sizeof(words));
				result = err_set(e, -err, "%s: %s%s", what, strerror(-err), words);
			}
			if (h.nlmsg_seq == m->seq)
				return result;
		}
	}
}

int nl_dump(int sock, const struct nl_msg *m,
	    int (*take)(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n),
	    void *arg, struct err *e)
{
	cleanup_free uint8_t *buf = malloc(ANSWER_BYTES);
	int r = 0;

	if (!buf || !nl_done(m))
		return err_set(e, ENOMEM, "netlink: no room for the message");
	if (send(sock, m->buf, m->len, 0) < 0)
		return err_sys(e, errno, "netlink");
	for (;;) {
		ssize_t got = answer(sock, buf);
		const uint8_t *p = buf, *body;
		size_t left = got < 0 ? 0 : (size_t)got, n;
		struct nlmsghdr h;
		int err = 0;

		if (got < 0)
			return err_sys(e, (int)-got, "netlink");
		while (nl_next(&p, &left, &h, &body, &n)) {
			if (h.nlmsg_type == NLMSG_DONE)
				return r;
			if (h.nlmsg_type == NLMSG_ERROR) {
				if (n >= sizeof(err))
					memcpy(&err, body, sizeof(err));
				return err ? err_sys(e, -err, "netlink") : r;
			}
			/* the rest is read all the same: it would be the next answer */
			if (!r)
				r = take(arg, &h, body, n);
		}
	}
}

/* ---- routes and addresses ---- */

struct seek {
	int family;
	const uint8_t *a;
	unsigned int prefix;
	char *which;
	size_t n_which;
	bool found, default6;
};

static void found(struct seek *s, const uint8_t *a, unsigned int prefix)
{
	char text[ADDR_TEXT];

	if (s->found || !prefix || !prefix_overlap(s->a, s->prefix, a, prefix))
		return;
	s->found = true;
	inet_ntop(s->family, a, text, sizeof(text));
	snprintf(s->which, s->n_which, "%s/%u", text, prefix);
}

static int see_route(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n)
{
	struct seek *s = arg;
	uint8_t a[16];
	struct rtmsg rt;

	if (h->nlmsg_type != RTM_NEWROUTE || n < sizeof(rt))
		return 0;
	memcpy(&rt, body, sizeof(rt));
	if (nl_get(body + NLMSG_ALIGN(sizeof(rt)), n - sizeof(rt), RTA_DST, a,
		   s->family == AF_INET ? 4 : 16))
		found(s, a, rt.rtm_dst_len);
	else if (!rt.rtm_dst_len && rt.rtm_type == RTN_UNICAST)
		s->default6 = true;
	return 0;
}

static int see_address(void *arg, const struct nlmsghdr *h, const uint8_t *body, size_t n)
{
	struct seek *s = arg;
	struct ifaddrmsg ifa;
	uint8_t a[16];

	if (h->nlmsg_type != RTM_NEWADDR || n < sizeof(ifa))
		return 0;
	memcpy(&ifa, body, sizeof(ifa));
	if (nl_get(body + NLMSG_ALIGN(sizeof(ifa)), n - sizeof(ifa), IFA_ADDRESS, a,
		   s->family == AF_INET ? 4 : 16))
		found(s, a, ifa.ifa_prefixlen);
	return 0;
}

static int routes(struct seek *s, struct err *e)
{
	struct rtmsg rt = { .rtm_family = (unsigned char)s->family };
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, e);
	uint8_t buf[128];
	struct nl_msg m;

	if (sock < 0)
		return sock;
	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETROUTE, NLM_F_DUMP, &rt, sizeof(rt));
	return nl_dump(sock, &m, see_route, s, e);
}

int host_overlap(int family, const uint8_t *a, unsigned int n, char *which, size_t n_which,
		 struct err *e)
{
	struct ifaddrmsg ifa = { .ifa_family = (unsigned char)family };
	struct seek s = { family, a, n, which, n_which, false, false };
	cleanup_close int sock = nl_socket(NETLINK_ROUTE, e);
	uint8_t buf[128];
	struct nl_msg m;
	int r;

	if (sock < 0)
		return sock;
	r = routes(&s, e);
	if (r)
		return r;
	nl_init(&m, buf, sizeof(buf));
	nl_begin(&m, RTM_GETADDR, NLM_F_DUMP, &ifa, sizeof(ifa));
	r = nl_dump(sock, &m, see_address, &s, e);
	return r ? r : s.found;
}

bool host_has_default6(void)
{
	uint8_t none[16] = { 0 };
	char which[ADDR_TEXT];
	struct seek s = { AF_INET6, none, 128, which, sizeof(which), false, false };

	return !routes(&s, NULL) && s.default6;
}

bool host_has_ip6(void)
{
	cleanup_close int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	char v = '1';
	FILE *f;

	if (fd < 0)
		return false;
	/* what new interfaces begin with */
	f = fopen("/proc/sys/net/ipv6/conf/default/disable_ipv6", "re");
	if (f && fread(&v, 1, 1, f) != 1)
		v = '1';
	if (f)
		fclose(f);
	return v == '0';
}

bool may_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	return !syscall(SYS_capget, &head, data) && (data[0].effective & 1u << CAP_NET_ADMIN) != 0;
}

int need_admin(struct err *e)
{
	return may_admin()
		       ? 0
		       : err_set(e, EPERM,
				 "networks need root (CAP_NET_ADMIN); without it, a VM has none: "
				 "use --network none");
}
