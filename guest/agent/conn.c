/* SPDX-License-Identifier: MIT */
/*
 * One connection of the host: cuts the byte stream into frames, decides by the first one what the
 * session is, and queues what is sent. It never holds more than one incoming frame, nor much more
 * than one outgoing. Called by the event loop; sessions call the conn_ functions.
 */
#include "agent.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static bool buf_reserve(struct buf *b, size_t cap)
{
	uint8_t *p;

	if (cap <= b->cap)
		return true;
	p = realloc(b->p, cap);
	if (!p)
		return false;
	b->p = p;
	b->cap = cap;
	return true;
}

static void buf_drop(struct buf *b, size_t n)
{
	b->len -= n;
	if (b->len && n)
		memmove(b->p, b->p + n, b->len);
}

static void conn_free(struct grave *g)
{
	struct conn *c = container_of(g, struct conn, grave);

	free(c->in.p);
	free(c->out.p);
	free(c);
}

/* The buffers live a little longer: somebody up the stack may be looking at the frame. */
static void conn_destroy(struct conn *c)
{
	const struct conn_ops *ops = c->ops;

	if (c->closed)
		return;
	c->closed = true;
	c->ops = NULL;
	loop_timer_off(&c->timer);
	loop_close(&c->agent->loop, &c->watch);
	c->agent->conns--;
	if (ops)
		ops->gone(c);
	c->grave.fn = conn_free;
	loop_bury(&c->agent->loop, &c->grave);
}

/* Watches for what can be used. A dead, paused connection would only report its death again. */
static void conn_update(struct conn *c)
{
	uint32_t events = 0;

	if (c->closed)
		return;
	if ((c->finishing && (!c->out.len || c->out_dead)) || (c->in_eof && c->out_dead)) {
		conn_destroy(c);
		return;
	}
	if (c->paused && c->out_dead) {
		loop_unwatch(&c->agent->loop, &c->watch);
		return;
	}
	if (!c->paused && !c->in_eof && !c->finishing)
		events |= EPOLLIN;
	if (c->out.len && !c->out_dead)
		events |= EPOLLOUT;
	if (c->in_eof && !c->out_dead)
		events |= EPOLLRDHUP | EPOLLET; /* see out_probe */
	if (loop_watch(&c->agent->loop, &c->watch, events))
		conn_destroy(c);
}

static void out_lost(struct conn *c)
{
	c->out_dead = true;
	c->out.len = 0;
}

/*
 * A vsock never says EPOLLHUP when its peer closes: end of file, and no more than that. So after it
 * every further change of the socket is worth a look whether sending is still possible, which a
 * send of nothing tells. Otherwise a silent command would hold the connection of a client long
 * gone.
 */
static void out_probe(struct conn *c)
{
	if (!c->in_eof || c->out_dead || send(c->watch.fd, "", 0, MSG_NOSIGNAL) >= 0)
		return;
	if (errno != EAGAIN && errno != EINTR)
		out_lost(c);
}

static void out_flush(struct conn *c)
{
	size_t done = 0;

	while (done < c->out.len) {
		ssize_t n = send(c->watch.fd, c->out.p + done, c->out.len - done, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			out_lost(c);
			return;
		}
		done += (size_t)n;
	}
	buf_drop(&c->out, done);
}

bool conn_can_send(const struct conn *c)
{
	return !c->closed && !c->out_dead && !c->out.len;
}

bool conn_out_dead(const struct conn *c)
{
	return c->closed || c->out_dead;
}

void conn_send(struct conn *c, const void *frame, size_t n)
{
	if (c->closed || c->out_dead || !n)
		return;
	if (!buf_reserve(&c->out, c->out.len + n)) {
		out_lost(c);
	} else {
		memcpy(c->out.p + c->out.len, frame, n);
		c->out.len += n;
		out_flush(c);
	}
	conn_update(c);
}

void conn_finish(struct conn *c)
{
	c->ops = NULL;
	c->finishing = true;
	conn_update(c);
}

void conn_error(struct conn *c, int err, unsigned int stage, const char *fmt, ...)
{
	struct proto_error e = { .err = (uint32_t)err, .stage = (uint8_t)stage };
	uint8_t frame[1024];
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	e.text = (struct proto_slice){ text, strlen(text) };
	conn_send(c, frame, proto_put_error(frame, sizeof(frame), &e));
	if (!c->closed)
		conn_finish(c);
}

void conn_ack(struct conn *c, uint32_t done, const char *text)
{
	struct proto_ack ack = { .version = PROTO_VERSION, .done = done };
	uint8_t frame[1024];
	struct timespec ts;

	if (c->agent->gen_state == GEN_SET)
		memcpy(ack.gen, c->agent->gen, PROTO_GEN);
	clock_gettime(CLOCK_REALTIME, &ts);
	ack.realtime_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	ack.text = (struct proto_slice){ text, strnlen(text, 900) };
	conn_send(c, frame, proto_put_ack(frame, sizeof(frame), &ack));
	if (!c->closed)
		conn_finish(c);
}

static void report_send(struct conn *c)
{
	struct proto_report p = { 0 };
	uint8_t frame[PROTO_SMALL_FRAME];

	activity_report(c->agent, &p);
	conn_send(c, frame, proto_put_report(frame, sizeof(frame), &p));
	if (!c->closed)
		conn_finish(c);
}

/* Each starter may have closed or finished the connection when it returns. */
static enum conn_verdict first_frame(struct conn *c, struct proto_frame *f)
{
	struct proto_identity id;
	struct proto_exec ex;
	uint32_t a, b;

	switch (f->type) {
	case PROTO_EXEC:
		if (!proto_get_exec(f->payload, &ex))
			return CONN_BAD;
		exec_begin(c, &ex);
		return CONN_OK;
	case PROTO_IDENTITY:
		if (!proto_get_identity(f->payload, &id))
			return CONN_BAD;
		identity_begin(c, &id);
		return CONN_OK;
	case PROTO_SETTLE:
		if (!proto_get_settle(f->payload, &a, &b))
			return CONN_BAD;
		settle_begin(c, a, b);
		return CONN_OK;
	case PROTO_SHUTDOWN:
		if (!proto_get_shutdown(f->payload, &a, &b))
			return CONN_BAD;
		power_begin(c->agent, c, a, b);
		return CONN_OK;
	case PROTO_ACTIVITY:
		if (!proto_done(&f->payload))
			return CONN_BAD;
		report_send(c);
		return CONN_OK;
	case PROTO_PING:
		if (!proto_done(&f->payload))
			return CONN_BAD;
		conn_ack(c, 0, "");
		return CONN_OK;
	default:
		return CONN_BAD;
	}
}

/* Takes one frame from the front of `in`; false if there is none to take now. */
static bool frame_next(struct conn *c)
{
	enum conn_verdict v = CONN_BAD;
	struct proto_frame f = { 0 };
	int n = proto_frame(c->in.p, c->in.len, &f);

	if (!n)
		return false;
	if (n > 0 && c->ops) {
		v = c->ops->frame(c, &f);
	} else if (n > 0) {
		loop_timer_off(&c->timer);
		v = first_frame(c, &f);
	}
	if (c->closed || c->finishing)
		return false;
	if (v == CONN_LATER) {
		c->paused = true;
		return false;
	}
	if (v == CONN_BAD) {
		const struct conn_ops *ops = c->ops;

		c->ops = NULL;
		if (ops)
			ops->gone(c);
		if (n < 0)
			conn_error(c, EPROTO, PROTO_STAGE_PROTOCOL, "frame longer than %u bytes",
				   PROTO_MAX_PAYLOAD);
		else
			conn_error(c, EPROTO, PROTO_STAGE_PROTOCOL,
				   "malformed or unexpected frame of type %u", f.type);
		return false;
	}
	buf_drop(&c->in, (size_t)n);
	return true;
}

static void frames_take(struct conn *c)
{
	while (frame_next(c))
		;
	if (c->closed || c->finishing || c->paused || !c->in_eof)
		return;
	loop_timer_off(&c->timer);
	if (c->in.len || !c->ops) {
		const struct conn_ops *ops = c->ops;

		c->ops = NULL;
		if (ops)
			ops->gone(c);
		if (c->in.len)
			conn_error(c, EPROTO, PROTO_STAGE_PROTOCOL, "frame cut short");
		else
			conn_finish(c);
		return;
	}
	c->ops->eof(c);
}

/* Room for the frame that has begun, so that `in` is as large as what arrives, not as what may. */
static size_t in_wanted(const struct conn *c)
{
	struct proto_rd r = { .p = c->in.p, .left = c->in.len };
	size_t len;

	if (c->in.len < PROTO_HEADER)
		return 4096;
	len = proto_get_u32(&r);
	if (len > PROTO_MAX_PAYLOAD)
		len = 0;
	return PROTO_HEADER + len < 4096 ? 4096 : PROTO_HEADER + len;
}

static void in_read(struct conn *c)
{
	ssize_t n;

	if (!buf_reserve(&c->in, in_wanted(c))) {
		conn_destroy(c);
		return;
	}
	n = recv(c->watch.fd, c->in.p + c->in.len, c->in.cap - c->in.len, 0);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0)
		c->in_eof = true;
	if (n < 0)
		out_lost(c);
	if (n > 0)
		c->in.len += (size_t)n;
	frames_take(c);
}

static void on_event(struct watch *w, uint32_t events)
{
	struct conn *c = container_of(w, struct conn, watch);

	if (events & EPOLLOUT)
		out_flush(c);
	if (events & (EPOLLHUP | EPOLLERR))
		out_lost(c);
	if (!c->paused && !c->in_eof && !c->finishing && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		in_read(c);
	if (!c->closed)
		out_probe(c);
	if (!c->closed && c->ops && (c->out_dead || !c->out.len))
		c->ops->drained(c);
	conn_update(c);
}

void conn_resume(struct conn *c)
{
	if (c->closed || c->finishing || !c->paused)
		return;
	c->paused = false;
	frames_take(c);
	conn_update(c);
}

static void on_timer(struct timer *t)
{
	struct conn *c = container_of(t, struct conn, timer);

	conn_error(c, ETIMEDOUT, PROTO_STAGE_PROTOCOL, "no first frame within %d s",
		   PROTO_FIRST_FRAME_MS / 1000);
}

void conn_open(struct agent *a, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));

	if (!c) {
		close(fd);
		return;
	}
	c->agent = a;
	c->watch = (struct watch){ .fd = fd, .fn = on_event };
	c->timer.fn = on_timer;
	a->conns++;
	if (a->conns > PROTO_MAX_CONNS) {
		conn_error(c, EAGAIN, PROTO_STAGE_REQUEST, "more than %u connections",
			   PROTO_MAX_CONNS);
		return;
	}
	loop_timer(&a->loop, &c->timer, PROTO_FIRST_FRAME_MS);
	conn_update(c);
}
