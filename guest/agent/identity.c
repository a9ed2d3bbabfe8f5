/* SPDX-License-Identifier: MIT */
/*
 * IDENTITY: the guest learns who it is now. This is the latency of a fork, so without hooks it is a
 * row of system calls in one go. It fails closed: the generation is invalid from the first byte of
 * the request until the last step has worked. Event handlers of the agent's thread.
 */
#include "identity.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static void identity_destroy(struct identity *id)
{
	hooks_fini(id);
	id->agent->identity = NULL;
	loop_bury(&id->agent->loop, &id->grave);
}

void identity_done(struct identity *id, int err, unsigned int stage, const char *fmt, ...)
{
	struct agent *a = id->agent;
	struct conn *c = id->conn;
	char text[900];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	c->ops = NULL;
	c->session = NULL;
	if (err) {
		agent_log("identity: %s", text);
	} else {
		memcpy(a->gen, id->gen, PROTO_GEN);
		a->gen_state = GEN_SET;
	}
	identity_destroy(id);
	if (err)
		conn_error(c, err, stage, "%s", text);
	else
		conn_ack(c, 0, text);
}

/* Nothing follows an IDENTITY. */
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
	struct identity *id = c->session;

	c->session = NULL;
	agent_log("identity: given up by the host");
	identity_destroy(id);
}

static const struct conn_ops identity_ops = {
	.frame = on_frame,
	.eof = on_quiet,
	.drained = on_quiet,
	.gone = on_gone,
};

static void copy(char *to, struct proto_slice s)
{
	memcpy(to, s.p, s.len);
	to[s.len] = '\0';
}

void identity_begin(struct conn *c, const struct proto_identity *x)
{
	struct agent *a = c->agent;
	const char *step = "";
	struct identity *id;
	int r;

	if (a->identity)
		identity_done(a->identity, ECANCELED, PROTO_STAGE_IDENTITY,
			      "another IDENTITY came");
	a->gen_state = GEN_INVALID;
	memset(a->gen, 0, sizeof(a->gen));
	id = calloc(1, sizeof(*id));
	if (!id) {
		conn_error(c, ENOMEM, PROTO_STAGE_IDENTITY, "out of memory");
		return;
	}
	id->agent = a;
	id->conn = c;
	memcpy(id->gen, x->gen.p, PROTO_GEN);
	if (x->timeout_ms)
		id->deadline_ms = loop_now_ms() + x->timeout_ms / 4u * 3u;
	id->fork = x->flags & PROTO_IDENTITY_FORK;
	copy(id->name, x->name);
	copy(id->hostname, x->hostname);
	copy(id->machine_id, x->machine_id);
	id->output.fd = -1;
	a->identity = id;
	c->ops = &identity_ops;
	c->session = id;
	r = identity_apply(id, x, &step);
	if (!r) {
		step = "/etc/clone/fork.d";
		r = hooks_list(id);
	}
	if (r)
		identity_done(id, -r, PROTO_STAGE_IDENTITY, "%s: %s", step, strerror(-r));
	else
		hooks_next(id);
}
