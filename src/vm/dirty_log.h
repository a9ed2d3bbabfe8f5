/* SPDX-License-Identifier: MIT */
/*
 * Which pages of RAM are written to, by whomever: vCPUs (KVM's log, which costs it 4 KiB mappings
 * and a fault a page), this process (gmem's bitmap), and nobody past both: vhost hands its rings
 * back meanwhile. One user at a time: the recording of a working set (fork/workset.h), a round of
 * hinting (vm/hint.h). A fork's child has a KVM VM of its own that logs nothing; gmem's bitmap it
 * must stop by itself. Main, device lock held.
 */
#ifndef CLONE_VM_DIRTY_LOG_H
#define CLONE_VM_DIRTY_LOG_H

#include <stdint.h>

#include "base/err.h"

struct vm;

/* What is written from its return on is known; the VM may run. -EBUSY: there is a user; -ENOMEM;
 * and what KVM says. Nothing is logged then. */
int dirty_log_start(struct vm *vm, struct err *e);
/* A bitmap for dirty_log_read, a bit a page of RAM by its offset; the caller's. NULL: no memory. */
uint64_t *dirty_log_bits(struct vm *vm);
/* Sets pages to what was written since the start, or since the last call. Where nothing may be
 * missed the world stands still, and nothing is pinned. On error some may be lost: no more is known
 * of what was written. */
int dirty_log_read(struct vm *vm, uint64_t *pages, struct err *e);
void dirty_log_stop(struct vm *vm);

#endif
