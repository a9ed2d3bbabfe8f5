/* SPDX-License-Identifier: MIT */
/*
 * Raw terminals and console sessions. See term.h.
 */
#include "cli/term.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

#define DETACH 0x1d /* Ctrl-] */

void term_raw(struct term *t, int fd)
{
	struct termios raw;

	t->fd = -1;
	if (!isatty(fd) || tcgetattr(fd, &t->saved))
		return;
	raw = t->saved;
	cfmakeraw(&raw);
	if (!tcsetattr(fd, TCSANOW, &raw))
		t->fd = fd;
}

void term_restore(struct term *t)
{
	if (t->fd >= 0)
		tcsetattr(t->fd, TCSADRAIN, &t->saved);
	t->fd = -1;
}

void term_size(int fd, uint16_t *rows, uint16_t *cols)
{
	struct winsize ws;

	*rows = 24;
	*cols = 80;
	if (ioctl(fd, TIOCGWINSZ, &ws) || !ws.ws_row || !ws.ws_col)
		return;
	*rows = ws.ws_row;
	*cols = ws.ws_col;
}

struct session {
	int sock;
	bool tty, in_open;
	char in[4096]; /* typed, not yet taken by the VM */
	size_t in_bytes;
};

/* What came from stdin; true when the person wants to go. */
static bool from_stdin(struct session *s)
{
	ssize_t n = read(STDIN_FILENO, s->in + s->in_bytes, sizeof(s->in) - s->in_bytes);
	char *detach;

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return false;
	if (n <= 0) {
		s->in_open = false;
		return false;
	}
	detach = s->tty ? memchr(s->in + s->in_bytes, DETACH, (size_t)n) : NULL;
	s->in_bytes += (size_t)n;
	return detach != NULL;
}

static void to_vm(struct session *s)
{
	ssize_t n = send(s->sock, s->in, s->in_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n <= 0)
		return;
	memmove(s->in, s->in + n, s->in_bytes - (size_t)n);
	s->in_bytes -= (size_t)n;
}

/* 1: more may come; 0: closed; -errno: stdout fails. */
static int from_vm(struct session *s)
{
	char buf[16384];
	ssize_t n = recv(s->sock, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
	if (n <= 0)
		return 0;
	n = fd_write_full(STDOUT_FILENO, buf, (size_t)n);
	return n < 0 ? (int)n : 1;
}

static int session_loop(struct session *s, int signal_fd, struct err *e)
{
	for (;;) {
		struct pollfd p[3] = {
			{ .fd = s->sock, .events = (short)(POLLIN | (s->in_bytes ? POLLOUT : 0)) },
			{ .fd = s->in_open && s->in_bytes < sizeof(s->in) ? STDIN_FILENO : -1,
			  .events = POLLIN },
			{ .fd = signal_fd, .events = POLLIN },
		};
		int r = poll(p, ARRAY_SIZE(p), -1);

		if (r < 0 && errno != EINTR)
			return err_sys(e, errno, "console: poll");
		if (r <= 0)
			continue;
		if (p[2].revents)
			return CONSOLE_SIGNAL;
		if (p[1].revents && from_stdin(s))
			return CONSOLE_DETACHED;
		if (p[0].revents & POLLOUT)
			to_vm(s);
		if (p[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			r = from_vm(s);
			if (r < 0)
				return err_sys(e, -r, "console: cannot write the output");
			if (r == 0)
				return CONSOLE_CLOSED;
		}
	}
}

int console_session(int sock, int signal_fd, struct err *e)
{
	struct session s = { .sock = sock, .in_open = true };
	struct term t;
	int r;

	fd_set_nonblock(sock, true);
	term_raw(&t, STDIN_FILENO);
	s.tty = t.fd >= 0;
	r = session_loop(&s, signal_fd, e);
	term_restore(&t);
	return r;
}
