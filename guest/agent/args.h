/* SPDX-License-Identifier: MIT */
/*
 * Argument and environment vectors for execve, made from EXEC's lists.
 */
#ifndef CLONE_AGENT_ARGS_H
#define CLONE_AGENT_ARGS_H

#include <stdbool.h>

#include "../proto.h"
#include "users.h"

/* Both return one block for free(3), or NULL without memory. */

char **args_argv(struct proto_list argv);
/* The defaults for the user, and over them what was asked for; the last one of a name wins. */
char **args_envp(struct proto_list env, const struct user *u, bool tty);

#endif
