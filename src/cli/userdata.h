/* SPDX-License-Identifier: MIT */
/*
 * User data: a few bytes that a fork is given by whoever makes it, and that its guest finds as
 * /run/clone/userdata. One thread.
 */
#ifndef CLONE_CLI_USERDATA_H
#define CLONE_CLI_USERDATA_H

#include "base/err.h"

/* The content of a file ("-": of standard input) in a descriptor of its own that nobody can write
 * to, so that all forks get the same. The caller closes it. -EFBIG beyond PROTO_MAX_USERDATA. */
int userdata_open(const char *path, struct err *e);

#endif
