/* SPDX-License-Identifier: MIT */
/*
 * Talking to the kernel over netlink: dumps, and batches of changes. It answers while it is asked,
 * so nothing here waits.
 */
#ifndef CLONE_AGENT_NETSOCK_H
#define CLONE_AGENT_NETSOCK_H

#include "../netlink.h"

/* A socket of that protocol (NETLINK_ROUTE, ...), or -errno. */
int netsock_open(int protocol);

/* Sends `m`, one message with NLM_F_DUMP, and calls fn for each message that comes of it, with its
 * body behind the netlink header. Returns 0 or -errno. */
int netsock_dump(int fd, const struct nl_msg *m,
		 void (*fn)(void *arg, const uint8_t *body, size_t n), void *arg);

/* Sends what is in `m`, each begun with NLM_F_ACK; result[seq - 1] becomes 0 or the kernel's -errno
 * for that message. Returns 0, or -errno when the answers are not all there. */
int netsock_batch(int fd, const struct nl_msg *m, int *result);

#endif
