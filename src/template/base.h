/* SPDX-License-Identifier: MIT */
/*
 * A file that a template's disk stands on, which lies outside the store: is it still what it was?
 * Private to src/template.
 */
#ifndef CLONE_TEMPLATE_BASE_H
#define CLONE_TEMPLATE_BASE_H

#include "template/template.h"

/* Notes size, inode and time, and the digest when the caller has none. */
int base_note(struct template_base *b, struct err *e);
/* -EBADMSG when it is not what it was. `again`: compute the digest even if inode and time are the
 * same. */
int base_check(const struct template_base *b, bool again, struct err *e);

#endif
