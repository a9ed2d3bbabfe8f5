/* SPDX-License-Identifier: MIT */
/*
 * Calls to the guest agent: see agent_call.h. Main thread, device lock held.
 */
#include "agent/agent_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/loop.h"
#include "virtio/vsock.h"

/* The longest answer is an ACK with its text. */
#define ANSWER_MAX (PROTO_HEADER + 4u + PROTO_GEN + 8u + 4u + 2u + PROTO_MAX_TEXT)

struct call {
	TAILQ_ENTRY(call) entry;
	struct calls *cs;
	bool hello; /* the guest opened it to say READY; else it owes an answer */
	int fd;
	struct loop_io *io;
	struct loop_timer *timer;
	unsigned int timeout_ms;
	agent_done_fn done;
	void *arg;
	size_t len;
	uint8_t buf[ANSWER_MAX];
};

static void take_text(struct agent_reply *r, struct proto_slice s)
{
	size_t n = MIN(s.len, sizeof(r->text) - 1);

	for (size_t i = 0; i < n; i++)
		r->text[i] = s.p[i] < ' ' || s.p[i] == 127 ? '?' : s.p[i];
	r->text[n] = '\0';
}

void call_not_an_answer(struct agent_reply *r, const char *what, unsigned int n)
{
	r->ret = err_set(&r->e, EPROTO, "the guest's agent answered with %s (%u)", what, n);
}

void call_parse_error(const struct proto_frame *f, struct agent_reply *r)
{
	struct proto_error pe;

	/* Beyond 4095 is no error number of Linux. */
	if (!proto_get_error(f->payload, &pe) || !pe.err || pe.err > 4095) {
		call_not_an_answer(r, "a malformed error", f->type);
		return;
	}
	take_text(r, pe.text);
	r->stage = pe.stage;
	r->ret = err_sys(&r->e, (int)pe.err, "the guest's agent: %s", r->text);
}

bool agent_parse(const void *bytes, size_t n, struct agent_reply *r)
{
	struct proto_frame f;
	int k = proto_frame(bytes, n, &f);

	*r = (struct agent_reply){ 0 };
	if (!k && n < ANSWER_MAX)
		return false;
	if (k <= 0) {
		call_not_an_answer(r, "a frame beyond any answer's size", ANSWER_MAX);
		return true;
	}
	r->type = f.type;
	switch (f.type) {
	case PROTO_ACK:
		if (!proto_get_ack(f.payload, &r->ack))
			call_not_an_answer(r, "a malformed acknowledgement", f.type);
		else
			take_text(r, r->ack.text);
		r->ack.text = (struct proto_slice){ r->text, strlen(r->text) };
		break;
	case PROTO_REPORT:
		if (!proto_get_report(f.payload, &r->report))
			call_not_an_answer(r, "a malformed report", f.type);
		break;
	case PROTO_ERROR:
		call_parse_error(&f, r);
		break;
	default:
		call_not_an_answer(r, "a frame of the wrong type", f.type);
		break;
	}
	return true;
}

void call_drop(struct call *c)
{
	struct calls *cs = c->cs;

	TAILQ_REMOVE(&cs->list, c, entry);
	cs->nr--;
	cs->nr_hellos -= c->hello;
	loop_del_io(c->io);
	loop_del_timer(c->timer);
	fdtab_del(cs->m->fds, c->fd);
	close(c->fd);
	free(c);
}

void calls_drop_of(struct calls *cs, agent_done_fn done, const void *arg)
{
	struct call *c, *next;

	for (c = TAILQ_FIRST(&cs->list); c; c = next) {
		next = TAILQ_NEXT(c, entry);
		if (c->done == done && c->arg == arg)
			call_drop(c);
	}
}

static void call_end(struct call *c, const struct agent_reply *r)
{
	agent_done_fn done = c->done;
	void *arg = c->arg;

	call_drop(c);
	if (done)
		done(arg, r);
}

static void call_timeout(void *arg)
{
	struct call *c = arg;
	struct agent_reply r = { 0 };

	r.ret = err_set(&r.e, ETIMEDOUT, "the guest's agent did not answer within %u ms",
			c->timeout_ms);
	call_end(c, &r);
}

static void take_hello(struct call *c)
{
	struct calls *cs = c->cs;
	struct proto_ready y = { 0 };
	struct proto_report p;
	struct proto_frame f;
	int k = proto_frame(c->buf, c->len, &f);
	bool good;

	if (!k && c->len < sizeof(c->buf))
		return;
	if (k > 0 && f.type == PROTO_REPORT && proto_get_report(f.payload, &p)) {
		call_drop(c);
		cs->pressure(cs->arg, &p);
		return;
	}
	good = k > 0 && f.type == PROTO_READY && proto_get_ready(f.payload, &y);
	call_drop(c);
	if (!good)
		log_guest(&cs->log, "the guest's agent: malformed hello");
	else if (!call_version_ok(y.version))
		log_guest(&cs->log, "the guest's agent speaks version %u, not %u to %u", y.version,
			  PROTO_VERSION_OLDEST, PROTO_VERSION);
	else
		cs->hello(cs->arg, &y);
}

static void call_readable(void *arg, int fd, unsigned int events)
{
	struct call *c = arg;
	struct agent_reply r = { 0 };
	ssize_t n;

	(void)events;
	/* There is room: a full buffer would have been an answer, if a wrong one. */
	n = recv(fd, c->buf + c->len, sizeof(c->buf) - c->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		r.ret = err_set(&r.e, ECONNRESET,
				"the guest's agent refused the connection or closed it unanswered");
		call_end(c, &r);
		return;
	}
	c->len += (size_t)n;
	if (c->hello)
		take_hello(c);
	else if (agent_parse(c->buf, c->len, &r))
		call_end(c, &r);
}

/* Takes over fd, also on failure. */
static int call_start(struct calls *cs, bool is_hello, int fd, unsigned int timeout_ms,
		      struct call **out, struct err *e)
{
	/* Hellos are the guest's doing: they must not take the place of our own calls. */
	bool room = is_hello ? cs->nr_hellos < AGENT_MAX_HELLOS
			     : cs->nr - cs->nr_hellos < AGENT_MAX_CALLS;
	struct call *c = room ? calloc(1, sizeof(*c)) : NULL;

	if (!c) {
		close(fd);
		return room ? err_set(e, ENOMEM, "no memory for a call to the guest's agent")
			    : err_set(e, EBUSY, "%u calls to the guest's agent are the limit",
				      AGENT_MAX_CALLS);
	}
	c->cs = cs;
	c->hello = is_hello;
	c->fd = fd;
	c->timeout_ms = timeout_ms;
	fdtab_add(cs->m->fds, fd, FD_CLOSE, "agent call");
	TAILQ_INSERT_TAIL(&cs->list, c, entry);
	cs->nr++;
	cs->nr_hellos += is_hello;
	c->io = loop_add_io(cs->m->loop, fd, LOOP_READ, call_readable, c);
	c->timer = loop_add_timer(cs->m->loop, call_timeout, c);
	if (!c->io || !c->timer) {
		call_drop(c);
		return err_set(e, ENOMEM, "no memory for a call to the guest's agent");
	}
	if (timeout_ms)
		loop_set_timer(c->timer, timeout_ms * NS_PER_MS);
	*out = c;
	return 0;
}

int call_send(struct calls *cs, const void *frame, size_t n, unsigned int timeout_ms,
	      agent_done_fn done, void *arg, struct call **out, struct err *e)
{
	struct call *c;
	int fd, ret;

	ret = vsock_mux_connect(virtio_vsock_mux(cs->vsock), PROTO_AGENT_PORT, &fd, e);
	if (ret)
		return ret;
	ret = call_start(cs, false, fd, timeout_ms, &c, e);
	if (ret)
		return ret;
	/* The largest frame fits into an empty socket; it goes on when the guest accepted. */
	if (send(fd, frame, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n) {
		call_drop(c);
		return err_set(e, EIO, "a frame of %zu bytes does not fit into a socket", n);
	}
	c->done = done;
	c->arg = arg;
	if (out)
		*out = c;
	return 0;
}

/* From the muxer, which must not be called back: the frame is read when the loop says so. */
static void on_hello(void *arg, int fd)
{
	struct call *c;

	call_start(arg, true, fd, AGENT_HELLO_MS, &c, NULL);
}

bool call_version_ok(uint32_t version)
{
	return version >= PROTO_VERSION_OLDEST && version <= PROTO_VERSION;
}

void calls_init(struct calls *cs, struct machine *m, struct device *vsock,
		void (*hello)(void *arg, const struct proto_ready *y),
		void (*pressure)(void *arg, const struct proto_report *p), void *arg)
{
	*cs = (struct calls){
		.m = m, .vsock = vsock, .hello = hello, .pressure = pressure, .arg = arg
	};
	TAILQ_INIT(&cs->list);
	vsock_mux_listen(virtio_vsock_mux(vsock), PROTO_READY_PORT, on_hello, cs);
}

void calls_drop(struct calls *cs)
{
	struct call *c;

	while ((c = TAILQ_FIRST(&cs->list)))
		call_drop(c);
}

void calls_forget(struct calls *cs)
{
	struct call *c;

	while ((c = TAILQ_FIRST(&cs->list))) {
		TAILQ_REMOVE(&cs->list, c, entry);
		free(c);
	}
	cs->nr = cs->nr_hellos = 0;
}
