/* SPDX-License-Identifier: MIT */
/*
 * The way to a guest's agent. See exec_connect.h.
 */
#include "cli/exec_connect.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/launch.h"
#include "control/json.h"
#include "control/sock.h"

static bool parse_gen(const char *hex, uint8_t gen[PROTO_GEN])
{
	if (!hex || strlen(hex) != 2 * PROTO_GEN)
		return false;
	for (size_t i = 0; i < PROTO_GEN; i++) {
		unsigned int v;

		if (strspn(hex + 2 * i, "0123456789abcdef") < 2 ||
		    sscanf(hex + 2 * i, "%2x", &v) != 1)
			return false;
		gen[i] = (uint8_t)v;
	}
	return true;
}

/* GET /identity, waiting once for the agent when it has not reconciled. */
static int learn(const struct vmdir *d, struct client *c, uint64_t timeout_ms,
		 uint8_t gen[PROTO_GEN], struct err *e)
{
	for (int try = 0;; try++) {
		cleanup_json json_t *id = NULL, *wait = NULL;
		const char *state, *why;
		int r = client_request(c, "GET", "/identity", NULL, LAUNCH_MS, &id, e);

		if (r)
			return r;
		state = json_string_value(json_object_get(id, "state"));
		if (state && !strcmp(state, "Paused"))
			return err_set(e, EAGAIN, "%s is paused: `clone resume %s` first", d->name,
				       d->name);
		if (!json_is_true(json_object_get(id, "agent")))
			return err_set(e, ENOTCONN, "%s has no agent to run commands", d->name);
		if (json_is_true(json_object_get(id, "reconciled"))) {
			if (parse_gen(json_string_value(json_object_get(id, "generation")), gen))
				return 0;
			return err_set(e, EBADMSG, "%s: its identity makes no sense", d->name);
		}
		why = json_string_value(json_object_get(id, "error"));
		if (why && *why)
			return err_set(e, ENOTRECOVERABLE,
				       "the guest has not become a machine of its own: %s", why);
		if (try == 3)
			return err_set(e, EAGAIN, "%s: its agent comes and goes", d->name);
		wait = json_pack("{s:s, s:I}", "action", "wait", "timeout_ms",
				 (json_int_t)timeout_ms);
		r = client_request(c, "PUT", "/agent", wait, timeout_ms + LAUNCH_MS, NULL, e);
		if (r)
			return r;
	}
}

/* What there is of a line, and nothing behind its end. Bytes, 0 at end of stream, -errno. */
static ssize_t recv_line(int sock, char *buf, size_t cap)
{
	ssize_t n = recv(sock, buf, cap, MSG_DONTWAIT | MSG_PEEK);
	const char *end = n > 0 ? memchr(buf, '\n', (size_t)n) : NULL;

	if (n > 0)
		n = recv(sock, buf, end ? (size_t)(end - buf) + 1 : (size_t)n, MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

/* "CONNECT port\n", then one line of answer, for which the guest's kernel is needed; the agent says
 * nothing before we do. */
static int dial(const struct vmdir *d, int sock, uint64_t timeout_ms, int signal_fd, struct err *e)
{
	uint64_t deadline = time_mono_ns() + MAX(timeout_ms, LAUNCH_MS) * NS_PER_MS;
	char line[64];
	size_t n = 0;
	int len = snprintf(line, sizeof(line), "CONNECT %u\n", PROTO_AGENT_PORT);

	if (send(sock, line, (size_t)len, MSG_NOSIGNAL) != len)
		return err_sys(e, errno, "%s: vsock socket", d->name);
	while (n < sizeof(line) - 1) {
		int r = sock_wait(sock, POLLIN, deadline, signal_fd);
		ssize_t got;

		if (r == -ETIMEDOUT)
			return err_set(e, ETIMEDOUT, "%s: the guest does not answer on vsock",
				       d->name);
		if (r)
			return err_sys(e, -r, "%s: vsock socket", d->name);
		got = recv_line(sock, line + n, sizeof(line) - 1 - n);
		if (got == -EAGAIN || got == -EINTR)
			continue;
		if (got <= 0)
			return err_set(e, ECONNREFUSED,
				       "%s: the guest's agent refused the connection", d->name);
		n += (size_t)got;
		if (line[n - 1] == '\n')
			break;
	}
	line[n] = '\0';
	if (strncmp(line, "OK ", 3) || line[n - 1] != '\n')
		return err_set(e, EBADMSG, "%s: vsock socket: no OK", d->name);
	return 0;
}

int exec_connect(const struct vmdir *d, uint64_t timeout_ms, int signal_fd, uint8_t gen[PROTO_GEN],
		 struct err *e)
{
	cleanup_close int sock = -1;
	struct client *c;
	int r;

	if (!vmdir_alive(d))
		return err_set(e, ESRCH, "%s is not running", d->name);
	r = client_open(d->fd, &c, e);
	if (r)
		return err_wrap(e, r, "%s", d->name);
	client_set_cancel(c, signal_fd);
	r = learn(d, c, timeout_ms, gen, e);
	client_close(c);
	if (r)
		return r;
	sock = sock_connect(d->fd, "vsock.sock", SOCK_STREAM, e);
	if (sock < 0)
		return err_wrap(e, sock, "%s", d->name);
	r = dial(d, sock, timeout_ms, signal_fd, e);
	return r ? r : take_fd(&sock);
}
