/* SPDX-License-Identifier: MIT */
/*
 * What the kinds of a fork's child have in common. Private to src/fork.
 */
#ifndef CLONE_FORK_CHILD_H
#define CLONE_FORK_CHILD_H

struct vm;

/*
 * First of all in a child: closes every descriptor but what is kept, of the grants those with this
 * prefix (NULL: none), and forgets what was the parent's: threads, KVM, requests.
 */
void child_sweep(struct vm *vm, const char *prefix);

/* The frozen child of a snapshot (frozen.c). */
_Noreturn void frozen_main(struct vm *vm);

#endif
