/* SPDX-License-Identifier: MIT */
/*
 * The VM's own client of the guest agent against a scripted guest: hello, identity, the gate,
 * requests, lies, restarts, fork. Long, because all rows share that guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/time.h"
#include "tests/lib/kvm_model.h"
#include "tests/lib/vsock_guest.h"

static struct vsock_hdr h;
static uint8_t data[VG_RX_DATA];

static const struct identity me = {
	.renew = true,
	.name = "me",
	.hostname = "me.example",
	.machine_id = "0123456789abcdef0123456789abcdef",
	.generation = { 7, 7, 7 },
	.entropy = { 1, 2, 3 },
	.nr_nics = 1,
	.nics = { { .driver_mac = { 2, 1 },
		    .addr = { .mac = { 2, 2 },
			      .mtu = 1400,
			      .prefix4 = 24,
			      .ip4 = { 10, 1, 0, 2 },
			      .gw4 = { 10, 1, 0, 1 },
			      .prefix6 = 64,
			      .ip6 = { 0xfd, [15] = 2 },
			      .gw6 = { 0xfe, 0x80, [15] = 1 },
			      .nr_dns = 1,
			      .dns = { { 4, { 10, 1, 0, 1 } } } } } },
};
static const uint8_t none[PROTO_GEN], no_entropy[64];

struct rig {
	struct vg g;
	struct agent *a;
	unsigned int done, changes, pressures;
	struct proto_report pressure; /* the last one */
	struct agent_reply r;	      /* the last one */
	uint8_t frame[32768];	      /* the last frame of ours that the guest got */
	size_t len;
	uint32_t port;	/* of its stream */
	uint32_t stale; /* of one that was given up */
	uint32_t next;	/* guest port of the next hello */
};

static void on_change(void *arg)
{
	((struct rig *)arg)->changes++;
}

static void on_done(void *arg, const struct agent_reply *reply)
{
	struct rig *r = arg;

	r->done++;
	r->r = *reply;
}

static void on_pressure(void *arg, const struct proto_report *p)
{
	struct rig *r = arg;

	r->pressures++;
	r->pressure = *p;
}

static int up(void **state)
{
	static struct rig r;
	struct err e;

	memset(&r, 0, sizeof(r));
	r.next = 500; /* root's */
	vg_init(&r.g, true);
	assert_int_equal(agent_create(&r.g.fm.m, r.g.dev, &r.a, &e), 0);
	assert_int_equal(agent_adopt(r.a, &e), 0);
	agent_on_change(r.a, on_change, &r);
	agent_on_pressure(r.a, on_pressure, &r);
	*state = &r;
	return 0;
}

static int down(void **state)
{
	struct rig *r = *state;

	agent_destroy(r->a);
	vg_fini(&r->g);
	return 0;
}

/* The next packet for the guest, but for the closing of hellos and of a call that was
 * given up, which comes when it comes. */
static bool take(struct rig *r, uint64_t wait_ns)
{
	while (vg_take(&r->g, wait_ns, &h, data)) {
		if ((h.src_port != PROTO_READY_PORT && h.src_port != r->stale) ||
		    h.op != VSOCK_OP_SHUTDOWN)
			return true;
		vg_say(&r->g, VSOCK_OP_RST, h.src_port, h.dst_port, 0, NULL, 0);
	}
	return false;
}

static void expect(struct rig *r, enum vsock_op op)
{
	assert_true(take(r, 60 * NS_PER_SEC));
	assert_int_equal(h.op, op);
}

static bool quiet(struct rig *r)
{
	return !take(r, 0) && vg_quiet(&r->g);
}

/* The guest's agent connects and says these bytes; when they are `enough`, we close. */
static void hello_bytes(struct rig *r, const void *b, size_t n, bool enough)
{
	uint32_t port = r->next++;

	vg_say(&r->g, VSOCK_OP_REQUEST, PROTO_READY_PORT, port, 0, NULL, 0);
	expect(r, VSOCK_OP_RESPONSE);
	vg_say(&r->g, VSOCK_OP_RW, PROTO_READY_PORT, port, 0, b, (uint32_t)n);
	if (!enough)
		vg_say(&r->g, VSOCK_OP_RST, PROTO_READY_PORT, port, 0, NULL, 0);
	fm_spin(&r->g.fm);
}

static void hello(struct rig *r, const uint8_t *gen)
{
	struct proto_ready y = { .version = PROTO_VERSION };
	uint8_t b[PROTO_SMALL_FRAME];

	memcpy(y.gen, gen, PROTO_GEN);
	hello_bytes(r, b, proto_put_ready(b, sizeof(b), &y), true);
}

static void identify(struct rig *r, unsigned int timeout_ms)
{
	struct err e;

	assert_int_equal(agent_set_identity(r->a, &me, true, "ud", 2, timeout_ms, on_done, r, &e),
			 0);
}

/* The guest's agent accepts a connection and reads the frame on it. */
static uint8_t accept_frame(struct rig *r, struct proto_rd *payload)
{
	struct proto_frame f;

	expect(r, VSOCK_OP_REQUEST);
	assert_int_equal(h.dst_port, PROTO_AGENT_PORT);
	r->port = h.src_port;
	vg_say(&r->g, VSOCK_OP_RESPONSE, r->port, PROTO_AGENT_PORT, 0, NULL, 0);
	for (r->len = 0; proto_frame(r->frame, r->len, &f) <= 0;) {
		expect(r, VSOCK_OP_RW);
		memcpy(r->frame + r->len, data, h.len);
		r->len += h.len;
	}
	*payload = f.payload;
	return f.type;
}

static void answer_bytes(struct rig *r, const void *b, size_t n)
{
	vg_say(&r->g, VSOCK_OP_RW, r->port, PROTO_AGENT_PORT, 0, b, (uint32_t)n);
	fm_spin(&r->g.fm);
}

/* The client closes once it has its answer. */
static void closed(struct rig *r)
{
	expect(r, VSOCK_OP_SHUTDOWN);
	vg_say(&r->g, VSOCK_OP_RST, r->port, PROTO_AGENT_PORT, 0, NULL, 0);
}

static void ack_as(struct rig *r, uint32_t version, const uint8_t *gen)
{
	struct proto_ack a = { .version = version, .text = { "fine\x1b[2J", 8 } };
	uint8_t b[PROTO_SMALL_FRAME];

	memcpy(a.gen, gen, PROTO_GEN);
	answer_bytes(r, b, proto_put_ack(b, sizeof(b), &a));
	closed(r);
}

static void ack(struct rig *r, const uint8_t *gen)
{
	ack_as(r, PROTO_VERSION, gen);
}

static bool gate_open(struct rig *r, uint32_t port)
{
	char line[32];
	int fd;
	bool open;

	snprintf(line, sizeof(line), "CONNECT %u\n", port);
	fd = vg_dial("vsock.sock", line);
	fm_spin(&r->g.fm);
	open = vg_read(&r->g, fd, line, 1) != 0;
	if (open) {
		expect(r, VSOCK_OP_REQUEST);
		vg_say(&r->g, VSOCK_OP_RST, h.src_port, port, 0, NULL, 0);
	}
	close(fd);
	return open;
}

static bool is_done(void *arg)
{
	return ((struct rig *)arg)->done;
}

static void test_agent__hello_makes_it_present(void **state)
{
	struct rig *r = *state;
	struct proto_ready old = { .version = PROTO_VERSION + 1 };
	uint8_t b[PROTO_SMALL_FRAME];
	size_t n;

	assert_false(agent_present(r->a));
	n = proto_put_ready(b, sizeof(b), &old);
	hello_bytes(r, b, n, true);
	hello_bytes(r, b, n - 1, false);
	hello_bytes(r, "\xff\xff\xff\xff\x88", 5, true);
	hello_bytes(r, "\x00\x00\x00\x00\x88", 5, true);
	hello_bytes(r, "\x00\x00\x00\x00\x06", 5, true);
	assert_false(agent_present(r->a));
	assert_int_equal(r->changes, 0);
	hello(r, none);
	assert_true(agent_present(r->a));
	assert_false(agent_reconciled(r->a));
	assert_int_equal(r->changes, 1);
}

/* What the guest is told of its only NIC. */
static void assert_my_nic(const struct proto_identity *id)
{
	const struct nic_address *n = &me.nics[0].addr;
	const struct proto_nic *c = &id->nics[0];

	assert_int_equal(id->nnics, 1);
	assert_memory_equal(c->driver_mac, me.nics[0].driver_mac, 6);
	assert_memory_equal(c->mac, n->mac, 6);
	assert_int_equal(c->mtu, n->mtu);
	assert_int_equal(c->prefix4, n->prefix4);
	assert_memory_equal(c->ip4, n->ip4, 4);
	assert_memory_equal(c->gw4, n->gw4, 4);
	assert_int_equal(c->prefix6, n->prefix6);
	assert_memory_equal(c->ip6, n->ip6, 16);
	assert_memory_equal(c->gw6, n->gw6, 16);
	assert_int_equal(c->ndns, 1);
	assert_int_equal(c->dns[0].family, 4);
	assert_memory_equal(c->dns[0].addr, n->dns[0].addr, 16);
}

static void test_agent__acknowledged_identity_opens_the_gate(void **state)
{
	struct rig *r = *state;
	struct proto_identity id;
	struct proto_rd p;

	assert_false(gate_open(r, PROTO_AGENT_PORT));
	assert_true(gate_open(r, 2000));
	identify(r, 60000); /* before there is an agent: waits for it */
	assert_true(quiet(r));
	hello(r, none);
	assert_false(gate_open(r, PROTO_AGENT_PORT));
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	assert_true(proto_get_identity(p, &id));
	assert_memory_equal(id.gen.p, me.generation, PROTO_GEN);
	assert_true(id.realtime_ns > 1600000000ull * 1000000000);
	assert_int_equal(id.entropy.len, sizeof(me.entropy));
	assert_memory_equal(id.entropy.p, me.entropy, sizeof(me.entropy));
	assert_int_equal(id.flags, PROTO_IDENTITY_FORK);
	assert_int_equal(id.name.len, strlen(me.name));
	assert_memory_equal(id.name.p, me.name, id.name.len);
	assert_memory_equal(id.hostname.p, me.hostname, strlen(me.hostname));
	assert_memory_equal(id.machine_id.p, me.machine_id, 32);
	assert_memory_equal(id.userdata.p, "ud", 2);
	assert_my_nic(&id);
	assert_false(gate_open(r, PROTO_AGENT_PORT)); /* given is not acknowledged */
	assert_int_equal(r->done, 0);
	ack(r, me.generation);
	assert_int_equal(r->done, 1);
	assert_int_equal(r->r.ret, 0);
	assert_string_equal(r->r.text, "fine?[2J");
	assert_true(agent_reconciled(r->a));
	assert_string_equal(agent_identity_error(r->a), "");
	assert_memory_equal(agent_generation(r->a), me.generation, PROTO_GEN);
	assert_true(gate_open(r, PROTO_AGENT_PORT));
	assert_int_equal(r->done, 1);
}

static void test_agent__refused_identity_keeps_the_gate_closed(void **state)
{
	struct proto_error pe = { .err = EIO, .stage = PROTO_STAGE_HOOK, .text = { "10-x", 4 } };
	struct rig *r = *state;
	uint8_t b[PROTO_SMALL_FRAME];
	struct proto_rd p;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	answer_bytes(r, b, proto_put_error(b, sizeof(b), &pe));
	assert_int_equal(r->done, 1);
	assert_int_equal(r->r.ret, -EIO);
	assert_int_equal(r->r.stage, PROTO_STAGE_HOOK);
	assert_string_equal(r->r.e.msg, "identity: the guest's agent: 10-x: Input/output error");
	assert_string_equal(agent_identity_error(r->a), r->r.e.msg);
	closed(r);
	assert_false(agent_reconciled(r->a));
	assert_false(gate_open(r, PROTO_AGENT_PORT));
}

static void test_agent__one_that_did_not_hear_in_time_is_told_again(void **state)
{
	struct proto_error pe = { .err = ETIMEDOUT, .stage = PROTO_STAGE_PROTOCOL };
	struct rig *r = *state;
	uint8_t b[PROTO_SMALL_FRAME];
	struct proto_identity id;
	struct proto_rd p;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	r->stale = r->port;
	answer_bytes(r, b, proto_put_error(b, sizeof(b), &pe));
	assert_int_equal(r->done, 0);
	assert_false(agent_reconciled(r->a));
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	assert_true(proto_get_identity(p, &id));
	assert_memory_equal(id.gen.p, me.generation, PROTO_GEN);
	assert_memory_not_equal(id.entropy.p, no_entropy, sizeof(no_entropy));
	ack(r, me.generation);
	assert_int_equal(r->done, 1);
	assert_int_equal(r->r.ret, 0);
	assert_true(agent_reconciled(r->a));
}

static void test_agent__acknowledging_another_generation_is_refused(void **state)
{
	struct rig *r = *state;
	struct proto_rd p;

	hello(r, none);
	for (unsigned int i = 1; i <= 2; i++) {
		identify(r, 60000);
		accept_frame(r, &p);
		if (i == 1)
			ack(r, none);
		else {
			uint8_t b[PROTO_SMALL_FRAME];

			/* an answer, but to another question */
			answer_bytes(r, b,
				     proto_put_report(b, sizeof(b), &(struct proto_report){ 0 }));
			closed(r);
		}
		assert_int_equal(r->done, i);
		assert_int_equal(r->r.ret, -EPROTO);
		assert_false(agent_reconciled(r->a));
	}
}

/* So far ahead the clock is, for us and the loop: a deadline comes when a test says so. */
static time_t leap_s;

int clock_gettime(clockid_t id, struct timespec *t)
{
	int r = (int)syscall(SYS_clock_gettime, id, t);

	if (!r && id != CLOCK_REALTIME)
		t->tv_sec += leap_s;
	return r;
}

static void test_agent__silence_ends_at_the_deadline(void **state)
{
	struct rig *r = *state;
	struct proto_rd p;

	identify(r, 50);
	assert_true(fm_until(&r->g.fm, is_done, r));
	assert_int_equal(r->r.ret, -ETIMEDOUT);
	assert_string_equal(r->r.e.msg, "identity: no agent has said hello within 50 ms");
	r->done = 0;
	hello(r, none); /* it was told to be me: now it can */
	accept_frame(r, &p);
	r->stale = r->port;
	identify(r, 60000);
	accept_frame(r, &p);
	leap_s += 61;
	assert_true(fm_until(&r->g.fm, is_done, r));
	assert_int_equal(r->r.ret, -ETIMEDOUT);
	assert_non_null(strstr(r->r.e.msg, "has not acknowledged it within 60000 ms"));
	assert_false(agent_reconciled(r->a));
}

static void test_agent__a_new_identity_replaces_the_one_under_way(void **state)
{
	struct rig *r = *state;
	struct identity other = me;
	struct proto_identity id;
	struct proto_rd p;
	struct err e;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	other.generation[0] = 9;
	assert_int_equal(agent_set_identity(r->a, &other, false, NULL, 0, 60000, on_done, r, &e),
			 0);
	assert_int_equal(r->done, 1);
	assert_int_equal(r->r.ret, -ECANCELED);
	r->stale = r->port;
	accept_frame(r, &p);
	assert_true(proto_get_identity(p, &id));
	assert_int_equal(id.realtime_ns, 0);
	assert_int_equal(id.gen.p[0], 9);
	ack(r, other.generation);
	assert_int_equal(r->done, 2);
	assert_int_equal(r->r.ret, 0);
	memset(other.generation, 0, sizeof(other.generation));
	assert_int_equal(agent_set_identity(r->a, &other, false, NULL, 0, 60000, on_done, r, &e),
			 -EINVAL);
	other = me;
	other.nics[0].addr.mac[0] = 1;
	assert_int_equal(agent_set_identity(r->a, &other, false, NULL, 0, 60000, on_done, r, &e),
			 -EINVAL);
	assert_string_equal(e.msg, "identity: the addresses of a NIC are bad");
	other.nics[0].addr.mac[0] = 2;
	other.nr_nics = NICS_MAX + 1;
	assert_int_equal(agent_set_identity(r->a, &other, false, NULL, 0, 60000, on_done, r, &e),
			 -EINVAL);
	assert_true(agent_reconciled(r->a)); /* a bad call changed nothing */
}

static void test_agent__one_that_restarts_is_told_again(void **state)
{
	struct rig *r = *state;
	struct proto_identity id;
	struct proto_rd p;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	ack(r, me.generation);
	hello(r, me.generation); /* one that still knows needs nothing */
	assert_true(agent_reconciled(r->a));
	assert_true(quiet(r));
	hello(r, none);
	assert_false(agent_reconciled(r->a));
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	assert_true(proto_get_identity(p, &id));
	assert_memory_equal(id.gen.p, me.generation, PROTO_GEN);
	assert_memory_not_equal(id.entropy.p, me.entropy, sizeof(me.entropy));
	assert_memory_not_equal(id.entropy.p, no_entropy, sizeof(no_entropy));
	assert_my_nic(&id);
	assert_int_equal(id.flags, 0); /* what is in the guest now is its own */
	ack(r, me.generation);
	assert_true(agent_reconciled(r->a));
	assert_int_equal(r->done, 1);
}

static void test_agent__a_guest_that_reboots_is_nobody_again(void **state)
{
	struct rig *r = *state;
	struct proto_rd p;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	ack(r, me.generation);
	vg_driver(&r->g, VG_RX_BUFS, VG_EVENTS);
	assert_false(agent_present(r->a));
	assert_false(agent_reconciled(r->a));
	assert_false(gate_open(r, PROTO_AGENT_PORT));
	hello(r, none);
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	ack(r, me.generation);
	assert_true(agent_reconciled(r->a));
}

static void test_agent__requests_are_answered_once(void **state)
{
	const struct proto_report rep = { .uptime_ms = 5, .procs = 6 };
	struct rig *r = *state;
	uint8_t f[PROTO_SMALL_FRAME], b[PROTO_SMALL_FRAME];
	size_t n = proto_put_empty(f, sizeof(f), PROTO_ACTIVITY), k;
	struct proto_rd p;
	struct err e;

	assert_int_equal(agent_request(r->a, f, n, 1000, on_done, r, &e), -ENOTCONN);
	hello(r, none);
	assert_int_equal(agent_request(r->a, f, n, 10000, on_done, r, &e), 0);
	assert_int_equal(accept_frame(r, &p), PROTO_ACTIVITY);
	k = proto_put_report(b, sizeof(b), &rep);
	for (size_t i = 0; i < k; i++) { /* byte by byte */
		assert_int_equal(r->done, 0);
		answer_bytes(r, b + i, 1);
	}
	assert_int_equal(r->done, 1);
	assert_int_equal(r->r.ret, 0);
	assert_int_equal(r->r.report.procs, 6);
	closed(r);
	/* Nobody listens in the guest. */
	assert_int_equal(agent_request(r->a, f, n, 10000, on_done, r, &e), 0);
	expect(r, VSOCK_OP_REQUEST);
	vg_say(&r->g, VSOCK_OP_RST, h.src_port, PROTO_AGENT_PORT, 0, NULL, 0);
	fm_spin(&r->g.fm);
	assert_int_equal(r->done, 2);
	assert_int_equal(r->r.ret, -ECONNRESET);
	assert_int_equal(r->r.type, 0);
	/* Nobody answers. */
	assert_int_equal(agent_request(r->a, f, n, 20, on_done, r, &e), 0);
	r->done = 0;
	assert_true(fm_until(&r->g.fm, is_done, r));
	assert_int_equal(r->r.ret, -ETIMEDOUT);
}

/* It lies in a template of last year. */
static void test_agent__an_agent_of_version_3_is_talked_to(void **state)
{
	struct proto_ready y = { .version = 2 };
	struct rig *r = *state;
	uint8_t b[PROTO_SMALL_FRAME];
	struct proto_rd p;

	assert_int_equal(PROTO_VERSION_OLDEST, 3);
	hello_bytes(r, b, proto_put_ready(b, sizeof(b), &y), true);
	assert_false(agent_present(r->a));
	y.version = 3;
	hello_bytes(r, b, proto_put_ready(b, sizeof(b), &y), true);
	assert_true(agent_present(r->a));
	identify(r, 60000);
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	ack_as(r, 3, me.generation);
	assert_int_equal(r->r.ret, 0);
	assert_true(agent_reconciled(r->a));
	identify(r, 60000);
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	ack_as(r, 2, me.generation);
	assert_int_equal(r->r.ret, -EPROTO);
	identify(r, 60000);
	assert_int_equal(accept_frame(r, &p), PROTO_IDENTITY);
	ack_as(r, PROTO_VERSION + 1, me.generation);
	assert_int_equal(r->r.ret, -EPROTO);
	assert_false(agent_reconciled(r->a));
}

static const struct proto_report full_report = {
	.uptime_ms = 1,
	.load1_x100 = 2,
	.procs = 3,
	.sessions = 4,
	.exec_count = 5,
	.last_exec_ms = 6,
	.mem_total_bytes = 7,
	.mem_available_bytes = 8,
	.more = true,
	.flags = PROTO_REPORT_PSI,
	.mem_free_bytes = 10,
	.mem_cached_bytes = 11,
	.swap_total_bytes = 12,
	.swap_used_bytes = 13,
	.swap_in_pages = 14,
	.oom_kills = 15,
	.cpu_busy_ms = 16,
	.cpu_idle_ms = 17,
	.psi_some_x100 = 18,
	.psi_full_x100 = 19,
	.psi_some_us = 20,
	.psi_full_us = UINT64_MAX,
};

/* Padding is not compared: what is read must write the same bytes. */
static void assert_report(const struct proto_report *p, const uint8_t *b, size_t n)
{
	uint8_t again[PROTO_SMALL_FRAME];

	assert_int_equal(proto_put_report(again, sizeof(again), p), n);
	assert_memory_equal(again, b, n);
}

static void test_agent__a_report_has_one_of_two_sizes(void **state)
{
	struct proto_report less = full_report;
	uint8_t b[PROTO_SMALL_FRAME];
	size_t n = proto_put_report(b, sizeof(b), &full_report), small;
	struct agent_reply a;

	(void)state;
	assert_int_equal(n, PROTO_HEADER + 52 + 92);
	assert_true(agent_parse(b, n, &a));
	assert_int_equal(a.ret, 0);
	assert_true(a.report.more);
	assert_report(&a.report, b, n);
	assert_true(a.report.psi_full_us == UINT64_MAX && a.report.oom_kills == 15);
	less.more = false;
	small = proto_put_report(b, sizeof(b), &less);
	assert_int_equal(small, PROTO_HEADER + 52);
	assert_true(agent_parse(b, small, &a));
	assert_int_equal(a.ret, 0);
	assert_false(a.report.more);
	assert_int_equal(a.report.mem_available_bytes, 8);
	proto_put_report(b, sizeof(b), &full_report);
	for (size_t k = PROTO_HEADER; k <= n + 1; k++) { /* cut, or with a byte too many */
		proto_header(b, PROTO_REPORT, (uint32_t)(k - PROTO_HEADER));
		assert_true(agent_parse(b, k, &a));
		assert_int_equal(a.ret, k == n || k == small ? 0 : -EPROTO);
	}
	less.more = true;
	less.flags = PROTO_REPORT_ALL + 1;
	n = proto_put_report(b, sizeof(b), &less);
	assert_true(agent_parse(b, n, &a));
	assert_int_equal(a.ret, -EPROTO);
}

static void test_agent__pressure_is_heard_of_a_reconciled_guest_only(void **state)
{
	struct rig *r = *state;
	uint8_t b[PROTO_SMALL_FRAME];
	size_t n = proto_put_report(b, sizeof(b), &full_report);
	struct proto_rd p;

	hello(r, none);
	hello_bytes(r, b, n, true);
	assert_int_equal(r->pressures, 0);
	identify(r, 60000);
	accept_frame(r, &p);
	ack(r, me.generation);
	hello_bytes(r, b, n, true);
	assert_int_equal(r->pressures, 1);
	assert_report(&r->pressure, b, n);
	b[0]--; /* a byte short */
	hello_bytes(r, b, n - 1, true);
	assert_int_equal(r->pressures, 1);
	assert_true(agent_reconciled(r->a)); /* it was no hello */
	agent_on_pressure(r->a, NULL, NULL);
	b[0]++;
	hello_bytes(r, b, n, true);
	assert_int_equal(r->pressures, 1);
}

static void test_agent__calls_are_limited(void **state)
{
	struct rig *r = *state;
	uint8_t f[PROTO_SMALL_FRAME];
	size_t n = proto_put_empty(f, sizeof(f), PROTO_PING);
	struct err e;

	hello(r, none);
	/* Connections that never say hello are limited on their own. */
	for (uint32_t i = 0; i < 10; i++) {
		vg_say(&r->g, VSOCK_OP_REQUEST, PROTO_READY_PORT, 600 + i, 0, NULL, 0);
		expect(r, VSOCK_OP_RESPONSE);
		if (i >= AGENT_MAX_HELLOS) {
			vg_expect(&r->g, VSOCK_OP_SHUTDOWN, &h, data);
			assert_int_equal(h.dst_port, 600 + i);
		}
	}
	for (unsigned int i = 0; i < AGENT_MAX_CALLS; i++) {
		assert_int_equal(agent_request(r->a, f, n, 60000, on_done, r, &e), 0);
		expect(r, VSOCK_OP_REQUEST);
	}
	assert_int_equal(agent_request(r->a, f, n, 60000, on_done, r, &e), -EBUSY);
	assert_int_equal(r->done, 0);
}

static void test_agent__answers_that_are_none_are_refused(void **state)
{
	static uint8_t big[PROTO_MAX_FRAME];
	static const struct {
		const char *bytes;
		size_t n;
	} bad[] = {
		{ "\xff\xff\xff\xff\x85", 5 },
		{ "\x01\x00\x01\x00\x85", 5 }, /* 65537 bytes */
		{ "\x00\x00\x00\x00\x85", 5 }, /* an empty ACK */
		{ "\x00\x00\x00\x00\x00", 5 },
		{ "\x00\x00\x00\x00\x80", 5 },
		{ "\x07\x00\x00\x00\x86\x00\x00\x00\x00\x00\x00\x00", 12 }, /* no error at all */
		{ "\x07\x00\x00\x00\x86\x00\x10\x00\x00\x00\x00\x00", 12 }, /* number 4096 */
		{ "\x07\x00\x00\x00\x86\x05\x00\x00\x00\x00\x01\x00", 12 }, /* text cut */
	};
	struct agent_reply a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_true(agent_parse(bad[i].bytes, bad[i].n, &a));
		assert_int_equal(a.ret, -EPROTO);
	}
	/* A frame of a legal size that no answer has: refused before all of it has come. */
	proto_header(big, PROTO_ACK, PROTO_MAX_PAYLOAD);
	assert_false(agent_parse(big, 4, &a));
	assert_true(agent_parse(big, 5000, &a));
	assert_int_equal(a.ret, -EPROTO);
}

static int fork_child(struct rig *r)
{
	struct identity id = {
		.renew = true, .name = "child", .hostname = "child", .generation = { 8 }
	};
	struct proto_identity got;
	uint64_t before;
	struct proto_rd p;
	struct err e;

	fm_child(&r->g.fm, &id);
	if (agent_adopt(r->a, &e) || agent_reconciled(r->a) || !agent_present(r->a))
		return 1;
	r->done = 0;
	/* Before the guest runs at all: it goes out when the reset is acknowledged. */
	if (agent_set_identity(r->a, &id, true, NULL, 0, 60000, on_done, r, &e))
		return 2;
	fm_resume(&r->g.fm);
	if (!vg_event(&r->g) || !vg_quiet(&r->g))
		return 3;
	before = time_real_ns();
	vg_add_event(&r->g);
	/* For the parent's call, whose stream died with it. */
	expect(r, VSOCK_OP_RST);
	if (accept_frame(r, &p) != PROTO_IDENTITY || !proto_get_identity(p, &got))
		return 4;
	if (got.nnics || got.flags != PROTO_IDENTITY_FORK)
		return 7; /* nothing of the parent's */
	if (got.realtime_ns < before)
		return 6; /* the clock of when the guest could hear it */
	ack(r, id.generation);
	if (r->done != 1 || r->r.ret || !agent_reconciled(r->a))
		return 5;
	return 0;
}

static void test_agent__fork_makes_the_child_reconcile_and_not_the_parent(void **state)
{
	struct rig *r = *state;
	uint8_t f[PROTO_SMALL_FRAME];
	size_t n = proto_put_empty(f, sizeof(f), PROTO_PING);
	struct proto_rd p;
	struct err e;
	int status;
	pid_t pid;

	hello(r, none);
	identify(r, 60000);
	accept_frame(r, &p);
	ack(r, me.generation);
	/* A call under way is the parent's. */
	assert_int_equal(agent_request(r->a, f, n, 60000, on_done, r, &e), 0);
	accept_frame(r, &p);
	vg_grant(&r->g, "child/", "child.sock");
	fm_quiesce(&r->g.fm);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(fork_child(r));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	fm_resume(&r->g.fm);
	assert_true(agent_reconciled(r->a));
	assert_int_equal(r->done, 1);
	ack(r, me.generation);
	assert_int_equal(r->done, 2);
	assert_int_equal(r->r.ret, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, up, down)
	const struct CMUnitTest tests[] = {
		T(test_agent__hello_makes_it_present),
		T(test_agent__an_agent_of_version_3_is_talked_to),
		T(test_agent__a_report_has_one_of_two_sizes),
		T(test_agent__pressure_is_heard_of_a_reconciled_guest_only),
		T(test_agent__acknowledged_identity_opens_the_gate),
		T(test_agent__refused_identity_keeps_the_gate_closed),
		T(test_agent__one_that_did_not_hear_in_time_is_told_again),
		T(test_agent__acknowledging_another_generation_is_refused),
		T(test_agent__silence_ends_at_the_deadline),
		T(test_agent__a_new_identity_replaces_the_one_under_way),
		T(test_agent__one_that_restarts_is_told_again),
		T(test_agent__a_guest_that_reboots_is_nobody_again),
		T(test_agent__requests_are_answered_once),
		T(test_agent__calls_are_limited),
		T(test_agent__answers_that_are_none_are_refused),
		T(test_agent__fork_makes_the_child_reconcile_and_not_the_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
