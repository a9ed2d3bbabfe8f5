/* SPDX-License-Identifier: MIT */
/*
 * Builds without root: work on a file tree that belongs to many users is done by a child in a user
 * namespace of its own, where the caller is root and its /etc/subuid range the other users. For
 * root there is no child: the work is done directly. Privileged side only; any one thread.
 */
#ifndef CLONE_IMAGE_USERNS_H
#define CLONE_IMAGE_USERNS_H

#include <stdbool.h>

#include "base/err.h"

/*
 * Calls fn(arg, e) as root of such a namespace and returns what it returned. many: more users than
 * root are needed; -EPERM, with what to do, when /etc/subuid gives the caller none. What fn changes
 * in memory is lost, except in e.
 */
int userns_call(bool many, int (*fn)(void *arg, struct err *e), void *arg, struct err *e);

/* tree_remove, whoever owns what is below path. */
int userns_remove(const char *path, struct err *e);

#endif
