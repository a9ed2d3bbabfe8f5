/* SPDX-License-Identifier: MIT */
/*
 * PUT /exec from its JSON body to its JSON answer against a scripted guest: what the guest may
 * send, what it may not, and how much of it is kept. The control socket around it is this file.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#include "agent/agent.h"
#include "base/time.h"
#include "control/api.h"
#include "event/grants.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vsock_guest.h"
#include "vm/park.h"
#include "vm/vm.h"

static struct vsock_hdr h;
static uint8_t data[VG_RX_DATA];

static const struct identity me = {
	.name = "me",
	.hostname = "me",
	.generation = { 7, 7, 7 },
	.entropy = { 1 },
};

struct rig {
	struct vg g;
	struct agent *a;
	uint32_t port; /* of the stream that the guest accepted last */
	unsigned int answers, woken;
	bool asleep;	/* parked, and cannot be woken */
	json_t *answer; /* the last one; NULL: it was refused */
	char fault[ERR_MSG_MAX];
};

/* ---- the rest of the control API: this VM's agent, and where answers go ---- */

struct agent *vm_agent(struct vm *vm)
{
	return ((struct rig *)(void *)vm)->a;
}

/* It runs, until a test says otherwise. */
int vm_unpark(struct vm *vm, const char *why, struct err *e)
{
	struct rig *r = (struct rig *)(void *)vm;

	assert_string_equal(why, "exec");
	r->woken++;
	return r->asleep ? err_set(e, EIO, "unpark: no") : 0;
}

void api_answer(struct http_request *rq, json_t *reply)
{
	struct rig *r = (struct rig *)(void *)rq;

	r->answers++;
	json_decref(r->answer);
	r->answer = reply;
	r->fault[0] = '\0';
}

void api_refuse(struct http_request *rq, const struct err *e)
{
	struct rig *r = (struct rig *)(void *)rq;

	r->answers++;
	json_decref(r->answer);
	r->answer = NULL;
	snprintf(r->fault, sizeof(r->fault), "%s", e->msg);
}

static int put(struct rig *r, const char *body)
{
	struct api_call call = { .vm = (struct vm *)(void *)r,
				 .rq = (struct http_request *)(void *)r };
	json_t *reply = NULL;
	struct err e;
	int ret;

	call.body = json_object_from(body, strlen(body), &e);
	assert_non_null(call.body);
	ret = api_put_exec(&call, &reply, &e);
	assert_null(reply);
	if (ret < 0)
		snprintf(r->fault, sizeof(r->fault), "%s", e.msg);
	json_decref(call.body);
	return ret;
}

/* ---- the guest ---- */

static void guest_sends(struct rig *r, const void *b, size_t n)
{
	for (size_t at = 0; at < n; at += MIN(n - at, (size_t)4096)) {
		vg_say(&r->g, VSOCK_OP_RW, r->port, PROTO_AGENT_PORT, 0, (const uint8_t *)b + at,
		       (uint32_t)MIN(n - at, (size_t)4096));
		fm_spin(&r->g.fm);
	}
}

/* The next packet that is about a stream of ours and not only about credit. */
static void next_packet(struct rig *r, enum vsock_op op)
{
	do {
		assert_true(vg_take(&r->g, 60 * NS_PER_SEC, &h, data));
	} while (h.op == VSOCK_OP_CREDIT_UPDATE ||
		 (h.op == VSOCK_OP_SHUTDOWN && op != VSOCK_OP_SHUTDOWN));
	assert_int_equal(h.op, op);
}

static struct proto_rd accept_frame(struct rig *r, uint8_t type)
{
	static uint8_t frame[PROTO_MAX_FRAME];
	struct proto_frame f;
	size_t len = 0;

	next_packet(r, VSOCK_OP_REQUEST);
	r->port = h.src_port;
	vg_say(&r->g, VSOCK_OP_RESPONSE, r->port, PROTO_AGENT_PORT, 0, NULL, 0);
	while (proto_frame(frame, len, &f) <= 0) {
		next_packet(r, VSOCK_OP_RW);
		memcpy(frame + len, data, h.len);
		len += h.len;
	}
	assert_int_equal(f.type, type);
	return f.payload;
}

static void sends_u32(struct rig *r, uint8_t type, uint32_t v)
{
	uint8_t b[PROTO_SMALL_FRAME];

	guest_sends(r, b, proto_put_one_u32(b, sizeof(b), type, v));
}

static void sends_data(struct rig *r, uint8_t type, const void *p, uint32_t n)
{
	static uint8_t b[PROTO_MAX_FRAME];

	proto_header(b, type, n);
	memcpy(b + PROTO_HEADER, p, n);
	guest_sends(r, b, PROTO_HEADER + n);
}

static void sends_exit(struct rig *r, uint8_t kind, uint32_t value)
{
	uint8_t b[PROTO_SMALL_FRAME];

	guest_sends(r, b, proto_put_exit(b, sizeof(b), kind, value));
}

static int up(void **state)
{
	static struct rig r;
	struct proto_ready y = { .version = PROTO_VERSION };
	uint8_t b[PROTO_SMALL_FRAME];
	struct err e;

	memset(&r, 0, sizeof(r));
	vg_init(&r.g, true);
	assert_int_equal(agent_create(&r.g.fm.m, r.g.dev, &r.a, &e), 0);
	assert_int_equal(agent_adopt(r.a, &e), 0);
	vg_say(&r.g, VSOCK_OP_REQUEST, PROTO_READY_PORT, 500, 0, NULL, 0);
	next_packet(&r, VSOCK_OP_RESPONSE);
	vg_say(&r.g, VSOCK_OP_RW, PROTO_READY_PORT, 500, 0, b,
	       (uint32_t)proto_put_ready(b, sizeof(b), &y));
	fm_spin(&r.g.fm);
	*state = &r;
	return 0;
}

static void reconcile(struct rig *r)
{
	struct proto_ack ack = { .version = PROTO_VERSION };
	uint8_t b[PROTO_SMALL_FRAME];
	struct err e;

	assert_int_equal(agent_set_identity(r->a, &me, false, NULL, 0, 60000, NULL, NULL, &e), 0);
	accept_frame(r, PROTO_IDENTITY);
	memcpy(ack.gen, me.generation, PROTO_GEN);
	guest_sends(r, b, proto_put_ack(b, sizeof(b), &ack));
	assert_true(agent_reconciled(r->a));
}

static int up_reconciled(void **state)
{
	up(state);
	reconcile(*state);
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	agent_destroy(r->a);
	vg_fini(&r->g);
	json_decref(r->answer);
	return 0;
}

static const char *text(struct rig *r, const char *key)
{
	const char *s = json_string_value(json_object_get(r->answer, key));

	assert_non_null(s);
	return s;
}

static bool truth(struct rig *r, const char *key)
{
	assert_true(json_is_boolean(json_object_get(r->answer, key)));
	return json_is_true(json_object_get(r->answer, key));
}

static int number(struct rig *r)
{
	return (int)json_integer_value(json_object_get(r->answer, "value"));
}

#define RUN "{\"argv\":[\"x\"]}"

static void test_exec__what_was_asked_reaches_the_guest(void **state)
{
	struct rig *r = *state;
	struct proto_exec x;
	struct proto_slice s;

	assert_int_equal(put(r, "{\"argv\":[\"echo\",\"\",\"a b\"],\"env\":[\"K=V=W\"],"
				"\"cwd\":\"/tmp\",\"user\":\"me:us\",\"timeout_ms\":1234}"),
			 API_LATER);
	assert_true(proto_get_exec(accept_frame(r, PROTO_EXEC), &x));
	assert_memory_equal(x.gen.p, me.generation, PROTO_GEN);
	assert_int_equal(x.flags, 0);
	assert_int_equal(x.timeout_ms, 1234);
	assert_int_equal(x.user.len, 5);
	assert_memory_equal(x.user.p, "me:us", 5);
	assert_memory_equal(x.cwd.p, "/tmp", 4);
	assert_int_equal(x.argv.count, 3);
	assert_true(proto_list_next(&x.argv, &s));
	assert_memory_equal(s.p, "echo", 4);
	assert_true(proto_list_next(&x.argv, &s));
	assert_int_equal(s.len, 0);
	assert_int_equal(x.env.count, 1);
	assert_true(proto_list_next(&x.env, &s));
	assert_memory_equal(s.p, "K=V=W", 5);
}

static void test_exec__streams_and_status_are_the_commands(void **state)
{
	struct rig *r = *state;

	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 77);
	sends_data(r, PROTO_STDOUT, "he", 2);
	sends_data(r, PROTO_STDERR, "\xff", 1);
	sends_data(r, PROTO_STDOUT, "", 0);
	sends_data(r, PROTO_STDOUT, "y!\n", 3);
	assert_int_equal(r->answers, 0);
	sends_exit(r, PROTO_EXIT_EXITED, 3);
	assert_int_equal(r->answers, 1);
	assert_string_equal(text(r, "kind"), "exited");
	assert_int_equal(number(r), 3);
	assert_string_equal(text(r, "stdout"), "aGV5IQo=");
	assert_string_equal(text(r, "stderr"), "/w==");
	assert_false(truth(r, "stdout_truncated"));
	next_packet(r, VSOCK_OP_SHUTDOWN);
}

static void test_exec__signal_and_timeout_are_told_apart(void **state)
{
	struct rig *r = *state;

	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 1);
	sends_exit(r, PROTO_EXIT_SIGNALED, 9);
	assert_string_equal(text(r, "kind"), "signaled");
	assert_int_equal(number(r), 9);
	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 1);
	sends_exit(r, PROTO_EXIT_TIMEOUT, 0);
	assert_string_equal(text(r, "kind"), "timeout");
	assert_int_equal(r->answers, 2);
}

static void test_exec__a_flood_is_cut_at_the_limit_and_said_so(void **state)
{
	static uint8_t block[PROTO_MAX_PAYLOAD];
	struct rig *r = *state;

	memset(block, 'A', sizeof(block));
	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 1);
	sends_data(r, PROTO_STDERR, block, 60000);
	for (int i = 0; i < 40; i++) {
		sends_data(r, PROTO_STDOUT, block, 60000);
		while (vg_take(&r->g, 0, &h, data))
			;
	}
	sends_exit(r, PROTO_EXIT_EXITED, 0);
	assert_int_equal(r->answers, 1);
	assert_int_equal(strlen(text(r, "stdout")), (AGENT_EXEC_OUT + 2) / 3 * 4);
	assert_true(truth(r, "stdout_truncated"));
	assert_int_equal(strlen(text(r, "stderr")), 80000);
	assert_false(truth(r, "stderr_truncated"));
}

static void test_exec__the_agents_own_error_is_the_answer(void **state)
{
	struct proto_error pe = { .err = ENOENT, .stage = PROTO_STAGE_COMMAND, .text = { "x", 1 } };
	struct rig *r = *state;
	uint8_t b[PROTO_SMALL_FRAME];

	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	guest_sends(r, b, proto_put_error(b, sizeof(b), &pe));
	assert_int_equal(r->answers, 1);
	assert_null(r->answer);
	assert_string_equal(r->fault, "exec: the guest's agent: x: No such file or directory");
}

static void test_exec__frames_that_are_not_legal_end_it(void **state)
{
	static const struct {
		bool started;
		const char *bytes;
		size_t n;
	} bad[] = {
		{ false, "\x01\x00\x00\x00\x81x", 6 },			   /* STDOUT first */
		{ false, "\x05\x00\x00\x00\x84\x00\x00\x00\x00\x00", 10 }, /* EXIT first */
		{ true, "\x04\x00\x00\x00\x80\x01\x00\x00\x00", 9 },	   /* STARTED again */
		{ true, "\x05\x00\x00\x00\x84\x03\x00\x00\x00\x00", 10 },  /* no such kind */
		{ true, "\x05\x00\x00\x00\x84\x00\x00\x01\x00\x00", 10 },  /* status 256 */
		{ true, "\x05\x00\x00\x00\x84\x01\x00\x00\x00\x00", 10 },  /* signal 0 */
		{ true, "\x04\x00\x00\x00\x84\x00\x00\x00\x00", 9 },	   /* EXIT cut */
		{ true, "\x00\x00\x00\x00\x85", 5 },			   /* ACK */
		{ true, "\x00\x00\x00\x00\x06", 5 },			   /* PING */
		{ true, "\x01\x00\x01\x00\x81", 5 },			   /* 65537 bytes */
		{ true, "\x00\x00\x00\x00\x86", 5 },			   /* ERROR, empty */
		{ true, "\x04\x00\x00\x00\x83\x01\x00\x00\x00", 9 }, /* STDIN_ACK of nothing */
	};
	struct rig *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(put(r, RUN), API_LATER);
		accept_frame(r, PROTO_EXEC);
		if (bad[i].started)
			sends_u32(r, PROTO_STARTED, 1);
		assert_int_equal(r->answers, i);
		guest_sends(r, bad[i].bytes, bad[i].n);
		assert_int_equal(r->answers, i + 1);
		assert_null(r->answer);
		assert_non_null(strstr(r->fault, "exec: the guest's agent answered with"));
	}
}

static void test_exec__a_guest_that_hangs_up_is_reported(void **state)
{
	struct rig *r = *state;

	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 1);
	vg_say(&r->g, VSOCK_OP_RST, r->port, PROTO_AGENT_PORT, 0, NULL, 0);
	fm_spin(&r->g.fm);
	assert_int_equal(r->answers, 1);
	assert_non_null(strstr(r->fault, "closed the connection before the command ended"));
}

static void test_exec__bad_requests_never_reach_the_guest(void **state)
{
	static const struct {
		const char *body, *says;
	} bad[] = {
		{ "{}", "argv" },
		{ "{\"argv\":[]}", "argv" },
		{ "{\"argv\":[\"\"]}", "argv" },
		{ "{\"argv\":[1]}", "argv: element 0" },
		{ "{\"argv\":[\"x\"],\"env\":[\"K=V\",\"nothing\"]}", "env: element 1" },
		{ "{\"argv\":[\"x\"],\"env\":[\"=V\"]}", "env: element 0" },
		{ "{\"argv\":[\"x\"],\"timeout_ms\":0}", "timeout_ms" },
		{ "{\"argv\":[\"x\"],\"timeout_ms\":86400001}", "timeout_ms" },
		{ "{\"argv\":[\"x\"],\"tty\":true}", "tty" },
	};
	struct rig *r = *state;
	char *long_body = malloc(5 * 5000 + 32), *p = long_body;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(put(r, bad[i].body), -EINVAL);
		assert_non_null(strstr(r->fault, bad[i].says));
	}
	p += sprintf(p, "{\"argv\":[\"x\"");
	for (int i = 0; i < 4096; i++)
		p += sprintf(p, ",\"y\"");
	sprintf(p, "]}");
	assert_int_equal(put(r, long_body), -EINVAL);
	free(long_body);
	assert_int_equal(r->answers, 0);
	while (vg_take(&r->g, 0, &h, data))
		assert_int_equal(h.op, VSOCK_OP_SHUTDOWN); /* of the identity's connection */
}

static void test_exec__refused_while_the_guest_has_not_reconciled(void **state)
{
	struct rig *r = *state;

	assert_int_equal(put(r, RUN), -EAGAIN);
	assert_string_equal(r->fault, "the guest's agent has not acknowledged its identity");
	reconcile(r);
	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	vg_driver(&r->g, VG_RX_BUFS, VG_EVENTS); /* it rebooted */
	fm_spin(&r->g.fm);
	assert_int_equal(r->answers, 1);
	assert_int_equal(put(r, RUN), -EAGAIN);
}

static void test_exec__wakes_a_parked_vm_or_says_why_not(void **state)
{
	struct rig *r = *state;

	r->asleep = true;
	assert_int_equal(put(r, RUN), -EIO);
	assert_string_equal(r->fault, "unpark: no");
	fm_spin(&r->g.fm);
	while (vg_take(&r->g, 0, &h, data))
		assert_int_not_equal(h.op, VSOCK_OP_REQUEST); /* nothing new reaches the guest */
	r->asleep = false;
	assert_int_equal(put(r, RUN), API_LATER);
	assert_int_equal(r->woken, 2);
	accept_frame(r, PROTO_EXEC);
}

static void test_exec__commands_are_limited(void **state)
{
	struct rig *r = *state;

	for (unsigned int i = 0; i < AGENT_MAX_EXECS; i++) {
		assert_int_equal(put(r, RUN), API_LATER);
		accept_frame(r, PROTO_EXEC);
	}
	assert_int_equal(put(r, RUN), -EBUSY);
	sends_u32(r, PROTO_STARTED, 1);
	sends_exit(r, PROTO_EXIT_EXITED, 0);
	assert_int_equal(r->answers, 1);
	assert_int_equal(put(r, RUN), API_LATER);
}

static bool answered(void *arg)
{
	return ((struct rig *)arg)->answers;
}

static void test_exec__silence_ends_at_the_deadline(void **state)
{
	struct rig *r = *state;

	assert_int_equal(put(r, "{\"argv\":[\"x\"],\"timeout_ms\":1}"), API_LATER);
	accept_frame(r, PROTO_EXEC);
	for (int i = 0; i < 3 && !r->answers; i++)
		fm_until(&r->g.fm, answered, r);
	assert_int_equal(r->answers, 1);
	assert_string_equal(r->fault, "exec: the guest did not end the command within 5501 ms");
}

static int fork_child(struct rig *r)
{
	struct identity id = {
		.renew = true, .name = "child", .hostname = "child", .generation = { 8 }
	};
	struct err e;

	grants_child(r->g.fm.m.grants, "child/");
	fm_child(&r->g.fm, &id);
	if (agent_adopt(r->a, &e) || r->answers)
		return 1;
	return put(r, RUN) == -EAGAIN ? 0 : 2;
}

static void test_exec__fork_leaves_the_command_to_the_parent(void **state)
{
	struct rig *r = *state;
	int status;
	pid_t pid;

	assert_int_equal(put(r, RUN), API_LATER);
	accept_frame(r, PROTO_EXEC);
	sends_u32(r, PROTO_STARTED, 1);
	sends_data(r, PROTO_STDOUT, "before", 6);
	vg_grant(&r->g, "child/", "child.sock");
	fm_quiesce(&r->g.fm);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(fork_child(r));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fm_resume(&r->g.fm);
	sends_exit(r, PROTO_EXIT_EXITED, 0);
	assert_int_equal(r->answers, 1);
	assert_string_equal(text(r, "stdout"), "YmVmb3Jl");
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up_reconciled, down)
	const struct CMUnitTest tests[] = {
		T(test_exec__what_was_asked_reaches_the_guest),
		T(test_exec__streams_and_status_are_the_commands),
		T(test_exec__signal_and_timeout_are_told_apart),
		T(test_exec__a_flood_is_cut_at_the_limit_and_said_so),
		T(test_exec__the_agents_own_error_is_the_answer),
		T(test_exec__frames_that_are_not_legal_end_it),
		T(test_exec__a_guest_that_hangs_up_is_reported),
		T(test_exec__bad_requests_never_reach_the_guest),
		cmocka_unit_test_setup_teardown(
			test_exec__refused_while_the_guest_has_not_reconciled, up, down),
		T(test_exec__wakes_a_parked_vm_or_says_why_not),
		T(test_exec__commands_are_limited),
		T(test_exec__silence_ends_at_the_deadline),
		T(test_exec__fork_leaves_the_command_to_the_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
