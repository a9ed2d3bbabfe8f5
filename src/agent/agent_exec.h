/* SPDX-License-Identifier: MIT */
/*
 * Commands under way, under agent.c: each is one EXEC session of guest/proto.h on a stream of the
 * muxer, whose output is collected up to a limit. Main thread, device lock held.
 */
#ifndef CLONE_AGENT_AGENT_EXEC_H
#define CLONE_AGENT_AGENT_EXEC_H

#include <sys/queue.h>

#include "agent/agent.h"

struct exec;

struct execs {
	struct machine *m;
	struct device *vsock;
	TAILQ_HEAD(, exec) list;
	unsigned int nr;
};

void execs_init(struct execs *xs, struct machine *m, struct device *vsock);
/* Ends all without a callback. */
void execs_drop(struct execs *xs);
/* The same in a fork's child, where their descriptors and loop are not ours. */
void execs_forget(struct execs *xs);
/* As agent_exec, for a guest that has reconciled. */
int exec_start(struct execs *xs, const struct proto_exec_args *x, agent_exec_fn done, void *arg,
	       struct err *e);

#endif
