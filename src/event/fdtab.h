/* SPDX-License-Identifier: MIT */
/*
 * The fd table: every descriptor that a fork's child may keep. The rule is an allow-list: the
 * child closes whatever is not in the table with FD_KEEP, known to us or opened by a library, in
 * one sweep, before anything else runs. So a device's adopt() finds none of its inherited
 * descriptors open: it must forget their numbers, never close them.
 *
 * Main thread only.
 */
#ifndef CLONE_EVENT_FDTAB_H
#define CLONE_EVENT_FDTAB_H

#include <stddef.h>

#include "base/err.h"

enum fd_fate {
	FD_KEEP,  /* the child goes on using it (a shared read-only base image, /dev/kvm) */
	FD_CLOSE, /* the child must not have it; it is closed even if listed twice */
};

struct fdtab;

int fdtab_create(struct fdtab **out, struct err *e);
void fdtab_destroy(struct fdtab *t); /* does not close anything */
/* Records fd with its fate; `who` is a string literal for diagnostics. BUG when listed already. */
void fdtab_add(struct fdtab *t, int fd, enum fd_fate fate, const char *who);
/* Changes a recorded fate (a fork keeps the new child's grants). */
void fdtab_set(struct fdtab *t, int fd, enum fd_fate fate);
/* Forgets fd (its owner closes it). Not listed: no-op. */
void fdtab_del(struct fdtab *t, int fd);
/* Forgets and closes *fd, which is -1 then. -1: no-op. */
void fdtab_close(struct fdtab *t, int *fd);
/* In the child, first thing: closes all but FD_KEEP and stdio; drops the closed from the table. */
void fdtab_child(struct fdtab *t);
/* Every open descriptor that nobody recorded, as a count, the first named in e. For debug builds
 * and tests: after adopt it must be 0 when library descriptors were recorded. */
int fdtab_unknown(const struct fdtab *t, struct err *e);
/* Every recorded descriptor that is closed, in the same way: its number would soon be another's. */
int fdtab_stale(const struct fdtab *t, struct err *e);

#endif
