/* SPDX-License-Identifier: MIT */
/*
 * The VM process's own client of the guest agent (guest/proto.h) over streams of the vsock muxer:
 * hears the agent's hello, gives the guest its identity, asks for what the VM itself needs. It is
 * also the gate: no host program gets a connection to the agent before the guest has acknowledged
 * the identity that it was given, so no command can run in a guest that has not reconciled.
 *
 * Main thread, device lock held; callbacks likewise, and they may call back in here. The guest's
 * answers are hostile: bounded in size, number and time, and checked.
 */
#ifndef CLONE_AGENT_AGENT_H
#define CLONE_AGENT_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"
#include "guest/proto.h"

#define AGENT_MAX_CALLS 32	  /* requests without an answer */
#define AGENT_MAX_HELLOS 4	  /* hellos whose frame has not come */
#define AGENT_MAX_EXECS 64	  /* commands under way by agent_exec */
#define AGENT_EXEC_OUT (1u << 20) /* bytes kept of each of a command's streams */
#define AGENT_EXEC_LATE_MS 5000u  /* beyond its time-out: then the guest gets no more time */
#define AGENT_HELLO_MS 2000	  /* for the hello's one frame, once connected */
#define AGENT_AGAIN_MS 30000	  /* for an identity that had to be given again */

struct agent;

struct agent_reply {
	int ret; /* 0, or -errno with a story in `e` */
	struct err e;
	uint8_t type; /* of the agent's frame: PROTO_ACK, PROTO_ERROR, PROTO_REPORT; 0: none came */
	uint8_t stage;	      /* of PROTO_ERROR: PROTO_STAGE_* */
	struct proto_ack ack; /* text: see `text` */
	struct proto_report report;
	char text[PROTO_MAX_TEXT + 1]; /* of ACK or ERROR; unprintable bytes replaced by '?' */
};

/*
 * r is good during the call only. ret: 0; -ETIMEDOUT; -ECONNRESET (the guest refused the connection
 * or closed it without an answer); -EPROTO (an answer that is none); -ECANCELED (replaced by
 * another identity); else the agent's own ERROR.
 */
typedef void (*agent_done_fn)(void *arg, const struct agent_reply *r);

/* Takes the agent's port in vsock's muxer (a virtio-vsock device, which outlives it), its gate and
 * its ready callback. -ENOMEM. */
int agent_create(struct machine *m, struct device *vsock, struct agent **out, struct err *e);
/* Before the device, when the guest runs no more. Calls under way end without a callback. */
void agent_destroy(struct agent *a);
/*
 * In a fork's child and after a restore, when the devices have been adopted: forgets calls under
 * way (no callback) and the identity; nothing is reconciled. -ENOMEM.
 */
int agent_adopt(struct agent *a, struct err *e);

/* Called after agent_present or agent_reconciled may have changed. One listener; NULL: nobody. */
void agent_on_change(struct agent *a, void (*fn)(void *arg), void *arg);
/* Called each time the guest has acknowledged who it is. One listener; it outlives a fork. */
void agent_on_reconciled(struct agent *a, void (*fn)(void *arg), void *arg);
/* Called when the reconciled guest reports, unasked, that it is short of memory: as often as it
 * likes. One listener; NULL: nobody; it outlives a fork. */
void agent_on_pressure(struct agent *a, void (*fn)(void *arg, const struct proto_report *p),
		       void *arg);
/* The agent has said hello since the guest's driver started (it survives snapshot and fork). */
bool agent_present(const struct agent *a);
/* The guest has acknowledged the identity that was given last, and its agent has not restarted
 * since. */
bool agent_reconciled(const struct agent *a);
/* Why the guest has not reconciled, when giving it its identity failed; "" otherwise. */
const char *agent_identity_error(const struct agent *a);
/* The generation given last (16 bytes; zero: none): what EXEC must carry. */
const uint8_t *agent_generation(const struct agent *a);

/*
 * Gives the guest its identity as soon as the agent is there and the transport is reset: at once,
 * or when they are. id's entropy is used up and not kept; set_clock sends the host's real time as
 * of the moment of sending. userdata: at most PROTO_MAX_USERDATA bytes, copied. done (may be NULL)
 * is called exactly once, not from within. It replaces an identity under way (that one gets
 * -ECANCELED).
 *
 * The identity stays: an agent that restarts in the guest is not reconciled any more, and is given
 * it again (with fresh entropy, and once it was acknowledged no more as a fork's) when it says
 * hello. -EINVAL, -ENOMEM.
 */
int agent_set_identity(struct agent *a, const struct identity *id, bool set_clock,
		       const void *userdata, size_t userdata_len, unsigned int timeout_ms,
		       agent_done_fn done, void *arg, struct err *e);

/*
 * Sends a request frame of n bytes (SETTLE, SHUTDOWN, ACTIVITY, PING: whatever is answered by one
 * frame) and calls done exactly once, not from within. -ENOTCONN when no agent is there, -EAGAIN
 * while a transport reset is under way, -EBUSY beyond AGENT_MAX_CALLS, -ENOMEM.
 */
int agent_request(struct agent *a, const void *frame, size_t n, unsigned int timeout_ms,
		  agent_done_fn done, void *arg, struct err *e);

/* Ends such requests, without a call of done. */
void agent_request_drop(struct agent *a, agent_done_fn done, const void *arg);

/* What a command came to; its bytes are good during the call only. */
struct agent_exec_result {
	int ret; /* 0, or -errno with a story in `e`; then nothing below is set */
	struct err e;
	uint32_t kind, value; /* PROTO_EXIT_*, and what it says */
	const uint8_t *out, *err;
	size_t out_bytes, err_bytes; /* at most AGENT_EXEC_OUT each; what came after is dropped */
	bool out_cut, err_cut;	     /* something was */
};
typedef void (*agent_exec_fn)(void *arg, const struct agent_exec_result *r);

/*
 * Runs a command without input in the guest and collects its output. x is read during the call;
 * its gen is not looked at (the guest's own is sent), its flags must be 0 and its timeout_ms not.
 * done is called exactly once, not from within: ret -ETIMEDOUT when the guest does not even end a
 * command whose time is over, -EPROTO when its answers make no sense, -ECONNRESET, else the
 * agent's own ERROR. The command runs on when the VM forks (in the parent) and nobody is told in
 * the child. -EAGAIN when the guest has not reconciled, -E2BIG, -EINVAL, -EBUSY beyond
 * AGENT_MAX_EXECS, -ENOMEM.
 */
int agent_exec(struct agent *a, const struct proto_exec_args *x, agent_exec_fn done, void *arg,
	       struct err *e);

/* For fuzzing and tests: reads one frame as an answer to a request. false: more bytes are needed.
 */
bool agent_parse(const void *bytes, size_t n, struct agent_reply *r);

#endif
