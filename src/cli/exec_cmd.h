/* SPDX-License-Identifier: MIT */
/*
 * What commands that run a command in a guest have in common: its options, and its exit code as
 * ours.
 */
#ifndef CLONE_CLI_EXEC_CMD_H
#define CLONE_CLI_EXEC_CMD_H

#include "base/err.h"
#include "cli/exec.h"
#include "cli/state.h"

#define EXEC_ENV_MAX 256

struct exec_cmd {
	struct exec_args a;
	const char *env[EXEC_ENV_MAX + 1];
	size_t nenv;
};

void exec_cmd_init(struct exec_cmd *x);

/* The options -i, -t, -e, -w and -u: for getopt's letters and its table. */
#define EXEC_CMD_LETTERS "ite:w:u:"
#define EXEC_CMD_OPTIONS                                                                           \
	{ "interactive", no_argument, NULL, 'i' }, { "tty", no_argument, NULL, 't' },              \
		{ "env", required_argument, NULL, 'e' },                                           \
		{ "workdir", required_argument, NULL, 'w' },                                       \
	{                                                                                          \
		"user", required_argument, NULL, 'u'                                               \
	}
/* -ENOSYS when opt is none of them. */
int exec_cmd_option(struct exec_cmd *x, int opt, struct err *e);

/* Runs argv (NULL-terminated) in the VM and says on stderr what went wrong. The exit code of ours.
 */
int exec_cmd_run(struct exec_cmd *x, const struct vmdir *d, char *const *argv);

#endif
