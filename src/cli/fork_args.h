/* SPDX-License-Identifier: MIT */
/*
 * What clone fork was asked for. One thread.
 */
#ifndef CLONE_CLI_FORK_ARGS_H
#define CLONE_CLI_FORK_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/balloonopt.h"
#include "cli/exec_cmd.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/shares.h"

struct fork_args {
	const char *source, *name, *userdata;
	int userdata_fd;
	uint64_t n, timeout_ms;
	bool no_wait, json, rm, all, paused;
	struct launch_vm disks; /* only those of it */
	struct nic_options net;
	struct balloon_option balloon;
	struct shares shares;
	char **command; /* NULL: none */
	struct exec_cmd exec;
};

/* Fills *a, whose strings are argv's, from the command line. 0, or how to exit: what is wrong was
 * said. a->balloon is the caller's to finish in any case. */
int fork_args_parse(struct fork_args *a, int argc, char **argv);

#endif
