/* SPDX-License-Identifier: MIT */
/*
 * What the parts of clone-agent share: the agent itself, its connections, and the sessions that may
 * stand behind one. Everything runs on one thread, in the handlers of the event loop; nothing
 * blocks except system calls on the guest's own files.
 */
#ifndef CLONE_AGENT_AGENT_H
#define CLONE_AGENT_AGENT_H

#include <stdbool.h>
#include <stdint.h>

#include "../proto.h"
#include "loop.h"

#define AGENT_MAX_SESSIONS 512u /* commands running, with or without a client */
#define AGENT_MAX_DRAINS 1024u	/* outputs kept open for what commands left behind */

enum gen_state {
	GEN_NEVER,   /* no IDENTITY since the start: gen is zero and right */
	GEN_INVALID, /* IDENTITY in progress or failed: no gen is right */
	GEN_SET,
};

struct identity;
struct power;

struct agent {
	struct loop loop;
	const char *root;   /* put in front of every path of the guest's that IDENTITY touches */
	char host[100];	    /* "": CID 2; else a unix socket that is the host, in tests */
	bool may_shut_down; /* obey SHUTDOWN and the power button */
	bool taken;	    /* another agent serves this machine */
	uint8_t gen[PROTO_GEN];
	enum gen_state gen_state;
	struct identity *identity; /* the one in progress */
	struct power *power; /* the shutdown in progress, for the rest of the machine's life */
	unsigned int conns, sessions, drains;
	uint64_t exec_count, last_exec_ms; /* loop time; 0: never */
	uint8_t scratch[PROTO_MAX_FRAME];  /* one frame being made; nobody keeps it */
};

/* One line to standard error, which is the kernel's log in a guest. */
void agent_log(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Connections: conn.c. */

enum conn_verdict {
	CONN_OK,
	CONN_BAD,   /* malformed: answer and close */
	CONN_LATER, /* cannot take the frame now: offer it again after conn_resume */
};

struct conn;

/* What a session does with its connection. After `gone` it never hears of it again. */
struct conn_ops {
	enum conn_verdict (*frame)(struct conn *c, struct proto_frame *f);
	void (*eof)(struct conn *c);	 /* the host sends no more */
	void (*drained)(struct conn *c); /* conn_can_send is true again, or never will be */
	void (*gone)(struct conn *c);	 /* the connection is lost */
};

struct buf {
	uint8_t *p;
	size_t len, cap;
};

struct conn {
	struct grave grave;
	struct agent *agent;
	struct watch watch;
	struct timer timer; /* until the first frame */
	const struct conn_ops *ops;
	void *session;
	struct buf in, out;
	bool paused;	/* a frame waits for conn_resume */
	bool in_eof;	/* the host has stopped sending */
	bool out_dead;	/* nothing we send arrives */
	bool finishing; /* close when `out` is empty */
	bool closed;
};

/* Takes over a connected, non-blocking socket. */
void conn_open(struct agent *a, int fd);
/* Queues a whole frame; sends what it can at once. Out of memory loses the connection. */
void conn_send(struct conn *c, const void *frame, size_t n);
/* True if nothing queued waits: the time to read more output of a command. */
bool conn_can_send(const struct conn *c);
/* True if nothing that is sent arrives any more. */
bool conn_out_dead(const struct conn *c);
/* Offers the waiting frame, and all later ones, again. */
void conn_resume(struct conn *c);
/* Ends the session's hold on the connection and closes it once everything queued is sent. */
void conn_finish(struct conn *c);
/* ERROR frame, then conn_finish. `err` is positive. */
void conn_error(struct conn *c, int err, unsigned int stage, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* ACK frame, then conn_finish. */
void conn_ack(struct conn *c, uint32_t done, const char *text);

/* What a first frame starts: each either takes over the connection or answers it. */

void exec_begin(struct conn *c, const struct proto_exec *x);		/* exec.c */
void identity_begin(struct conn *c, const struct proto_identity *x);	/* identity.c */
void settle_begin(struct conn *c, uint32_t flags, uint32_t timeout_ms); /* settle.c */
/* power.c; c is NULL for the power button. */
void power_begin(struct agent *a, struct conn *c, uint32_t mode, uint32_t grace_ms);

/* Fills in ACTIVITY's answer: activity.c. */
void activity_report(struct agent *a, struct proto_report *p);

/* Tells the host by itself when the guest is short of memory: pressure.c. */
void pressure_open(struct agent *a);

/* Reads a pipe or terminal to its end and drops it, so that its writers live on: drain.c. Takes the
 * descriptor over. */
void drain_open(struct agent *a, int fd);

/* Watches the ACPI power button for guests where nobody else does: button.c. */
void button_open(struct agent *a);

/* listen.c: a connection to where the host listens, from a port that only root may have, perhaps
 * not yet made; or -errno. */
int listen_dial_host(const struct agent *a);

/* listen.c: listens as `where` says, "vsock" (retrying until the kernel can) or "unix:PATH"
 * (then PATH.host is the host), and says hello.
 * Returns 0 or -errno. */
int listen_open(struct agent *a, const char *where);

#endif
