/* SPDX-License-Identifier: MIT */
/*
 * See rate.h.
 */
#include "control/rate.h"

#include "base/util.h"
#include "control/json.h"

struct bucket_body {
	uint64_t size, one_time_burst, refill_time;
};

static int take_bucket(const json_t *j, struct rate_bucket *out, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct bucket_body, size, WANT_UINT, true, 0, RATE_SIZE_MAX),
		JSON_FIELD(struct bucket_body, one_time_burst, WANT_UINT, false, 0, RATE_SIZE_MAX),
		JSON_FIELD(struct bucket_body, refill_time, WANT_UINT, true, 0, RATE_REFILL_MAX_MS),
	};
	struct bucket_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (r || !b.size || !b.refill_time)
		return r; /* as there: no limit */
	*out = (struct rate_bucket){ .size = b.size,
				     .refill_ms = b.refill_time,
				     .burst = b.one_time_burst };
	return 0;
}

struct rate_body {
	json_t *bandwidth, *ops;
};

int rate_from_json(const json_t *j, struct rate_bucket *bytes, struct rate_bucket *ops,
		   struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct rate_body, bandwidth, WANT_OBJECT, false, 0, 0),
		JSON_FIELD(struct rate_body, ops, WANT_OBJECT, false, 0, 0),
	};
	struct rate_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (!r && b.bandwidth)
		r = take_bucket(b.bandwidth, bytes, e);
	if (!r && b.ops)
		r = take_bucket(b.ops, ops, e);
	return r;
}
