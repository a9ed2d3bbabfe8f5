/* SPDX-License-Identifier: MIT */
/*
 * SETTLE's work, done by a process of its own: it takes seconds, and the zeroing of free memory may
 * cost its life.
 */
#ifndef CLONE_AGENT_SETTLE_H
#define CLONE_AGENT_SETTLE_H

#include <stdint.h>

struct settle_result {
	uint32_t done; /* PROTO_SETTLE_* */
	char text[256];
};

/* Blocks until all is done. */
void settle_work(uint32_t flags, uint32_t timeout_ms, struct settle_result *res);

#endif
