/* SPDX-License-Identifier: MIT */
/*
 * Waiting for a guest's balloon driver: it does what it is asked in its own time, or not at all.
 * For clone balloon and template create. One thread.
 */
#ifndef CLONE_CLI_BALLOON_WAIT_H
#define CLONE_CLI_BALLOON_WAIT_H

#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"

#define BALLOON_HINT_MS 60000

/* What is in it. Errors of these: as vmproc_request. */
int balloon_actual(struct vmproc *p, uint64_t *bytes, struct err *e);
/* Until the driver has come from `from` to `to` bytes, with a progress bar. -ETIMEDOUT: it came
 * less than 1 MiB nearer in some seconds, and e says where it stands. */
int balloon_wait_target(struct vmproc *p, uint64_t from, uint64_t to, struct err *e);
/* Has the guest name its free pages, and waits for the end of it. -ETIMEDOUT. */
int balloon_hint(struct vmproc *p, uint64_t timeout_ms, struct err *e);
/* Until the guest has nothing more to report of what it has freed, as far as that can be told, or
 * timeout_ms have passed. At once where there is no balloon or no driver: 0 as well. */
int balloon_wait_reported(struct vmproc *p, uint64_t timeout_ms, struct err *e);
/* Asks for the guest's statistics and waits for them, a second at most; a guest that does not
 * answer, or cannot, is no error: what it said last is as good as it gets. */
void balloon_refresh(struct vmproc *p);

#endif
