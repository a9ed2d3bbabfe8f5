/* SPDX-License-Identifier: MIT */
/*
 * A VM to files and back: the state file (format.h), RAM, each disk's layer. Main thread, with the
 * device lock held. Errors change nothing.
 */
#ifndef CLONE_SNAPSHOT_SNAPSHOT_H
#define CLONE_SNAPSHOT_SNAPSHOT_H

#include <stdbool.h>

#include "base/err.h"

struct vm;

#define VM_SPARES_MAX 64

/*
 * Writes state, RAM and each disk's layer to the granted descriptors (layers: "layer/ID"). A
 * running VM is paused for it and goes on afterwards. -EIO/-ENOSPC say which file; the VM lives on.
 */
int vm_snapshot(struct vm *vm, const char *state, const char *ram, struct err *e);
/* What a seed does for its children when nothing is asked of it, from its first fork on. */
struct vm_seed {
	/* children forked and half adopted ahead of time; each costs what a fork that never ran
	 * does */
	unsigned int spares; /* 0 to VM_SPARES_MAX */
	/* what the template's file mostly fills moves into huge pages (for hosts that have them) */
	bool huge_pages;
};

/*
 * Loads a snapshot into a VM_CONFIGURING vm: granted descriptors `state`, `ram`, each disk's
 * "disk/ID/base" and "disk/ID/layer" (and, unless a seed, "disk/ID/data"). The VM is paused
 * afterwards, or a seed (seed not NULL).
 */
int vm_load(struct vm *vm, const char *state, const char *ram, const struct vm_seed *seed,
	    struct err *e);

#endif
