/* SPDX-License-Identifier: MIT */
/*
 * The host's side of the socket muxer: the listening socket and its CONNECT line, connections that
 * the guest opens to unix sockets or to listeners inside this process, and streams of this process
 * to the guest. Main thread.
 */
#include "vsock/mux.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/time.h"

#define ROOT_PORT_MAX 1023u /* vsock(7): binding to one needs CAP_NET_BIND_SERVICE */
#define ACCEPT_BATCH 16
#define ACCEPT_AGAIN_NS NS_PER_SEC

void host_accepting(struct vsock_mux *m)
{
	bool on = m->nr_streams < VSOCK_MAX_CONNS && !m->accept_ns;

	if (!m->listen_io || on == m->accepting)
		return;
	m->accepting = on;
	loop_set_io(m->listen_io, on ? LOOP_READ : 0);
}

/* A host port that makes a pair with this guest port that is not in use. */
static uint32_t pick_port(struct vsock_mux *m, uint32_t guest_port)
{
	uint32_t port;

	/* Ends: there are far fewer streams than ports. */
	do {
		port = VSOCK_HOST_PORT_BASE + m->next_port;
		m->next_port = (m->next_port + 1) % VSOCK_HOST_PORT_BASE;
	} while (mux_find(m, port, guest_port));
	return port;
}

static void request(struct stream *s, uint32_t guest_port)
{
	s->state = ST_REQUESTED;
	s->guest_port = guest_port;
	s->host_port = pick_port(s->m, guest_port);
	s->owe = OWE_REQUEST;
	mux_hash(s);
	mux_queue(s);
}

/* "CONNECT <port>" without its newline. */
static bool parse_line(const char *line, uint32_t len, uint32_t *port)
{
	static const char verb[] = "CONNECT ";
	const uint32_t skip = sizeof(verb) - 1;
	uint64_t v = 0;

	if (len <= skip || len > skip + 10 || memcmp(line, verb, skip))
		return false;
	for (uint32_t i = skip; i < len; i++) {
		if (line[i] < '0' || line[i] > '9')
			return false;
		v = v * 10 + (uint64_t)(line[i] - '0');
	}
	if (v > UINT32_MAX)
		return false;
	*port = (uint32_t)v;
	return true;
}

/* Peeks, so that nothing beyond the newline is taken: that is the stream's. 1 when the line is
 * complete, 0 when more must come, -1 when it never will be one. */
static int take_line(struct stream *s)
{
	uint32_t room = VSOCK_LINE_MAX - s->line_len;
	char *at = s->line + s->line_len, *nl;
	ssize_t n = recv(s->fd, at, room, MSG_PEEK | MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -1;
	nl = memchr(at, '\n', (size_t)n);
	if (nl)
		n = nl - at + 1;
	if (recv(s->fd, at, (size_t)n, MSG_DONTWAIT) != n)
		return -1;
	s->line_len += (uint32_t)n;
	return nl ? 1 : s->line_len < VSOCK_LINE_MAX ? 0 : -1;
}

void host_line(struct stream *s)
{
	struct vsock_mux *m = s->m;
	int r = take_line(s);
	uint32_t port;

	if (r == 0)
		return;
	if (r < 0 || !parse_line(s->line, s->line_len - 1, &port) || !m->up ||
	    (m->gate && !m->gate(m->gate_arg, port))) {
		mux_free(s);
		return;
	}
	mux_expire(s, EXPIRE_NONE);
	request(s, port);
}

void host_on_listen(void *arg, int lfd, unsigned int events)
{
	struct vsock_mux *m = arg;

	(void)events;
	mux_settle(m);
	for (int i = 0; i < ACCEPT_BATCH && m->nr_streams < VSOCK_MAX_CONNS; i++) {
		int fd = accept4(lfd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct stream *s;

		if (fd < 0 && (errno == EINTR || errno == ECONNABORTED))
			continue;
		if (fd < 0 && errno != EAGAIN) {
			log_guest(&m->log, "vsock: accept: %s: trying again in a second",
				  strerror(errno));
			m->accept_ns = time_mono_ns() + ACCEPT_AGAIN_NS;
			host_accepting(m);
			mux_arm(m);
		}
		if (fd < 0)
			break;
		s = mux_stream(m, ST_LINE, fd);
		if (!s)
			break;
		s->external = s->watch_read = true;
		mux_expire(s, EXPIRE_LINE);
		stream_watch(s);
	}
	mux_wake(m);
}

static int connect_path(const struct vsock_mux *m, uint32_t port)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int fd, n = snprintf(sa.sun_path, sizeof(sa.sun_path), "%s_%u", m->path, port);

	BUG_ON(n < 0 || (size_t)n >= sizeof(sa.sun_path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* Does not wait: a listener with a full backlog refuses. */
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		close(fd);
		return -1;
	}
	return fd;
}

static const struct mux_listener *find_listener(const struct vsock_mux *m, uint32_t port)
{
	for (unsigned int i = 0; i < m->nr_listeners; i++)
		if (m->listener[i].port == port)
			return &m->listener[i];
	return NULL;
}

static int pair(int fd[2])
{
	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd);
}

/* The guest wants a stream to a host port for which it has none. Our own listeners hear root alone:
 * its kernel binds the lower ports for nobody else. */
void host_request(struct vsock_mux *m, const struct vsock_hdr *hdr)
{
	const struct mux_listener *l = find_listener(m, hdr->dst_port);
	struct stream *s = NULL;
	int fd[2] = { -1, -1 };

	if (m->nr_by_guest < VSOCK_MAX_GUEST_CONNS && m->nr_streams < VSOCK_MAX_CONNS) {
		if (!l)
			fd[0] = connect_path(m, hdr->dst_port);
		else if (hdr->src_port > ROOT_PORT_MAX || pair(fd))
			fd[0] = fd[1] = -1;
	}
	if (fd[0] >= 0)
		s = mux_stream(m, ST_OPEN, fd[0]);
	if (!s) {
		if (fd[1] >= 0)
			close(fd[1]);
		mux_rst(m, hdr->dst_port, hdr->src_port);
		return;
	}
	s->by_guest = true;
	m->nr_by_guest++;
	s->host_port = hdr->dst_port;
	s->guest_port = hdr->src_port;
	stream_credit(s, hdr);
	s->owe = OWE_RESPONSE;
	s->watch_read = true;
	mux_hash(s);
	mux_queue(s);
	stream_watch(s);
	if (l)
		l->fn(l->arg, fd[1]);
}

int vsock_mux_connect(struct vsock_mux *m, uint32_t port, int *fd, struct err *e)
{
	struct stream *s;
	int p[2];

	mux_settle(m);
	if (!m->up)
		return err_set(e, ENOTCONN, "vsock: the guest has no driver for it");
	if (pair(p))
		return err_sys(e, errno, "vsock: socketpair");
	s = mux_stream(m, ST_REQUESTED, p[0]);
	if (!s) {
		close(p[1]);
		return err_set(e, EMFILE, "vsock: %u connections are the limit", VSOCK_MAX_CONNS);
	}
	request(s, port);
	mux_expire(s, EXPIRE_CONNECT); /* also of a guest that never takes the REQUEST */
	*fd = p[1];
	mux_wake(m);
	return 0;
}
