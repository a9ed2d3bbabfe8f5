/* SPDX-License-Identifier: MIT */
/*
 * Starts the command of an EXEC with its pipes or terminal.
 */
#ifndef CLONE_AGENT_COMMAND_H
#define CLONE_AGENT_COMMAND_H

#include <stdint.h>
#include <sys/types.h>

#include "../proto.h"

struct command {
	pid_t pid;
	int in, out, err; /* our ends, non-blocking; -1: none */
	/* If it could not be started: what ERROR says. */
	int errnum;
	unsigned int stage;
	char text[512];
};

/* Returns 0, or -1 with nothing left open. */
int command_start(struct command *cmd, const struct proto_exec *x);
/* Closes our ends. */
void command_close(struct command *cmd);
/* Sets a terminal's size by its master. */
void command_resize(int fd, uint16_t rows, uint16_t cols);

#endif
