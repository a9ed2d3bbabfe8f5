/* SPDX-License-Identifier: MIT */
/*
 * The socket muxer with guests that lie and host programs that misbehave.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "tests/lib/vsock_rig.h"

static struct vr_pkt p;
static uint8_t b[VSOCK_PKT_MAX];

static int setup(void **state)
{
	static struct vr r;

	vr_init(&r);
	*state = &r;
	return 0;
}

static int teardown(void **state)
{
	vr_fini(*state);
	return 0;
}

/* The stream was ended both ways by an RST. */
static void assert_killed(struct vr *r, int fd, uint32_t port)
{
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.src_port, port);
	assert_true(vr_closed(r, fd));
	vr_expect_none(r);
	assert_int_equal(vsock_mux_count(r->m), 0);
	close(fd);
}

static void test_hostile__packets_for_nobody_get_rst_and_rst_gets_nothing(void **state)
{
	static const uint16_t ops[] = { 0,
					VSOCK_OP_RESPONSE,
					VSOCK_OP_SHUTDOWN,
					VSOCK_OP_RW,
					VSOCK_OP_CREDIT_UPDATE,
					VSOCK_OP_CREDIT_REQUEST,
					8,
					0xffff };
	struct vr *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		vr_send(r, ops[i], 11, 22, 0, b, 5);
		vr_expect(r, &p, VSOCK_OP_RST);
		assert_int_equal(p.h.src_port, 11);
		assert_int_equal(p.h.dst_port, 22);
		assert_int_equal(p.h.len, 0);
	}
	vr_send(r, VSOCK_OP_RST, 11, 22, 0, NULL, 0);
	vr_expect_none(r);
}

static void test_hostile__what_is_not_legal_in_its_state_ends_the_stream(void **state)
{
	static const uint16_t open_ops[] = { 0, VSOCK_OP_REQUEST, VSOCK_OP_RESPONSE, 8, 0xffff };
	static const uint16_t asked_ops[] = { VSOCK_OP_REQUEST, VSOCK_OP_RW, VSOCK_OP_SHUTDOWN,
					      VSOCK_OP_CREDIT_UPDATE, VSOCK_OP_CREDIT_REQUEST };
	struct vr *r = *state;
	uint32_t port;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(open_ops); i++) {
		fd = vr_stream(r, 52, &port);
		vr_send(r, open_ops[i], port, 52, 0, NULL, 0);
		assert_killed(r, fd, port);
	}
	for (size_t i = 0; i < ARRAY_SIZE(asked_ops); i++) {
		fd = vr_dial("CONNECT 52\n");
		vr_expect(r, &p, VSOCK_OP_REQUEST);
		port = p.h.src_port;
		vr_send(r, asked_ops[i], port, 52, 0, NULL, 0);
		assert_killed(r, fd, port);
	}
	fd = vr_stream(r, 52, &port);
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_SEND, NULL, 0);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "after the end", 13);
	assert_killed(r, fd, port);
}

static void test_hostile__missing_data_and_other_types_end_the_stream(void **state)
{
	struct vsock_hdr h = { .src_cid = VR_CID,
			       .dst_cid = VSOCK_CID_HOST,
			       .src_port = 52,
			       .type = VSOCK_TYPE_STREAM,
			       .op = VSOCK_OP_RW,
			       .len = 1 };
	struct vr *r = *state;
	int fd = vr_stream(r, 52, &h.dst_port);

	vsock_mux_from_guest(r->m, &h, NULL); /* what the device makes of a length that lies */
	assert_killed(r, fd, h.dst_port);
	fd = vr_stream(r, 52, &h.dst_port);
	h.type = 2;
	vsock_mux_from_guest(r->m, &h, b);
	assert_killed(r, fd, h.dst_port);
	h.op = VSOCK_OP_REQUEST;
	vsock_mux_from_guest(r->m, &h, b);
	vr_expect(r, &p, VSOCK_OP_RST);
}

/* Counts beyond what was sent, or going back, neither give credit nor take it. */
static void test_hostile__fwd_cnt_is_not_believed(void **state)
{
	static const uint32_t lies[] = { 1001, 5000, 0x80000000u, UINT32_MAX };
	struct vr *r = *state;
	uint32_t port, got = 0;
	int fd;

	r->alloc = 1000;
	fd = vr_stream(r, 52, &port);
	assert_int_equal(write(fd, b, 4000), 4000);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 1000);
	vr_expect(r, &p, VSOCK_OP_CREDIT_REQUEST);
	for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
		r->fwd = lies[i];
		vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
		vr_expect_none(r);
	}
	r->fwd = 600;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 600);
	vr_expect(r, &p, VSOCK_OP_CREDIT_REQUEST);
	r->fwd = 300; /* old news */
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect_none(r);
	/* A buffer of 4 GiB is the guest's affair: we read ahead one packet's worth, no more. */
	r->alloc = UINT32_MAX;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	while (got < 2400) {
		vr_expect(r, &p, VSOCK_OP_RW);
		got += p.h.len;
	}
	assert_int_equal(got, 2400);
	/* Room for 1000, and then neither kind of lie changes that. */
	r->alloc = 1000;
	r->fwd = 4000;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	for (r->fwd = 3500; r->fwd <= 4500; r->fwd += 1000)
		vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	assert_int_equal(write(fd, b, 2000), 2000);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 1000);
	close(fd);
}

static void test_hostile__guest_beyond_its_credit_is_reset(void **state)
{
	struct vr *r = *state;
	uint32_t port, sent = 0;
	int fd = vr_stream(r, 52, &port);

	/* The host program reads nothing: its socket fills, then our ring, then it is enough. */
	while (vsock_mux_count(r->m)) {
		vr_send(r, VSOCK_OP_RW, port, 52, 0, b, sizeof(b));
		sent += (uint32_t)sizeof(b);
		assert_true(sent < 4u << 20);
		while (vsock_mux_count(r->m) && vr_take(r, &p, 4096))
			assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
	}
	assert_true(sent > VSOCK_BUF_BYTES);
	assert_killed(r, fd, port);
}

static void test_hostile__replies_are_bounded_by_taking_no_more(void **state)
{
	struct vr *r = *state;
	unsigned int n = 0;

	while (vsock_mux_can_take(r->m)) {
		vr_send(r, VSOCK_OP_RW, 1, n, 0, NULL, 0);
		assert_true(++n <= VSOCK_RST_BACKLOG);
	}
	assert_int_equal(n, VSOCK_RST_BACKLOG);
	for (unsigned int i = 0; i < n; i++) {
		vr_expect(r, &p, VSOCK_OP_RST);
		assert_int_equal(p.h.dst_port, i);
	}
	assert_true(vsock_mux_can_take(r->m));
	vr_expect_none(r);
}

static void test_hostile__guest_cannot_lock_the_host_out(void **state)
{
	struct vr *r = *state;
	static int fds[VSOCK_MAX_GUEST_CONNS];
	int lfd = vr_listen("vsock.sock_9"), fd;
	uint32_t port;

	for (uint32_t i = 0; i <= VSOCK_MAX_GUEST_CONNS; i++) {
		vr_send(r, VSOCK_OP_REQUEST, 9, i, 0, NULL, 0);
		if (i < VSOCK_MAX_GUEST_CONNS)
			fds[i] = accept(lfd, NULL, NULL);
		vr_expect(r, &p, i < VSOCK_MAX_GUEST_CONNS ? VSOCK_OP_RESPONSE : VSOCK_OP_RST);
	}
	fd = vr_stream(r, 52, &port);
	close(fd);
	/* One that ends makes room for one. */
	vr_send(r, VSOCK_OP_RST, 9, 0, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	vr_send(r, VSOCK_OP_REQUEST, 9, 5000, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RESPONSE);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		close(fds[i]);
	close(lfd);
	unlink("vsock.sock_9");
}

static void test_hostile__old_rst_does_not_end_a_new_stream(void **state)
{
	int lfd = vr_listen("vsock.sock_9"), fd;
	struct vr *r = *state;

	vr_send(r, VSOCK_OP_RW, 9, 1, 0, "x", 1); /* of a former life */
	vr_send(r, VSOCK_OP_RW, 9, 2, 0, "x", 1);
	vr_send(r, VSOCK_OP_REQUEST, 9, 1, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.dst_port, 2);
	vr_expect(r, &p, VSOCK_OP_RESPONSE);
	assert_int_equal(p.h.dst_port, 1);
	fd = accept(lfd, NULL, NULL);
	close(fd);
	close(lfd);
	unlink("vsock.sock_9");
}

static void test_hostile__garbage_instead_of_connect_is_closed(void **state)
{
	static const char *const bad[] = {
		"\n",
		"CONNECT\n",
		"CONNECT \n",
		"CONNECT  1\n",
		"CONNECT 1 \n",
		"CONNECT -1\n",
		"CONNECT +1\n",
		"CONNECT 0x10\n",
		"CONNECT 1\r\n",
		"connect 1\n",
		"GET / HTTP/1.1\n",
		"CONNECT 4294967296\n",
		"CONNECT 99999999999\n",
		"CONNECT 00000000000000000000001\n",
		"CONNECT 11111111111111111111111111111111111111",
	};
	struct vr *r = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int fd = vr_dial(bad[i]);

		assert_true(vr_closed(r, fd));
		close(fd);
	}
	vr_expect_none(r);
	assert_int_equal(vsock_mux_count(r->m), 0);
}

static void test_hostile__slow_handshake_is_closed_in_time(void **state)
{
	uint64_t start = time_mono_ns(), took;
	struct vr *r = *state;
	int fd = vr_dial("CONNECT 1"), silent = vr_dial(""), good;
	uint32_t port;

	good = vr_stream(r, 52, &port);
	while (vsock_mux_count(r->m) > 1) {
		usleep(1000);
		vr_spin(r);
		assert_true(time_mono_ns() - start < 60 * NS_PER_SEC);
	}
	took = time_mono_ns() - start;
	assert_true(took >= VSOCK_LINE_MS * NS_PER_MS - 10 * NS_PER_MS);
	assert_true(vr_closed(r, fd));
	assert_true(vr_closed(r, silent));
	/* An open stream has no deadline. */
	assert_int_equal(write(good, "x", 1), 1);
	vr_expect(r, &p, VSOCK_OP_RW);
	close(fd);
	close(silent);
	close(good);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_hostile__packets_for_nobody_get_rst_and_rst_gets_nothing),
		T(test_hostile__what_is_not_legal_in_its_state_ends_the_stream),
		T(test_hostile__missing_data_and_other_types_end_the_stream),
		T(test_hostile__fwd_cnt_is_not_believed),
		T(test_hostile__guest_beyond_its_credit_is_reset),
		T(test_hostile__replies_are_bounded_by_taking_no_more),
		T(test_hostile__guest_cannot_lock_the_host_out),
		T(test_hostile__old_rst_does_not_end_a_new_stream),
		T(test_hostile__garbage_instead_of_connect_is_closed),
		T(test_hostile__slow_handshake_is_closed_in_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
