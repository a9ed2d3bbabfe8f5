/* SPDX-License-Identifier: MIT */
/*
 * What a VM came out of. One thread.
 */
#ifndef CLONE_CLI_ORIGIN_H
#define CLONE_CLI_ORIGIN_H

#include <jansson.h>

#include "base/err.h"
#include "template/template.h"

/* The template or snapshot that vm.json says the VM was forked or restored from; -ENOENT: none, or
 * it is gone or another one of that name. */
int origin_of(const json_t *info, struct template *t, struct err *e);
/*
 * What a VM's memory differs least from: the last snapshot that was taken of it, else its origin.
 * name: the user's choice instead, a snapshot or a template; NULL: none. -ENOENT.
 */
int origin_nearest(const json_t *info, const char *name, struct template *t, struct err *e);

#endif
