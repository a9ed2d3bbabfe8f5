/* SPDX-License-Identifier: MIT */
/*
 * A process that is known for certain: a pid alone is a number that the kernel gives to somebody
 * else, a pid with its start time is not. vm.json holds both. One thread.
 */
#ifndef CLONE_CLI_PROCID_H
#define CLONE_CLI_PROCID_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/state.h"

/* What the kernel says of a process. */
struct procid {
	pid_t parent;
	uint32_t uid; /* real and effective; UINT32_MAX: they differ */
	unsigned long long start_time;
};
/* /proc/PID, which is of nobody else when the number is another's. The fd, or -1. */
int procid_dir(pid_t pid);
/* False: it has ended. */
bool procid_look(int dir, struct procid *out);

/* Adds "pid" and "start_time" of a living process to vm.json's object. */
void procid_note(json_t *info, pid_t pid);
/* SIGKILL to the process that vm.json names, if it is still that one. -ESRCH when it is not. */
int procid_kill(const struct vmdir *d, struct err *e);
/* Its pid when it is still that one, else 0: for statistics in /proc. */
pid_t procid_pid(const json_t *info);

/*
 * Opens /proc/PID/what of the process that vm.json names, if it is still that one and runs as the
 * VM's user, without what root may see beyond the process itself (frame numbers in pagemap): it is
 * for the VM process. The descriptor, or -ESRCH, -errno.
 */
int procid_open(const struct vmdir *d, const char *what, struct err *e);

/* Ends a VM however it must be done: over its socket, then by signal, then by its group. 0 when it
 * was dead. */
int vm_kill(struct vmdir *d, int cancel_fd, struct err *e);

#endif
