/* SPDX-License-Identifier: MIT */
/*
 * One io_uring with a completion eventfd, cut down to the few operations a disk needs. Private to
 * src/block; serialised by the device lock. See uring.c.
 */
#ifndef CLONE_BLOCK_URING_H
#define CLONE_BLOCK_URING_H

#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

enum uring_op { URING_READ, URING_WRITE, URING_PUNCH, URING_SYNC };

struct uring;

/* depth: operations in the kernel at most, which the caller observes. -errno when the host has no
 * io_uring for us, with what to look at. */
int uring_create(unsigned int depth, struct uring **out, struct err *e);
/* Nothing may be in the kernel. Closes ring and eventfd. */
void uring_destroy(struct uring *u);
/* In a fork's child: frees the struct only. The ring was never mapped here (MADV_DONTFORK). */
void uring_forget(struct uring *u);
int uring_fd(const struct uring *u);
int uring_eventfd(const struct uring *u);

/* Queues one operation; iov must live until it completes. For URING_PUNCH len says how much. */
void uring_push(struct uring *u, enum uring_op op, int fd, uint64_t off, const struct iovec *iov,
		unsigned int niov, uint64_t len, uint32_t tag);
/* Hands what was queued to the kernel. When it will not take it now, the eventfd becomes readable
 * so that the caller tries again. */
void uring_submit(struct uring *u);
/* Submits and waits for at least one completion. */
void uring_wait(struct uring *u);
/* Takes one completion: 1 with *tag and *result (bytes or -errno), or 0. */
int uring_reap(struct uring *u, uint32_t *tag, int *result);
/* Makes the eventfd quiet until the next completion. Before reaping. */
void uring_drain_eventfd(struct uring *u);

#endif
