/* SPDX-License-Identifier: MIT */
/*
 * The parser of HTTP heads. See http_parse.h. RFC 9112 sections 2 to 6, strictly: a line ends with
 * CR LF (a lone LF is accepted as section 2.2 allows), no white space before a colon, no folding.
 */
#include "control/http_parse.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

#include "base/util.h"

struct span {
	const char *p;
	size_t n;
};

static bool span_is(struct span s, const char *word)
{
	return s.n == strlen(word) && !strncasecmp(s.p, word, s.n);
}

/* The next line without its end; false when none is complete. */
static bool next_line(const char *buf, size_t n, size_t *pos, struct span *line)
{
	const char *nl = memchr(buf + *pos, '\n', n - *pos);

	if (!nl)
		return false;
	line->p = buf + *pos;
	line->n = (size_t)(nl - line->p);
	*pos += line->n + 1;
	if (line->n && line->p[line->n - 1] == '\r')
		line->n--;
	return true;
}

/* Cuts the word before the first space off s. */
static struct span cut_word(struct span *s)
{
	const char *sp = memchr(s->p, ' ', s->n);
	struct span w = { s->p, sp ? (size_t)(sp - s->p) : s->n };

	s->p += w.n + (sp ? 1 : 0);
	s->n -= w.n + (sp ? 1 : 0);
	return w;
}

static int parse_version(struct span v, struct http_head *h, struct err *e)
{
	if (span_is(v, "HTTP/1.0"))
		h->close = true;
	else if (!span_is(v, "HTTP/1.1"))
		return err_set(e, EBADMSG, "only HTTP/1.1 is spoken here");
	return 0;
}

static int request_line(struct span line, struct http_head *h, struct err *e)
{
	struct span method = cut_word(&line), path = cut_word(&line);

	h->method = span_is(method, "GET")     ? HTTP_GET
		    : span_is(method, "PUT")   ? HTTP_PUT
		    : span_is(method, "PATCH") ? HTTP_PATCH
					       : HTTP_OTHER;
	if (!method.n || !path.n || path.p[0] != '/')
		return err_set(e, EBADMSG, "malformed request line");
	if (path.n >= sizeof(h->path))
		return err_set(e, EBADMSG, "the path exceeds %zu bytes", sizeof(h->path) - 1);
	for (size_t i = 0; i < path.n; i++)
		if (path.p[i] <= ' ' || path.p[i] > '~')
			return err_set(e, EBADMSG, "malformed path");
	memcpy(h->path, path.p, path.n);
	h->path[path.n] = '\0';
	return parse_version(line, h, e);
}

static int status_line(struct span line, struct http_head *h, struct err *e)
{
	struct span version = cut_word(&line), status = cut_word(&line);

	for (size_t i = 0; i < status.n; i++) {
		if (status.p[i] < '0' || status.p[i] > '9' || i >= 3)
			return err_set(e, EBADMSG, "malformed status line");
		h->status = h->status * 10 + (unsigned int)(status.p[i] - '0');
	}
	if (h->status < 100 || h->status > 599)
		return err_set(e, EBADMSG, "malformed status line");
	return parse_version(version, h, e);
}

static int content_length(struct span v, struct http_head *h, struct err *e)
{
	uint64_t n = 0;

	if (!v.n || v.n > 15)
		return err_set(e, EBADMSG, "malformed Content-Length");
	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return err_set(e, EBADMSG, "malformed Content-Length");
		n = n * 10 + (uint64_t)(v.p[i] - '0');
	}
	if (h->has_length && n != h->body_bytes)
		return err_set(e, EBADMSG, "two different Content-Length headers");
	h->has_length = true;
	h->body_bytes = n;
	return 0;
}

static int header_line(struct span line, struct http_head *h, struct err *e)
{
	const char *colon = memchr(line.p, ':', line.n);
	struct span name, value;

	if (!colon || colon == line.p)
		return err_set(e, EBADMSG, "malformed header");
	name = (struct span){ line.p, (size_t)(colon - line.p) };
	for (size_t i = 0; i < name.n; i++)
		if (name.p[i] <= ' ' || name.p[i] > '~')
			return err_set(e, EBADMSG, "malformed header");
	value = (struct span){ colon + 1, line.n - name.n - 1 };
	while (value.n && (value.p[0] == ' ' || value.p[0] == '\t')) {
		value.p++;
		value.n--;
	}
	while (value.n && (value.p[value.n - 1] == ' ' || value.p[value.n - 1] == '\t'))
		value.n--;
	if (memchr(value.p, '\0', value.n) || memchr(value.p, '\r', value.n))
		return err_set(e, EBADMSG, "malformed header");

	if (span_is(name, "Content-Length"))
		return content_length(value, h, e);
	if (span_is(name, "Transfer-Encoding") && !span_is(value, "identity"))
		return err_set(e, EBADMSG,
			       "Transfer-Encoding is not supported: send Content-Length");
	if (span_is(name, "Connection") && span_is(value, "close"))
		h->close = true;
	if (span_is(name, "Expect")) {
		if (!span_is(value, "100-continue"))
			return err_set(e, EBADMSG, "Expect: only 100-continue is supported");
		h->expect_continue = true;
	}
	return 0;
}

static int parse_head(const char *buf, size_t n, struct http_head *out, struct err *e,
		      int (*first)(struct span, struct http_head *, struct err *))
{
	struct http_head h = { 0 };
	unsigned int headers = 0;
	struct span line;
	size_t pos = 0;
	int r;

	n = MIN(n, (size_t)HTTP_HEAD_MAX);
	if (!next_line(buf, n, &pos, &line))
		goto more;
	r = first(line, &h, e);
	if (r)
		return r;
	while (next_line(buf, n, &pos, &line)) {
		if (!line.n) {
			h.head_bytes = pos;
			*out = h;
			return 1;
		}
		if (++headers > HTTP_HEADERS_MAX)
			return err_set(e, EBADMSG, "more than %u headers", HTTP_HEADERS_MAX);
		r = header_line(line, &h, e);
		if (r)
			return r;
	}
more:
	if (n >= HTTP_HEAD_MAX)
		return err_set(e, EBADMSG, "the request head exceeds %u bytes", HTTP_HEAD_MAX);
	return 0;
}

int http_parse_request(const char *buf, size_t n, struct http_head *h, struct err *e)
{
	return parse_head(buf, n, h, e, request_line);
}

int http_parse_response(const char *buf, size_t n, struct http_head *h, struct err *e)
{
	return parse_head(buf, n, h, e, status_line);
}

size_t http_body_max(const char *method, const char *path)
{
	return strcmp(method, "PUT") || strcmp(path, "/fork") ? HTTP_BODY_MAX : HTTP_FORK_BODY_MAX;
}
