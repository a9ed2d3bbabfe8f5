/* SPDX-License-Identifier: MIT */
/*
 * Calls to the guest agent, under agent.c: a call is one stream of the muxer on which one frame is
 * to come from the guest, with a time-out: the answer to a frame of ours, or the agent's hello,
 * which the guest opened. Main thread, device lock held.
 */
#ifndef CLONE_AGENT_AGENT_CALL_H
#define CLONE_AGENT_AGENT_CALL_H

#include <sys/queue.h>

#include "base/log.h"
#include "agent/agent.h"

struct call;

struct calls {
	struct machine *m;
	struct device *vsock;
	TAILQ_HEAD(, call) list;
	unsigned int nr, nr_hellos;
	void (*hello)(void *arg, const struct proto_ready *y);	   /* of a version that we speak */
	void (*pressure)(void *arg, const struct proto_report *p); /* unasked for */
	void *arg;
	struct log_limit log;
};

/* Also listens for hellos: cs lives as long as the device. */
void calls_init(struct calls *cs, struct machine *m, struct device *vsock,
		void (*hello)(void *arg, const struct proto_ready *y),
		void (*pressure)(void *arg, const struct proto_report *p), void *arg);
/* Ends all calls without a callback. */
void calls_drop(struct calls *cs);
/* The same in a fork's child, where their descriptors and loop are not ours. */
void calls_forget(struct calls *cs);

/*
 * Connects to the agent and sends a frame of n bytes. done (may be NULL) is called once, not from
 * within, when the call has ended and is freed. timeout_ms 0: none. *out (may be NULL): the call,
 * until then. -EBUSY, -ENOMEM, and as vsock_mux_connect.
 */
int call_send(struct calls *cs, const void *frame, size_t n, unsigned int timeout_ms,
	      agent_done_fn done, void *arg, struct call **out, struct err *e);
/* Ends a call without a callback. */
void call_drop(struct call *c);
/* The same with all that would be this callback with this argument. */
void calls_drop_of(struct calls *cs, agent_done_fn done, const void *arg);

/* Can we talk to an agent of this version? */
bool call_version_ok(uint32_t version);

/* The part of a reply that an ERROR frame makes: ret, e, stage, text. */
void call_parse_error(const struct proto_frame *f, struct agent_reply *r);

/* Makes r a failure: what the agent sent is no answer. */
void call_not_an_answer(struct agent_reply *r, const char *what, unsigned int n);

#endif
