/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: heads of requests and responses. What is read of one is the same however many bytes
 * follow it, and is nothing while a byte of it is missing; the input ends where its memory does.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "control/http_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int parse_fn(const char *buf, size_t n, struct http_head *h, struct err *e);

static void one(parse_fn *parse, const uint8_t *data, size_t size)
{
	char *exact = malloc(size + !size); /* so that one byte too far is seen */
	struct http_head h = { 0 }, again = { 0 };
	struct err e = { "" };
	int r;

	BUG_ON(!exact);
	memcpy(exact, data, size);
	r = parse(exact, size, &h, &e);
	BUG_ON(r != 1 && r != 0 && r != -EBADMSG);
	BUG_ON(r == 0 && size >= HTTP_HEAD_MAX);
	BUG_ON(r < 0 && (!e.msg[0] || strpbrk(e.msg, "\r\n\"\\")));
	if (r == 1) {
		BUG_ON(h.head_bytes > size || h.head_bytes > HTTP_HEAD_MAX);
		BUG_ON(strnlen(h.path, sizeof(h.path)) == sizeof(h.path));
		BUG_ON(!h.has_length && h.body_bytes);
		BUG_ON(parse(exact, h.head_bytes, &again, &e) != 1);
		BUG_ON(again.head_bytes != h.head_bytes || again.body_bytes != h.body_bytes);
		BUG_ON(strcmp(again.path, h.path) != 0 || again.method != h.method);
		BUG_ON(parse(exact, h.head_bytes - 1, &again, &e) == 1);
	}
	free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	one(http_parse_request, data, size);
	one(http_parse_response, data, size);
	return 0;
}
