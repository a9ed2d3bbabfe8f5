/* SPDX-License-Identifier: MIT */
/*
 * One connection of the rig's server: reads a request, runs its command, carries bytes both ways
 * until it ends. Called by rigd.c in a process of its own for each connection; single-threaded.
 *
 * Frames both ways: type (1 byte), length (4 bytes, big endian), payload.
 *   in:  R request, I standard input (empty: end of file), W rows and cols (2 x u16), K signal (1
 * byte) out: O standard output, E standard error, F failure text of rigd itself, X wait status
 * (u32) Request: NUL-terminated strings: token, tty (0 or 1), rows, cols, cwd, argc, argv...,
 * environment...
 */
#include "rigd.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define REQUEST_MAX (4u << 20)
#define CHUNK 65536u
#define STRINGS_MAX 65536
#define LINGER_S 10

struct request {
	char *buf; /* owns every string below */
	bool tty;
	struct winsize ws;
	const char *cwd;
	char **argv;
	char **envp;
};

struct session {
	int sock;
	pid_t pid;
	int pidfd;
	int in;	 /* to the command's standard input, -1 once closed */
	int out; /* from its standard output, or the terminal */
	int err; /* from its standard error, -1 with a terminal */
	bool tty;
	uint8_t rx[5 + CHUNK]; /* bytes of an incomplete frame */
	size_t rx_len;
	uint8_t pend[CHUNK]; /* input the command has not taken yet */
	size_t pend_off, pend_len;
	bool pend_eof;
};

static bool write_all(int fd, const void *p, size_t n)
{
	const char *c = p;

	while (n) {
		ssize_t k = write(fd, c, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		c += k;
		n -= (size_t)k;
	}
	return true;
}

static bool read_all(int fd, void *p, size_t n)
{
	char *c = p;

	while (n) {
		ssize_t k = read(fd, c, n);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return false;
		c += k;
		n -= (size_t)k;
	}
	return true;
}

static void put_be32(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
}

static uint32_t get_be32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return ntohl(v);
}

static bool send_frame(int sock, char type, const void *p, uint32_t n)
{
	uint8_t h[5] = { (uint8_t)type };

	put_be32(h + 1, n);
	return write_all(sock, h, sizeof(h)) && (!n || write_all(sock, p, n));
}

static _Noreturn __attribute__((format(printf, 2, 3))) void fail(int sock, const char *fmt, ...)
{
	char msg[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	send_frame(sock, 'F', msg, (uint32_t)(n < (int)sizeof(msg) ? n : (int)sizeof(msg) - 1));
	_exit(1);
}

/* Reads the first frame and checks the token. Does not return on a malformed or foreign request. */
static void read_request(int sock, const char *token, struct request *r)
{
	char *s, *end, **strs = calloc(STRINGS_MAX + 2, sizeof(*strs));
	uint8_t h[5];
	uint32_t len;
	int n = 0, argc;

	if (!strs || !read_all(sock, h, sizeof(h)))
		_exit(1);
	len = get_be32(h + 1);
	if (h[0] != 'R' || !len || len > REQUEST_MAX)
		fail(sock, "bad request: type %d, %u bytes", h[0], len);
	r->buf = malloc(len);
	if (!r->buf || !read_all(sock, r->buf, len))
		_exit(1);
	if (r->buf[len - 1])
		fail(sock, "bad request: last string has no end");
	for (s = r->buf, end = s + len; s < end && n < STRINGS_MAX; s += strlen(s) + 1)
		strs[n++] = s;
	if (n < 7 || strcmp(strs[0], token) != 0)
		fail(sock, "bad request: wrong token");
	r->tty = strs[1][0] == '1';
	r->ws.ws_row = (unsigned short)atoi(strs[2]);
	r->ws.ws_col = (unsigned short)atoi(strs[3]);
	r->cwd = strs[4];
	argc = atoi(strs[5]);
	if (argc < 1 || argc > n - 6)
		fail(sock, "bad request: %d arguments in %d strings", argc, n);
	/* argv needs a NULL between it and the environment: move argv over the strings consumed. */
	r->envp = strs + 6 + argc;
	memmove(strs, strs + 6, (size_t)argc * sizeof(*strs));
	strs[argc] = NULL;
	r->argv = strs;
}

static _Noreturn void child_exec(const struct request *r, int in, int out, int err)
{
	struct rlimit nofile = { 1024, 1048576 };
	sigset_t none;
	int fd;

	setsid();
	if (r->tty)
		ioctl(in, TIOCSCTTY, 0);
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	close_range(3, ~0u, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setrlimit(RLIMIT_NOFILE, &nofile);
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd >= 0 && write(fd, "0", 1) != 1)
		dprintf(2, "rig: oom_score_adj: %s\n", strerror(errno));
	if (chdir(r->cwd)) {
		dprintf(2,
			"rig: cannot enter %s in the rig: %s (/tmp and /run are its own; see "
			"/host)\n",
			r->cwd, strerror(errno));
		_exit(125);
	}
	environ = r->envp;
	execvp(r->argv[0], r->argv);
	dprintf(2, "rig: %s: %s\n", r->argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void start_command(struct session *s, const struct request *r)
{
	int in[2], out[2], err[2] = { -1, -1 };

	if (r->tty) {
		int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);

		if (master < 0 || grantpt(master) || unlockpt(master))
			fail(s->sock, "no terminal: %s", strerror(errno));
		ioctl(master, TIOCSWINSZ, &r->ws);
		in[0] = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (in[0] < 0)
			fail(s->sock, "no terminal: %s", strerror(errno));
		in[1] = master;
		out[0] = fcntl(master, F_DUPFD_CLOEXEC, 0);
		out[1] = in[0];
	} else if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
		fail(s->sock, "no pipe: %s", strerror(errno));
	}
	s->pid = fork();
	if (s->pid < 0)
		fail(s->sock, "no process: %s", strerror(errno));
	if (!s->pid)
		child_exec(r, in[0], out[1], r->tty ? out[1] : err[1]);
	s->pidfd = (int)syscall(SYS_pidfd_open, s->pid, 0);
	close(in[0]);
	if (!r->tty) {
		close(out[1]);
		close(err[1]);
	}
	s->tty = r->tty;
	s->in = in[1];
	s->out = out[0];
	s->err = err[0];
	fcntl(s->in, F_SETFL, O_NONBLOCK);
	fcntl(s->out, F_SETFL, O_NONBLOCK);
	if (s->err >= 0)
		fcntl(s->err, F_SETFL, O_NONBLOCK);
}

/* The client is gone: so must be what it ran, but with a chance to clean up. */
static _Noreturn void abandon(struct session *s)
{
	struct pollfd p = { s->pidfd, POLLIN, 0 };

	kill(-s->pid, SIGTERM);
	poll(&p, 1, 2000);
	kill(-s->pid, SIGKILL);
	_exit(1);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* One chunk from the command to the client. False when there is nothing to read now. */
static bool forward(struct session *s, int *fd, char type)
{
	uint8_t buf[CHUNK];
	ssize_t n;

	if (*fd < 0)
		return false;
	n = read(*fd, buf, sizeof(buf));
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) {
		close_fd(fd);
		return false;
	}
	if (!send_frame(s->sock, type, buf, (uint32_t)n))
		abandon(s);
	return true;
}

static void push_input(struct session *s)
{
	while (s->pend_len) {
		ssize_t n = s->in < 0 ? (ssize_t)s->pend_len
				      : write(s->in, s->pend + s->pend_off, s->pend_len);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			close_fd(&s->in); /* EPIPE: the command does not want it */
			continue;
		}
		s->pend_off += (size_t)n;
		s->pend_len -= (size_t)n;
	}
	if (s->pend_eof && s->tty && s->in >= 0) {
		if (write(s->in, "\004", 1) == 1)
			s->pend_eof = false;
	} else if (s->pend_eof) {
		close_fd(&s->in);
	}
}

static void take_frame(struct session *s, uint8_t type, const uint8_t *p, uint32_t n)
{
	struct winsize ws = { 0 };
	uint16_t v[2];

	switch (type) {
	case 'I':
		if (!n)
			s->pend_eof = true;
		memcpy(s->pend, p, n);
		s->pend_off = 0;
		s->pend_len = n;
		push_input(s);
		break;
	case 'K':
		if (n == 1)
			kill(-s->pid, p[0]);
		break;
	case 'W':
		if (n != sizeof(v) || !s->tty)
			break;
		memcpy(v, p, sizeof(v));
		ws.ws_row = ntohs(v[0]);
		ws.ws_col = ntohs(v[1]);
		ioctl(s->out, TIOCSWINSZ, &ws);
		break;
	default:
		abandon(s);
	}
}

/* Reads what the client sent; stops taking frames while the command has input pending. */
static void from_client(struct session *s, bool readable)
{
	ssize_t n;

	if (readable && s->rx_len < sizeof(s->rx)) {
		n = read(s->sock, s->rx + s->rx_len, sizeof(s->rx) - s->rx_len);
		if (n <= 0 && !(n < 0 && errno == EINTR))
			abandon(s);
		s->rx_len += n > 0 ? (size_t)n : 0;
	}
	while (s->rx_len >= 5 && !s->pend_len) {
		uint32_t len = get_be32(s->rx + 1);

		if (len > CHUNK)
			abandon(s);
		if (s->rx_len < 5 + len)
			break;
		take_frame(s, s->rx[0], s->rx + 5, len);
		s->rx_len -= 5 + len;
		memmove(s->rx, s->rx + 5 + len, s->rx_len);
	}
}

static _Noreturn void finish(struct session *s)
{
	uint8_t w[4];
	int status = 0;

	waitpid(s->pid, &status, 0);
	/* What the command wrote is in the pipes already; what its daemons write later is not ours.
	 */
	while (forward(s, &s->out, 'O') || forward(s, &s->err, 'E'))
		;
	put_be32(w, (uint32_t)status);
	send_frame(s->sock, 'X', w, sizeof(w));
	/* Closing with input unread would reset the connection, and the status with it. */
	shutdown(s->sock, SHUT_WR);
	alarm(LINGER_S);
	while (read(s->sock, s->rx, sizeof(s->rx)) > 0)
		;
	_exit(0);
}

void rigd_serve(int sock, const char *token)
{
	static struct session s;
	struct request r = { 0 };
	int one = 1;

	setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	s.sock = sock;
	read_request(sock, token, &r);
	start_command(&s, &r);
	for (;;) {
		struct pollfd p[5] = {
			{ s.sock, (short)(POLLRDHUP | (s.pend_len ? 0 : POLLIN)), 0 },
			{ s.pend_len || s.pend_eof ? s.in : -1, POLLOUT, 0 },
			{ s.out, POLLIN, 0 },
			{ s.err, POLLIN, 0 },
			{ s.pidfd, POLLIN, 0 },
		};

		if (poll(p, 5, -1) < 0)
			continue;
		if (p[0].revents & (POLLERR | POLLHUP | POLLRDHUP))
			abandon(&s);
		if (p[1].revents)
			push_input(&s);
		from_client(&s, p[0].revents & POLLIN);
		if (p[2].revents)
			forward(&s, &s.out, 'O');
		if (p[3].revents)
			forward(&s, &s.err, 'E');
		if (p[4].revents)
			finish(&s);
	}
}
