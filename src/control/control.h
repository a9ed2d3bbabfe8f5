/* SPDX-License-Identifier: MIT */
/*
 * The control sockets of a VM process: the HTTP API and the descriptor socket (doc/control.md).
 * Main thread with the device lock held.
 */
#ifndef CLONE_CONTROL_CONTROL_H
#define CLONE_CONTROL_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct control;
struct fdtab;
struct loop;
struct vm;

/*
 * Serves both listening sockets (owned from now on, also on failure; recorded in fds as FD_CLOSE,
 * whatever they were recorded as before). In a fork's child: after control_forget of the
 * parent's, on the child's loop. -ENOMEM.
 */
int control_open(struct vm *vm, struct loop *l, struct fdtab *fds, int api_fd, int fd_fd,
		 struct control **out, struct err *e);
/* Ends both at once: requests that wait for an answer get none. NULL is fine. */
void control_close(struct control *c);
/*
 * In a fork's child: the parent's control is abandoned, its descriptors closed by the fd table, its
 * memory left alone. Answers to the parent's requests that inherited code may still give are
 * dropped. Call before anything else could answer. NULL is fine.
 */
void control_forget(struct control *c);

/* For a seed's linger: is a request under way, or does somebody grant what one needs, and when was
 * the last (CLOCK_MONOTONIC)? */
bool control_busy(const struct control *c);
uint64_t control_last_ns(const struct control *c);

#endif
