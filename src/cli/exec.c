/* SPDX-License-Identifier: MIT */
/*
 * EXEC sessions. See exec.h. Everything is driven by one poll(2): frames from the agent, our
 * stdin within the agent's window, our stdout and stderr as they take it, signals. A slow reader of
 * ours stops the reading from the agent, which stops the command.
 */
#include "cli/exec.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/exec_connect.h"
#include "cli/execio.h"
#include "cli/launch.h"
#include "cli/term.h"
#include "guest/proto.h"

#define RX_BYTES (1u << 20)
#define IN_CHUNK 32768u
#define LATE_MS 15000u /* the guest has so long beyond the command's time-out to say so */

struct session {
	const struct exec_args *a;
	int sock;
	uint8_t *rx; /* RX_BYTES; frames begin at rx_pos */
	size_t rx_pos, rx_end;
	struct outfd out, err;
	/* output of the frame at the front that our reader has not taken yet */
	const uint8_t *part;
	size_t part_bytes;
	struct outfd *part_to;
	uint8_t *tx; /* frames not yet sent */
	size_t tx_bytes, tx_cap;
	uint32_t unacked; /* STDIN bytes under way */
	bool started, in_open;
	size_t collected;
	uint64_t deadline_ns;
	int code; /* >= 0: the end */
};

static int queue(struct session *s, const void *p, size_t n, struct err *e)
{
	if (n > s->tx_cap - s->tx_bytes) {
		size_t cap = s->tx_bytes + n + 65536;
		uint8_t *t = realloc(s->tx, cap);

		if (!t)
			return err_set(e, ENOMEM, "exec: out of memory");
		s->tx = t;
		s->tx_cap = cap;
	}
	memcpy(s->tx + s->tx_bytes, p, n);
	s->tx_bytes += n;
	return 0;
}

static int flush_tx(struct session *s, struct err *e)
{
	while (s->tx_bytes) {
		ssize_t n = send(s->sock, s->tx, s->tx_bytes, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return 0;
		/* the agent may have said why before it closed: the reader finds out */
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET)) {
			s->tx_bytes = 0;
			s->in_open = false;
			return 0;
		}
		if (n < 0)
			return err_sys(e, errno, "exec: send");
		s->tx_bytes -= (size_t)n;
		memmove(s->tx, s->tx + n, s->tx_bytes);
	}
	return 0;
}

/* As much of our input as fits the agent's window. */
static int pump_stdin(struct session *s, struct err *e)
{
	uint8_t buf[PROTO_HEADER + IN_CHUNK];
	size_t room = MIN(PROTO_STDIN_WINDOW - s->unacked, IN_CHUNK);
	ssize_t n = read(s->a->in_fd, buf + PROTO_HEADER, room);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 0;
	if (n <= 0) {
		s->in_open = false;
		n = (ssize_t)proto_put_empty(buf, sizeof(buf), PROTO_STDIN_EOF);
		return queue(s, buf, (size_t)n, e);
	}
	proto_header(buf, PROTO_STDIN, (uint32_t)n);
	s->unacked += (uint32_t)n;
	return queue(s, buf, PROTO_HEADER + (size_t)n, e);
}

static int forward_signal(struct session *s, struct err *e)
{
	uint8_t buf[PROTO_SMALL_FRAME];
	struct signalfd_siginfo si;
	uint16_t rows, cols;
	size_t n;

	if (read(s->a->signal_fd, &si, sizeof(si)) != sizeof(si))
		return 0;
	if (si.ssi_signo == SIGWINCH) {
		term_size(s->a->out_fd, &rows, &cols);
		n = proto_put_resize(buf, sizeof(buf), rows, cols);
	} else {
		n = proto_put_signal(buf, sizeof(buf), (uint8_t)si.ssi_signo);
	}
	return s->started ? queue(s, buf, n, e) : 0;
}

static void collect(struct session *s, const uint8_t *p, size_t n)
{
	size_t room = s->a->stderr_cap - 1 - s->collected;

	n = MIN(n, room);
	memcpy(s->a->stderr_text + s->collected, p, n);
	s->collected += n;
	s->a->stderr_text[s->collected] = '\0';
}

/*
 * Gives the front frame's output to our reader; part_bytes is 0 when all of it went. When the
 * reader has gone the command gets the signal that it would have got here.
 */
static int drain_part(struct session *s, struct err *e)
{
	while (s->part_bytes) {
		ssize_t n = outfd_write(s->part_to, s->part, s->part_bytes);

		if (n == 0)
			return 0;
		if (n < 0) {
			uint8_t buf[PROTO_SMALL_FRAME];
			size_t len = proto_put_signal(buf, sizeof(buf), SIGPIPE);
			int r = queue(s, buf, len, e);

			if (r)
				return r;
			n = (ssize_t)s->part_bytes;
		}
		s->part += n;
		s->part_bytes -= (size_t)n;
	}
	return 0;
}

static int on_error(struct session *s, const struct proto_frame *f, struct err *e)
{
	struct proto_error pe;
	char text[256];
	size_t n;

	if (!proto_get_error(f->payload, &pe))
		return err_set(e, EBADMSG, "exec: the agent sent a malformed error");
	n = MIN(pe.text.len, sizeof(text) - 1);
	memcpy(text, pe.text.p, n);
	text[n] = '\0';
	if (pe.stage == PROTO_STAGE_COMMAND) {
		err_set(e, (int)(pe.err & 0xfff), "%s", text);
		s->code = pe.err == ENOENT ? CLI_EXEC_NOT_FOUND : CLI_EXEC_CANNOT;
		return 0;
	}
	return err_set(e, EREMOTEIO, "exec: the guest's agent: %s", text);
}

static int on_exit_frame(struct session *s, const struct proto_frame *f, struct err *e)
{
	uint32_t kind, value;

	if (!proto_get_exit(f->payload, &kind, &value))
		return err_set(e, EBADMSG, "exec: the agent sent a malformed exit status");
	if (kind == PROTO_EXIT_TIMEOUT)
		s->code = CLI_EXEC_TIMEOUT;
	else if (kind == PROTO_EXIT_SIGNALED)
		s->code = CLI_SIGNAL + (int)(value & 127);
	else
		s->code = (int)(value & 255);
	e->msg[0] = '\0';
	return 0;
}

/* Until when we wait for the end of the command if it starts so many ms from now; 0: for ever. */
static uint64_t deadline_ns(const struct exec_args *a, uint64_t start_ms)
{
	if (!a->timeout_ms)
		return 0;
	return time_mono_ns() +
	       (start_ms + a->timeout_ms + PROTO_KILL_GRACE_MS + LATE_MS) * NS_PER_MS;
}

static int on_frame(struct session *s, const struct proto_frame *f, struct err *e)
{
	uint32_t v;

	switch (f->type) {
	case PROTO_STARTED:
		if (s->started || !proto_get_one_u32(f->payload, &v))
			break;
		s->started = true;
		s->deadline_ns = deadline_ns(s->a, 0);
		return 0;
	case PROTO_STDERR:
		if (s->started && s->a->stderr_text) {
			collect(s, f->payload.p, f->payload.left);
			return 0;
		}
		/* fall through */
	case PROTO_STDOUT:
		if (!s->started)
			break;
		s->part = f->payload.p;
		s->part_bytes = f->payload.left;
		s->part_to = f->type == PROTO_STDOUT ? &s->out : &s->err;
		return 0;
	case PROTO_STDIN_ACK:
		if (!proto_get_one_u32(f->payload, &v) || v > s->unacked)
			break;
		s->unacked -= v;
		return 0;
	case PROTO_EXIT:
		return on_exit_frame(s, f, e);
	case PROTO_ERROR:
		return on_error(s, f, e);
	default:
		break;
	}
	return err_set(e, EBADMSG, "exec: the agent broke the protocol (frame type %u)", f->type);
}

/* All whole frames that are there, as far as our readers take them. */
static int eat_frames(struct session *s, struct err *e)
{
	while (s->code < 0) {
		struct proto_frame f;
		int n, r;

		r = drain_part(s, e);
		if (r || s->part_bytes)
			return r;
		n = proto_frame(s->rx + s->rx_pos, s->rx_end - s->rx_pos, &f);
		if (n < 0)
			return err_set(e, EBADMSG, "exec: the agent sent a frame beyond the limit");
		if (n == 0)
			return 0;
		s->rx_pos += (size_t)n;
		r = on_frame(s, &f, e);
		if (r)
			return r;
	}
	return 0;
}

static int fill_rx(struct session *s, struct err *e)
{
	ssize_t n;

	if (s->rx_pos == s->rx_end) {
		s->rx_pos = s->rx_end = 0;
	} else if (RX_BYTES - s->rx_end < PROTO_MAX_FRAME) {
		memmove(s->rx, s->rx + s->rx_pos, s->rx_end - s->rx_pos);
		s->rx_end -= s->rx_pos;
		s->rx_pos = 0;
	}
	n = recv(s->sock, s->rx + s->rx_end, RX_BYTES - s->rx_end, MSG_DONTWAIT);
	if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (n <= 0)
		return err_set(e, ECONNRESET,
			       "exec: the connection to the guest ended before the command did "
			       "(VM ended, or was reset?)");
	s->rx_end += (size_t)n;
	return 0;
}

static int session_poll(struct session *s, struct pollfd p[4], struct err *e)
{
	bool blocked = s->part_bytes > 0;
	bool want_in = s->started && s->in_open && s->unacked < PROTO_STDIN_WINDOW &&
		       s->tx_bytes < PROTO_STDIN_WINDOW;
	struct timespec ts = { 0 };
	uint64_t now = time_mono_ns();
	int r;

	p[0] = (struct pollfd){ .fd = blocked && !s->tx_bytes ? -1 : s->sock,
				.events = (short)((blocked ? 0 : POLLIN) |
						  (s->tx_bytes ? POLLOUT : 0)) };
	p[1] = (struct pollfd){ .fd = want_in ? s->a->in_fd : -1, .events = POLLIN };
	p[2] = (struct pollfd){ .fd = blocked ? outfd_poll(s->part_to) : -1, .events = POLLOUT };
	p[3] = (struct pollfd){ .fd = s->a->signal_fd, .events = POLLIN };
	if (s->deadline_ns && now >= s->deadline_ns)
		return err_set(e, ETIMEDOUT, "exec: the guest did not end the command in time");
	if (s->deadline_ns) {
		ts.tv_sec = (time_t)((s->deadline_ns - now) / NS_PER_SEC);
		ts.tv_nsec = (long)((s->deadline_ns - now) % NS_PER_SEC);
	}
	r = ppoll(p, 4, s->deadline_ns ? &ts : NULL, NULL);
	if (r < 0 && errno != EINTR)
		return err_sys(e, errno, "exec: poll");
	if (r <= 0)
		p[0].revents = p[1].revents = p[2].revents = p[3].revents = 0;
	return 0;
}

static int session_loop(struct session *s, struct err *e)
{
	struct pollfd p[4];
	int r = 0;

	while (!r && s->code < 0) {
		r = session_poll(s, p, e);
		if (!r && p[3].revents)
			r = forward_signal(s, e);
		if (!r && p[1].revents)
			r = pump_stdin(s, e);
		if (!r && s->tx_bytes)
			r = flush_tx(s, e);
		if (!r && !s->part_bytes && p[0].revents)
			r = fill_rx(s, e);
		if (!r)
			r = eat_frames(s, e);
	}
	return r;
}

static int send_exec(struct session *s, const uint8_t *gen, struct err *e)
{
	cleanup_free uint8_t *frame = malloc(PROTO_MAX_FRAME);
	struct proto_exec_args x = { .gen = gen,
				     .flags = (s->a->tty ? PROTO_EXEC_TTY : 0) |
					      (s->a->input ? PROTO_EXEC_STDIN : 0),
				     .timeout_ms = s->a->timeout_ms,
				     .user = s->a->user,
				     .cwd = s->a->cwd,
				     .argv = s->a->argv,
				     .env = s->a->env };
	size_t n;

	if (!frame)
		return err_set(e, ENOMEM, "exec: out of memory");
	if (s->a->tty)
		term_size(s->a->out_fd, &x.rows, &x.cols);
	n = proto_put_exec(frame, PROTO_MAX_FRAME, &x);
	if (!n)
		return err_set(e, E2BIG, "exec: command and environment exceed %u bytes",
			       PROTO_MAX_PAYLOAD);
	return queue(s, frame, n, e);
}

int exec_run(const struct vmdir *d, const struct exec_args *a, struct err *e)
{
	struct session s = { .a = a, .code = -1, .in_open = a->input && a->in_fd >= 0 };
	uint8_t gen[PROTO_GEN];
	struct term t = { .fd = -1 };
	int r;

	s.sock = exec_connect(d, a->connect_ms, a->signal_fd, gen, e);
	if (s.sock < 0)
		return s.sock;
	outfd_open(&s.out, a->out_fd);
	outfd_open(&s.err, a->err_fd);
	s.rx = malloc(RX_BYTES);
	r = s.rx ? send_exec(&s, gen, e) : err_set(e, ENOMEM, "exec: out of memory");
	if (a->stderr_text)
		a->stderr_text[0] = '\0';
	s.deadline_ns = deadline_ns(a, LAUNCH_MS);
	if (a->tty && s.in_open)
		term_raw(&t, a->in_fd);
	if (!r)
		r = session_loop(&s, e);
	term_restore(&t);
	outfd_close(&s.out);
	outfd_close(&s.err);
	close(s.sock);
	free(s.rx);
	free(s.tx);
	return r ? r : s.code;
}
