/* SPDX-License-Identifier: MIT */
/*
 * Rate limiters in requests, in Firecracker's words: {"bandwidth":{...},"ops":{...}}, each with
 * size, one_time_burst and refill_time in milliseconds. Any thread.
 */
#ifndef CLONE_CONTROL_RATE_H
#define CLONE_CONTROL_RATE_H

#include <jansson.h>

#include "base/err.h"
#include "virtio/ratelimit.h"

/* What is not named has no limit. -EINVAL. */
int rate_from_json(const json_t *j, struct rate_bucket *bytes, struct rate_bucket *ops,
		   struct err *e);

#endif
