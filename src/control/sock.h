/* SPDX-License-Identifier: MIT */
/*
 * Unix sockets by directory descriptor and file name, so that no path is too long for
 * sun_path. Any thread; uses /proc/self/fd.
 */
#ifndef CLONE_CONTROL_SOCK_H
#define CLONE_CONTROL_SOCK_H

#include <stdint.h>

#include "base/err.h"

/* Binds and listens at dirfd/name; type SOCK_STREAM or SOCK_SEQPACKET. The fd, or -errno. */
int sock_listen(int dirfd, const char *name, int type, struct err *e);
/* Connects to dirfd/name. The fd (blocking, close-on-exec), or -errno; -ECONNREFUSED: nobody
 * serves. */
int sock_connect(int dirfd, const char *name, int type, struct err *e);

/*
 * Waits for poll(2) events until the CLOCK_MONOTONIC deadline (0: forever). 0; -ETIMEDOUT; -EINTR
 * when cancel_fd (a signalfd, an eventfd; -1: none) is readable. Signal handlers do not end it.
 */
int sock_wait(int fd, short events, uint64_t deadline_ns, int cancel_fd);
/* The same; 1 when `also` (-1: none) is readable, whatever the socket is. */
int sock_wait_also(int fd, short events, int also, uint64_t deadline_ns, int cancel_fd);

#endif
