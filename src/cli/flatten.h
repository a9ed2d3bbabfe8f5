/* SPDX-License-Identifier: MIT */
/*
 * Merging a chain of snapshots. One thread.
 */
#ifndef CLONE_CLI_FLATTEN_H
#define CLONE_CLI_FLATTEN_H

#include <stdbool.h>

#include "base/err.h"

/* Makes snapshot `name` stand on nothing: as `to`, or in place (NULL; refused with -EBUSY while
 * others stand on it). A jailed process does the work: a snapshot's bytes are its guest's. */
int snapshot_flatten(const char *name, const char *to, bool compress, int cancel_fd, struct err *e);

#endif
