/* SPDX-License-Identifier: MIT */
/*
 * The working set of a template's forks: the pages that a guest writes to in its first moments are
 * nearly the same in each fork. One of the first forks records them and tells its seed; spares made
 * after that have copies of these pages already, so that the guest's first writes find them. Main
 * thread.
 */
#ifndef CLONE_FORK_WORKSET_H
#define CLONE_FORK_WORKSET_H

#include "base/err.h"
#include "vm/vm.h"

#define WORKSET_PAGES_MAX 4096u /* 16 MiB: what each spare may cost */

/* Seed, before a child is made: unless the set is known (or being recorded), this child is to
 * record it. Best effort. */
void workset_ask(struct vm *vm, const char *child);
/* Child that knows who it is: if it was asked to, it records from here on. Best effort. */
void workset_record(struct vm *vm);
/* Spare: copies of the pages that are known. */
void workset_populate(struct vm *vm);
/* Child: what the seed was waiting for is not ours. */
void workset_child(struct vm *vm);

#endif
