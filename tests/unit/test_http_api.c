/* SPDX-License-Identifier: MIT */
/*
 * The control sockets of a VM that never starts, as a client and as a stranger see them. The server
 * runs in a child process, as in life; each test has a fresh one and must find it alive at its end.
 * Long, because each rule of the API is a row here and all need the same server.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "control/api.h"
#include "control/client.h"
#include "control/control.h"
#include "control/http.h"
#include "control/json.h"
#include "control/sock.h"
#include "event/loop.h"
#include "guest/proto.h"
#include "tests/lib/disk.h"
#include "tests/lib/scratch.h"
#include "vm/vm.h"

struct world {
	char *path;
	int dir;
	pid_t server;
	struct client *c;
};

static _Noreturn void serve(int api, int fd)
{
	struct control *control;
	struct vm *vm;
	struct err e;

	if (vm_create("web-1", &vm, &e) ||
	    control_open(vm, vm_machine(vm)->loop, vm_machine(vm)->fds, api, fd, &control, &e) ||
	    loop_run(vm_machine(vm)->loop, &e)) {
		fprintf(stderr, "server: %s\n", e.msg);
		_exit(1);
	}
	control_close(control);
	vm_destroy(vm);
	/* not _exit: the sanitizers look for leaks on the way out */
	exit(0);
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;
	int api, fd;

	w->path = scratch_make();
	w->dir = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	api = sock_listen(w->dir, "api.sock", SOCK_STREAM, &e);
	fd = sock_listen(w->dir, "fd.sock", SOCK_SEQPACKET, &e);
	assert_true(api >= 0 && fd >= 0);
	w->server = fork();
	if (!w->server)
		serve(api, fd);
	close(api);
	close(fd);
	assert_int_equal(client_open(w->dir, &w->c, &e), 0);
	*state = w;
	return 0;
}

static int request(struct world *w, const char *method, const char *path, const char *body,
		   json_t **reply, struct err *e)
{
	cleanup_json json_t *j = body ? json_loads(body, 0, NULL) : NULL;

	return client_request(w->c, method, path, j, 120000, reply, e);
}

/* The server must have survived the test and end when it is told to. */
static int teardown(void **state)
{
	struct world *w = *state;
	int status = -1;
	struct err e;

	client_close(w->c);
	assert_int_equal(client_open(w->dir, &w->c, &e), 0);
	assert_int_equal(request(w, "PUT", "/actions", "{\"action_type\":\"Kill\"}", NULL, &e), 0);
	assert_int_equal(waitpid(w->server, &status, 0), w->server);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	client_close(w->c);
	close(w->dir);
	scratch_remove(w->path);
	free(w);
	return 0;
}

static void ok(struct world *w, const char *method, const char *path, const char *body)
{
	struct err e;

	if (request(w, method, path, body, NULL, &e))
		fail_msg("%s %s %s: %s", method, path, body ? body : "", e.msg);
}

static void refused(struct world *w, const char *method, const char *path, const char *body,
		    const char *says)
{
	struct err e;
	int r = request(w, method, path, body, NULL, &e);

	if (r != -EREMOTEIO)
		fail_msg("%s %s %s: %d, not refused", method, path, body ? body : "", r);
	if (!strstr(e.msg, says))
		fail_msg("%s %s %s: says %s, not %s", method, path, body ? body : "", e.msg, says);
}

static void test_api__says_who_it_is(void **state)
{
	cleanup_json json_t *root = NULL, *version = NULL, *id = NULL;
	struct world *w = *state;
	struct err e;

	assert_int_equal(request(w, "GET", "/", NULL, &root, &e), 0);
	assert_string_equal(json_string_value(json_object_get(root, "id")), "web-1");
	assert_string_equal(json_string_value(json_object_get(root, "state")), "Not started");
	assert_string_equal(json_string_value(json_object_get(root, "app_name")), "clone");
	assert_int_equal(json_object_size(root), 4);
	assert_int_equal(request(w, "GET", "/version", NULL, &version, &e), 0);
	assert_string_equal(json_string_value(json_object_get(version, "clone_version")),
			    CLONE_VERSION);
	assert_int_equal(request(w, "GET", "/identity", NULL, &id, &e), 0);
	assert_int_equal(strlen(json_string_value(json_object_get(id, "generation"))), 32);
	assert_true(json_is_false(json_object_get(id, "reconciled")));
}

static void test_api__machine_config_is_kept(void **state)
{
	cleanup_json json_t *m = NULL;
	struct world *w = *state;
	struct err e;

	ok(w, "PUT", "/machine-config", "{\"vcpu_count\":3,\"mem_size_mib\":256,\"smt\":false}");
	assert_int_equal(request(w, "GET", "/machine-config", NULL, &m, &e), 0);
	assert_int_equal(json_integer_value(json_object_get(m, "vcpu_count")), 3);
	assert_int_equal(json_integer_value(json_object_get(m, "mem_size_mib")), 256);
	refused(w, "PUT", "/machine-config", "{\"vcpu_count\":0,\"mem_size_mib\":256}",
		"vcpu_count");
	refused(w, "PUT", "/machine-config", "{\"vcpu_count\":65,\"mem_size_mib\":256}",
		"vcpu_count");
	refused(w, "PUT", "/machine-config", "{\"vcpu_count\":1}", "mem_size_mib");
	refused(w, "PUT", "/machine-config", "{\"vcpu_count\":1,\"mem_size_mib\":1}", "MiB");
	refused(w, "PUT", "/machine-config",
		"{\"vcpu_count\":1,\"mem_size_mib\":256,\"cpu_template\":\"T2\"}", "cpu_template");
	json_decref(m);
	m = NULL;
	assert_int_equal(request(w, "GET", "/machine-config", NULL, &m, &e), 0);
	assert_int_equal(json_integer_value(json_object_get(m, "vcpu_count")), 3);
}

static void test_api__what_was_not_granted_is_refused(void **state)
{
	struct world *w = *state;

	refused(w, "PUT", "/boot-source", "{\"kernel_image_path\":\"/etc/passwd\"}", "/etc/passwd");
	refused(w, "PUT", "/drives/root",
		"{\"drive_id\":\"root\",\"path_on_host\":\"/etc/passwd\",\"is_root_device\":true}",
		"/etc/passwd");
	refused(w, "PUT", "/drives/root",
		"{\"drive_id\":\"other\",\"path_on_host\":\"/x\",\"is_root_device\":true}",
		"drive_id");
	refused(w, "PUT", "/snapshot/load",
		"{\"snapshot_path\":\"s\",\"mem_backend\":{\"backend_type\":\"File\","
		"\"backend_path\":\"m\"},\"seed\":true}",
		"no descriptor");
}

static void test_api__unknown_resources_and_states_are_refused(void **state)
{
	struct world *w = *state;

	refused(w, "GET", "/nothing", NULL, "/nothing");
	refused(w, "GET", "/actions", NULL, "/actions");
	refused(w, "DELETE", "/", NULL, "Invalid request method");
	refused(w, "PUT", "/drives/", "{}", "/drives/");
	refused(w, "PUT", "/drives/a-b", "{}", "/drives/a-b");
	refused(w, "PUT", "/drives/a/b", "{}", "/drives/a/b");
	refused(w, "PUT", "/", "{}", "Invalid request method");
	refused(w, "PUT", "/entropy", "{\"rate_limiter\":{}}", "rate_limiter");
	refused(w, "PUT", "/actions", "{\"action_type\":\"Explode\"}", "action_type");
	refused(w, "PUT", "/actions", "{\"action_type\":\"InstanceStart\"}", "boot source");
	refused(w, "PATCH", "/vm", "{\"state\":\"Paused\"}", "not running");
	refused(w, "PATCH", "/vm", "{\"state\":\"Dead\"}", "Paused or Resumed");
	refused(w, "PUT", "/agent", "{\"action\":\"wait\"}", "not started");
	refused(w, "PUT", "/exec", "{\"argv\":[\"true\"]}", "agent");
	refused(w, "PUT", "/exec", "{\"argv\":[]}", "argv");
	refused(w, "PUT", "/snapshot/create",
		"{\"snapshot_type\":\"Half\",\"snapshot_path\":\"a\",\"mem_file_path\":\"b\"}",
		"Full or Diff");
	refused(w, "PUT", "/snapshot/create",
		"{\"snapshot_type\":\"Diff\",\"snapshot_path\":\"a\",\"mem_file_path\":\"b\"}",
		"parents");
	refused(w, "PUT", "/snapshot/create", "{\"snapshot_path\":\"a\",\"mem_file_path\":\"b\"}",
		"not running or paused");
	refused(w, "PUT", "/snapshot/flatten",
		"{\"layers\":[{\"snapshot_path\":\"a\",\"mem_file_path\":\"b\"}],"
		"\"snapshot_path\":\"c\",\"mem_file_path\":\"d\"}",
		"no descriptor was passed for 'a'");
	refused(w, "PUT", "/snapshot/flatten",
		"{\"layers\":[],\"snapshot_path\":\"c\",\"mem_file_path\":\"d\"}", "layers");
	refused(w, "PUT", "/snapshot/cancel", "{\"x\":1}", "unknown field");
}

static void test_api__fork_checks_its_children(void **state)
{
	struct world *w = *state;

	refused(w, "PUT", "/fork", "{\"children\":[]}", "children");
	refused(w, "PUT", "/fork", "{\"children\":[{}]}", "children[0]: missing field `name`");
	refused(w, "PUT", "/fork", "{\"children\":[1]}", "children[0]");
	refused(w, "PUT", "/fork", "{\"children\":[{\"name\":\"../x\"}]}", "name");
	refused(w, "PUT", "/fork", "{\"children\":[{\"name\":\"a\"},{\"name\":\"a\"}]}",
		"two are named");
	refused(w, "PUT", "/fork", "{\"children\":[{\"name\":\"a\",\"uid\":4294967295}]}", "uid");
	refused(w, "PUT", "/fork", "{\"children\":[{\"name\":\"a\",\"hostname\":\"a b\"}]}",
		"hostname");
	refused(w, "PUT", "/fork",
		"{\"children\":[{\"name\":\"a\",\"machine_id\":"
		"\"ABCDEF0123456789ABCDEF0123456789\"}]}",
		"machine_id");
	refused(w, "PUT", "/fork", "{\"children\":[{\"name\":\"a\"}]}", "not running");
}

static void test_api__identity_can_be_set_before_the_start(void **state)
{
	cleanup_json json_t *id = NULL;
	struct world *w = *state;
	struct err e;

	ok(w, "PUT", "/identity", "{\"hostname\":\"db.example\"}");
	assert_int_equal(request(w, "GET", "/identity", NULL, &id, &e), 0);
	assert_string_equal(json_string_value(json_object_get(id, "hostname")), "db.example");
	refused(w, "PUT", "/identity", "{\"hostname\":\"-x\"}", "hostname");
	refused(w, "PUT", "/identity", "{\"machine_id\":\"zz\"}", "machine_id");
	refused(w, "PUT", "/identity", "{\"name\":\"other\"}", "name");
}

static void test_api__a_balloon_is_configured_before_the_start(void **state)
{
	cleanup_json json_t *none = NULL, *b = NULL, *s = NULL, *h = NULL;
	struct world *w = *state;
	struct err e;

	assert_int_equal(request(w, "GET", "/balloon", NULL, &none, &e), -EREMOTEIO);
	assert_string_equal(e.msg,
			    "VM web-1 has no balloon: it, or the template or snapshot that it came "
			    "out of, was made without one; make that anew, with a balloon");
	refused(w, "GET", "/balloon/statistics", NULL, "web-1 has no balloon");
	refused(w, "GET", "/balloon/hinting/status", NULL, "web-1 has no balloon");
	refused(w, "PATCH", "/balloon", "{\"amount_mib\":1}", "web-1 has no balloon");
	ok(w, "PUT", "/balloon",
	   "{\"amount_mib\":64,\"deflate_on_oom\":true,\"stats_polling_interval_s\":7,"
	   "\"free_page_reporting\":true,\"free_page_hinting\":true}");
	assert_int_equal(request(w, "GET", "/balloon", NULL, &b, &e), 0);
	assert_int_equal(json_object_size(b), 5);
	assert_int_equal(json_integer_value(json_object_get(b, "amount_mib")), 64);
	assert_true(json_is_true(json_object_get(b, "deflate_on_oom")));
	assert_int_equal(json_integer_value(json_object_get(b, "stats_polling_interval_s")), 7);
	assert_true(json_is_true(json_object_get(b, "free_page_reporting")));
	assert_true(json_is_true(json_object_get(b, "free_page_hinting")));
	assert_int_equal(request(w, "GET", "/balloon/statistics", NULL, &s, &e), 0);
	assert_true(json_is_false(json_object_get(s, "driver")));
	assert_int_equal(json_integer_value(json_object_get(s, "target_mib")), 64);
	assert_int_equal(json_integer_value(json_object_get(s, "target_pages")), 16384);
	assert_int_equal(json_integer_value(json_object_get(s, "actual_bytes")), 0);
	assert_int_equal(json_integer_value(json_object_get(s, "given_back_bytes")), 0);
	assert_null(json_object_get(s, "free_memory"));
	assert_null(json_object_get(s, "stats_age_ms"));
	assert_int_equal(request(w, "GET", "/balloon/hinting/status", NULL, &h, &e), 0);
	assert_true(json_is_false(json_object_get(h, "hinting")));
	/* said again, it is as it was said last */
	ok(w, "PUT", "/balloon", "{\"amount_mib\":0,\"deflate_on_oom\":false}");
	json_decref(b);
	b = NULL;
	assert_int_equal(request(w, "GET", "/balloon", NULL, &b, &e), 0);
	assert_int_equal(json_integer_value(json_object_get(b, "amount_mib")), 0);
	assert_true(json_is_false(json_object_get(b, "deflate_on_oom")));
	assert_int_equal(json_integer_value(json_object_get(b, "stats_polling_interval_s")), 0);
}

static void test_api__a_balloon_refuses_what_makes_no_sense(void **state)
{
	struct world *w = *state;

	refused(w, "PUT", "/balloon", "{\"amount_mib\":0}", "deflate_on_oom");
	refused(w, "PUT", "/balloon", "{\"deflate_on_oom\":true}", "amount_mib");
	refused(w, "PUT", "/balloon", "{\"amount_mib\":1048577,\"deflate_on_oom\":true}",
		"amount_mib");
	refused(w, "PUT", "/balloon", "{\"amount_mib\":-1,\"deflate_on_oom\":true}", "amount_mib");
	refused(w, "PUT", "/balloon", "{\"amount_mib\":1,\"deflate_on_oom\":1}", "deflate_on_oom");
	refused(w, "PUT", "/balloon",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"stats_polling_interval_s\":86401}",
		"stats_polling_interval_s");
	refused(w, "PUT", "/balloon",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"free_page_reporting\":false}",
		"free_page_reporting: every balloon offers it");
	refused(w, "PUT", "/balloon",
		"{\"amount_mib\":1,\"deflate_on_oom\":true,\"free_page_hinting\":false}",
		"free_page_hinting: every balloon offers it");
	refused(w, "PUT", "/balloon", "{\"amount_mib\":1,\"deflate_on_oom\":true,\"x\":1}",
		"unknown field");
	ok(w, "PUT", "/balloon", "{\"amount_mib\":0,\"deflate_on_oom\":true}");
	refused(w, "PATCH", "/balloon", "{}", "amount_mib");
	refused(w, "PATCH", "/balloon", "{\"amount_mib\":129}",
		"amount_mib: 129 is more than the VM's memory, 128");
	refused(w, "PATCH", "/balloon", "{\"amount_mib\":128}", "web-1 does not run");
	refused(w, "PATCH", "/balloon", "{\"amount_mib\":1,\"deflate_on_oom\":true}",
		"unknown field");
	refused(w, "PATCH", "/balloon/statistics", "{}", "stats_polling_interval_s");
	refused(w, "PATCH", "/balloon/statistics", "{\"stats_polling_interval_s\":1}",
		"web-1 does not run");
	refused(w, "PATCH", "/balloon/hinting/start", "{}", "web-1 does not run");
	refused(w, "PATCH", "/balloon/hinting/start", "{\"x\":1}", "unknown field");
}

/* ---- strangers ---- */

static int dial(struct world *w)
{
	int fd = sock_connect(w->dir, "api.sock", SOCK_STREAM, NULL);

	assert_true(fd >= 0);
	return fd;
}

/* Sends what goes (the server may hang up first), then reads to the end of the stream. */
static char *talk(struct world *w, const char *text, size_t n)
{
	char *answer = calloc(1, 65536);
	size_t got = 0;
	ssize_t r;
	int fd = dial(w);

	while (n && (r = send(fd, text, n, MSG_NOSIGNAL)) > 0) {
		text += r;
		n -= (size_t)r;
	}
	shutdown(fd, SHUT_WR);
	while (!sock_wait(fd, POLLIN, time_mono_ns() + 120 * NS_PER_SEC, -1) &&
	       (r = recv(fd, answer + got, 65535 - got, 0)) > 0)
		got += (size_t)r;
	close(fd);
	return answer;
}

static void must_fault(struct world *w, const char *text, size_t n, const char *says)
{
	char *a = talk(w, text, n);

	if (strncmp(a, "HTTP/1.1 400 ", 13) || !strstr(a, "{\"fault_message\": ") ||
	    !strstr(a, says))
		fail_msg("answer to %.60s: %s", text, a);
	free(a);
}

static void test_metrics__are_text_of_the_right_type(void **state)
{
	struct world *w = *state;
	static const char metrics[] = "GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n";
	cleanup_free char *text = NULL;
	const char *body, *length;

	ok(w, "PUT", "/machine-config", "{\"vcpu_count\":3,\"mem_size_mib\":256}");
	text = talk(w, metrics, strlen(metrics));
	assert_non_null(strstr(text, "HTTP/1.1 200 OK\r\n"));
	assert_non_null(
		strstr(text, "\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
	body = strstr(text, "\r\n\r\n");
	length = strstr(text, "Content-Length: ");
	assert_true(body && length);
	assert_int_equal(strtoul(length + 16, NULL, 10), strlen(body + 4));
	assert_non_null(strstr(body, "\nclone_vm_info{name=\"web-1\",state=\"Not started\","
				     "version=\"" CLONE_VERSION "\"} 1\n"));
	assert_non_null(strstr(body, "\n# TYPE clone_vm_ram_bytes gauge\n"
				     "clone_vm_ram_bytes 268435456\n"));
	assert_non_null(strstr(body, "\nclone_vm_vcpus 3\n"));
	/* what is not there has no samples, and no families */
	assert_null(strstr(body, "clone_disk"));
	assert_null(strstr(body, "clone_balloon"));
	assert_null(strstr(body, "clone_vcpu_seconds"));
	refused(w, "PUT", "/metrics", "{}", "/metrics");
}

/* The others' answers are what they were. */
static void test_metrics__are_the_only_text(void **state)
{
	struct world *w = *state;
	static const char root[] = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n";
	cleanup_free char *text = talk(w, root, strlen(root));

	assert_non_null(strstr(text, "\r\nContent-Type: application/json\r\n"));
}

static void test_stranger__malformed_requests_get_a_fault(void **state)
{
	struct world *w = *state;
	char *big = malloc(200000);
	int n;

	must_fault(w, "hello\r\n\r\n", 9, "malformed");
	must_fault(w, "GET / SMTP\r\n\r\n", 14, "HTTP/1.1");
	n = sprintf(big, "PUT /entropy HTTP/1.1\r\nContent-Length: 51201\r\n\r\n");
	must_fault(w, big, (size_t)n, "51201");
	n = sprintf(big, "PUT /entropy HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
	must_fault(w, big, (size_t)n, "Transfer-Encoding");
	memset(big, 'a', 200000);
	must_fault(w, big, 200000, "exceeds");
	memcpy(big, "GET / HTTP/1.1\r\nA: ", 19);
	must_fault(w, big, 200000, "exceeds");
	n = sprintf(big, "GET / HTTP/1.1\r\n");
	for (int i = 0; i < 3000; i++)
		n += sprintf(big + n, "X: y\r\n");
	must_fault(w, big, (size_t)n, "headers");
	free(big);
}

static void test_stranger__bodies_that_are_no_json_get_a_fault(void **state)
{
	static const char head[] = "PUT /machine-config HTTP/1.1\r\nContent-Length: 51200\r\n\r\n";
	size_t n = sizeof(head) - 1 + HTTP_BODY_MAX;
	struct world *w = *state;
	char *text = malloc(n);

	memcpy(text, head, sizeof(head) - 1);
	memset(text + sizeof(head) - 1, '[', HTTP_BODY_MAX);
	must_fault(w, text, n, "JSON");
	memset(text + sizeof(head) - 1, 0xff, HTTP_BODY_MAX);
	must_fault(w, text, n, "JSON");
	memset(text + sizeof(head) - 1, ' ', HTTP_BODY_MAX);
	must_fault(w, text, n, "JSON");
	memset(text + sizeof(head) - 1, ' ', HTTP_BODY_MAX);
	memcpy(text + sizeof(head) - 1, "{\"k\xc3\xa4\\n\\\"\":1}", 13);
	must_fault(w, text, n, "unknown field");
	free(text);
}

/* 256 children with their NICs: more than other requests may be. */
static void test_stranger__a_fork_may_say_more_but_not_without_end(void **state)
{
	static const struct {
		const char *path;
		size_t bytes;
		const char *says;
	} t[] = {
		{ "/fork", HTTP_FORK_BODY_MAX, "children" },
		{ "/fork", HTTP_FORK_BODY_MAX + 1, "exceeds the limit" },
		{ "/entropy", HTTP_BODY_MAX + 1, "exceeds the limit" },
	};
	struct world *w = *state;

	for (size_t i = 0; i < ARRAY_SIZE(t); i++) {
		char *text = malloc(t[i].bytes + 200);
		int head = sprintf(text, "PUT %s HTTP/1.1\r\nContent-Length: %zu\r\n\r\n",
				   t[i].path, t[i].bytes);

		memset(text + head, ' ', t[i].bytes);
		memcpy(text + head, "{}", 2);
		must_fault(w, text, (size_t)head + t[i].bytes, t[i].says);
		free(text);
	}
}

static void test_stranger__requests_may_be_pipelined_and_cut(void **state)
{
	static const char two[] = "GET /version HTTP/1.1\r\n\r\nPUT /entropy HTTP/1.1\r\n"
				  "Content-Length: 9\r\n\r\n{\"a\": 1} GET / HTTP/1.1\r\n\r\n";
	struct world *w = *state;
	char *a = talk(w, two, sizeof(two) - 1);
	const char *p;

	p = strstr(a, "HTTP/1.1 200 ");
	assert_ptr_equal(p, a);
	p = strstr(p, "HTTP/1.1 400 ");
	assert_non_null(p);
	assert_non_null(strstr(p, "HTTP/1.1 200 "));
	free(a);
	/* any cut: no answer, or an answer to what was whole; never a hang */
	for (size_t n = 0; n < sizeof(two) - 1; n += 7)
		free(talk(w, two, n));
}

static void test_stranger__continue_is_said_when_it_is_expected(void **state)
{
	struct world *w = *state;
	char buf[256] = "";
	int fd = dial(w);
	ssize_t n;

	dprintf(fd, "PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
	assert_int_equal(sock_wait(fd, POLLIN, time_mono_ns() + 120 * NS_PER_SEC, -1), 0);
	n = recv(fd, buf, sizeof(buf) - 1, 0);
	assert_int_equal(n, 25);
	assert_memory_equal(buf, "HTTP/1.1 100 Continue\r\n\r\n", 25);
	dprintf(fd, "{}");
	assert_int_equal(sock_wait(fd, POLLIN, time_mono_ns() + 120 * NS_PER_SEC, -1), 0);
	n = recv(fd, buf, sizeof(buf) - 1, 0);
	assert_true(n > 13);
	assert_memory_equal(buf, "HTTP/1.1 204 ", 13);
	close(fd);
}

static void test_stranger__more_connections_than_allowed_wait_their_turn(void **state)
{
	struct world *w = *state;
	int fds[HTTP_CONNS_MAX], last;
	struct pollfd p;
	char buf[64];

	/* one is the client's; these fill the rest */
	for (int i = 0; i < HTTP_CONNS_MAX - 1; i++)
		fds[i] = dial(w);
	for (int i = 0; i < HTTP_CONNS_MAX - 1; i++) {
		dprintf(fds[i], "GET /version HTTP/1.1\r\n\r\n");
		assert_true(recv(fds[i], buf, sizeof(buf), 0) > 0);
	}
	last = dial(w);
	dprintf(last, "GET /version HTTP/1.1\r\n\r\n");
	p = (struct pollfd){ .fd = last, .events = POLLIN };
	assert_int_equal(poll(&p, 1, 300), 0);
	close(fds[0]);
	assert_int_equal(poll(&p, 1, 120000), 1);
	assert_true(recv(last, buf, sizeof(buf), 0) > 0);
	close(last);
	for (int i = 1; i < HTTP_CONNS_MAX - 1; i++)
		close(fds[i]);
}

static void test_stranger__hanging_up_before_the_answer_is_harmless(void **state)
{
	struct world *w = *state;

	for (int i = 0; i < 200; i++) {
		int fd = dial(w);

		dprintf(fd, "GET /stats HTTP/1.1\r\n\r\n");
		close(fd);
	}
	ok(w, "GET", "/", NULL);
}

/* ---- descriptors ---- */

/* A file of 1 MiB, opened read-only as a disk's base must be. */
static int disk_image(void)
{
	int fd = disk_file(), ro;

	assert_int_equal(ftruncate(fd, 1 << 20), 0);
	ro = disk_reopen(fd);
	close(fd);
	return ro;
}

static void test_fds__granted_once_taken_by_name(void **state)
{
	static const char *const names[] = { "/images/a", "disk/root/data" };
	struct world *w = *state;
	struct err e;
	int s = client_fdsock(w->dir, &e), fds[2];

	assert_true(s >= 0);
	fds[0] = disk_image();
	fds[1] = disk_file();
	assert_int_equal(client_grant(s, names, fds, 2, &e), 0);
	assert_int_equal(client_grant(s, names, fds, 1, &e), -EREMOTEIO);
	assert_non_null(strstr(e.msg, "/images/a"));
	ok(w, "PUT", "/drives/root",
	   "{\"drive_id\":\"root\",\"path_on_host\":\"/images/a\",\"is_root_device\":true}");
	ok(w, "PATCH", "/drives/root",
	   "{\"drive_id\":\"root\",\"rate_limiter\":{\"bandwidth\":{\"size\":1000,"
	   "\"one_time_burst\":5,\"refill_time\":100},\"ops\":{\"size\":0,\"refill_time\":0}}}");
	refused(w, "PATCH", "/drives/other", "{\"drive_id\":\"other\",\"rate_limiter\":{}}",
		"there is no disk 'other'");
	refused(w, "PATCH", "/drives/root", "{\"drive_id\":\"root\"}", "one of them is needed");
	refused(w, "PATCH", "/drives/root",
		"{\"drive_id\":\"root\",\"rate_limiter\":{\"ops\":{\"size\":1,\"refill_time\":"
		"3600001}}}",
		"refill_time");
	/* what a VM that runs can be asked */
	refused(w, "PATCH", "/drives/root", "{\"drive_id\":\"root\",\"size_bytes\":1048576}",
		"only of a VM that runs or is paused");
	refused(w, "PATCH", "/drives/root", "{\"drive_id\":\"root\",\"path_on_host\":\"\"}",
		"only of a VM that runs or is paused");
	refused(w, "PATCH", "/drives/root",
		"{\"drive_id\":\"root\",\"size_bytes\":1048576,\"rate_limiter\":{}}",
		"nothing else beside it");
	refused(w, "PATCH", "/drives/root", "{\"drive_id\":\"root\",\"size_bytes\":511}",
		"size_bytes");
	refused(w, "PATCH", "/drives/root", "{\"drive_id\":\"root\",\"format\":\"raw\"}",
		"path_on_host: missing");
	/* a bay, and what it cannot have */
	refused(w, "PUT", "/drives/bay", "{\"drive_id\":\"bay\",\"is_read_only\":true}",
		"an empty bay has nothing but a serial");
	refused(w, "PUT", "/drives/bay",
		"{\"drive_id\":\"bay\",\"persistent\":true,\"direct\":true}", "direct I/O");
	ok(w, "PUT", "/drives/bay", "{\"drive_id\":\"bay\",\"serial\":\"empty-1\"}");
	refused(w, "PUT", "/drives/bay", "{\"drive_id\":\"bay\"}", "exists already");
	close(s);
	for (int i = 0; i < 2; i++)
		close(fds[i]);
}

/* A chain is what the request names, file by file, with its formats; no more, no less. */
static void test_drive__chain_of_files_is_checked(void **state)
{
	static const struct {
		const char *more, *says;
	} bad[] = {
		{ "\"format\":\"vmdk\"", "format: 'vmdk' is neither raw nor qcow2" },
		{ "\"format\":\"qcow2\"", "not a qcow2 image; is it format=raw?" },
		{ "\"backing\":[{\"path_on_host\":\"b\",\"format\":\"raw\"}]",
		  "is raw: nothing can stand behind it" },
		{ "\"backing\":[{\"path_on_host\":\"b\"}]", "backing[0]: missing field `format`" },
		{ "\"backing\":[7]", "backing[0]" },
		{ "\"serial\":\"123456789012345678901\"", "serial" },
	};
	static const char *const name = "a";
	struct world *w = *state;
	struct err e;
	int s = client_fdsock(w->dir, &e), fd;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char body[256];

		fd = disk_image();
		client_grant(s, &name, &fd, 1, NULL); /* -EEXIST where the last was not taken */
		close(fd);
		snprintf(body, sizeof(body),
			 "{\"drive_id\":\"d\",\"path_on_host\":\"a\",\"is_root_device\":false,%s}",
			 bad[i].more);
		refused(w, "PUT", "/drives/d", body, bad[i].says);
	}
	close(s);
}

static void test_fds__not_taken_is_dropped_with_the_connection(void **state)
{
	static const char *const name = "left";
	struct world *w = *state;
	int p[2], s;
	struct pollfd poll_end;
	struct err e;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	s = client_fdsock(w->dir, &e);
	assert_int_equal(client_grant(s, &name, &p[1], 1, &e), 0);
	close(p[1]);
	poll_end = (struct pollfd){ .fd = p[0], .events = POLLIN };
	assert_int_equal(poll(&poll_end, 1, 200), 0);
	close(s);
	/* the last writer has gone: the server closed what it held */
	assert_int_equal(poll(&poll_end, 1, 120000), 1);
	assert_true(poll_end.revents & POLLHUP);
	close(p[0]);
}

/* Two callers pass the same names one after the other: the first one's end is not the second's. */
static void test_fds__anothers_of_the_same_name_stay(void **state)
{
	static const char *const names[] = { "data", "sign" };
	struct world *w = *state;
	int a, b, disk, p[2], first[2];
	struct pollfd poll_end;
	struct err e;

	a = client_fdsock(w->dir, &e);
	b = client_fdsock(w->dir, &e);
	disk = disk_image();
	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	first[0] = disk;
	first[1] = p[1];
	assert_int_equal(client_grant(a, names, first, 2, &e), 0);
	close(p[1]);
	ok(w, "PUT", "/drives/one",
	   "{\"drive_id\":\"one\",\"path_on_host\":\"data\",\"is_root_device\":true}");
	assert_int_equal(client_grant(b, names, &disk, 1, &e), 0);
	close(a);
	/* the server has seen the first one's end */
	poll_end = (struct pollfd){ .fd = p[0], .events = POLLIN };
	assert_int_equal(poll(&poll_end, 1, 120000), 1);
	ok(w, "PUT", "/drives/two",
	   "{\"drive_id\":\"two\",\"path_on_host\":\"data\",\"is_root_device\":false}");
	close(b);
	close(disk);
	close(p[0]);
}

static void exchange(int s, const char *text, const int *fds, size_t n, const char *says)
{
	char buf[1024] = "";
	ssize_t got;

	assert_int_equal(fd_send(s, text, strlen(text), fds, n), 0);
	assert_int_equal(sock_wait(s, POLLIN, time_mono_ns() + 120 * NS_PER_SEC, -1), 0);
	got = recv(s, buf, sizeof(buf) - 1, 0);
	assert_true(got > 0);
	if (!strstr(buf, says))
		fail_msg("%s: %s", text, buf);
}

static void test_fds__malformed_messages_are_refused(void **state)
{
	struct world *w = *state;
	int zero = open("/dev/null", O_RDWR | O_CLOEXEC), many[FD_PASS_MAX], s;
	char *big = malloc(100000);
	struct err e;

	s = client_fdsock(w->dir, &e);
	exchange(s, "nonsense", &zero, 1, "error");
	exchange(s, "{}", NULL, 0, "error");
	exchange(s, "{\"grant\":[]}", NULL, 0, "error");
	exchange(s, "{\"grant\":[\"a\"]}", NULL, 0, "1 names but 0");
	exchange(s, "{\"grant\":[\"a\"],\"claim\":\"b\"}", &zero, 1, "error");
	exchange(s, "{\"grant\":[7]}", &zero, 1, "error");
	exchange(s, "{\"grant\":[\"\"]}", &zero, 1, "error");
	exchange(s, "{\"claim\":\"kernel\"}", NULL, 0, "only pidfd/");
	exchange(s, "{\"claim\":\"pidfd/none\"}", NULL, 0, "no descriptor");
	exchange(s, "{\"claim\":\"pidfd/none\"}", &zero, 1, "error");
	exchange(s, "{\"grant\":[\"a\"],\"more\":1}", &zero, 1, "more");
	memset(big, 'x', 99999);
	big[99999] = '\0';
	exchange(s, big, NULL, 0, "error");
	for (int i = 0; i < FD_PASS_MAX; i++)
		many[i] = zero;
	exchange(s, "{\"grant\":[\"a\"]}", many, FD_PASS_MAX, "1 names but 64");
	exchange(s, "{\"grant\":[\"a\"]}", &zero, 1, "ok");
	close(s);
	close(zero);
	free(big);
}

#define CASE(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

/* A guest may say any number: none is shown as less than nothing. */
static void test_api__a_report_of_the_guests_has_no_negative_numbers(void **state)
{
	cleanup_json json_t *all = NULL, *few = NULL;
	struct proto_report most = { .last_exec_ms = 6,
				     .more = true,
				     .flags = PROTO_REPORT_PSI,
				     .cpu_idle_ms = 17,
				     .psi_some_us = 20,
				     .psi_full_us = UINT64_MAX };
	const char *key;
	const json_t *v;

	(void)state;
	most.mem_total_bytes = most.cpu_busy_ms = most.uptime_ms = 1ull << 63;
	all = api_report_json(&most);
	assert_int_equal(json_object_size(all), 8 + 8 + 1);
	assert_true(json_integer_value(json_object_get(all, "mem_total_bytes")) == INT64_MAX);
	assert_true(json_integer_value(json_object_get(all, "cpu_busy_ms")) == INT64_MAX);
	assert_true(json_integer_value(json_object_get(all, "uptime_ms")) == INT64_MAX);
	assert_int_equal(json_integer_value(json_object_get(all, "last_exec_ms")), 6);
	assert_int_equal(json_integer_value(json_object_get(all, "cpu_idle_ms")), 17);
	v = json_object_get(all, "psi");
	assert_int_equal(json_integer_value(json_object_get(v, "some_us")), 20);
	assert_true(json_integer_value(json_object_get(v, "full_us")) == INT64_MAX);
	json_object_foreach(all, key, v) assert_true(json_integer_value(v) >= 0);
	most.more = false;
	most.last_exec_ms = UINT64_MAX; /* never */
	few = api_report_json(&most);
	assert_int_equal(json_object_size(few), 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_api__a_report_of_the_guests_has_no_negative_numbers),
		CASE(test_api__says_who_it_is),
		CASE(test_api__machine_config_is_kept),
		CASE(test_api__what_was_not_granted_is_refused),
		CASE(test_api__unknown_resources_and_states_are_refused),
		CASE(test_api__fork_checks_its_children),
		CASE(test_api__identity_can_be_set_before_the_start),
		CASE(test_api__a_balloon_is_configured_before_the_start),
		CASE(test_api__a_balloon_refuses_what_makes_no_sense),
		CASE(test_metrics__are_text_of_the_right_type),
		CASE(test_metrics__are_the_only_text),
		CASE(test_stranger__malformed_requests_get_a_fault),
		CASE(test_stranger__bodies_that_are_no_json_get_a_fault),
		CASE(test_stranger__a_fork_may_say_more_but_not_without_end),
		CASE(test_stranger__requests_may_be_pipelined_and_cut),
		CASE(test_stranger__continue_is_said_when_it_is_expected),
		CASE(test_stranger__more_connections_than_allowed_wait_their_turn),
		CASE(test_stranger__hanging_up_before_the_answer_is_harmless),
		CASE(test_fds__granted_once_taken_by_name),
		CASE(test_drive__chain_of_files_is_checked),
		CASE(test_fds__not_taken_is_dropped_with_the_connection),
		CASE(test_fds__anothers_of_the_same_name_stay),
		CASE(test_fds__malformed_messages_are_refused),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
