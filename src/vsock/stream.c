/* SPDX-License-Identifier: MIT */
/*
 * One stream of the socket muxer: its bytes both ways, its credit (virtio 1.2 section 5.10.6.3) and
 * how it ends. Called by mux.c with packets from the guest and for packets to it, and by the loop
 * when the host socket is ready. Main thread.
 *
 * To guest: bytes are read from the socket only when the last ones are gone, as many as the guest
 * has room for (at most VSOCK_PKT_MAX), and cut into packets as the guest's buffers come. While
 * packets can be made, the socket is read without asking the loop; the loop watches it only after
 * it ran dry.
 *
 * To host: bytes are written at once; what the socket does not take waits in a ring as big as the
 * credit that was announced. The guest is told of room when half of it has come free.
 */
#include "vsock/mux.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "event/fdtab.h"

/* What the guest still has room for. If its figures are nonsense, its own stream suffers. */
static uint32_t credit(const struct stream *s)
{
	uint32_t in_flight = s->sent_cnt - s->peer_fwd;

	return in_flight < s->peer_alloc ? s->peer_alloc - in_flight : 0;
}

void stream_credit(struct stream *s, const struct vsock_hdr *hdr)
{
	/* Packets may overtake each other on their way into the TX queue, so a count that went back
	 * is old news; one beyond what was sent is a lie. Neither is believed. */
	if (hdr->fwd_cnt - s->peer_fwd <= s->sent_cnt - s->peer_fwd)
		s->peer_fwd = hdr->fwd_cnt;
	s->peer_alloc = hdr->buf_alloc;
}

void stream_watch(struct stream *s)
{
	unsigned int ev = (s->watch_read ? LOOP_READ : 0) | (s->th_len ? LOOP_WRITE : 0);

	if (s->fd < 0 || ev == s->watched)
		return;
	s->watched = ev;
	if (s->io) {
		loop_set_io(s->io, ev);
	} else {
		s->io = loop_add_io(s->m->loop, s->fd, ev, stream_on_io, s);
		if (!s->io)
			log_guest(&s->m->log, "vsock: no memory to watch a stream: it stalls");
	}
}

static void drop_to_guest(struct stream *s)
{
	if (!s->to_guest)
		return;
	/* Bytes of the buffer may be lent to the device until the next call: so it rests as the
	 * spare one and the former spare goes. */
	free(s->m->spare);
	s->m->spare = s->to_guest;
	s->to_guest = NULL;
	s->tg_len = 0;
}

static void took_from_guest(struct stream *s, uint32_t n)
{
	s->fwd_cnt += n;
	if (s->fwd_cnt - s->fwd_told >= VSOCK_BUF_BYTES / 2 && s->state == ST_OPEN)
		s->owe |= OWE_CREDIT;
}

static void drop_to_host(struct stream *s)
{
	took_from_guest(s, s->th_len);
	free(s->to_host);
	s->to_host = NULL;
	s->th_len = 0;
}

/* The host's end is gone for good. What was read from it still goes to the guest. */
static void host_gone(struct stream *s)
{
	drop_to_host(s);
	s->host_eof = s->host_deaf = true;
	s->shut_want = VSOCK_SHUTDOWN_BOTH;
	s->watch_read = false;
	loop_del_io(s->io);
	s->io = NULL;
	if (s->fd < 0)
		return;
	fdtab_del(s->m->fds, s->fd);
	close(s->fd);
	s->fd = -1;
}

/* The host's program will take no more, but may have said something before it went. */
static void host_deaf(struct stream *s)
{
	drop_to_host(s);
	s->host_deaf = true;
	s->shut_want |= VSOCK_SHUTDOWN_RCV;
	if (s->host_eof || (s->guest_shut & VSOCK_SHUTDOWN_RCV))
		host_gone(s);
}

bool stream_hung_up(const struct stream *s)
{
	struct pollfd p = { .fd = s->fd };

	return poll(&p, 1, 0) == 1 && (p.revents & (POLLHUP | POLLERR));
}

/* Both directions are at their end, though each was closed on its own. */
static void check_finished(struct stream *s)
{
	if (s->host_eof && !s->th_len && (s->guest_shut & VSOCK_SHUTDOWN_SEND))
		host_gone(s);
}

static void host_ended(struct stream *s)
{
	s->host_eof = true;
	s->watch_read = false;
	s->shut_want |= VSOCK_SHUTDOWN_SEND;
	if (s->host_deaf || stream_hung_up(s))
		host_gone(s);
	else
		check_finished(s);
	stream_watch(s);
}

static bool can_read(const struct stream *s)
{
	return s->state == ST_OPEN && !s->host_eof && !s->tg_len &&
	       !(s->guest_shut & VSOCK_SHUTDOWN_RCV) && credit(s);
}

static void read_host(struct stream *s)
{
	uint32_t want = MIN(VSOCK_PKT_MAX, credit(s));
	bool watch = s->watch_read;
	ssize_t n;

	if (!s->to_guest) {
		s->to_guest = take_ptr(s->m->spare);
		if (!s->to_guest)
			s->to_guest = malloc(VSOCK_PKT_MAX);
		if (!s->to_guest) {
			host_gone(s);
			return;
		}
	}
	do {
		n = recv(s->fd, s->to_guest, want, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		s->tg_off = 0;
		s->tg_len = (uint32_t)n;
	} else {
		drop_to_guest(s);
	}
	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		host_ended(s);
		return;
	}
	/* A full read means more to come, to be had without the loop's help. */
	s->watch_read = n < (ssize_t)want;
	if (s->watch_read != watch)
		stream_watch(s);
}

static void flush_host(struct stream *s)
{
	while (s->th_len) {
		uint32_t first = MIN(s->th_len, VSOCK_BUF_BYTES - s->th_pos);
		struct iovec iov[2] = {
			{ .iov_base = s->to_host + s->th_pos, .iov_len = first },
			{ .iov_base = s->to_host, .iov_len = s->th_len - first },
		};
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };
		ssize_t n = sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			host_deaf(s);
			return;
		}
		s->th_pos = (s->th_pos + (uint32_t)n) % VSOCK_BUF_BYTES;
		s->th_len -= (uint32_t)n;
		took_from_guest(s, (uint32_t)n);
	}
	drop_to_host(s);
}

/* Does what had to wait until the ring was empty. */
static void flushed(struct stream *s)
{
	if (!s->th_len && s->state == ST_DRAINING) {
		mux_free(s);
		return;
	}
	if (!s->th_len && s->fd >= 0 && (s->guest_shut & VSOCK_SHUTDOWN_SEND)) {
		shutdown(s->fd, SHUT_WR);
		check_finished(s);
	}
	stream_watch(s);
	mux_queue(s);
}

static void data_to_host(struct stream *s, const uint8_t *data, uint32_t len)
{
	ssize_t n = 0;
	uint32_t at, first;

	if (s->host_deaf) {
		took_from_guest(s, len);
		return;
	}
	if (!s->th_len) {
		do {
			n = send(s->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
		} while (n < 0 && errno == EINTR);
		if (n < 0 && errno != EAGAIN) {
			took_from_guest(s, len);
			host_deaf(s);
			return;
		}
		n = MAX(n, 0);
		took_from_guest(s, (uint32_t)n);
		data += n;
		len -= (uint32_t)n;
	}
	if (!len)
		return;
	if (!s->to_host) {
		s->th_pos = 0;
		s->to_host = malloc(VSOCK_BUF_BYTES);
		if (!s->to_host) {
			took_from_guest(s, len);
			host_gone(s);
			return;
		}
	}
	at = (s->th_pos + s->th_len) % VSOCK_BUF_BYTES;
	first = MIN(len, VSOCK_BUF_BYTES - at);
	memcpy(s->to_host + at, data, first);
	memcpy(s->to_host, data + first, len - first);
	s->th_len += len;
	if (s->th_len == len)
		stream_watch(s);
}

void stream_kill(struct stream *s)
{
	if (s->hashed && !(s->owe & OWE_REQUEST))
		mux_rst(s->m, s->host_port, s->guest_port);
	mux_free(s);
}

void stream_guest_done(struct stream *s)
{
	if (s->state != ST_OPEN || s->fd < 0 || !s->th_len) {
		mux_free(s);
		return;
	}
	mux_unhash(s);
	mux_expire(s, EXPIRE_NONE);
	drop_to_guest(s);
	s->owe = 0;
	s->state = ST_DRAINING;
	s->watch_read = false;
	stream_watch(s);
}

static void guest_shutdown(struct stream *s, uint32_t flags)
{
	unsigned int fresh = flags & VSOCK_SHUTDOWN_BOTH & ~s->guest_shut;

	s->guest_shut |= fresh;
	if (s->guest_shut == VSOCK_SHUTDOWN_BOTH) {
		/* It wants to hear that we know, and nothing else any more. */
		mux_rst(s->m, s->host_port, s->guest_port);
		stream_guest_done(s);
		return;
	}
	if (fresh & VSOCK_SHUTDOWN_RCV) {
		drop_to_guest(s);
		s->watch_read = false;
		if (s->fd >= 0)
			shutdown(s->fd, SHUT_RD);
		if (s->host_deaf)
			host_gone(s);
	}
	flushed(s);
}

static void opened(struct stream *s)
{
	char line[32];
	int n;

	mux_expire(s, EXPIRE_NONE);
	s->state = ST_OPEN;
	if (s->external) {
		n = snprintf(line, sizeof(line), "OK %u\n", s->host_port);
		/* The first bytes of a new socket always fit. */
		if (send(s->fd, line, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT) != n)
			host_deaf(s);
	}
	mux_queue(s);
}

/*
 * What a guest may say, by state; anything else is answered with RST and ends the stream:
 *   ST_REQUESTED (and REQUEST is sent)  RESPONSE, RST
 *   ST_OPEN                             RW (until its SHUTDOWN of sending), SHUTDOWN, CREDIT_*, RST
 */
void stream_from_guest(struct stream *s, const struct vsock_hdr *hdr, const void *data)
{
	bool open = s->state == ST_OPEN && !(s->owe & OWE_RESPONSE);

	stream_credit(s, hdr);
	switch (hdr->op) {
	case VSOCK_OP_RST:
		stream_guest_done(s);
		return;
	case VSOCK_OP_RESPONSE:
		if (s->state != ST_REQUESTED || (s->owe & OWE_REQUEST))
			break;
		opened(s);
		return;
	case VSOCK_OP_SHUTDOWN:
		if (!open)
			break;
		guest_shutdown(s, hdr->flags);
		return;
	case VSOCK_OP_RW:
		if (!open || (s->guest_shut & VSOCK_SHUTDOWN_SEND) ||
		    hdr->len > VSOCK_BUF_BYTES - s->th_len)
			break;
		if (hdr->len)
			data_to_host(s, data, hdr->len);
		mux_queue(s);
		return;
	case VSOCK_OP_CREDIT_UPDATE:
		if (!open)
			break;
		mux_queue(s);
		return;
	case VSOCK_OP_CREDIT_REQUEST:
		if (!open)
			break;
		s->owe |= OWE_CREDIT;
		mux_queue(s);
		return;
	}
	stream_kill(s);
}

/* Which of our SHUTDOWN flags can be told now: not to send more only after all was sent. */
static unsigned int shut_due(const struct stream *s)
{
	unsigned int f = s->shut_want & ~s->shut_told;

	return s->state != ST_OPEN ? 0 : s->tg_len ? f & ~VSOCK_SHUTDOWN_SEND : f;
}

bool stream_has_work(const struct stream *s)
{
	return s->owe || shut_due(s) ||
	       (s->state == ST_OPEN &&
		((s->tg_len && credit(s)) || (!s->watch_read && can_read(s))));
}

bool stream_waits(const struct stream *s)
{
	uint8_t byte;

	if (s->state == ST_REQUESTED)
		return !stream_hung_up(s);
	if (s->state != ST_OPEN || s->fd < 0)
		return false;
	if (shut_due(s) || (s->tg_len && credit(s)))
		return true;
	/* it was not watched, so nobody has seen yet whether there is more */
	return !s->watch_read && can_read(s) && !stream_hung_up(s) &&
	       recv(s->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0;
}

static bool packet(struct stream *s, struct vsock_hdr *hdr, enum vsock_op op, uint32_t len,
		   uint32_t flags)
{
	*hdr = (struct vsock_hdr){
		.src_cid = VSOCK_CID_HOST,
		.dst_cid = s->m->guest_cid,
		.src_port = s->host_port,
		.dst_port = s->guest_port,
		.len = len,
		.type = VSOCK_TYPE_STREAM,
		.op = op,
		.flags = flags,
		.buf_alloc = VSOCK_BUF_BYTES,
		.fwd_cnt = s->fwd_cnt,
	};
	s->fwd_told = s->fwd_cnt;
	s->owe &= ~OWE_CREDIT;
	return true;
}

static bool owed(struct stream *s, struct vsock_hdr *hdr, unsigned int what, enum vsock_op op)
{
	if (!(s->owe & what))
		return false;
	s->owe &= ~what;
	return packet(s, hdr, op, 0, 0);
}

bool stream_emit(struct stream *s, struct vsock_hdr *hdr, const void **data, uint32_t max)
{
	uint32_t n;

	*data = NULL;
	if (owed(s, hdr, OWE_REQUEST, VSOCK_OP_REQUEST)) {
		mux_expire(s, EXPIRE_CONNECT);
		return true;
	}
	if (owed(s, hdr, OWE_RESPONSE, VSOCK_OP_RESPONSE))
		return true;
	if (!s->watch_read && can_read(s))
		read_host(s);
	if (shut_due(s)) {
		s->shut_told |= shut_due(s);
		if (s->shut_told == VSOCK_SHUTDOWN_BOTH)
			mux_expire(s, EXPIRE_CLOSE);
		return packet(s, hdr, VSOCK_OP_SHUTDOWN, 0, s->shut_told);
	}
	n = MIN(MIN(s->tg_len, credit(s)), MIN(max, VSOCK_PKT_MAX));
	if (s->state == ST_OPEN && n) {
		*data = s->to_guest + s->tg_off;
		s->tg_off += n;
		s->tg_len -= n;
		s->sent_cnt += n;
		if (!s->tg_len)
			drop_to_guest(s);
		/* Once, as nothing more is sent until the answer gives some. */
		if (!credit(s))
			s->owe |= OWE_CREDIT_REQUEST;
		return packet(s, hdr, VSOCK_OP_RW, n, 0);
	}
	return owed(s, hdr, OWE_CREDIT_REQUEST, VSOCK_OP_CREDIT_REQUEST) ||
	       owed(s, hdr, OWE_CREDIT, VSOCK_OP_CREDIT_UPDATE);
}

/* Before the guest answered, the socket is watched only for a host program that gave up. */
static void io_requested(struct stream *s)
{
	if (stream_hung_up(s)) {
		stream_kill(s);
		return;
	}
	s->watch_read = false;
	stream_watch(s);
}

void stream_on_io(void *arg, int fd, unsigned int events)
{
	struct stream *s = arg;
	struct vsock_mux *m = s->m;

	(void)fd;
	if (mux_settle(m))
		return;
	if (s->state == ST_LINE) {
		host_line(s);
	} else if (s->state == ST_REQUESTED) {
		io_requested(s);
	} else {
		if ((events & LOOP_READ) && s->watch_read) {
			if (can_read(s)) {
				read_host(s);
			} else {
				s->watch_read = false;
				stream_watch(s);
			}
			mux_queue(s);
		}
		if ((events & LOOP_WRITE) && s->th_len) {
			flush_host(s);
			flushed(s);
		}
	}
	mux_wake(m);
}
