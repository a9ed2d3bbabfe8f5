/* SPDX-License-Identifier: MIT */
/*
 * The files of a chain of snapshots, taken from a VM's grants. Private to src/snapshot. Main
 * thread.
 */
#ifndef CLONE_SNAPSHOT_CHAIN_H
#define CLONE_SNAPSHOT_CHAIN_H

#include "snapshot/format.h"
#include "snapshot/ram.h"
#include "snapshot/snapshot.h"
#include "vm/vm.h"

struct chain {
	struct ram_layer l[RAM_LAYERS_MAX]; /* the flat one first */
	size_t n;
	struct snap_file own; /* the newest's state */
};

/* A granted descriptor, which nobody lists any more: the caller closes it. -errno. */
int chain_take(struct vm *vm, const char *name, struct err *e);
/* Opens and checks all; takes the grants in every case. */
int chain_open(struct chain *c, struct vm *vm, const struct vm_files *files, size_t n,
	       struct err *e);
void chain_close(struct chain *c);

#endif
