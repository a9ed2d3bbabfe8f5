/* SPDX-License-Identifier: MIT */
/*
 * Blocking client of a VM's control socket. See client.h.
 */
#include "control/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "control/http_parse.h"
#include "control/json.h"
#include "control/sock.h"

#define FD_ANSWER_MS 30000

struct client {
	int fd, cancel_fd, aside_fd;
	void (*aside)(void *arg);
	void *aside_arg;
	char *in;
	size_t in_bytes, in_cap;
};

int client_open(int dirfd, struct client **out, struct err *e)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(e, ENOMEM, "out of memory");
	c->fd = sock_connect(dirfd, "api.sock", SOCK_STREAM, e);
	if (c->fd < 0) {
		int r = c->fd;

		free(c);
		return r;
	}
	c->cancel_fd = c->aside_fd = -1;
	*out = c;
	return 0;
}

void client_close(struct client *c)
{
	if (!c)
		return;
	close(c->fd);
	free(c->in);
	free(c);
}

void client_set_cancel(struct client *c, int cancel_fd)
{
	c->cancel_fd = cancel_fd;
}

void client_set_aside(struct client *c, int fd, void (*fn)(void *arg), void *arg)
{
	c->aside_fd = fd;
	c->aside = fn;
	c->aside_arg = arg;
}

int client_fd(const struct client *c)
{
	return c->fd;
}

static int wait_text(int r, struct err *e)
{
	if (r == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, "the VM process did not answer in time");
	if (r == -EINTR)
		return err_set(e, EINTR, "interrupted");
	return err_sys(e, -r, "control socket");
}

static int send_all(struct client *c, const char *p, size_t n, uint64_t deadline, struct err *e)
{
	while (n) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
		int r;

		if (w >= 0) {
			p += w;
			n -= (size_t)w;
			continue;
		}
		/* A server that refused early has answered: go and read why. */
		if (errno == EPIPE || errno == ECONNRESET)
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return err_sys(e, errno, "control socket");
		r = sock_wait(c->fd, POLLOUT, deadline, c->cancel_fd);
		if (r)
			return wait_text(r, e);
	}
	return 0;
}

static int read_more(struct client *c, uint64_t deadline, struct err *e)
{
	ssize_t n;
	int r;

	if (c->in_cap - c->in_bytes < 4096) {
		size_t cap = MAX(c->in_cap * 2, (size_t)16384);
		char *p = cap <= CLIENT_REPLY_MAX + 2 * HTTP_HEAD_MAX ? realloc(c->in, cap) : NULL;

		if (!p)
			return err_set(e, ENOMEM, "control socket: out of memory");
		c->in = p;
		c->in_cap = cap;
	}
	while ((r = sock_wait_also(c->fd, POLLIN, c->aside_fd, deadline, c->cancel_fd)) > 0)
		c->aside(c->aside_arg);
	if (r)
		return wait_text(r, e);
	n = recv(c->fd, c->in + c->in_bytes, c->in_cap - c->in_bytes, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return err_set(e, ECONNRESET, "the VM process ended before it answered");
	if (n < 0)
		return err_sys(e, errno, "control socket");
	c->in_bytes += (size_t)n;
	return 0;
}

/* Reads one answer to the front of c->in; skips 1xx. */
static int read_reply(struct client *c, struct http_head *h, uint64_t deadline, struct err *e)
{
	int r;

	for (;;) {
		r = c->in_bytes ? http_parse_response(c->in, c->in_bytes, h, e) : 0;
		if (r < 0)
			return err_wrap(e, r, "control socket");
		if (r == 0) {
			r = read_more(c, deadline, e);
			if (r)
				return r;
			continue;
		}
		if (h->status >= 200)
			break;
		memmove(c->in, c->in + h->head_bytes, c->in_bytes - h->head_bytes);
		c->in_bytes -= h->head_bytes;
	}
	if (h->body_bytes > CLIENT_REPLY_MAX)
		return err_set(e, EBADMSG, "control socket: the answer exceeds %u bytes",
			       CLIENT_REPLY_MAX);
	while (c->in_bytes - h->head_bytes < h->body_bytes) {
		r = read_more(c, deadline, e);
		if (r)
			return r;
	}
	return 0;
}

static int use_reply(const struct http_head *h, const char *body, json_t **reply, struct err *e)
{
	cleanup_json json_t *j = NULL;
	const char *fault;

	if (h->status == 204) {
		if (reply)
			*reply = NULL;
		return 0;
	}
	j = json_object_from(body, (size_t)h->body_bytes, e);
	if (!j)
		return err_wrap(e, -EBADMSG, "control socket: status %u", h->status);
	if (h->status == 200) {
		if (reply)
			*reply = json_incref(j);
		return 0;
	}
	fault = json_string_value(json_object_get(j, "fault_message"));
	return err_set(e, EREMOTEIO, "%s",
		       fault ? fault : "the VM process refused without a reason");
}

int client_request(struct client *c, const char *method, const char *path, const json_t *body,
		   uint64_t timeout_ms, json_t **reply, struct err *e)
{
	uint64_t deadline = time_mono_ns() + timeout_ms * NS_PER_MS;
	cleanup_free char *json = body ? json_text(body, JSON_COMPACT) : strdup("");
	cleanup_free char *text = NULL;
	struct http_head h;
	int n, r;

	if (!json)
		return err_set(e, ENOMEM, "out of memory");
	if (strlen(json) > http_body_max(method, path))
		return err_set(e, E2BIG, "the request of %zu bytes exceeds the limit of %zu",
			       strlen(json), http_body_max(method, path));
	n = asprintf(&text, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
		     method, path, strlen(json), json);
	if (n < 0) {
		text = NULL;
		return err_set(e, ENOMEM, "out of memory");
	}
	r = send_all(c, text, (size_t)n, deadline, e);
	if (!r)
		r = read_reply(c, &h, deadline, e);
	if (r)
		return r;
	r = use_reply(&h, c->in + h.head_bytes, reply, e);
	c->in_bytes -= h.head_bytes + (size_t)h.body_bytes;
	memmove(c->in, c->in + h.head_bytes + h.body_bytes, c->in_bytes);
	return r;
}

int client_fdsock(int dirfd, struct err *e)
{
	return sock_connect(dirfd, "fd.sock", SOCK_SEQPACKET, e);
}

/* Sends one message and waits for its answer; *fd receives a descriptor that came with it. */
static int fd_exchange(int sock, json_t *msg, const int *fds, size_t n, int *fd, struct err *e)
{
	cleanup_free char *text = json_text(msg, JSON_COMPACT);
	cleanup_json json_t *reply = NULL;
	const char *why;
	char buf[2048];
	size_t nfds = 0;
	int got = -1;
	ssize_t len;
	int r;

	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_send(sock, text, strlen(text), fds, n);
	if (!r)
		r = sock_wait(sock, POLLIN, time_mono_ns() + FD_ANSWER_MS * NS_PER_MS, -1);
	if (r)
		return r == -ETIMEDOUT || r == -EINTR ? wait_text(r, e)
						      : err_sys(e, -r, "descriptor socket");
	len = fd_recv(sock, buf, sizeof(buf), &got, 1, &nfds);
	if (len <= 0)
		return err_set(e, ECONNRESET, "descriptor socket: the VM process ended");
	if (nfds && fd)
		*fd = got;
	else if (nfds)
		close(got);
	reply = json_object_from(buf, (size_t)len, e);
	if (!reply)
		return err_wrap(e, -EBADMSG, "descriptor socket");
	if (json_is_true(json_object_get(reply, "ok")))
		return 0;
	why = json_string_value(json_object_get(reply, "error"));
	return err_set(e, EREMOTEIO, "%s", why ? why : "descriptor socket: refused");
}

int client_grant(int fdsock, const char *const *names, const int *fds, size_t n, struct err *e)
{
	for (size_t at = 0; at < n;) {
		size_t part = MIN(n - at, (size_t)FD_PASS_MAX);
		json_t *list = json_array();
		cleanup_json json_t *msg = json_pack("{s:o}", "grant", list);
		int r;

		if (!msg)
			return err_set(e, ENOMEM, "out of memory");
		for (size_t i = 0; i < part; i++)
			if (json_array_append_new(list, json_string(names[at + i])))
				return err_set(e, EINVAL, "%s: not a name for a descriptor",
					       names[at + i]);
		r = fd_exchange(fdsock, msg, fds + at, part, NULL, e);
		if (r)
			return r;
		at += part;
	}
	return 0;
}

int client_claim(int fdsock, const char *name, struct err *e)
{
	cleanup_json json_t *msg = json_pack("{s:s}", "claim", name);
	cleanup_close int fd = -1;
	int r;

	if (!msg)
		return err_set(e, ENOMEM, "out of memory");
	r = fd_exchange(fdsock, msg, NULL, 0, &fd, e);
	if (r)
		return r;
	if (fd < 0)
		return err_set(e, EBADMSG, "descriptor socket: no descriptor came for %s", name);
	return take_fd(&fd);
}
