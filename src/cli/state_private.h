/* SPDX-License-Identifier: MIT */
/*
 * Shared by state.c and state_list.c only.
 */
#ifndef CLONE_CLI_STATE_PRIVATE_H
#define CLONE_CLI_STATE_PRIVATE_H

#include "cli/state.h"

/* Takes the run lock until the returned descriptor is closed. */
int run_lock(int run, struct err *e);
int place_open(int run, enum place place, struct err *e);
/* Does anybody hold the write lock of dir/name? */
bool dir_locked(int dir, const char *name);
/* Frees uid unless a directory of ours still has it. Under the run lock. */
void release_uid(int run, uint32_t uid);
/* Removes a run directory under the run lock; `dir` is the directory itself. 0 or -errno. */
int remove_dir(int run, enum place place, const char *name, int dir);

#endif
