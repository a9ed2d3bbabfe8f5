/* SPDX-License-Identifier: MIT */
/*
 * Disks of a VM that runs or is paused: put into an empty bay, taken out, made longer. vm.json is
 * kept true, so that forks and snapshots know what they stand on. One thread.
 */
#ifndef CLONE_CLI_DISK_LIVE_H
#define CLONE_CLI_DISK_LIVE_H

#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"

/* d becomes the disk of the first empty bay, whose id it gets. -ENOSPC: there is none; -EINVAL:
 * readonly or a serial; what opening it fails with (diskfiles.h); -EREMOTEIO: the VM refused. */
int disk_live_attach(struct vmproc *p, struct launch_disk *d, struct err *e);
/* A disk that is not persistent loses what was written to it. -ENOENT and the VM's own refusals. */
int disk_live_detach(struct vmproc *p, const char *id, struct err *e);
int disk_live_resize(struct vmproc *p, const char *id, uint64_t bytes, struct err *e);
/* After these, of a VM that runs: returns when the guest has looked at its disks, so that what is
 * run in it next finds them as they are; or after some seconds. */
void disk_live_until_seen(struct vmproc *p);

#endif
