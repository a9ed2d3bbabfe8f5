/* SPDX-License-Identifier: MIT */
/*
 * VMs as people and programs see them: vm.json joined with what the process itself says now, or
 * with how it ended. One thread.
 */
#ifndef CLONE_CLI_VIEW_H
#define CLONE_CLI_VIEW_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "cli/state.h"

/*
 * vm.json with "state" ("starting", "running", "paused", "parked", "exited", "unresponsive"),
 * "source", and for an exited one "end". NULL: half made, or e.
 */
json_t *view_vm(const struct vmdir *d, struct err *e);
/* An array, by name; with `all` also those that have exited. NULL: e. */
json_t *view_all(bool all, struct err *e);

#endif
