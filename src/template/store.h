/* SPDX-License-Identifier: MIT */
/*
 * The store's directory: private to src/template.
 */
#ifndef CLONE_TEMPLATE_STORE_H
#define CLONE_TEMPLATE_STORE_H

#include "template/template.h"

#define STAGE_PREFIX ".new-"

/* Opens the store and writes its path. The fd, or -errno. */
int store_open(enum store where, char *path, size_t n, struct err *e);
/* Locks STATE/.stores (LOCK_SH, LOCK_EX) until the fd, which is returned, is closed. */
int stores_lock(int how, struct err *e);
/* -EBUSY with a list of what stands on it. */
int store_check_unused(enum store where, const char *name, struct err *e);
/* Removes a flat directory. */
int store_remove(int parent, const char *name, struct err *e);
/* That name is this open directory's. */
bool store_is(int parent, const char *name, int dir);
/* Removes stages whose makers are gone. */
void template_sweep(int parent);

#endif
