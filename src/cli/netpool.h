/* SPDX-License-Identifier: MIT */
/*
 * TAPs that are made ahead, so that the next fork does not wait for them. The CLI is one thread.
 */
#ifndef CLONE_CLI_NETPOOL_H
#define CLONE_CLI_NETPOOL_H

#include <jansson.h>

/*
 * VMs have just ended: what they had on networks goes. Waits, for a moment at most, until the TAPs
 * that vm.json names are gone: a process lets go of its lock before it lets go of all else.
 */
void network_vm_ended(const json_t *info);
/* $CLONE_TAP_POOL, else 8. */
unsigned int network_pool_size(void);
/* Fills the network's pool in a process of its own, which outlives us and says nothing. */
void network_refill_later(const char *name);

#endif
