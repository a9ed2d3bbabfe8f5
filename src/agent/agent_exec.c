/* SPDX-License-Identifier: MIT */
/*
 * Commands that the VM process runs in its guest: see agent_exec.h. The guest chooses what it
 * sends: output beyond the limit is counted and dropped, frames that are not legal end the session,
 * and so does the clock. Main thread, device lock held; called by the loop.
 */
#include "agent/agent_exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/agent_call.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "virtio/vsock.h"

struct stream_out {
	uint8_t *p;
	size_t len, cap;
	bool cut;
};

struct exec {
	TAILQ_ENTRY(exec) entry;
	struct execs *xs;
	int fd;
	struct loop_io *io;
	struct loop_timer *timer;
	uint64_t timeout_ms;
	agent_exec_fn done;
	void *arg;
	bool started;
	struct stream_out out, err;
	size_t len;
	uint8_t buf[PROTO_MAX_FRAME]; /* the beginning of the next frame */
};

static void exec_free(struct exec *x)
{
	free(x->out.p);
	free(x->err.p);
	free(x);
}

static void exec_detach(struct exec *x)
{
	struct execs *xs = x->xs;

	TAILQ_REMOVE(&xs->list, x, entry);
	xs->nr--;
	loop_del_io(x->io);
	loop_del_timer(x->timer);
	fdtab_del(xs->m->fds, x->fd);
	close(x->fd);
}

static void exec_drop(struct exec *x)
{
	exec_detach(x);
	exec_free(x);
}

/* Out of the list first: the callback may start another command. */
static void exec_end(struct exec *x, const struct agent_exec_result *r)
{
	exec_detach(x);
	x->done(x->arg, r);
	exec_free(x);
}

static void exec_fail(struct exec *x, struct agent_exec_result *r)
{
	err_wrap(&r->e, r->ret, "exec");
	exec_end(x, r);
}

static void exec_timeout(void *arg)
{
	struct exec *x = arg;
	struct agent_exec_result r = { 0 };

	r.ret = err_set(&r.e, ETIMEDOUT, "the guest did not end the command within %llu ms",
			(unsigned long long)x->timeout_ms);
	exec_fail(x, &r);
}

/* -ENOMEM. Doubles, so that little output takes little memory. */
static int collect(struct stream_out *o, struct proto_rd data)
{
	size_t n = MIN(data.left, AGENT_EXEC_OUT - o->len);

	o->cut |= n < data.left;
	if (n > o->cap - o->len) {
		size_t cap = MIN(MAX(2 * o->cap, o->len + n + 4096), (size_t)AGENT_EXEC_OUT);
		uint8_t *p = realloc(o->p, cap);

		if (!p)
			return -ENOMEM;
		o->p = p;
		o->cap = cap;
	}
	if (n)
		memcpy(o->p + o->len, data.p, n);
	o->len += n;
	return 0;
}

static int not_legal(struct agent_exec_result *r, const char *what, unsigned int n)
{
	r->ret = err_set(&r->e, EPROTO, "the guest's agent answered with %s (%u)", what, n);
	return 1;
}

static int take_exit(struct exec *x, const struct proto_frame *f, struct agent_exec_result *r)
{
	if (!x->started || !proto_get_exit(f->payload, &r->kind, &r->value) ||
	    (r->kind == PROTO_EXIT_EXITED && r->value > 255) ||
	    (r->kind == PROTO_EXIT_SIGNALED && (r->value < 1 || r->value > 64)))
		return not_legal(r, "an exit status that is none", f->type);
	r->out = x->out.p;
	r->out_bytes = x->out.len;
	r->out_cut = x->out.cut;
	r->err = x->err.p;
	r->err_bytes = x->err.len;
	r->err_cut = x->err.cut;
	return 1;
}

/* 1: it was the last one, and r says what it means. */
static int on_frame(struct exec *x, const struct proto_frame *f, struct agent_exec_result *r)
{
	struct stream_out *o = f->type == PROTO_STDOUT ? &x->out : &x->err;
	struct agent_reply refused = { 0 };
	uint32_t pid;

	switch (f->type) {
	case PROTO_STARTED:
		if (x->started || !proto_get_one_u32(f->payload, &pid))
			break;
		x->started = true;
		return 0;
	case PROTO_STDOUT:
	case PROTO_STDERR:
		if (!x->started)
			break;
		if (!collect(o, f->payload))
			return 0;
		r->ret = err_set(&r->e, ENOMEM, "no memory for the output");
		return 1;
	case PROTO_EXIT:
		return take_exit(x, f, r);
	case PROTO_ERROR:
		call_parse_error(f, &refused);
		r->ret = refused.ret;
		r->e = refused.e;
		return 1;
	default:
		break;
	}
	return not_legal(r, "a frame that is not legal now", f->type);
}

/* All whole frames in the buffer. 1: the session is over. */
static int eat(struct exec *x, struct agent_exec_result *r)
{
	size_t at = 0;
	int end = 0;

	while (!end) {
		struct proto_frame f;
		int n = proto_frame(x->buf + at, x->len - at, &f);

		if (n < 0)
			return not_legal(r, "a frame beyond the limit", PROTO_MAX_PAYLOAD);
		if (!n)
			break;
		at += (size_t)n;
		end = on_frame(x, &f, r);
	}
	x->len -= at;
	memmove(x->buf, x->buf + at, x->len);
	return end;
}

static void exec_readable(void *arg, int fd, unsigned int events)
{
	struct exec *x = arg;
	struct agent_exec_result r = { 0 };
	ssize_t n;

	(void)events;
	/* There is room: a full buffer would have held a whole frame, or been refused. */
	n = recv(fd, x->buf + x->len, sizeof(x->buf) - x->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		r.ret = err_set(&r.e, ECONNRESET,
				"the guest closed the connection before the command ended");
		exec_fail(x, &r);
		return;
	}
	x->len += (size_t)n;
	if (!eat(x, &r))
		return;
	if (r.ret)
		exec_fail(x, &r);
	else
		exec_end(x, &r);
}

static int exec_send(struct exec *x, const struct proto_exec_args *a, struct err *e)
{
	size_t n = proto_put_exec(x->buf, sizeof(x->buf), a);
	int ret;

	if (!n)
		return err_set(e, E2BIG,
			       "exec: command and environment exceed %u bytes or %u words",
			       PROTO_MAX_PAYLOAD, PROTO_MAX_ARGS);
	ret = vsock_mux_connect(virtio_vsock_mux(x->xs->vsock), PROTO_AGENT_PORT, &x->fd, e);
	if (ret)
		return ret;
	/* The largest frame fits into an empty socket; the muxer sends it when the guest accepted.
	 */
	if (send(x->fd, x->buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n)
		return 0;
	close(x->fd);
	return err_set(e, EIO, "exec: a frame of %zu bytes does not fit into a socket", n);
}

int exec_start(struct execs *xs, const struct proto_exec_args *a, agent_exec_fn done, void *arg,
	       struct err *e)
{
	struct exec *x;
	int ret;

	if (a->flags || !a->timeout_ms || !a->argv || !a->argv[0])
		return err_set(e, EINVAL, "exec: no command, no time-out, or flags");
	if (xs->nr >= AGENT_MAX_EXECS)
		return err_set(e, EBUSY, "exec: %u commands at once are the limit",
			       AGENT_MAX_EXECS);
	x = calloc(1, sizeof(*x));
	if (!x)
		return err_set(e, ENOMEM, "exec: out of memory");
	x->xs = xs;
	ret = exec_send(x, a, e);
	if (ret) {
		free(x);
		return ret;
	}
	x->done = done;
	x->arg = arg;
	x->timeout_ms = a->timeout_ms + PROTO_KILL_GRACE_MS + AGENT_EXEC_LATE_MS;
	fdtab_add(xs->m->fds, x->fd, FD_CLOSE, "agent exec");
	TAILQ_INSERT_TAIL(&xs->list, x, entry);
	xs->nr++;
	x->io = loop_add_io(xs->m->loop, x->fd, LOOP_READ, exec_readable, x);
	x->timer = loop_add_timer(xs->m->loop, exec_timeout, x);
	if (!x->io || !x->timer) {
		exec_drop(x);
		return err_set(e, ENOMEM, "exec: out of memory");
	}
	loop_set_timer(x->timer, x->timeout_ms * NS_PER_MS);
	return 0;
}

void execs_init(struct execs *xs, struct machine *m, struct device *vsock)
{
	*xs = (struct execs){ .m = m, .vsock = vsock };
	TAILQ_INIT(&xs->list);
}

void execs_drop(struct execs *xs)
{
	struct exec *x;

	while ((x = TAILQ_FIRST(&xs->list)))
		exec_drop(x);
}

void execs_forget(struct execs *xs)
{
	struct exec *x;

	while ((x = TAILQ_FIRST(&xs->list))) {
		TAILQ_REMOVE(&xs->list, x, entry);
		exec_free(x);
	}
	xs->nr = 0;
}
