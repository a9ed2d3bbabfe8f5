/* SPDX-License-Identifier: MIT */
/*
 * TAPs that are made ahead, so that the next fork does not wait for them. The CLI is one thread.
 */
#ifndef CLONE_CLI_NETPOOL_H
#define CLONE_CLI_NETPOOL_H

/* $CLONE_TAP_POOL, else 8. */
unsigned int network_pool_size(void);
/* Fills the network's pool in a process of its own, which outlives us and says nothing. */
void network_refill_later(const char *name);

#endif
