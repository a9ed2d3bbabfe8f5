/* SPDX-License-Identifier: MIT */
/*
 * A process that is known for certain: a pid alone is a number that the kernel gives to somebody
 * else, a pid with its start time is not. vm.json holds both. One thread.
 */
#ifndef CLONE_CLI_PROCID_H
#define CLONE_CLI_PROCID_H

#include <jansson.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/state.h"

/* Adds "pid" and "start_time" of a living process to vm.json's object. */
void procid_note(json_t *info, pid_t pid);
/* SIGKILL to the process that vm.json names, if it is still that one. -ESRCH when it is not. */
int procid_kill(const struct vmdir *d, struct err *e);
/* Its pid when it is still that one, else 0: for statistics in /proc. */
pid_t procid_pid(const json_t *info);

/* Ends a VM however it must be done: over its socket, then by signal. 0 when it was dead. */
int vm_kill(struct vmdir *d, int cancel_fd, struct err *e);

#endif
