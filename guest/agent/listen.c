/* SPDX-License-Identifier: MIT */
/*
 * Where connections come from. On vsock only the host, CID 2, is answered: any process of the guest
 * can connect to the guest's own listeners through the loopback transport, and would be given root.
 * (A guest that is itself a vsock host is the exception to mind: with vhost_vsock and
 * vsock_loopback loaded, its own processes can bind CID 2. Do not load both in an image meant for
 * strangers.)
 *
 * The kernel may learn vsock only later, when a module is loaded: the agent tries again, soon at
 * first and then every few seconds. Event handlers of the agent's thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#include "agent.h"

#define RETRY_FIRST_MS 20
#define RETRY_LAST_MS 5000
#define BACKLOG 128

struct listener {
	struct agent *agent;
	bool vsock, complained, said;
	struct watch watch, ready;
	struct timer retry, rest;
	uint64_t delay_ms;
};

static bool from_host(int fd)
{
	struct sockaddr_vm peer = { 0 };
	socklen_t n = sizeof(peer);

	return !getpeername(fd, (struct sockaddr *)&peer, &n) && peer.svm_family == AF_VSOCK &&
	       peer.svm_cid == VMADDR_CID_HOST;
}

static void on_rest_over(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, rest);

	loop_watch(&l->agent->loop, &l->watch, EPOLLIN);
}

static void on_connection(struct watch *w, uint32_t events)
{
	struct listener *l = container_of(w, struct listener, watch);
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)) {
		loop_unwatch(&l->agent->loop, w); /* it stays readable: do not spin on it */
		loop_timer(&l->agent->loop, &l->rest, 100);
	}
	if (fd < 0)
		return;
	if (l->vsock && !from_host(fd)) {
		agent_log("refused a connection that is not from the host");
		close(fd);
		return;
	}
	conn_open(l->agent, fd);
}

static void retry_later(struct listener *l)
{
	loop_timer(&l->agent->loop, &l->retry, l->delay_ms);
	l->delay_ms = l->delay_ms * 2 > RETRY_LAST_MS ? RETRY_LAST_MS : l->delay_ms * 2;
}

static bool send_ready(struct listener *l, int fd)
{
	struct proto_ready y = { .version = PROTO_VERSION };
	uint8_t frame[PROTO_SMALL_FRAME];
	size_t n;

	if (l->agent->gen_state == GEN_SET)
		memcpy(y.gen, l->agent->gen, PROTO_GEN);
	n = proto_put_ready(frame, sizeof(frame), &y);
	return send(fd, frame, n, MSG_NOSIGNAL) == (ssize_t)n;
}

/*
 * Connected; then the host has heard us when it closes. Anything else may be a fork or a restore in
 * the midst of it, whose host has heard nothing, or a host that had no time for us: once more.
 */
static void on_ready(struct watch *w, uint32_t events)
{
	struct listener *l = container_of(w, struct listener, ready);
	char c;

	if (!l->said && !(events & (EPOLLERR | EPOLLHUP)) && send_ready(l, w->fd) &&
	    !loop_watch(&l->agent->loop, w, EPOLLIN | EPOLLRDHUP)) {
		l->said = true;
		return;
	}
	if (l->said && recv(w->fd, &c, 1, 0) >= 0)
		l->delay_ms = RETRY_FIRST_MS;
	else if (l->said && (errno == EAGAIN || errno == EINTR))
		return;
	else
		retry_later(l);
	loop_close(&l->agent->loop, w);
}

/* The host listens to nobody but root: a port that others may not bind shows it (as in rsh, but
 * here both kernels are known). */
static void bind_privileged(int fd)
{
	struct sockaddr_vm own = { .svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY };

	for (own.svm_port = PROTO_ROOT_PORT_MAX; own.svm_port; own.svm_port--)
		if (!bind(fd, (struct sockaddr *)&own, sizeof(own)) || errno != EADDRINUSE)
			return;
}

int listen_dial_host(const struct agent *a)
{
	const struct sockaddr_vm vm = { .svm_family = AF_VSOCK,
					.svm_cid = VMADDR_CID_HOST,
					.svm_port = PROTO_READY_PORT };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	bool vsock = !a->host[0];
	int fd = socket(vsock ? AF_VSOCK : AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (vsock)
		bind_privileged(fd);
	memcpy(un.sun_path, a->host, strlen(a->host));
	if (connect(fd, vsock ? (const struct sockaddr *)&vm : (const struct sockaddr *)&un,
		    vsock ? sizeof(vm) : sizeof(un)) &&
	    errno != EINPROGRESS) {
		int err = errno;

		close(fd);
		return -err;
	}
	return fd;
}

/* Returns 0 if it is on its way; -errno if there is no way to the host yet. */
static int say_ready(struct listener *l)
{
	int fd = listen_dial_host(l->agent), r;

	if (fd < 0)
		return fd;
	l->said = false;
	l->ready = (struct watch){ .fd = fd, .fn = on_ready };
	r = loop_watch(&l->agent->loop, &l->ready, EPOLLOUT);
	if (r)
		loop_close(&l->agent->loop, &l->ready);
	return r;
}

static int start(struct listener *l, int family, const void *addr, socklen_t n)
{
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;

	if (fd < 0)
		return -errno;
	if (bind(fd, addr, n) || listen(fd, BACKLOG)) {
		r = -errno;
		close(fd);
		return r;
	}
	l->watch = (struct watch){ .fd = fd, .fn = on_connection };
	return loop_watch(&l->agent->loop, &l->watch, EPOLLIN);
}

static void on_retry(struct timer *t)
{
	struct listener *l = container_of(t, struct listener, retry);
	struct sockaddr_vm any = { .svm_family = AF_VSOCK,
				   .svm_cid = VMADDR_CID_ANY,
				   .svm_port = PROTO_AGENT_PORT };
	const char *what = "listen";
	int r = l->watch.fd < 0 ? start(l, AF_VSOCK, &any, sizeof(any)) : 0;

	if (!r) {
		what = "no way to the host yet";
		r = say_ready(l);
	}
	if (!r) {
		if (l->complained)
			agent_log("vsock: listening on port %u", PROTO_AGENT_PORT);
		l->complained = false;
		return;
	}
	/* another agent, such as that of clone-init beside an image's own */
	if (r == -EADDRINUSE) {
		agent_log("vsock: another agent listens already");
		l->agent->taken = l->agent->loop.stop = true;
		return;
	}
	if (!l->complained)
		agent_log("vsock: %s: %s; trying again", what, strerror(-r));
	l->complained = true;
	retry_later(l);
}

int listen_open(struct agent *a, const char *where)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	struct listener *l = calloc(1, sizeof(*l)); /* lives as long as the agent */
	int r;

	if (!l)
		return -ENOMEM;
	l->agent = a;
	l->watch.fd = l->ready.fd = -1;
	l->delay_ms = RETRY_FIRST_MS;
	l->retry.fn = on_retry;
	l->rest.fn = on_rest_over;
	if (!strcmp(where, "vsock")) {
		l->vsock = true;
		on_retry(&l->retry);
		return 0;
	}
	if (strncmp(where, "unix:", 5) != 0 || strlen(where + 5) >= sizeof(un.sun_path))
		return -EINVAL;
	strcpy(un.sun_path, where + 5);
	r = snprintf(a->host, sizeof(a->host), "%s.host", un.sun_path);
	r = r < (int)sizeof(a->host) ? start(l, AF_UNIX, &un, sizeof(un)) : -EINVAL;
	if (!r)
		on_retry(&l->retry);
	return r;
}
