/* SPDX-License-Identifier: MIT */
/*
 * The descriptor socket of a VM process (doc/control.md, "Descriptors"): grants in, claims out, as
 * JSON messages with SCM_RIGHTS on a SOCK_SEQPACKET socket. Main thread with the device lock held.
 */
#ifndef CLONE_CONTROL_FDSOCK_H
#define CLONE_CONTROL_FDSOCK_H

#include <stdbool.h>

#include "base/err.h"

#define FDSOCK_CONNS_MAX 64
#define FDSOCK_MESSAGE_MAX 40960u /* 64 names of 512 bytes, and their quotes */

struct fdsock;
struct fdtab;
struct grants;
struct loop;

/* Serves listen_fd (owned from now on, also on failure). -ENOMEM. */
int fdsock_open(struct loop *l, struct fdtab *fds, struct grants *g, int listen_fd,
		struct fdsock **out, struct err *e);
/* Ends all connections; what they granted and nobody took is closed. */
void fdsock_close(struct fdsock *s);
/* Is anybody connected? Who is has something in mind with what it grants. */
bool fdsock_busy(const struct fdsock *s);

#endif
