/* SPDX-License-Identifier: MIT */
/*
 * A round of free page hinting, above the device (virtio/balloon.h): from before the driver learns
 * of it what is written to RAM is logged; when the driver has named all of its free pages the VM
 * stands still, a moment at a time, and those that nobody has written to are given back. Whatever
 * else stops the VM (a pause, fork, snapshot, parking, a change of disks) ends the round at once,
 * with nothing (more) given back: no log is left, here or in a child. So does a driver that does
 * not come to its end.
 *
 * Main, device lock held. Called by vm/balloon.c, vm/life.c, vm/build.c.
 */
#ifndef CLONE_VM_HINT_H
#define CLONE_VM_HINT_H

#include "base/err.h"

struct device;
struct vm;

/* Of a VM that runs, and its balloon. -EBUSY: there is a round, a snapshot is being written, or
 * somebody else logs what is written; -ENOTSUP: the driver does not hint; -ENOMEM; and what KVM
 * says. */
int hint_begin(struct vm *vm, struct device *balloon, struct err *e);
/* The world is about to be stopped: a round ends, unless it is the round that stops it. No-op
 * without one. why: for the owner, a literal. */
void hint_break_off(struct vm *vm, const char *why);

#endif
