/* SPDX-License-Identifier: MIT */
/*
 * HTTP heads and JSON bodies as pure functions: what is taken, what is refused, and that no byte
 * beyond the input is read (inputs end at a page that cannot be read).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "control/http_parse.h"
#include "control/json.h"

#define PAGE 4096u

/* A copy whose last byte is the last one of its page; the next page is PROT_NONE. */
struct edge {
	char *map, *at;
	size_t pages;
};

static struct edge edge_make(const char *text, size_t n)
{
	struct edge g = { .pages = n / PAGE + 1 };

	g.map = mmap(NULL, (g.pages + 1) * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g.map != MAP_FAILED);
	assert_int_equal(mprotect(g.map + g.pages * PAGE, PAGE, PROT_NONE), 0);
	g.at = g.map + g.pages * PAGE - n;
	memcpy(g.at, text, n);
	return g;
}

static void edge_free(struct edge *g)
{
	munmap(g->map, (g->pages + 1) * PAGE);
}

static int parse_n(const char *text, size_t n, struct http_head *h, struct err *e)
{
	struct edge g = edge_make(text, n);
	int r = http_parse_request(g.at, n, h, e);

	edge_free(&g);
	return r;
}

static int parse(const char *text, struct http_head *h, struct err *e)
{
	return parse_n(text, strlen(text), h, e);
}

static void test_request__is_read(void **state)
{
	static const char text[] = "PUT /drives/root HTTP/1.1\r\nHost: localhost\r\n"
				   "content-length:  12 \r\nExpect: 100-continue\r\n\r\nBODY";
	struct http_head h;
	struct err e;

	(void)state;
	assert_int_equal(parse(text, &h, &e), 1);
	assert_int_equal(h.method, HTTP_PUT);
	assert_string_equal(h.path, "/drives/root");
	assert_int_equal(h.body_bytes, 12);
	assert_int_equal(h.head_bytes, sizeof(text) - 1 - 4);
	assert_true(h.expect_continue);
	assert_false(h.close);
}

static void test_request__every_prefix_needs_more(void **state)
{
	static const char text[] = "PATCH /vm HTTP/1.1\r\nContent-Length: 3\r\nX: y\r\n\r\n";
	struct http_head h;
	struct err e;

	(void)state;
	for (size_t n = 0; n < sizeof(text) - 1; n++)
		assert_int_equal(parse_n(text, n, &h, &e), 0);
	assert_int_equal(parse(text, &h, &e), 1);
}

static void test_request__bare_newlines_and_http_1_0(void **state)
{
	struct http_head h;
	struct err e;

	(void)state;
	assert_int_equal(parse("GET / HTTP/1.0\nA: b\n\n", &h, &e), 1);
	assert_int_equal(h.method, HTTP_GET);
	assert_true(h.close);
	assert_int_equal(parse("GET / HTTP/1.1\r\nConnection: close\r\n\r\n", &h, &e), 1);
	assert_true(h.close);
	assert_int_equal(parse("DELETE /x HTTP/1.1\r\n\r\n", &h, &e), 1);
	assert_int_equal(h.method, HTTP_OTHER);
}

static void test_request__malformed_is_refused(void **state)
{
	static const char *const bad[] = {
		"\r\n\r\n",
		"GET\r\n\r\n",
		"GET /\r\n\r\n",
		"GET / HTTP/2.0\r\n\r\n",
		"GET  / HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1 x\r\n\r\n",
		"GET x HTTP/1.1\r\n\r\n",
		"GET http://h/ HTTP/1.1\r\n\r\n",
		"GET /\x01 HTTP/1.1\r\n\r\n",
		"GET /\xff HTTP/1.1\r\n\r\n",
		"GET / HTTP/1.1\r\nno colon\r\n\r\n",
		"GET / HTTP/1.1\r\n: empty\r\n\r\n",
		"GET / HTTP/1.1\r\nA : b\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
		"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: \r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
		"PUT / HTTP/1.1\r\nExpect: something\r\n\r\n",
	};
	struct http_head h;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (parse(bad[i], &h, &e) != -EBADMSG)
			fail_msg("taken: %s", bad[i]);
		assert_true(e.msg[0]);
	}
	assert_int_equal(parse_n("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 24, &h, &e), -EBADMSG);
}

static void test_request__limits_hold(void **state)
{
	char *text = calloc(1, 3 * HTTP_HEAD_MAX);
	struct http_head h;
	struct err e;
	char *p;

	(void)state;
	/* a head that never ends is refused once it is too long, and not before */
	memset(text, 'a', 2 * HTTP_HEAD_MAX);
	memcpy(text, "GET / HTTP/1.1\r\nA: ", 19);
	assert_int_equal(parse_n(text, HTTP_HEAD_MAX - 1, &h, &e), 0);
	assert_int_equal(parse_n(text, HTTP_HEAD_MAX, &h, &e), -EBADMSG);
	/* thousands of headers, 64 of which are allowed */
	p = text + sprintf(text, "GET / HTTP/1.1\r\n");
	for (unsigned int i = 0; i < HTTP_HEADERS_MAX; i++)
		p += sprintf(p, "A:\r\n");
	strcpy(p, "\r\n");
	assert_int_equal(parse(text, &h, &e), 1);
	strcpy(p, "B:\r\n\r\n");
	assert_int_equal(parse(text, &h, &e), -EBADMSG);
	/* a path of 255 bytes is the longest */
	p = text + sprintf(text, "GET /");
	memset(p, 'x', HTTP_PATH_MAX);
	strcpy(p + HTTP_PATH_MAX - 2, " HTTP/1.1\r\n\r\n");
	assert_int_equal(parse(text, &h, &e), 1);
	memset(p, 'x', HTTP_PATH_MAX);
	strcpy(p + HTTP_PATH_MAX - 1, " HTTP/1.1\r\n\r\n");
	assert_int_equal(parse(text, &h, &e), -EBADMSG);
	free(text);
}

static void test_response__is_read(void **state)
{
	struct http_head h;
	struct err e;

	(void)state;
	assert_int_equal(http_parse_response("HTTP/1.1 204 No Content\r\n\r\n", 27, &h, &e), 1);
	assert_int_equal(h.status, 204);
	assert_int_equal(h.body_bytes, 0);
	assert_int_equal(http_parse_response("HTTP/1.1 99 X\r\n\r\n", 17, &h, &e), -EBADMSG);
	assert_int_equal(http_parse_response("HTTP/1.1 2000 X\r\n\r\n", 19, &h, &e), -EBADMSG);
	assert_int_equal(http_parse_response("200 OK\r\n\r\n", 10, &h, &e), -EBADMSG);
}

struct body {
	uint64_t count;
	const char *id, *text;
	bool flag;
	json_t *list, *obj;
};

static const struct json_field tab[] = {
	JSON_FIELD(struct body, count, WANT_UINT, true, 2, 9),
	JSON_FIELD(struct body, id, WANT_ID, false, 1, 4),
	JSON_FIELD(struct body, text, WANT_STRING, false, 0, 5),
	JSON_FIELD(struct body, flag, WANT_BOOL, false, 0, 0),
	JSON_FIELD(struct body, list, WANT_ARRAY, false, 1, 2),
	JSON_FIELD(struct body, obj, WANT_OBJECT, false, 0, 0),
};

static int read_body(const char *text, struct body *b, struct err *e)
{
	cleanup_json json_t *j = json_object_from(text, strlen(text), e);

	memset(b, 0, sizeof(*b));
	return j ? json_fields(j, tab, ARRAY_SIZE(tab), b, e) : -EINVAL;
}

static void test_json__good_bodies_are_taken(void **state)
{
	struct body b;
	struct err e;

	(void)state;
	assert_int_equal(read_body("{\"count\": 9}", &b, &e), 0);
	assert_int_equal(b.count, 9);
	assert_int_equal(
		read_body("{\"count\": 2, \"flag\": true, \"id\": null, \"text\": \"\"}", &b, &e),
		0);
	assert_true(b.flag);
	assert_null(b.id);
	assert_int_equal(read_body("{\"count\":2,\"id\":\"a_Z9\",\"list\":[1],\"obj\":{}}", &b, &e),
			 0);
}

static void test_json__bad_bodies_name_the_field(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "", "JSON" },
		{ "[]", "object" },
		{ "{", "JSON" },
		{ "{\"count\": 2} x", "JSON" },
		{ "{\"count\": 2, \"count\": 3}", "duplicate" },
		{ "{}", "count" },
		{ "{\"count\": null}", "count" },
		{ "{\"count\": 1}", "count" },
		{ "{\"count\": 10}", "count" },
		{ "{\"count\": -1}", "count" },
		{ "{\"count\": 2.0}", "count" },
		{ "{\"count\": \"2\"}", "count" },
		{ "{\"count\": true}", "count" },
		{ "{\"count\": 99999999999999999999}", "JSON" },
		{ "{\"count\": 2, \"flag\": 1}", "flag" },
		{ "{\"count\": 2, \"id\": \"\"}", "id" },
		{ "{\"count\": 2, \"id\": \"a-b\"}", "id" },
		{ "{\"count\": 2, \"id\": \"abcde\"}", "id" },
		{ "{\"count\": 2, \"text\": \"123456\"}", "text" },
		{ "{\"count\": 2, \"text\": \"a\\u0000b\"}", "JSON" },
		{ "{\"count\": 2, \"text\": \"\xff\"}", "JSON" },
		{ "{\"count\": 2, \"list\": []}", "list" },
		{ "{\"count\": 2, \"list\": [1,2,3]}", "list" },
		{ "{\"count\": 2, \"list\": {}}", "list" },
		{ "{\"count\": 2, \"obj\": []}", "obj" },
		{ "{\"count\": 2, \"Count\": 2}", "Count" },
		{ "{\"count\": 2, \"other\": 2}", "other" },
	};
	struct body b;
	struct err e;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (!read_body(bad[i].text, &b, &e))
			fail_msg("taken: %s", bad[i].text);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: says %s", bad[i].text, e.msg);
	}
}

static void test_json__deep_nesting_is_refused(void **state)
{
	size_t n = HTTP_BODY_MAX;
	char *text = malloc(n);
	struct err e;

	(void)state;
	memset(text, '[', n);
	memcpy(text, "{\"a\":", 5);
	assert_null(json_object_from(text, n, &e));
	for (size_t i = 0; i + 5 <= n; i += 5)
		memcpy(text + i, "{\"a\":", 5);
	assert_null(json_object_from(text, n, &e));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_request__is_read),
		cmocka_unit_test(test_request__every_prefix_needs_more),
		cmocka_unit_test(test_request__bare_newlines_and_http_1_0),
		cmocka_unit_test(test_request__malformed_is_refused),
		cmocka_unit_test(test_request__limits_hold),
		cmocka_unit_test(test_response__is_read),
		cmocka_unit_test(test_json__good_bodies_are_taken),
		cmocka_unit_test(test_json__bad_bodies_name_the_field),
		cmocka_unit_test(test_json__deep_nesting_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
