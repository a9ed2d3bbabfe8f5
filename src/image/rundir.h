/* SPDX-License-Identifier: MIT */
/*
 * RUN, the directory of running things: $CLONE_RUN_DIR, else /run/clone for root and
 * $XDG_RUNTIME_DIR/clone for others. What lies in it is said where it is made (cli/state.h,
 * network/private.h). Privileged side; any one thread.
 */
#ifndef CLONE_IMAGE_RUNDIR_H
#define CLONE_IMAGE_RUNDIR_H

#include <stddef.h>

#include "base/err.h"

/* Opens RUN, making it and its folders when missing. The fd, or -errno saying what to do. */
int run_open(struct err *e);
int run_path(char *buf, size_t n, struct err *e);
/* Opens (makes) RUN/name for fcntl or flock. */
int run_open_file(const char *name, struct err *e);

#endif
