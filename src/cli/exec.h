/* SPDX-License-Identifier: MIT */
/*
 * A command in a guest: the host's end of an EXEC session of guest/proto.h, straight to the agent
 * over the VM's vsock socket. One thread. What the agent sends is hostile bytes.
 */
#ifndef CLONE_CLI_EXEC_H
#define CLONE_CLI_EXEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/state.h"

struct exec_args {
	const char *const *argv; /* NULL-terminated */
	const char *const *env;	 /* NULL-terminated, "KEY=VALUE"; NULL: none */
	const char *cwd, *user;	 /* NULL: the agent's default */
	bool input, tty;
	uint64_t timeout_ms;	   /* of the command; 0: none */
	uint64_t connect_ms;	   /* until the agent is there */
	int in_fd, out_fd, err_fd; /* -1: no input; output is dropped */
	/* Collects instead of writing: at most cap bytes of stderr, NUL-terminated. NULL: not. */
	char *stderr_text;
	size_t stderr_cap;
	int signal_fd; /* SIGINT and others, forwarded to the command; -1: none */
};

/*
 * Runs it to its end. Returns an exit code of cli.h (the command's, 128 + its signal, 124, 126,
 * 127), or -errno with e when clone failed (125 is the caller's to make of it).
 */
int exec_run(const struct vmdir *d, const struct exec_args *a, struct err *e);

#endif
