/* SPDX-License-Identifier: MIT */
/*
 * clone-agent's hello: said until the host has heard it, which is when the host closes in order.
 * The host is a unix socket here; a connection closed with something unread is reset, as a fork or
 * a restore resets those of its guest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/guest_agent.h"

#define PATIENCE_MS 60000

static int host(const struct guest *g)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(un.sun_path, sizeof(un.sun_path), "%s.host", g->sock);
	assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static bool calls(int listener, int ms)
{
	struct pollfd p = { .fd = listener, .events = POLLIN };

	return poll(&p, 1, ms) == 1;
}

/* The agent's next call, its hello there and not read. */
static int answer(int listener)
{
	struct pollfd p = { .events = POLLIN };

	assert_true(calls(listener, PATIENCE_MS));
	p.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.fd >= 0);
	assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	return p.fd;
}

static void test_hello__is_said_until_the_host_has_heard_it(void **state)
{
	struct link l = { .len = 0 };
	struct proto_ready y;
	struct proto_frame f;
	int listener = host(*state); /* the agent has tried before */

	for (int i = 0; i < 3; i++)
		close(answer(listener)); /* a reset */
	l.fd = answer(listener);
	assert_true(link_next(&l, &f));
	assert_int_equal(f.type, PROTO_READY);
	assert_true(proto_get_ready(f.payload, &y));
	assert_int_equal(y.version, PROTO_VERSION);
	assert_true(proto_gen_is_zero(y.gen));
	/* the host has not closed: it waits, and does not call anew */
	assert_false(calls(listener, 500));
	close(l.fd);
	assert_false(calls(listener, 6000)); /* longer than between two tries */
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_hello__is_said_until_the_host_has_heard_it,
						guest_setup, guest_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
