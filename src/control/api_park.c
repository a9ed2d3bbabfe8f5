/* SPDX-License-Identifier: MIT */
/*
 * PUT /park and /unpark: a VM's memory goes into a file that its owner granted, and comes back. See
 * vm/park.h and doc/control.md. Main thread.
 */
#include "vm/park.h"

#include <errno.h>

#include "base/time.h"
#include "control/api.h"
#include "event/grants.h"
#include "vm/vm.h"

struct park_body {
	const char *mem_file_path, *pagemap_path;
};

static void park_done(void *arg, const struct vm_park_result *res)
{
	json_t *j = NULL;
	struct err e;

	if (res->error)
		err_set(&e, -res->error, "%s", res->msg);
	else
		j = json_pack("{s:I, s:I, s:I}", "pushed_bytes", (json_int_t)res->pushed_bytes,
			      "zero_bytes", (json_int_t)res->zero_bytes, "ns", (json_int_t)res->ns);
	if (j) {
		api_answer(arg, j);
		return;
	}
	if (!res->error)
		err_set(&e, ENOMEM, "out of memory");
	api_refuse(arg, &e);
}

int api_put_park(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct park_body, mem_file_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct park_body, pagemap_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
	};
	struct park_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = vm_park(call->vm, b.mem_file_path, b.pagemap_path, park_done, call->rq, e);
	return r ? r : API_LATER;
}

int api_put_unpark(struct api_call *call, json_t **reply, struct err *e)
{
	uint64_t bytes = vm_parked_bytes(call->vm), t0 = time_mono_ns();
	int r = json_fields(call->body, NULL, 0, NULL, e);

	if (!r && vm_state(call->vm) != VM_RUNNING && vm_state(call->vm) != VM_PARKED)
		r = err_set(e, EINVAL, "unpark: the VM is not parked");
	if (!r)
		r = vm_unpark(call->vm, "request", e);
	if (r)
		return r;
	*reply = json_pack("{s:I, s:I}", "read_bytes", (json_int_t)bytes, "ns",
			   (json_int_t)(time_mono_ns() - t0));
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}
