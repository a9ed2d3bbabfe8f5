/* SPDX-License-Identifier: MIT */
/*
 * See netsock.h. Agent's thread, on the critical path of a fork: a batch is one system call to send
 * and one for each answer. netlink(7).
 */
#include "netsock.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_MAX 32768 /* what the kernel's own dumps are cut to */

int netsock_open(int protocol)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	return fd < 0 ? -errno : fd;
}

static int send_all(int fd, const struct nl_msg *m)
{
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	struct iovec iov = { .iov_base = m->buf, .iov_len = m->len };
	struct msghdr h = {
		.msg_name = &kernel, .msg_namelen = sizeof(kernel), .msg_iov = &iov, .msg_iovlen = 1
	};

	if (!nl_done(m))
		return -EMSGSIZE;
	return sendmsg(fd, &h, 0) < 0 ? -errno : 0;
}

/* Answers are queued before send and recv return: an empty queue is an answer that is lost. */
static ssize_t receive(int fd, uint8_t *buf)
{
	ssize_t n;

	do {
		n = recv(fd, buf, ANSWER_MAX, MSG_DONTWAIT | MSG_TRUNC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EPROTO : -errno;
	return n > ANSWER_MAX ? -EMSGSIZE : n;
}

/* The number in NLMSG_DONE or NLMSG_ERROR. */
static int verdict(const uint8_t *body, size_t n)
{
	int32_t r = 0;

	if (n >= sizeof(r))
		memcpy(&r, body, sizeof(r));
	return r > 0 ? -EPROTO : r;
}

int netsock_dump(int fd, const struct nl_msg *m,
		 void (*fn)(void *arg, const uint8_t *body, size_t n), void *arg)
{
	uint8_t buf[ANSWER_MAX];
	int r = send_all(fd, m);

	if (r)
		return r;
	for (;;) {
		ssize_t got = receive(fd, buf);
		const uint8_t *p = buf, *body;
		struct nlmsghdr h;
		size_t left, n;

		if (got < 0)
			return (int)got;
		left = (size_t)got;
		while (nl_next(&p, &left, &h, &body, &n)) {
			if (h.nlmsg_type == NLMSG_DONE || h.nlmsg_type == NLMSG_ERROR)
				return verdict(body, n);
			fn(arg, body, n);
		}
	}
}

int netsock_batch(int fd, const struct nl_msg *m, int *result)
{
	uint8_t buf[ANSWER_MAX];
	int r = send_all(fd, m);

	for (uint32_t acks = 0; !r && acks < m->seq;) {
		ssize_t got = receive(fd, buf);
		const uint8_t *p = buf, *body;
		struct nlmsghdr h;
		size_t left, n;

		if (got < 0)
			return (int)got;
		left = (size_t)got;
		while (nl_next(&p, &left, &h, &body, &n)) {
			if (h.nlmsg_type != NLMSG_ERROR || !h.nlmsg_seq || h.nlmsg_seq > m->seq)
				continue;
			result[h.nlmsg_seq - 1] = verdict(body, n);
			acks++;
		}
	}
	return r;
}
