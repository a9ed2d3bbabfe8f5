/* SPDX-License-Identifier: MIT */
/*
 * The resource /balloon/policy: whether a VM's balloon is looked after, by which thresholds, and
 * what was decided last. See doc/control.md and vm/squeeze.h. Main thread.
 */
#include <errno.h>
#include <string.h>

#include "base/time.h"
#include "control/api.h"
#include "vm/squeeze.h"
#include "vm/vm.h"

struct policy_body {
	const char *mode;
	uint64_t v[SQUEEZE_LIMITS];
};

static uint32_t get(const struct squeeze_cfg *c, size_t i)
{
	uint32_t v;

	memcpy(&v, (const char *)c + squeeze_limits[i].offset, sizeof(v));
	return v;
}

static json_t *decision_json(const struct squeeze_decision *d)
{
	if (!d->at_ns)
		return json_null();
	return json_pack("{s:s, s:I, s:I, s:I}", "reason", squeeze_why_word(d->why), "from_bytes",
			 (json_int_t)d->from_bytes, "to_bytes", (json_int_t)d->to_bytes, "age_ms",
			 (json_int_t)((time_mono_ns() - d->at_ns) / NS_PER_MS));
}

int api_get_policy(struct api_call *call, json_t **reply, struct err *e)
{
	struct squeeze_cfg c;
	struct squeeze s;
	bool on = vm_policy(call->vm, &c, &s);
	json_t *j = json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "mode", on ? "auto" : "manual",
			      "state", on ? squeeze_state_word(s.state) : "off", "steps",
			      (json_int_t)s.steps, "gave_back", (json_int_t)s.gave_back, "last",
			      decision_json(&s.last), "moved", decision_json(&s.moved));
	int r = j ? 0 : -1;

	for (size_t i = 0; i < SQUEEZE_LIMITS && !r; i++)
		r = json_object_set_new(j, squeeze_limits[i].name, json_integer(get(&c, i)));
	if (!r) {
		*reply = j;
		return 0;
	}
	json_decref(j);
	return err_set(e, ENOMEM, "out of memory");
}

/* What is not said is the default. */
int api_put_policy(struct api_call *call, json_t **reply, struct err *e)
{
	struct json_field tab[1 + SQUEEZE_LIMITS] = {
		JSON_FIELD(struct policy_body, mode, WANT_STRING, true, 1, 16),
	};
	struct squeeze_cfg c = squeeze_defaults;
	struct policy_body b = { 0 };
	bool on;
	int r;

	(void)reply;
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		const struct squeeze_limit *l = &squeeze_limits[i];

		b.v[i] = get(&c, i);
		tab[1 + i] = (struct json_field){ .name = l->name,
						  .want = WANT_UINT,
						  .offset = offsetof(struct policy_body, v) +
							    i * sizeof(b.v[0]),
						  .min = l->min,
						  .max = l->max };
	}
	r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);
	if (r)
		return r;
	on = !strcmp(b.mode, "auto");
	if (!on && strcmp(b.mode, "manual") != 0)
		return err_set(e, EINVAL, "mode: must be auto or manual");
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		uint32_t v = (uint32_t)b.v[i];

		memcpy((char *)&c + squeeze_limits[i].offset, &v, sizeof(v));
	}
	return vm_set_policy(call->vm, on, &c, e);
}
