/* SPDX-License-Identifier: MIT */
/*
 * Encoding of a child's report. The child is jailed and may be hostile by then (it has run its
 * guest): the parent reads one bounded message and believes only its numbers.
 */
#include "fork/report.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "base/buf.h"
#include "base/endian.h"
#include "base/util.h"
#include "fork/fork.h"

#define REPORT_MAX 512

int report_send(int fd, const struct vm_child_result *r)
{
	const uint64_t clocks[] = { r->forked_ns, r->adopted_ns, r->entered_ns, r->first_exit_ns,
				    r->ready_ns };
	le32 error = le32_put((uint32_t)-r->error);
	size_t len = strnlen(r->msg, sizeof(r->msg) - 1), at = sizeof(error);
	char buf[sizeof(error) + sizeof(clocks) + sizeof(r->msg)];

	/* not in a wbuf: that there is no memory may be what is to be said */
	memcpy(buf, &error, sizeof(error));
	for (size_t i = 0; i < ARRAY_SIZE(clocks); i++, at += sizeof(le64)) {
		le64 v = le64_put(clocks[i]);

		memcpy(buf + at, &v, sizeof(v));
	}
	memcpy(buf + at, r->msg, len);
	_Static_assert(sizeof(buf) <= REPORT_MAX, "it is read in one piece");
	return send(fd, buf, at + len, MSG_NOSIGNAL) < 0 ? -EPIPE : 0;
}

int report_recv(int fd, struct vm_child_result *r)
{
	char buf[REPORT_MAX];
	uint32_t error;
	struct rbuf b;
	ssize_t n;
	size_t len;

	/* a reset is told once, before what was sent: a spare that failed has not read who it was
	 * to be */
	do {
		n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
	} while (n < 0 && (errno == EINTR || errno == ECONNRESET));
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
	rbuf_init(&b, buf, (size_t)n);
	error = rbuf_u32(&b);
	r->error = -(int)MIN(error, 4095u);
	r->forked_ns = rbuf_u64(&b);
	r->adopted_ns = rbuf_u64(&b);
	r->entered_ns = rbuf_u64(&b);
	r->first_exit_ns = rbuf_u64(&b);
	r->ready_ns = rbuf_u64(&b);
	len = MIN(rbuf_left(&b), sizeof(r->msg) - 1);
	rbuf_bytes(&b, r->msg, len);
	r->msg[len] = '\0';
	for (size_t i = 0; i < len; i++)
		if (r->msg[i] < ' ' || r->msg[i] > '~')
			r->msg[i] = '?';
	return b.bad ? -EPIPE : 0;
}
