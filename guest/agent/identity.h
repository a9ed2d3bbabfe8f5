/* SPDX-License-Identifier: MIT */
/*
 * The state of an IDENTITY in progress, shared by identity.c (the order of things), apply.c and
 * net.c (what is done at once) and hooks.c (what takes time).
 */
#ifndef CLONE_AGENT_IDENTITY_H
#define CLONE_AGENT_IDENTITY_H

#include "agent.h"

#define HOOKS_MAX 256
#define HOOK_OUTPUT 400

struct identity {
	struct grave grave;
	struct agent *agent;
	struct conn *conn;
	uint8_t gen[PROTO_GEN];
	bool fork;
	uint64_t deadline_ms; /* of all hooks together, loop time; 0: each has PROTO_HOOK_MS */
	char name[PROTO_MAX_NAME + 1];
	char hostname[PROTO_MAX_HOSTNAME + 1], machine_id[PROTO_MACHINE_ID + 1];
	char old_hostname[PROTO_MAX_HOSTNAME + 1], old_machine_id[PROTO_MACHINE_ID + 1];
	char remarks[512];
	char step[64]; /* of the network, for people */
	/* hooks.c */
	char *hooks[HOOKS_MAX];
	size_t nhooks, at;
	bool target; /* the last of them is not a file but systemd's target */
	struct child child;
	struct timer timer;
	struct watch output;
	uint64_t limit_ms; /* of the hook that runs */
	bool timed_out;
	char said[HOOK_OUTPUT];
	size_t nsaid;
};

/* PATH under the agent's root into `buf` of PATH_MAX bytes; returns buf. */
char *identity_path(const struct agent *a, char *buf, const char *path);

/* apply.c: the steps up to the hooks. Returns 0, or -errno with the step's name in `*step`. */
int identity_apply(struct identity *id, const struct proto_identity *x, const char **step);
/* Writes a whole small file of n bytes in place; `flags` is added to open's. Returns 0 or -errno.
 */
int identity_write(const char *path, const void *data, size_t n, int flags, mode_t mode);
/* Adds a line for ACK. */
void identity_remark(struct identity *id, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* hooks.c: reads the directory, adds clone-fork.target if it is of use. Returns 0 or -errno. */
int hooks_list(struct identity *id);
/* Starts the next hook; without one left, or with a failure, calls identity_done. */
void hooks_next(struct identity *id);
/* Kills a running hook and frees what hooks_list made. */
void hooks_fini(struct identity *id);

/* Ends it: err 0 sets the generation and sends ACK, otherwise ERROR with the text. */
void identity_done(struct identity *id, int err, unsigned int stage, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#endif
