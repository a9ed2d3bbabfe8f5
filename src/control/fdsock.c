/* SPDX-License-Identifier: MIT */
/*
 * The descriptor socket. See fdsock.h. What a connection granted and nobody took goes away with it.
 * It has no time limit: callers also hold one open to learn, by its end, that the VM process has
 * ended.
 */
#include "control/fdsock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "control/json.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"

struct fdconn {
	struct fdsock *s;
	struct fdconn *next, **link;
	int fd;
	struct loop_io *io;
};

struct fdsock {
	struct loop *loop;
	struct fdtab *fds;
	struct grants *g;
	int fd;
	struct loop_io *io;
	struct fdconn *conns;
	unsigned int nconns;
	struct log_limit limit;
};

static void fdconn_free(struct fdconn *c)
{
	struct fdsock *s = c->s;

	grants_drop_of(s->g, c);
	loop_del_io(c->io);
	fdtab_del(s->fds, c->fd);
	close(c->fd);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	if (s->nconns-- == FDSOCK_CONNS_MAX)
		loop_set_io(s->io, LOOP_READ);
	free(c);
}

static int grant(struct fdconn *c, json_t *names, int *fds, size_t nfds, struct err *e)
{
	if (json_array_size(names) != nfds)
		return err_set(e, EINVAL, "grant: %zu names but %zu descriptors",
			       json_array_size(names), nfds);
	for (size_t i = 0; i < nfds; i++) {
		const char *name = json_string_value(json_array_get(names, i));
		int r;

		if (!name || !*name)
			return err_set(e, EINVAL, "grant: a name must be a string");
		r = grants_put_of(c->s->g, name, take_fd(&fds[i]), c, e);
		if (r)
			return r;
	}
	return 0;
}

/* Returns the claimed descriptor, still listed in the fd table. */
static int claim(struct fdconn *c, const char *name, size_t nfds, struct err *e)
{
	if (nfds)
		return err_set(e, EINVAL, "claim: takes no descriptors");
	if (strncmp(name, "pidfd/", 6))
		return err_set(e, EINVAL, "claim: only pidfd/NAME can be claimed");
	return grants_take(c->s->g, name, e);
}

static int handle(struct fdconn *c, const char *buf, size_t n, int *fds, size_t nfds, int *out,
		  struct err *e)
{
	struct {
		json_t *grant;
		const char *claim;
	} m = { NULL, NULL };
	static const struct json_field tab[] = {
		{ "grant", WANT_ARRAY, false, 0, 1, FD_PASS_MAX },
		{ "claim", WANT_STRING, false, sizeof(json_t *), 1, GRANT_NAME_MAX },
	};
	cleanup_json json_t *j = json_object_from(buf, n, e);
	int r;

	if (!j)
		return -EINVAL;
	r = json_fields(j, tab, ARRAY_SIZE(tab), &m, e);
	if (r)
		return r;
	if (!m.grant == !m.claim)
		return err_set(e, EINVAL, "one of grant and claim is needed");
	if (m.grant)
		return grant(c, m.grant, fds, nfds, e);
	r = claim(c, m.claim, nfds, e);
	if (r < 0)
		return r;
	*out = r;
	return 0;
}

static void fdconn_io(void *arg, int sock, unsigned int events)
{
	struct fdconn *c = arg;
	struct fdsock *s = c->s;
	char buf[FDSOCK_MESSAGE_MAX]; /* here, so that a VM without clients has no page of it */
	int fds[FD_PASS_MAX], out = -1, r;
	cleanup_json json_t *reply = NULL;
	cleanup_free char *text = NULL;
	size_t nfds = 0;
	struct err e;
	ssize_t n;

	(void)events;
	n = fd_recv(sock, buf, sizeof(buf), fds, FD_PASS_MAX, &nfds);
	if (n == -EAGAIN || n == -EINTR)
		return;
	if (n <= 0 && n != -EMSGSIZE) {
		fdconn_free(c);
		return;
	}
	if (n == -EMSGSIZE)
		r = err_set(&e, EMSGSIZE, "more than %u bytes or %d descriptors in one message",
			    FDSOCK_MESSAGE_MAX, FD_PASS_MAX);
	else
		r = handle(c, buf, (size_t)n, fds, nfds, &out, &e);
	for (size_t i = 0; i < nfds; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	reply = r ? json_pack("{s:s}", "error", e.msg) : json_pack("{s:b}", "ok", 1);
	text = reply ? json_text(reply, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
	/* A client that does not read its short answers is not worth a queue. */
	if (!text || fd_send(sock, text, strlen(text), &out, out >= 0))
		fdconn_free(c);
	if (out >= 0) {
		fdtab_del(s->fds, out);
		close(out);
	}
}

static void fdsock_accept(void *arg, int lfd, unsigned int events)
{
	struct fdsock *s = arg;
	int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct fdconn *c;

	(void)events;
	if (fd < 0)
		return;
	c = calloc(1, sizeof(*c));
	if (c)
		c->io = loop_add_io(s->loop, fd, LOOP_READ, fdconn_io, c);
	if (!c || !c->io) {
		log_guest(&s->limit, "descriptor socket: out of memory");
		free(c);
		close(fd);
		return;
	}
	c->s = s;
	c->fd = fd;
	fdtab_add(s->fds, fd, FD_CLOSE, "fd connection");
	c->next = s->conns;
	c->link = &s->conns;
	if (c->next)
		c->next->link = &c->next;
	s->conns = c;
	if (++s->nconns == FDSOCK_CONNS_MAX)
		loop_set_io(s->io, 0);
}

int fdsock_open(struct loop *l, struct fdtab *fds, struct grants *g, int listen_fd,
		struct fdsock **out, struct err *e)
{
	struct fdsock *s = calloc(1, sizeof(*s));

	fdtab_del(fds, listen_fd);
	fd_set_nonblock(listen_fd, true);
	if (s) {
		s->loop = l;
		s->fds = fds;
		s->g = g;
		s->fd = listen_fd;
		s->io = loop_add_io(l, listen_fd, LOOP_READ, fdsock_accept, s);
	}
	if (!s || !s->io) {
		free(s);
		close(listen_fd);
		return err_set(e, ENOMEM, "descriptor socket: out of memory");
	}
	fdtab_add(fds, listen_fd, FD_CLOSE, "fd socket");
	*out = s;
	return 0;
}

void fdsock_close(struct fdsock *s)
{
	if (!s)
		return;
	while (s->conns)
		fdconn_free(s->conns);
	loop_del_io(s->io);
	fdtab_del(s->fds, s->fd);
	close(s->fd);
	free(s);
}

bool fdsock_busy(const struct fdsock *s)
{
	return s->nconns > 0;
}
