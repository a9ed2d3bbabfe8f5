/* SPDX-License-Identifier: MIT */
/*
 * A template's manifest as JSON: private to src/template.
 */
#ifndef CLONE_TEMPLATE_MANIFEST_H
#define CLONE_TEMPLATE_MANIFEST_H

#include <jansson.h>

#include "template/template.h"

#define MANIFEST_MAX 65536u

json_t *manifest_to_json(const struct template *t);
/* Fills all that is stored. Hostile bytes. -EBADMSG, -EPROTONOSUPPORT. */
int manifest_from_json(const json_t *j, struct template *t, struct err *e);
/* true for [A-Za-z0-9][A-Za-z0-9_.-]{0,63}. */
bool template_name_ok(const char *name);

#endif
