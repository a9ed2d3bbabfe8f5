/* SPDX-License-Identifier: MIT */
/*
 * Grants: open descriptors that the privileged caller passed in, each under a name. A request
 * that names a path ("path_on_host": "/images/a/rootfs.ext4") does not make the VM process open it:
 * the descriptor was granted under that same string before. Bounded; main thread only.
 */
#ifndef CLONE_EVENT_GRANTS_H
#define CLONE_EVENT_GRANTS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"
#include "event/fdtab.h"

#define GRANT_NAME_MAX 512
#define GRANTS_MAX 8192 /* of owners, who are not to be believed: 256 children with all disks */

struct grants;

int grants_create(struct fdtab *fds, struct grants **out, struct err *e);
void grants_destroy(struct grants *g); /* closes what was not taken */
/* Takes ownership of fd in every case. -EEXIST, -EINVAL (name too long), -ENOMEM. */
int grants_put(struct grants *g, const char *name, int fd, struct err *e);
/* The same, for an owner who may go away first: grants_drop_of drops what nobody has taken.
 * -ENOSPC: GRANTS_MAX of such wait already. */
int grants_put_of(struct grants *g, const char *name, int fd, const void *owner, struct err *e);
void grants_drop_of(struct grants *g, const void *owner);
/* The fd is the caller's from now on (still listed in the fd table as FD_CLOSE: set its fate).
 * -ENOENT with "no descriptor was passed for NAME". */
int grants_take(struct grants *g, const char *name, struct err *e);
/* The same fd, which stays granted; -1: none. */
int grants_peek(struct grants *g, const char *name);
/* Drops (closes) all whose name begins with prefix. */
void grants_drop(struct grants *g, const char *prefix);
/* Calls fn for each whose name begins with prefix, with the rest of the name; stops when it says
 * false. */
void grants_each(const struct grants *g, const char *prefix,
		 bool (*fn)(void *arg, const char *rest, int fd), void *arg);
/* In a fork's child, BEFORE fdtab_child: keeps only names with this prefix (NULL: none) and cuts
 * the prefix off, marking them FD_KEEP; forgets the others. */
void grants_child(struct grants *g, const char *prefix);

#endif
