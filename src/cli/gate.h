/* SPDX-License-Identifier: MIT */
/*
 * How a fork's child comes into its memory group: it is put there by the privileged caller, by its
 * pid, and waits for that before it touches memory. The kernel asks who opened cgroup.procs and not
 * who writes to it, so a descriptor of that file moves any process of the host, and no VM process
 * gets one: its source may have been taken over by its guest. A child is passed one end of a socket
 * of its own ("cgroup/gate"), on which it says a byte and waits for one; the kernel says who sent
 * that. When we die or refuse, its end is closed, and it ends. One thread.
 */
#ifndef CLONE_CLI_GATE_H
#define CLONE_CLI_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"
#include "cli/state.h"
#include "control/client.h"

struct gates;

/* For the at most n children of one request. source (borrowed, as are the children's directories)
 * is their parent to be: of a running VM (live) only what it makes from now on is believed to be
 * its child. NULL: no memory, or no descriptors. */
struct gates *gates_new(size_t n, const struct vmdir *source, bool live);
void gates_free(struct gates *g);
/* The end of the child of d, which has its group already: the caller's, to be granted and closed.
 * -errno. */
int gates_add(struct gates *g, const struct vmdir *d, struct err *e);
/* Before the request, if anybody was added: they are served while its answer is awaited. -ESRCH:
 * the source's process cannot be identified. */
int gates_watch(struct gates *g, struct client *api, struct err *e);
/* Is the child of d, of which the source says that it is pid, in its group? `error` (NULL: none is
 * known) when it is, or was not added; else why not, never NULL: do not let it live. */
const char *gates_verdict(const struct gates *g, const struct vmdir *d, pid_t pid,
			  const char *error);

#endif
