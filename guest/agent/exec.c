/* SPDX-License-Identifier: MIT */
/*
 * EXEC: starts a command and carries its input, output and end. A session outlives its connection:
 * then its outputs go to a drain and only the process and its timeout remain. Flow control is by
 * not reading: the outputs while the connection is full, the connection while the stdin buffer is
 * full. Event handlers of the agent's thread.
 */
#include "agent.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "args.h"
#include "command.h"
#include "input.h"

struct output {
	struct watch watch;
	struct session *session;
	uint8_t type;
	size_t owed; /* of what was in the pipe when the command ended, not sent yet */
};

struct session {
	struct grave grave;
	struct agent *agent;
	struct conn *conn; /* NULL: the client has gone */
	struct child child;
	struct timer timeout, linger;
	struct output out, err; /* a terminal has only `out` */
	struct input in;
	bool tty, has_stdin, eof_sent;
	bool timed_out, exited, lingered, over;
	int status;
};

static void session_free(struct grave *g)
{
	struct session *s = container_of(g, struct session, grave);

	input_fini(&s->in);
	free(s);
}

/* The outputs live on without us, the input ends. */
static void session_destroy(struct session *s)
{
	struct output *o[2] = { &s->out, &s->err };

	for (int i = 0; i < 2; i++) {
		loop_unwatch(&s->agent->loop, &o[i]->watch);
		if (o[i]->watch.fd >= 0)
			drain_open(s->agent, o[i]->watch.fd);
		o[i]->watch.fd = -1;
	}
	s->over = true;
	input_close(&s->in);
	loop_timer_off(&s->timeout);
	loop_timer_off(&s->linger);
	loop_child_off(&s->child);
	s->agent->sessions--;
	s->grave.fn = session_free;
	loop_bury(&s->agent->loop, &s->grave);
}

static bool output_over(const struct session *s, const struct output *o)
{
	return o->watch.fd < 0 || (s->lingered && !o->owed);
}

/* Ends the session if everything that belongs to it has happened. */
static bool session_end(struct session *s)
{
	uint8_t frame[PROTO_SMALL_FRAME];
	struct conn *c = s->conn;
	size_t n;

	if (s->over)
		return true;
	if (!s->exited)
		return false;
	if (c && !conn_out_dead(c)) {
		if (!output_over(s, &s->out) || !output_over(s, &s->err))
			return false;
		if (s->timed_out)
			n = proto_put_exit(frame, sizeof(frame), PROTO_EXIT_TIMEOUT, 0);
		else if (WIFSIGNALED(s->status))
			n = proto_put_exit(frame, sizeof(frame), PROTO_EXIT_SIGNALED,
					   (uint32_t)WTERMSIG(s->status));
		else
			n = proto_put_exit(frame, sizeof(frame), PROTO_EXIT_EXITED,
					   (uint32_t)WEXITSTATUS(s->status));
		c->session = NULL;
		c->ops = NULL;
		conn_send(c, frame, n);
	} else if (c) {
		c->session = NULL;
		c->ops = NULL;
	}
	s->conn = NULL;
	if (c && !c->closed)
		conn_finish(c);
	session_destroy(s);
	return true;
}

/* Reports what the command has taken of its input, when that is worth a frame. */
static void input_report(struct session *s)
{
	uint8_t frame[PROTO_SMALL_FRAME];

	size_t n;

	if (!s->conn || !conn_can_send(s->conn) || s->in.taken < PROTO_STDIN_WINDOW / 4)
		return;
	n = proto_put_one_u32(frame, sizeof(frame), PROTO_STDIN_ACK, (uint32_t)s->in.taken);
	s->in.taken = 0;
	conn_send(s->conn, frame, n);
}

/* Watches the outputs while the connection takes more; hands them over when nobody listens. */
static void outputs_update(struct session *s)
{
	struct output *o[2] = { &s->out, &s->err };

	for (int i = 0; i < 2 && !s->over; i++) {
		if (o[i]->watch.fd < 0)
			continue;
		if (!s->conn || conn_out_dead(s->conn)) {
			loop_unwatch(&s->agent->loop, &o[i]->watch);
			drain_open(s->agent, o[i]->watch.fd);
			o[i]->watch.fd = -1;
		} else if (conn_can_send(s->conn)) {
			loop_watch(&s->agent->loop, &o[i]->watch, EPOLLIN);
		} else {
			loop_unwatch(&s->agent->loop, &o[i]->watch);
		}
	}
}

static void on_output(struct watch *w, uint32_t events)
{
	struct output *o = container_of(w, struct output, watch);
	struct session *s = o->session;
	uint8_t *frame = s->agent->scratch;
	ssize_t n;

	(void)events;
	if (!s->conn || !conn_can_send(s->conn)) {
		outputs_update(s);
		return;
	}
	n = read(w->fd, frame + PROTO_HEADER, PROTO_MAX_PAYLOAD);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n > 0) {
		proto_header(frame, o->type, (uint32_t)n);
		o->owed -= o->owed < (size_t)n ? o->owed : (size_t)n;
		conn_send(s->conn, frame, PROTO_HEADER + (size_t)n);
		if (s->conn)
			input_report(s);
	} else {
		loop_close(&s->agent->loop, w); /* end of file; a terminal says EIO */
	}
	if (!session_end(s))
		outputs_update(s);
}

static void on_linger(struct timer *t)
{
	struct session *s = container_of(t, struct session, linger);

	s->lingered = true;
	session_end(s);
}

static void on_timeout(struct timer *t)
{
	struct session *s = container_of(t, struct session, timeout);

	if (s->timed_out) {
		kill(-s->child.pid, SIGKILL);
		return;
	}
	s->timed_out = true;
	kill(-s->child.pid, SIGTERM);
	kill(-s->child.pid, SIGCONT); /* a stopped process would sleep through SIGTERM */
	loop_timer(&s->agent->loop, &s->timeout, PROTO_KILL_GRACE_MS);
}

/* The pid is still ours: whatever a timed-out command leaves in its group goes with it. */
static void on_ending(struct child *c)
{
	struct session *s = container_of(c, struct session, child);

	if (s->timed_out)
		kill(-c->pid, SIGKILL);
}

static void on_exit_of(struct child *c, int status)
{
	struct session *s = container_of(c, struct session, child);
	struct output *o[2] = { &s->out, &s->err };

	s->exited = true;
	s->status = status;
	loop_timer_off(&s->timeout);
	for (int i = 0; i < 2; i++) {
		int n = 0;

		if (o[i]->watch.fd >= 0 && !ioctl(o[i]->watch.fd, FIONREAD, &n) && n > 0)
			o[i]->owed = (size_t)n;
	}
	loop_timer(&s->agent->loop, &s->linger, PROTO_LINGER_MS);
	session_end(s);
}

/* More input has gone: there may be something to report, to end, or room for the next frame. */
static void on_input(struct input *in)
{
	struct session *s = container_of(in, struct session, in);

	input_report(s);
	if (s->conn)
		conn_resume(s->conn);
}

static enum conn_verdict on_frame(struct conn *c, struct proto_frame *f)
{
	struct session *s = c->session;
	uint32_t a, b;

	switch (f->type) {
	case PROTO_STDIN:
		if (!s->has_stdin || s->eof_sent)
			return CONN_BAD;
		if (!input_put(&s->in, f->payload.p, f->payload.left))
			return CONN_LATER;
		input_report(s);
		return CONN_OK;
	case PROTO_STDIN_EOF:
		if (!s->has_stdin || s->eof_sent || !proto_done(&f->payload))
			return CONN_BAD;
		s->eof_sent = true;
		input_end(&s->in);
		return CONN_OK;
	case PROTO_RESIZE:
		if (!proto_get_resize(f->payload, &a, &b))
			return CONN_BAD;
		if (s->tty && s->out.watch.fd >= 0)
			command_resize(s->out.watch.fd, (uint16_t)a, (uint16_t)b);
		return CONN_OK;
	case PROTO_SIGNAL:
		if (!proto_get_signal(f->payload, &a))
			return CONN_BAD;
		if (!s->exited)
			kill(-s->child.pid, (int)a);
		return CONN_OK;
	default:
		return CONN_BAD;
	}
}

static void input_is_over(struct session *s)
{
	if (!s->eof_sent)
		input_end(&s->in);
	s->eof_sent = true;
}

static void on_conn_eof(struct conn *c)
{
	input_is_over(c->session);
}

static void on_conn_drained(struct conn *c)
{
	struct session *s = c->session;

	outputs_update(s);
	input_report(s);
}

static void on_conn_gone(struct conn *c)
{
	struct session *s = c->session;

	c->session = NULL;
	s->conn = NULL;
	input_is_over(s);
	outputs_update(s);
	session_end(s);
}

static const struct conn_ops exec_ops = {
	.frame = on_frame,
	.eof = on_conn_eof,
	.drained = on_conn_drained,
	.gone = on_conn_gone,
};

static struct session *session_create(struct conn *c, const struct proto_exec *x,
				      const struct command *cmd)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->agent = c->agent;
	s->conn = c;
	s->tty = x->flags & PROTO_EXEC_TTY;
	s->has_stdin = x->flags & PROTO_EXEC_STDIN;
	s->child = (struct child){ .pid = cmd->pid, .ending = on_ending, .fn = on_exit_of };
	s->timeout.fn = on_timeout;
	s->linger.fn = on_linger;
	s->out = (struct output){ { .fd = cmd->out, .fn = on_output }, s, PROTO_STDOUT, 0 };
	s->err = (struct output){ { .fd = cmd->err, .fn = on_output }, s, PROTO_STDERR, 0 };
	input_init(&s->in, &c->agent->loop, cmd->in, s->tty, on_input);
	return s;
}

/* Everything that can refuse the request without starting anything. */
static bool refused(struct conn *c, const struct proto_exec *x)
{
	struct agent *a = c->agent;

	if (a->gen_state == GEN_INVALID || memcmp(x->gen.p, a->gen, PROTO_GEN)) {
		conn_error(c, ESTALE, PROTO_STAGE_GENERATION, "%s",
			   a->gen_state == GEN_SET ? "the guest is of another generation"
						   : "the guest has not reconciled its identity");
		return true;
	}
	if (a->sessions >= AGENT_MAX_SESSIONS) {
		conn_error(c, EAGAIN, PROTO_STAGE_REQUEST, "%u commands are running already",
			   AGENT_MAX_SESSIONS);
		return true;
	}
	return false;
}

void exec_begin(struct conn *c, const struct proto_exec *x)
{
	struct agent *a = c->agent;
	uint8_t frame[PROTO_SMALL_FRAME];
	struct command cmd;
	struct session *s;
	size_t n;

	if (refused(c, x))
		return;
	if (command_start(&cmd, x)) {
		conn_error(c, cmd.errnum, cmd.stage, "%s", cmd.text);
		return;
	}
	s = session_create(c, x, &cmd);
	if (!s) {
		kill(-cmd.pid, SIGKILL);
		command_close(&cmd);
		conn_error(c, ENOMEM, PROTO_STAGE_SETUP, "out of memory");
		return;
	}
	a->sessions++;
	a->exec_count++;
	a->last_exec_ms = loop_now_ms();
	loop_child(&a->loop, &s->child);
	if (x->timeout_ms)
		loop_timer(&a->loop, &s->timeout, x->timeout_ms);
	c->ops = &exec_ops;
	c->session = s;
	n = proto_put_one_u32(frame, sizeof(frame), PROTO_STARTED, (uint32_t)cmd.pid);
	conn_send(c, frame, n);
	outputs_update(s);
}
