/* SPDX-License-Identifier: MIT */
/*
 * Output that never blocks the session: a descriptor as we were given it may be shared with other
 * programs, so O_NONBLOCK cannot be set on it. One thread.
 */
#ifndef CLONE_CLI_EXECIO_H
#define CLONE_CLI_EXECIO_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct outfd {
	int fd;	   /* what we were given; -1: drop everything */
	int nb;	   /* our own non-blocking opening of the same pipe or terminal; -1 */
	bool file; /* regular: never blocks */
	bool sock;
	bool gone; /* the reader has gone: drop everything */
};

void outfd_open(struct outfd *o, int fd);
void outfd_close(struct outfd *o);
/* For poll(2). */
int outfd_poll(const struct outfd *o);
/* Writes what goes without blocking: the count (0: wait for POLLOUT), or -errno; a reader that has
 * gone is -EPIPE once, and everything is dropped afterwards. */
ssize_t outfd_write(struct outfd *o, const void *p, size_t n);

#endif
