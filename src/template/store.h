/* SPDX-License-Identifier: MIT */
/*
 * The store's directory: private to src/template.
 */
#ifndef CLONE_TEMPLATE_STORE_H
#define CLONE_TEMPLATE_STORE_H

#include "template/template.h"

#define STAGE_PREFIX ".new-"

/* Opens STATE/templates and writes its path. The fd, or -errno. */
int store_open(char *path, size_t n, struct err *e);
/* Removes a flat directory. */
int store_remove(int parent, const char *name, struct err *e);
/* Removes stages whose makers are gone. */
void template_sweep(int parent);

#endif
