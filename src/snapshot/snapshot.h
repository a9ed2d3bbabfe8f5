/* SPDX-License-Identifier: MIT */
/*
 * A VM to files and back: the state file (format.h), RAM (ram.h), each disk's layer. Main thread,
 * with the device lock held. Errors change nothing.
 */
#ifndef CLONE_SNAPSHOT_SNAPSHOT_H
#define CLONE_SNAPSHOT_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct vm;

#define VM_SPARES_MAX 64

/* The names under which the two files of a snapshot were granted. */
struct vm_files {
	const char *state, *ram;
};

struct vm_save {
	struct vm_files to; /* disks' layers go to "layer/ID" */
	/* What the snapshot is to differ from: a chain, the flat one first; 0: store all of RAM. */
	const struct vm_files *base;
	size_t nr_base;
	bool compress;
	bool frozen; /* this process only writes: RAM is given back behind the writer */
	void (*progress)(void *arg, uint64_t done); /* bytes of RAM; may be NULL */
	void *arg;
};

/* Writes a VM whose world stands still. Takes the grants in every case. -EIO/-ENOSPC say which
 * file. stored: bytes of RAM that the file holds. */
int vm_save(struct vm *vm, const struct vm_save *s, uint64_t *stored, struct err *e);

/* What a seed does for its children when nothing is asked of it, from its first fork on. */
struct vm_seed {
	/* children forked and half adopted ahead of time; each costs what a fork that never ran
	 * does */
	unsigned int spares; /* 0 to VM_SPARES_MAX */
	/* what the template's file mostly fills moves into huge pages (for hosts that have them);
	 * not of a chain, whose files other templates' forks share */
	bool huge_pages;
};

/*
 * Loads a snapshot into a VM_CONFIGURING vm: chain[n-1] is its own files, those before it what it
 * differs from, the flat one first; further each disk's "disk/ID/base" and "disk/ID/layer" (and,
 * unless a seed, "disk/ID/data"). The VM is paused afterwards, or a seed (seed not NULL).
 */
int vm_load(struct vm *vm, const struct vm_files *chain, size_t n, const struct vm_seed *seed,
	    struct err *e);

/*
 * A chain into one flat snapshot, without a VM: RAM as a restore of the chain would have it, all
 * else as the newest has it. Takes the grants in every case. vm is VM_CONFIGURING and stays so.
 */
int vm_flatten(struct vm *vm, const struct vm_files *chain, size_t n, const struct vm_files *to,
	       bool compress, struct err *e);

#endif
