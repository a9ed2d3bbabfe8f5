/* SPDX-License-Identifier: MIT */
/*
 * The HTTP server of a VM process. See http.h. A connection is in one of three states: reading a
 * request, waiting for its handler, sending the answer; a timer guards the first and the last.
 */
#include "control/http.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"

#define JSON_TYPE "application/json"
#define IN_MAX (HTTP_HEAD_MAX + HTTP_BODY_MAX)

struct http_conn {
	struct http *h;
	struct http_conn *next, **link;
	int fd;
	struct loop_io *io;
	struct loop_timer *timer;
	char *in; /* in_cap bytes: IN_MAX, or more for a request that may be bigger */
	size_t in_cap;
	size_t in_bytes;
	char *out; /* the answer being sent */
	size_t out_bytes, out_pos;
	struct http_request *pending;
	bool eof, last, told_continue, running, dead;
};

struct http {
	struct loop *loop;
	struct fdtab *fds;
	int fd;
	struct loop_io *io;
	struct loop_timer *retry; /* accept again after running out of descriptors */
	http_handler *fn;
	void *arg;
	struct http_conn *conns;
	unsigned int nconns, busy;
	uint64_t last_ns;
	bool dead;
	struct log_limit limit;
};

static void conn_free(struct http_conn *c)
{
	struct http *h = c->h;

	if (c->pending)
		c->pending->conn = NULL;
	loop_del_io(c->io);
	if (c->timer)
		loop_del_timer(c->timer);
	fdtab_del(h->fds, c->fd);
	close(c->fd);
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	free(c->in);
	free(c->out);
	free(c);
	if (h->nconns-- == HTTP_CONNS_MAX && !h->dead)
		loop_set_io(h->io, LOOP_READ);
}

static const char *status_text(unsigned int status)
{
	return status == 200 ? "OK" : status == 204 ? "No Content" : "Bad Request";
}

static int conn_queue(struct http_conn *c, unsigned int status, const char *type, const char *json,
		      size_t n)
{
	char head[256];
	int len;

	if (status == 204)
		len = snprintf(head, sizeof(head),
			       "HTTP/1.1 204 No Content\r\nServer: clone\r\n%s\r\n",
			       c->last ? "Connection: close\r\n" : "");
	else
		len = snprintf(head, sizeof(head),
			       "HTTP/1.1 %u %s\r\nServer: clone\r\nContent-Type: %s\r\n"
			       "Content-Length: %zu\r\n%s\r\n",
			       status, status_text(status), type, n,
			       c->last ? "Connection: close\r\n" : "");
	BUG_ON(len < 0 || (size_t)len >= sizeof(head) || c->out);
	if (status == 204)
		n = 0;
	c->out = malloc((size_t)len + n);
	if (!c->out)
		return -ENOMEM;
	memcpy(c->out, head, (size_t)len);
	if (n)
		memcpy(c->out + len, json, n);
	c->out_bytes = (size_t)len + n;
	c->out_pos = 0;
	return 0;
}

/* Our own complaint about bytes that are no request; the connection ends after it. */
static void conn_refuse(struct http_conn *c, const struct err *e)
{
	char json[ERR_MSG_MAX + 64];
	int n = snprintf(json, sizeof(json), "{\"fault_message\": \"%s\"}", e->msg);

	c->last = true;
	if (conn_queue(c, 400, JSON_TYPE, json, (size_t)n))
		c->dead = true;
}

/* true when all of the answer is with the kernel. */
static bool conn_send(struct http_conn *c)
{
	while (c->out_pos < c->out_bytes) {
		ssize_t r = send(c->fd, c->out + c->out_pos, c->out_bytes - c->out_pos,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
			loop_set_timer(c->timer, HTTP_SEND_MS * NS_PER_MS);
			return false;
		}
		if (r < 0) {
			c->dead = true;
			return false;
		}
		c->out_pos += (size_t)r;
	}
	free(take_ptr(c->out));
	if (c->last)
		c->dead = true;
	return true;
}

static void conn_dispatch(struct http_conn *c, const struct http_head *head)
{
	struct http *h = c->h;
	size_t all = head->head_bytes + (size_t)head->body_bytes;
	struct http_request *rq = calloc(1, sizeof(*rq));
	char *body = malloc((size_t)head->body_bytes + 1);

	if (!rq || !body) {
		free(rq);
		free(body);
		c->dead = true;
		return;
	}
	memcpy(body, c->in + head->head_bytes, (size_t)head->body_bytes);
	body[head->body_bytes] = '\0';
	*rq = (struct http_request){ .method = head->method,
				     .body = body,
				     .body_bytes = (size_t)head->body_bytes,
				     .server = h,
				     .conn = c };
	memcpy(rq->path, head->path, sizeof(rq->path));
	memmove(c->in, c->in + all, c->in_bytes - all);
	c->in_bytes -= all;
	c->last = head->close;
	c->told_continue = false;
	c->pending = rq;
	h->busy++;
	h->last_ns = time_mono_ns();
	loop_set_timer(c->timer, 0);
	h->fn(h->arg, rq);
}

/* For the request that begins in the buffer. 1, or -errno. */
static int make_room(struct http_conn *c, const struct http_head *h, struct err *e)
{
	size_t most = http_body_max(h->method == HTTP_PUT ? "PUT" : "", h->path);
	size_t need = h->head_bytes + (size_t)MIN(h->body_bytes, most);
	char *in;

	if (h->body_bytes > most)
		return err_set(e, EBADMSG, "the body of %llu bytes exceeds the limit of %zu",
			       (unsigned long long)h->body_bytes, most);
	if (need <= c->in_cap)
		return 1;
	in = realloc(c->in, need);
	if (!in)
		return err_set(e, ENOMEM, "out of memory");
	c->in = in;
	c->in_cap = need;
	return 1;
}

/* One request off the buffer if a whole one is there. false: need more bytes. */
static bool conn_parse(struct http_conn *c)
{
	struct http_head head;
	struct err e;
	int r;

	if (!c->in_bytes)
		return false;
	r = http_parse_request(c->in, c->in_bytes, &head, &e);
	if (r == 1)
		r = make_room(c, &head, &e);
	if (r < 0) {
		conn_refuse(c, &e);
		return true;
	}
	if (r == 0)
		return false;
	if (c->in_bytes - head.head_bytes < head.body_bytes) {
		static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";

		if (head.expect_continue && !c->told_continue)
			send(c->fd, go_on, sizeof(go_on) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		c->told_continue = true;
		return false;
	}
	conn_dispatch(c, &head);
	return true;
}

/* Does all that can be done now, then says what to wait for; may free c. */
static void conn_run(struct http_conn *c)
{
	unsigned int want = 0;

	c->running = true;
	for (;;) {
		if (c->dead || (c->out && !conn_send(c)))
			break;
		if (c->dead || c->pending || !conn_parse(c))
			break;
	}
	c->running = false;
	/* A client may close its sending side and still wait for the answer. */
	if (c->dead || (c->eof && !c->out && !c->pending)) {
		conn_free(c);
		return;
	}
	if (c->out)
		want |= LOOP_WRITE;
	if (!c->eof && c->in_bytes < c->in_cap && !c->out)
		want |= LOOP_READ;
	loop_set_io(c->io, want);
}

static void conn_read(struct http_conn *c)
{
	bool fresh = !c->in_bytes;
	ssize_t r = recv(c->fd, c->in + c->in_bytes, c->in_cap - c->in_bytes, MSG_DONTWAIT);

	if (r < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
		return;
	if (r < 0) {
		c->dead = true;
	} else if (r == 0) {
		c->eof = true;
	} else {
		c->in_bytes += (size_t)r;
		if (fresh && !c->pending)
			loop_set_timer(c->timer, HTTP_REQUEST_MS * NS_PER_MS);
	}
}

static void conn_io(void *arg, int fd, unsigned int events)
{
	struct http_conn *c = arg;

	(void)fd;
	if (events & LOOP_READ)
		conn_read(c);
	conn_run(c);
}

static void conn_timeout(void *arg)
{
	conn_free(arg);
}

static void http_add(struct http *h, int fd)
{
	struct http_conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return;
	}
	c->h = h;
	c->fd = fd;
	fdtab_add(h->fds, fd, FD_CLOSE, "api connection");
	c->next = h->conns;
	c->link = &h->conns;
	if (c->next)
		c->next->link = &c->next;
	h->conns = c;
	h->nconns++;
	c->in = malloc(IN_MAX);
	c->in_cap = IN_MAX;
	c->timer = loop_add_timer(h->loop, conn_timeout, c);
	c->io = loop_add_io(h->loop, fd, LOOP_READ, conn_io, c);
	if (!c->in || !c->timer || !c->io) {
		conn_free(c);
		return;
	}
	loop_set_timer(c->timer, HTTP_IDLE_MS * NS_PER_MS);
	if (h->nconns >= HTTP_CONNS_MAX)
		loop_set_io(h->io, 0);
}

static void http_retry(void *arg)
{
	struct http *h = arg;

	if (h->nconns < HTTP_CONNS_MAX)
		loop_set_io(h->io, LOOP_READ);
}

static void http_accept(void *arg, int lfd, unsigned int events)
{
	struct http *h = arg;
	int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd >= 0) {
		http_add(h, fd);
		return;
	}
	if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
		log_guest(&h->limit, "control socket: cannot accept: %s", strerrordesc_np(errno));
		loop_set_io(h->io, 0);
		loop_set_timer(h->retry, 100 * NS_PER_MS);
	}
}

int http_open(struct loop *l, struct fdtab *fds, int listen_fd, http_handler *fn, void *arg,
	      struct http **out, struct err *e)
{
	struct http *h = calloc(1, sizeof(*h));

	fdtab_del(fds, listen_fd);
	fd_set_nonblock(listen_fd, true);
	if (h) {
		*h = (struct http){ .loop = l, .fds = fds, .fd = listen_fd, .fn = fn, .arg = arg };
		h->last_ns = time_mono_ns();
		h->retry = loop_add_timer(l, http_retry, h);
		h->io = loop_add_io(l, listen_fd, LOOP_READ, http_accept, h);
	}
	if (!h || !h->retry || !h->io) {
		if (h && h->retry)
			loop_del_timer(h->retry);
		free(h);
		close(listen_fd);
		return err_set(e, ENOMEM, "control socket: out of memory");
	}
	fdtab_add(fds, listen_fd, FD_CLOSE, "api socket");
	*out = h;
	return 0;
}

static void http_drop(struct http *h)
{
	if (h->dead && !h->busy)
		free(h);
}

void http_close(struct http *h)
{
	if (!h)
		return;
	h->dead = true;
	while (h->conns)
		conn_free(h->conns);
	loop_del_timer(h->retry);
	loop_del_io(h->io);
	fdtab_del(h->fds, h->fd);
	close(h->fd);
	http_drop(h);
}

void http_forget(struct http *h)
{
	if (!h)
		return;
	h->dead = true;
	for (struct http_conn *c = h->conns; c; c = c->next)
		if (c->pending)
			c->pending->conn = NULL;
}

static void reply(struct http_request *rq, unsigned int status, const char *type, const char *json,
		  size_t n)
{
	struct http *h = rq->server;
	struct http_conn *c = rq->conn;

	h->busy--;
	if (!h->dead)
		h->last_ns = time_mono_ns();
	free(rq->body);
	free(rq);
	if (c) {
		c->pending = NULL;
		loop_set_timer(c->timer, HTTP_IDLE_MS * NS_PER_MS);
		if (conn_queue(c, status, type, json, n))
			c->dead = true;
		if (!c->running)
			conn_run(c);
		return;
	}
	http_drop(h);
}

void http_reply(struct http_request *rq, unsigned int status, const char *json, size_t n)
{
	reply(rq, status, JSON_TYPE, json, n);
}

void http_reply_text(struct http_request *rq, const char *type, const char *text, size_t n)
{
	reply(rq, 200, type, text, n);
}

unsigned int http_busy(const struct http *h)
{
	return h->busy;
}

uint64_t http_last_ns(const struct http *h)
{
	return h->last_ns;
}
