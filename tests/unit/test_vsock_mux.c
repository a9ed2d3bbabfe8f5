/* SPDX-License-Identifier: MIT */
/*
 * The socket muxer with a well-behaved guest: handshake, bytes both ways, credit, closing, many
 * streams, fork. The hostile one is in test_vsock_hostile.c. Long, because all rows share one guest
 * and one set of host sockets.
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
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "tests/lib/vsock_rig.h"
#include "vsock/mux.h"

static struct vr_pkt p;

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

static void test_mux__stream_is_requested_answered_and_refused(void **state)
{
	struct vr *r = *state;
	uint32_t port, port2;
	int fd = vr_stream(r, 52, &port), fd2;
	char c;

	assert_in_range(port, VSOCK_HOST_PORT_BASE, 2 * VSOCK_HOST_PORT_BASE - 1);
	fd2 = vr_stream(r, 52, &port2);
	assert_int_not_equal(port, port2);
	close(fd2);
	close(fd);
	fd = vr_dial("CONNECT 4294967295\n");
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, UINT32_MAX);
	assert_int_equal(vr_read(r, fd, &c, 1), -1);
	vr_send(r, VSOCK_OP_RST, p.h.src_port, UINT32_MAX, 0, NULL, 0);
	assert_int_equal(vr_read(r, fd, &c, 1), 0);
	close(fd);
}

/* What a host program says right behind its line belongs to the stream. */
static void test_mux__bytes_behind_the_line_are_not_lost(void **state)
{
	struct vr *r = *state;
	int fd = vr_dial("CONN");

	vr_spin(r);
	assert_int_equal(write(fd, "ECT 7\nhello\nCONNECT 8\n", 22), 22);
	shutdown(fd, SHUT_WR); /* as `printf ... | nc -U` does */
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, 7);
	vr_spin(r);
	vr_send(r, VSOCK_OP_RESPONSE, p.h.src_port, 7, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 16);
	assert_memory_equal(p.data, "hello\nCONNECT 8\n", 16);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_SEND);
	close(fd);
}

static void fill(uint8_t *b, size_t n, uint32_t *seed)
{
	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)((*seed = *seed * 1664525u + 1013904223u) >> 24);
}

/* The guest reads with buffers of all sizes and gives credit now and then. */
static void test_mux__bytes_reach_the_guest_intact(void **state)
{
	const size_t total = 8u << 20;
	struct vr *r = *state;
	uint32_t port, seed = 1, want = 0, got = 0, last = 0;
	size_t sent = 0, taken = 0, n = 0, off = 0;
	static uint8_t b[100000];
	int fd = vr_stream(r, 52, &port);

	while (taken < total) {
		if (off == n && sent < total) {
			n = MIN(sizeof(b), total - sent);
			off = 0;
			fill(b, n, &seed);
			want = crc32c(want, b, n);
			sent += n;
		}
		if (off < n) {
			ssize_t k = send(fd, b + off, n - off, MSG_DONTWAIT);

			off += k > 0 ? (size_t)k : 0;
		}
		vr_spin(r);
		while (vr_take(r, &p, 1 + (uint32_t)taken % 5000)) {
			if (p.h.op == VSOCK_OP_CREDIT_REQUEST)
				vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
			if (p.h.op != VSOCK_OP_RW)
				continue;
			got = crc32c(got, p.data, p.h.len);
			taken += p.h.len;
			r->fwd += p.h.len;
			assert_true(r->fwd - last <= r->alloc);
			if (r->fwd - last > 100000) {
				last = r->fwd;
				vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
			}
		}
	}
	assert_int_equal(taken, total);
	assert_int_equal(got, want);
	close(fd);
}

/* The guest obeys the credit, so it is never reset, however slow the host program. */
static void test_mux__bytes_reach_the_host_intact(void **state)
{
	const size_t total = 8u << 20;
	struct vr *r = *state;
	uint32_t port, seed = 2, want = 0, got = 0, sent = 0, fwd = 0;
	static uint8_t b[VSOCK_PKT_MAX], c[30000];
	int fd = vr_stream(r, 52, &port);
	size_t taken = 0;
	ssize_t n;

	while (taken < total) {
		uint32_t room = VSOCK_BUF_BYTES - (sent - fwd);
		uint32_t k = (uint32_t)MIN(MIN(room, 1 + (sent * 7u) % sizeof(b)), total - sent);

		if (k) {
			fill(b, k, &seed);
			want = crc32c(want, b, k);
			vr_send(r, VSOCK_OP_RW, port, 52, 0, b, k);
			sent += k;
		}
		if (!k || sent % 3) {
			n = vr_read(r, fd, c, sizeof(c));
			assert_true(n != 0);
			if (n > 0) {
				got = crc32c(got, c, (size_t)n);
				taken += (size_t)n;
			}
		}
		while (vr_take(r, &p, 4096)) {
			assert_int_equal(p.h.op, VSOCK_OP_CREDIT_UPDATE);
			assert_true(p.h.fwd_cnt - fwd <= sent - fwd);
			fwd = p.h.fwd_cnt;
		}
	}
	assert_int_equal(got, want);
	assert_int_equal(vr_read(r, fd, c, 1), -1);
	close(fd);
}

static void test_mux__credit_is_never_exceeded(void **state)
{
	struct vr *r = *state;
	uint32_t port, got = 0;
	static uint8_t b[50000];
	int fd;

	r->alloc = 10000;
	fd = vr_stream(r, 52, &port);
	assert_int_equal(write(fd, b, sizeof(b)), sizeof(b));
	while (got < 10000) {
		vr_expect(r, &p, VSOCK_OP_RW);
		got += p.h.len;
	}
	assert_int_equal(got, 10000);
	/* Asks once, and does not ask again when the answer is no. */
	vr_expect(r, &p, VSOCK_OP_CREDIT_REQUEST);
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect_none(r);
	/* A larger buffer, then room in it. */
	r->alloc = 10001;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 1);
	vr_expect(r, &p, VSOCK_OP_CREDIT_REQUEST);
	r->fwd = 10001;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RW);
	/* No room at all, more than was ever sent in flight: nothing. */
	r->alloc = 0;
	vr_send(r, VSOCK_OP_CREDIT_UPDATE, port, 52, 0, NULL, 0);
	vr_expect_none(r);
	/* And nothing is read ahead of credit: the rest is still in the host's socket. */
	vr_send(r, VSOCK_OP_RST, port, 52, 0, NULL, 0);
	assert_int_equal(recv(fd, b, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, ECONNRESET);
	close(fd);
}

static void test_mux__host_half_close_comes_after_its_bytes(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port);
	char c[8];

	assert_int_equal(write(fd, "abc", 3), 3);
	shutdown(fd, SHUT_WR);
	vr_expect(r, &p, VSOCK_OP_RW);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_SEND);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "still", 5);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 5);
	/* The guest ends its side too: nothing is left to say. */
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_SEND, NULL, 0);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 0);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_BOTH);
	vr_send(r, VSOCK_OP_RST, port, 52, 0, NULL, 0);
	assert_int_equal(vsock_mux_count(r->m), 0);
	close(fd);
}

static void test_mux__guest_half_close_lets_the_host_speak(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port);
	char c[8];

	vr_send(r, VSOCK_OP_RW, port, 52, 0, "end", 3);
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_SEND, NULL, 0);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 3);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 0);
	assert_int_equal(write(fd, "more", 4), 4);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_int_equal(p.h.len, 4);
	/* It hears no more either: the host's writes fail then. */
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_RCV, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	vr_spin(r);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(vsock_mux_count(r->m), 0);
	close(fd);
}

static void test_mux__guest_that_stops_listening_fails_the_hosts_writes(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port);
	char c[8];

	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_RCV, NULL, 0);
	vr_spin(r);
	assert_int_equal(send(fd, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "still", 5);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 5);
	vr_expect_none(r);
	close(fd);
}

/* One that closes is told apart from one that only ends its side: the guest may not write on. */
static void test_mux__host_close_is_more_than_half(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port);

	close(fd);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_BOTH);
	vr_send(r, VSOCK_OP_RST, port, 52, 0, NULL, 0);
	assert_int_equal(vsock_mux_count(r->m), 0);
}

/* The end of a command's output must not be lost because the guest closed at once. */
static void test_mux__guest_close_does_not_cut_what_it_sent(void **state)
{
	const size_t total = 3 * VSOCK_BUF_BYTES;
	struct vr *r = *state;
	static uint8_t b[VSOCK_PKT_MAX], c[50000];
	uint32_t port, seed = 3, want = 0, got = 0, sent = 0, fwd = 0;
	int fd = vr_stream(r, 52, &port);
	size_t taken = 0;
	ssize_t n;

	/* As much as goes in without the host reading. */
	while (sent < total && sent - fwd + sizeof(b) <= VSOCK_BUF_BYTES) {
		fill(b, sizeof(b), &seed);
		want = crc32c(want, b, sizeof(b));
		vr_send(r, VSOCK_OP_RW, port, 52, 0, b, sizeof(b));
		sent += (uint32_t)sizeof(b);
		while (vr_take(r, &p, 4096))
			fwd = p.h.fwd_cnt;
	}
	assert_in_range(sent, VSOCK_BUF_BYTES, total);
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_BOTH, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(vsock_mux_count(r->m), 1);
	while ((n = vr_read(r, fd, c, sizeof(c))) != 0)
		if (n > 0) {
			got = crc32c(got, c, (size_t)n);
			taken += (size_t)n;
		}
	assert_int_equal(taken, sent);
	assert_int_equal(got, want);
	assert_int_equal(vsock_mux_count(r->m), 0);
	close(fd);
}

static void test_mux__host_close_delivers_its_last_words(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port);

	vr_send(r, VSOCK_OP_RW, port, 52, 0, "unread", 6);
	assert_int_equal(write(fd, "quit", 4), 4);
	close(fd);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "void", 4);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_RCV);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_memory_equal(p.data, "quit", 4);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_int_equal(p.h.flags, VSOCK_SHUTDOWN_BOTH);
	/* What the guest had under way is swallowed, with credit, until it has seen the end. */
	for (int i = 0; i < 20; i++)
		vr_send(r, VSOCK_OP_RW, port, 52, 0, p.data, 20000);
	vr_expect(r, &p, VSOCK_OP_CREDIT_UPDATE);
	vr_send(r, VSOCK_OP_SHUTDOWN, port, 52, VSOCK_SHUTDOWN_BOTH, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(vsock_mux_count(r->m), 0);
	vr_expect_none(r);
}

static void test_mux__host_that_gives_up_before_the_answer_is_forgotten(void **state)
{
	struct vr *r = *state;
	int fd;

	vsock_mux_hold(r->m, true);
	fd = vr_dial("CONNECT 9\n");
	vr_spin(r);
	close(fd);
	vr_spin(r);
	assert_int_equal(vsock_mux_count(r->m), 0);
	vsock_mux_hold(r->m, false);
	vr_expect_none(r); /* it never heard of it */
	fd = vr_dial("CONNECT 9\n");
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	close(fd);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(vsock_mux_count(r->m), 0);
}

static void test_mux__guest_reaches_host_listeners_by_port(void **state)
{
	struct vr *r = *state;
	int lfd = vr_listen("vsock.sock_777"), fd;
	char c[8];

	vr_send(r, VSOCK_OP_REQUEST, 777, 5000, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RESPONSE);
	assert_int_equal(p.h.src_port, 777);
	assert_int_equal(p.h.dst_port, 5000);
	fd = accept(lfd, NULL, NULL);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, "hi", 2), 2);
	vr_expect(r, &p, VSOCK_OP_RW);
	vr_send(r, VSOCK_OP_RW, 777, 5000, 0, "ho", 2);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 2);
	vr_send(r, VSOCK_OP_RST, 777, 5000, 0, NULL, 0);
	assert_true(vr_closed(r, fd));
	/* Nobody there. */
	vr_send(r, VSOCK_OP_REQUEST, 778, 5000, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(p.h.src_port, 778);
	close(fd);
	close(lfd);
	unlink("vsock.sock_777");
}

static void keep_fd(void *arg, int fd)
{
	*(int *)arg = fd;
}

static void test_mux__streams_of_this_process_need_no_socket(void **state)
{
	struct vr *r = *state;
	int in = -1, out;
	struct err e;
	char c[8];

	vsock_mux_listen(r->m, 1025, keep_fd, &in);
	/* a port that any process of the guest may bind: perhaps not its agent */
	vr_send(r, VSOCK_OP_REQUEST, 1025, 1024, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(in, -1);
	vr_send(r, VSOCK_OP_REQUEST, 1025, 1023, 0, NULL, 0);
	assert_true(in >= 0);
	vr_expect(r, &p, VSOCK_OP_RESPONSE);
	vr_send(r, VSOCK_OP_RW, 1025, 1023, 0, "ready", 5);
	assert_int_equal(vr_read(r, in, c, sizeof(c)), 5);
	close(in);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);

	assert_int_equal(vsock_mux_connect(r->m, 1024, &out, &e), 0);
	assert_int_equal(write(out, "now", 3), 3); /* before the guest has answered */
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	assert_int_equal(p.h.dst_port, 1024);
	vr_expect_none(r);
	vr_send(r, VSOCK_OP_RESPONSE, p.h.src_port, 1024, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_memory_equal(p.data, "now", 3);
	close(out);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);

	assert_int_equal(vsock_mux_connect(r->m, 1, &out, &e), 0);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	vr_send(r, VSOCK_OP_RST, p.h.src_port, 1, 0, NULL, 0);
	assert_int_equal(vr_read(r, out, c, 1), 0);
	close(out);
}

/* As if the time of whoever waits for the guest's answer were over. */
static void connect_expires(struct vr *r)
{
	struct stream *s = TAILQ_FIRST(&r->m->expire[EXPIRE_CONNECT]);
	uint64_t end = time_mono_ns() + 60 * NS_PER_SEC;

	assert_non_null(s);
	s->deadline_ns = 1;
	r->m->timer_ns = 1;
	loop_set_timer(r->m->timer, 1);
	while (r->m->timer_ns == 1) {
		assert_true(time_mono_ns() < end);
		vr_spin(r);
	}
}

static void test_mux__who_asks_in_this_process_decides_how_long_it_waits(void **state)
{
	struct vr *r = *state;
	int mine, other;
	char c;

	assert_int_equal(vsock_mux_connect(r->m, 1024, &mine, NULL), 0);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	connect_expires(r);
	vr_expect_none(r);
	assert_int_equal(read(mine, &c, 1), -1);
	assert_int_equal(errno, EAGAIN);
	vr_send(r, VSOCK_OP_RESPONSE, p.h.src_port, 1024, 0, NULL, 0);
	assert_int_equal(write(mine, "x", 1), 1);
	vr_expect(r, &p, VSOCK_OP_RW);
	close(mine);
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	vr_send(r, VSOCK_OP_RST, p.h.src_port, 1024, 0, NULL, 0);
	assert_int_equal(vsock_mux_count(r->m), 0);

	/* It went meanwhile: then the time is over. */
	assert_int_equal(vsock_mux_connect(r->m, 1024, &mine, NULL), 0);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	close(mine);
	connect_expires(r);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_int_equal(vsock_mux_count(r->m), 0);

	/* A program outside is told. */
	other = vr_dial("CONNECT 1024\n");
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	connect_expires(r);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_true(vr_closed(r, other));
	close(other);
}

static void test_mux__a_guest_that_takes_nothing_keeps_no_streams(void **state)
{
	struct vr *r = *state;
	int mine;

	assert_int_equal(vsock_mux_connect(r->m, 1024, &mine, NULL), 0);
	close(mine); /* its caller's time was over */
	connect_expires(r);
	assert_int_equal(vsock_mux_count(r->m), 0);
	vr_expect_none(r); /* of what it never heard of it need not hear the end */
}

static void test_mux__what_a_host_program_waits_for_is_no_tidying_up(void **state)
{
	struct vr *r = *state;
	static uint8_t b[VSOCK_PKT_MAX];
	uint32_t port, other;
	int fd = vr_stream(r, 52, &port), gone = vr_stream(r, 53, &other), mine;

	assert_false(vsock_mux_waits(r->m));
	/* bytes, until the guest has them */
	assert_int_equal(write(fd, b, 10), 10);
	vr_spin(r);
	assert_true(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_RW);
	assert_false(vsock_mux_waits(r->m));
	/* ... also such that nobody has read yet, because the loop is not asked after a full read
	 */
	assert_int_equal(write(fd, b, sizeof(b)), sizeof(b));
	vr_spin(r);
	assert_true(vr_take(r, &p, sizeof(b)));
	assert_int_equal(p.h.len, sizeof(b));
	assert_false(vsock_mux_waits(r->m));
	assert_int_equal(write(fd, b, 1), 1);
	assert_true(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_RW);
	/* what both have left is only tidied up */
	close(gone);
	vr_spin(r);
	assert_true(vsock_mux_pending(r->m));
	assert_false(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	vr_send(r, VSOCK_OP_RW, 1, 2, 0, b, 1);
	assert_true(vsock_mux_pending(r->m));
	assert_false(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_RST);
	/* the end of what is sent, for which there may be an answer */
	assert_int_equal(shutdown(fd, SHUT_WR), 0);
	vr_spin(r);
	assert_true(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	assert_false(vsock_mux_waits(r->m));
	/* a connection, until it is answered or nobody wants it any more */
	assert_int_equal(vsock_mux_connect(r->m, 1024, &mine, NULL), 0);
	assert_true(vsock_mux_waits(r->m));
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	assert_true(vsock_mux_waits(r->m));
	close(mine);
	assert_false(vsock_mux_waits(r->m));
	close(fd);
}

static void test_mux__streams_take_turns(void **state)
{
	struct vr *r = *state;
	static uint8_t b[60000];
	uint32_t port[3], seen = 0;
	int fd[3];

	for (unsigned int i = 0; i < 3; i++)
		fd[i] = vr_stream(r, 100 + i, &port[i]);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(write(fd[i], b, sizeof(b)), sizeof(b));
	vr_spin(r);
	for (unsigned int i = 0; i < 30; i++) {
		static uint32_t turn[3];

		assert_true(vr_take(r, &p, 1000));
		assert_int_equal(p.h.len, 1000);
		assert_true(i < 3 || p.h.dst_port == turn[i % 3]);
		turn[i % 3] = p.h.dst_port;
		seen |= 1u << (p.h.dst_port - 100);
	}
	assert_int_equal(seen, 7);
	for (unsigned int i = 0; i < 3; i++)
		close(fd[i]);
}

static void test_mux__a_thousand_streams_are_kept_apart(void **state)
{
	enum { N = 1000 };
	struct vr *r = *state;
	static int fd[N];
	static uint32_t port[N];
	char c[32], want[32];

	for (unsigned int i = 0; i < N; i++)
		fd[i] = vr_stream(r, 2000 + i % 7, &port[i]);
	assert_int_equal(vsock_mux_count(r->m), N);
	for (unsigned int i = 0; i < N; i++) {
		int n = snprintf(want, sizeof(want), "stream %u", i);

		vr_send(r, VSOCK_OP_RW, port[i], 2000 + i % 7, 0, want, (uint32_t)n);
	}
	for (unsigned int i = 0; i < N; i++) {
		int n = snprintf(want, sizeof(want), "stream %u", i);

		assert_int_equal(recv(fd[i], c, sizeof(c), MSG_DONTWAIT), n);
		assert_memory_equal(c, want, (size_t)n);
		close(fd[i]);
	}
	for (unsigned int i = 0; i < N; i++)
		vr_expect(r, &p, VSOCK_OP_SHUTDOWN);
	for (unsigned int i = 0; i < N; i++)
		vr_send(r, VSOCK_OP_RST, port[i], 2000 + i % 7, 0, NULL, 0);
	assert_int_equal(vsock_mux_count(r->m), 0);
}

static void test_mux__beyond_the_limit_hosts_wait_their_turn(void **state)
{
	static int fd[VSOCK_MAX_CONNS + 1];
	struct vr *r = *state;
	uint32_t first = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(fd); i++) {
		fd[i] = vr_dial("CONNECT 1\n");
		assert_true(fd[i] >= 0);
		vr_spin(r);
	}
	assert_int_equal(vsock_mux_count(r->m), VSOCK_MAX_CONNS);
	for (unsigned int i = 0; i < VSOCK_MAX_CONNS; i++) {
		vr_expect(r, &p, VSOCK_OP_REQUEST);
		if (!i)
			first = p.h.src_port;
	}
	vr_expect_none(r);
	vr_send(r, VSOCK_OP_RST, first, 1, 0, NULL, 0);
	vr_expect(r, &p, VSOCK_OP_REQUEST); /* the one that waited */
	for (unsigned int i = 0; i < ARRAY_SIZE(fd); i++)
		close(fd[i]);
}

static void test_mux__driver_reset_ends_all_streams(void **state)
{
	struct vr *r = *state;
	uint32_t port;
	int fd = vr_stream(r, 52, &port), fd2;
	char c;

	vsock_mux_reset(r->m);
	assert_false(vsock_mux_pending(r->m));
	assert_int_equal(vr_read(r, fd, &c, 1), 0);
	fd2 = vr_dial("CONNECT 1\n");
	assert_true(vr_closed(r, fd2)); /* no driver: refused at once */
	close(fd2);
	vsock_mux_start(r->m);
	vr_expect_none(r);
	fd2 = vr_stream(r, 52, &port);
	/* Off and on again before main comes to look: the new life has none of the old streams. */
	vsock_mux_reset(r->m);
	vsock_mux_start(r->m);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "old", 3);
	vr_expect(r, &p, VSOCK_OP_RST);
	assert_true(vr_closed(r, fd2));
	close(fd);
	close(fd2);
}

static void test_mux__held_guest_gets_nothing(void **state)
{
	struct vr *r = *state;
	unsigned int woken;
	int fd;

	vsock_mux_hold(r->m, true);
	woken = r->woken;
	fd = vr_dial("CONNECT 5\n");
	vr_spin(r);
	vr_send(r, VSOCK_OP_RW, 1, 2, 0, "x", 1);
	assert_int_equal(r->woken, woken);
	vr_expect_none(r);
	vsock_mux_hold(r->m, false);
	vr_expect(r, &p, VSOCK_OP_RST);
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	close(fd);
}

static bool not_1024(void *arg, uint32_t port)
{
	++*(int *)arg;
	return port != 1024;
}

static void test_mux__gate_refuses_without_a_word_to_the_guest(void **state)
{
	struct vr *r = *state;
	int asked = 0, fd;

	vsock_mux_set_gate(r->m, not_1024, &asked);
	fd = vr_dial("CONNECT 1024\n");
	assert_true(vr_closed(r, fd));
	assert_int_equal(asked, 1);
	vr_expect_none(r);
	close(fd);
	fd = vr_dial("CONNECT 1025\n");
	vr_expect(r, &p, VSOCK_OP_REQUEST);
	close(fd);
	vsock_mux_set_gate(r->m, NULL, NULL);
}

/* In the child of a fork: exit code 0 if all is as it should be, else the number of the step. */
static int child(struct vr *r, uint32_t port, uint32_t unanswered)
{
	unsigned int resets = 0;
	int fd;

	fdtab_child(r->fds);
	vr_adopt(r, "child.sock");
	vsock_mux_hold(r->m, true);
	if (vsock_mux_count(r->m) || vr_take(r, &p, 4096))
		return 1;
	/* Old connections are unknown here. */
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "x", 1);
	vsock_mux_hold(r->m, false);
	while (vr_take(r, &p, 4096)) {
		if (p.h.op != VSOCK_OP_RST || (p.h.src_port != port && p.h.src_port != unanswered))
			return 2;
		resets++;
	}
	if (resets != 3)
		return 3;
	rename("child.sock", "vsock.sock");
	fd = vr_stream(r, 52, &port);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "new", 3);
	if (vr_read(r, fd, p.data, 8) != 3)
		return 4;
	return 0;
}

static void test_mux__fork_ends_the_childs_streams_only(void **state)
{
	struct vr *r = *state;
	uint32_t port, unanswered;
	int fd = vr_stream(r, 52, &port), fd2 = vr_dial("CONNECT 53\n"), status;
	char c[8];
	pid_t pid;

	vr_expect(r, &p, VSOCK_OP_REQUEST);
	unanswered = p.h.src_port;
	pid = fork();
	assert_true(pid >= 0);
	if (!pid)
		_exit(child(r, port, unanswered));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	/* The parent's guest and host programs have noticed nothing. */
	vr_expect_none(r);
	vr_send(r, VSOCK_OP_RW, port, 52, 0, "still", 5);
	assert_int_equal(vr_read(r, fd, c, sizeof(c)), 5);
	assert_int_equal(write(fd, "here", 4), 4);
	vr_expect(r, &p, VSOCK_OP_RW);
	vr_send(r, VSOCK_OP_RESPONSE, unanswered, 53, 0, NULL, 0);
	assert_true(vr_read(r, fd2, c, sizeof(c)) > 0);
	close(fd);
	close(fd2);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_mux__stream_is_requested_answered_and_refused),
		T(test_mux__bytes_behind_the_line_are_not_lost),
		T(test_mux__bytes_reach_the_guest_intact),
		T(test_mux__bytes_reach_the_host_intact),
		T(test_mux__credit_is_never_exceeded),
		T(test_mux__host_half_close_comes_after_its_bytes),
		T(test_mux__guest_half_close_lets_the_host_speak),
		T(test_mux__guest_that_stops_listening_fails_the_hosts_writes),
		T(test_mux__host_close_is_more_than_half),
		T(test_mux__guest_close_does_not_cut_what_it_sent),
		T(test_mux__host_close_delivers_its_last_words),
		T(test_mux__host_that_gives_up_before_the_answer_is_forgotten),
		T(test_mux__guest_reaches_host_listeners_by_port),
		T(test_mux__streams_of_this_process_need_no_socket),
		T(test_mux__who_asks_in_this_process_decides_how_long_it_waits),
		T(test_mux__a_guest_that_takes_nothing_keeps_no_streams),
		T(test_mux__what_a_host_program_waits_for_is_no_tidying_up),
		T(test_mux__streams_take_turns),
		T(test_mux__a_thousand_streams_are_kept_apart),
		T(test_mux__beyond_the_limit_hosts_wait_their_turn),
		T(test_mux__driver_reset_ends_all_streams),
		T(test_mux__held_guest_gets_nothing),
		T(test_mux__gate_refuses_without_a_word_to_the_guest),
		T(test_mux__fork_ends_the_childs_streams_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
