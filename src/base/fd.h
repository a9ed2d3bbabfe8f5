/* SPDX-License-Identifier: MIT */
/*
 * File descriptor helpers: whole reads and writes, and passing descriptors over unix sockets.
 */
#ifndef CLONE_BASE_FD_H
#define CLONE_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/err.h"

#define FD_PASS_MAX 64 /* descriptors in one message; the kernel's own limit is 253 */

/* Reads or writes all n bytes (EINTR and short counts handled). 0, or -errno; -EPIPE at early EOF.
 */
int fd_read_full(int fd, void *buf, size_t n);
int fd_write_full(int fd, const void *buf, size_t n);
int fd_pread_full(int fd, void *buf, size_t n, uint64_t off);
int fd_pwrite_full(int fd, const void *buf, size_t n, uint64_t off);

/* dir/name to be read by stdio, the caller's to close; NULL and errno. */
FILE *fd_fopenat(int dir, const char *name);

int fd_set_nonblock(int fd, bool on);
int fd_set_cloexec(int fd, bool on);

/*
 * Sends n bytes and nfds descriptors as one message of a SOCK_SEQPACKET or SOCK_STREAM unix
 * socket. The descriptors stay the caller's. 0 or -errno.
 */
int fd_send(int sock, const void *buf, size_t n, const int *fds, size_t nfds);

/*
 * Receives one message: up to cap bytes and max descriptors (close-on-exec, owned by the caller).
 * Returns the byte count (0 at end of stream) or -errno; -EMSGSIZE when the message or its
 * descriptors were cut (everything received is closed then).
 */
ssize_t fd_recv(int sock, void *buf, size_t cap, int *fds, size_t max, size_t *nfds);

#endif
