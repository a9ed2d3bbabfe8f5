/* SPDX-License-Identifier: MIT */
/*
 * The HTTP server of a VM process: one listening unix socket on the loop, keep-alive connections,
 * one request at a time each, answered now or later. Main thread with the device lock held, like
 * every loop callback.
 *
 * It is ours and not libevent's evhttp because evhttp 2.1 cannot bound its connections or close
 * idle ones that never asked, and answers malformed requests with pages of its own instead of a
 * fault_message.
 */
#ifndef CLONE_CONTROL_HTTP_H
#define CLONE_CONTROL_HTTP_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "control/http_parse.h"

#define HTTP_CONNS_MAX 64
#define HTTP_REQUEST_MS 10000 /* from the first byte of a request to its last */
#define HTTP_IDLE_MS 60000    /* between requests */
#define HTTP_SEND_MS 30000    /* without taking a byte of an answer */

struct fdtab;
struct http;
struct http_conn;
struct loop;

/* A request: the handler's from the call of http_handler until its http_reply. */
struct http_request {
	enum http_method method;
	char path[HTTP_PATH_MAX];
	char *body; /* NUL-terminated */
	size_t body_bytes;
	/* http.c's own */
	struct http *server;
	struct http_conn *conn; /* NULL: the client has gone */
};

typedef void http_handler(void *arg, struct http_request *rq);

/*
 * Serves listen_fd (owned from now on, also on failure; recorded in fds as FD_CLOSE). `what` names
 * the resource in fault messages of this layer. -ENOMEM.
 */
int http_open(struct loop *l, struct fdtab *fds, int listen_fd, http_handler *fn, void *arg,
	      struct http **out, struct err *e);
/* Ends all connections; later replies are dropped. Requests not yet answered stay their handlers'.
 */
void http_close(struct http *h);
/* In a fork's child: nothing of the parent's server is touched, late replies are dropped. The
 * memory stays (unanswered requests point to it). */
void http_forget(struct http *h);

/*
 * Answers: exactly once per request, at any later time, on main. `json` (may be NULL for 204) is
 * copied. The request is gone afterwards. Never fails: a client that has gone gets nothing.
 */
void http_reply(struct http_request *rq, unsigned int status, const char *json, size_t n);

/* As http_reply with 200, of text that is no JSON; `type` is its media type. */
void http_reply_text(struct http_request *rq, const char *type, const char *text, size_t n);

/* Requests not yet answered, and when the last one came or was answered (CLOCK_MONOTONIC). */
unsigned int http_busy(const struct http *h);
uint64_t http_last_ns(const struct http *h);

#endif
