/* SPDX-License-Identifier: MIT */
/*
 * A token bucket: so many tokens (bytes, operations) in so many milliseconds, with a burst that is
 * given once. Kept as time: how far ahead of its budget the user is. Plain state of a device, saved
 * and forked with it; one thread at a time.
 *
 * A request passes while there is a token and is then taken whole, however big: it goes into debt,
 * which later ones wait for. So one that is bigger than the bucket passes too.
 */
#ifndef CLONE_VIRTIO_RATELIMIT_H
#define CLONE_VIRTIO_RATELIMIT_H

#include <stdint.h>

#include "base/err.h"
#include "device/field.h"

struct rate_bucket {
	uint64_t size;	    /* tokens; 0: no limit */
	uint64_t refill_ms; /* an empty bucket is full again after that */
	uint64_t burst;	    /* tokens that are left of what is given once */
	uint64_t ahead_ns;  /* budget used beyond what has come in; refill_ms of it: empty */
};
#define RATE_BUCKET_NFIELDS 4
extern const struct field rate_bucket_fields[RATE_BUCKET_NFIELDS];

#define RATE_SIZE_MAX (1ull << 50)
#define RATE_REFILL_MAX_MS 3600000u

/* -EINVAL when it is no bucket: hostile state, or a request's. */
int rate_check(const struct rate_bucket *b, struct err *e);
/* elapsed_ns went by. */
void rate_pass(struct rate_bucket *b, uint64_t elapsed_ns);
/* 0 when a request may pass now, else in how many nanoseconds. */
uint64_t rate_wait_ns(const struct rate_bucket *b);
/* A request of n tokens passes. */
void rate_take(struct rate_bucket *b, uint64_t n);

#endif
