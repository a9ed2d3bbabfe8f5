/* SPDX-License-Identifier: MIT */
/*
 * HTTP/1.1 heads, as far as the control socket needs them: a pure function from bytes to a struct,
 * for the server (requests) and the client (responses). Hostile input; allocates nothing; any
 * thread. What is not understood is refused, never guessed: chunked bodies, folded headers, two
 * different lengths.
 */
#ifndef CLONE_CONTROL_HTTP_PARSE_H
#define CLONE_CONTROL_HTTP_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define HTTP_BODY_MAX 51200u	   /* of a request, */
#define HTTP_FORK_BODY_MAX 262144u /* of PUT /fork, which may name 256 children and their NICs */
#define HTTP_HEAD_MAX 8192u	   /* first line and all headers */
#define HTTP_HEADERS_MAX 64u
#define HTTP_PATH_MAX 256u

enum http_method { HTTP_GET, HTTP_PUT, HTTP_PATCH, HTTP_OTHER };

struct http_head {
	enum http_method method;  /* requests */
	char path[HTTP_PATH_MAX]; /* requests; a query is part of it (no resource has one) */
	unsigned int status;	  /* responses: 100 to 599 */
	size_t head_bytes;	  /* where the body begins */
	uint64_t body_bytes;	  /* Content-Length, 0 when absent */
	bool has_length, close, expect_continue;
};

/*
 * Looks for a whole head at the start of buf. 1 when *h is filled, 0 when more bytes are needed
 * (never with n >= HTTP_HEAD_MAX), -EBADMSG when it is malformed or beyond a limit. The body's
 * length is the caller's to judge.
 */
int http_parse_request(const char *buf, size_t n, struct http_head *h, struct err *e);
/* How long the body of a request may be. */
size_t http_body_max(const char *method, const char *path);
int http_parse_response(const char *buf, size_t n, struct http_head *h, struct err *e);

#endif
