/* SPDX-License-Identifier: MIT */
/*
 * Token buckets: see ratelimit.h. Called by devices on main.
 */
#include "virtio/ratelimit.h"

#include <errno.h>

#include "base/time.h"
#include "base/util.h"

const struct field rate_bucket_fields[RATE_BUCKET_NFIELDS] = {
	F_U64(struct rate_bucket, size),
	F_U64(struct rate_bucket, refill_ms),
	F_U64(struct rate_bucket, burst),
	F_U64(struct rate_bucket, ahead_ns),
};

int rate_check(const struct rate_bucket *b, struct err *e)
{
	if (!b->size)
		return b->refill_ms || b->burst || b->ahead_ns
			       ? err_set(e, EINVAL, "a rate limit of nothing")
			       : 0;
	if (b->size > RATE_SIZE_MAX || b->burst > RATE_SIZE_MAX || !b->refill_ms ||
	    b->refill_ms > RATE_REFILL_MAX_MS || b->ahead_ns > UINT64_MAX / 2)
		return err_set(e, EINVAL,
			       "a rate limit of %llu tokens (and %llu once) in %llu ms: 1 to 2^50 "
			       "tokens, 1 to %u ms",
			       (unsigned long long)b->size, (unsigned long long)b->burst,
			       (unsigned long long)b->refill_ms, RATE_REFILL_MAX_MS);
	return 0;
}

void rate_pass(struct rate_bucket *b, uint64_t elapsed_ns)
{
	b->ahead_ns -= MIN(b->ahead_ns, elapsed_ns);
}

uint64_t rate_wait_ns(const struct rate_bucket *b)
{
	uint64_t full = b->refill_ms * NS_PER_MS, token;

	if (!b->size || b->burst)
		return 0;
	token = full / b->size; /* of 2^50 in a millisecond: nothing */
	return b->ahead_ns + token <= full ? 0 : b->ahead_ns + token - full;
}

void rate_take(struct rate_bucket *b, uint64_t n)
{
	uint64_t given = MIN(n, b->burst);
	unsigned __int128 cost;

	if (!b->size)
		return;
	b->burst -= given;
	cost = (unsigned __int128)(n - given) * b->refill_ms * NS_PER_MS / b->size;
	b->ahead_ns += (uint64_t)MIN(cost, (unsigned __int128)(UINT64_MAX / 4));
	b->ahead_ns = MIN(b->ahead_ns, UINT64_MAX / 2);
}
