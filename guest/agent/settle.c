/* SPDX-License-Identifier: MIT */
/*
 * SETTLE: starts the helper process and passes its result on. Event handlers of the agent's thread,
 * except helper_main.
 */
#include "settle.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

struct settle {
	struct grave grave;
	struct agent *agent;
	struct conn *conn;
	struct child child;
	int result;
};

static void settle_destroy(struct settle *s)
{
	if (s->child.pid)
		kill(s->child.pid, SIGKILL);
	loop_child_off(&s->child);
	close(s->result);
	loop_bury(&s->agent->loop, &s->grave);
}

static enum conn_verdict on_frame(struct conn *c, struct proto_frame *f)
{
	(void)c;
	(void)f;
	return CONN_BAD;
}

static void on_quiet(struct conn *c)
{
	(void)c;
}

static void on_gone(struct conn *c)
{
	settle_destroy(c->session);
	c->session = NULL;
}

static const struct conn_ops settle_ops = {
	.frame = on_frame,
	.eof = on_quiet,
	.drained = on_quiet,
	.gone = on_gone,
};

static void on_helper_exit(struct child *ch, int status)
{
	struct settle *s = container_of(ch, struct settle, child);
	struct settle_result res = { 0 };
	struct conn *c = s->conn;
	ssize_t n = read(s->result, &res, sizeof(res));

	c->ops = NULL;
	c->session = NULL;
	settle_destroy(s);
	res.text[sizeof(res.text) - 1] = '\0';
	if (n == (ssize_t)sizeof(res))
		conn_ack(c, res.done, res.text);
	else if (WIFSIGNALED(status))
		conn_error(c, ENOMEM, PROTO_STAGE_SETTLE, "the helper was killed by signal %d",
			   WTERMSIG(status));
	else
		conn_error(c, EIO, PROTO_STAGE_SETTLE, "the helper ended without a result");
}

/* It must hold nothing of the agent's: not the stdin of a command, which would never see its end.
 */
__attribute__((noreturn)) static void helper_main(int out, uint32_t flags, uint32_t timeout_ms)
{
	struct settle_result res = { 0 };
	sigset_t none;

	if (dup2(out, 3) != 3)
		_exit(1);
	if (syscall(SYS_close_range, 4u, ~0u, 0u))
		for (int fd = 4; fd < 65536; fd++)
			close(fd);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	settle_work(flags, timeout_ms, &res);
	_exit(write(3, &res, sizeof(res)) != (ssize_t)sizeof(res));
}

void settle_begin(struct conn *c, uint32_t flags, uint32_t timeout_ms)
{
	struct settle *s = calloc(1, sizeof(*s));
	int p[2] = { -1, -1 };
	pid_t pid = -1;

	if (s && !pipe2(p, O_CLOEXEC | O_NONBLOCK))
		pid = fork();
	if (!pid)
		helper_main(p[1], flags, timeout_ms);
	if (pid < 0) {
		conn_error(c, s ? errno : ENOMEM, PROTO_STAGE_SETTLE, "cannot start the helper");
		if (p[0] >= 0)
			close(p[0]);
		if (p[1] >= 0)
			close(p[1]);
		free(s);
		return;
	}
	close(p[1]);
	s->agent = c->agent;
	s->conn = c;
	s->result = p[0];
	s->child = (struct child){ .pid = pid, .fn = on_helper_exit };
	loop_child(&c->agent->loop, &s->child);
	c->ops = &settle_ops;
	c->session = s;
}
