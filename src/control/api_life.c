/* SPDX-License-Identifier: MIT */
/*
 * The resources that start, pause, end and save a VM, and its counters. See doc/control.md. Main
 * thread.
 */
#include <errno.h>
#include <string.h>

#include "control/api.h"
#include "event/grants.h"
#include "snapshot/snapshot.h"
#include "vm/vm.h"

struct action_body {
	const char *action_type;
};

int api_put_actions(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct action_body, action_type, WANT_STRING, true, 1, 32),
	};
	struct action_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!strcmp(b.action_type, "InstanceStart"))
		return vm_start(call->vm, e);
	if (!strcmp(b.action_type, "SendCtrlAltDel"))
		return vm_power_button(call->vm, e);
	if (!strcmp(b.action_type, "Kill")) {
		/* Answered first: the loop ends with the VM. */
		api_answer(call->rq, NULL);
		vm_end(call->vm, VM_END_KILLED, "asked for over the control socket");
		return API_LATER;
	}
	return err_set(e, EINVAL, "action_type: must be InstanceStart, SendCtrlAltDel or Kill");
}

struct vm_body {
	const char *state;
};

int api_patch_vm(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct vm_body, state, WANT_STRING, true, 1, 32),
	};
	struct vm_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!strcmp(b.state, "Paused"))
		return vm_pause(call->vm, e);
	if (!strcmp(b.state, "Resumed"))
		return vm_resume(call->vm, e);
	return err_set(e, EINVAL, "state: must be Paused or Resumed");
}

struct create_body {
	const char *snapshot_type, *snapshot_path, *mem_file_path;
};

int api_put_snapshot_create(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct create_body, snapshot_type, WANT_STRING, false, 1, 32),
		JSON_FIELD(struct create_body, snapshot_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct create_body, mem_file_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
	};
	struct create_body b = { .snapshot_type = "Full" };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (strcmp(b.snapshot_type, "Full"))
		return err_set(e, EINVAL, "snapshot_type: only Full is supported");
	return vm_snapshot(call->vm, b.snapshot_path, b.mem_file_path, e);
}

struct load_body {
	const char *snapshot_path;
	json_t *mem_backend;
	bool resume_vm, seed, huge_pages;
	uint64_t spares;
};

struct backend_body {
	const char *backend_type, *backend_path;
};

int api_put_snapshot_load(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct load_body, snapshot_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct load_body, mem_backend, WANT_OBJECT, true, 0, 0),
		JSON_FIELD(struct load_body, resume_vm, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, seed, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, huge_pages, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, spares, WANT_UINT, false, 0, VM_SPARES_MAX),
	};
	static const struct json_field backend_tab[] = {
		JSON_FIELD(struct backend_body, backend_type, WANT_STRING, true, 1, 32),
		JSON_FIELD(struct backend_body, backend_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
	};
	struct backend_body m = { 0 };
	struct load_body b = { 0 };
	struct vm_seed seed;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = json_fields(b.mem_backend, backend_tab, ARRAY_SIZE(backend_tab), &m, e);
	if (r)
		return r;
	if (strcmp(m.backend_type, "File"))
		return err_set(e, EINVAL, "mem_backend: backend_type: only File is supported");
	if (b.seed && b.resume_vm)
		return err_set(e, EINVAL, "resume_vm: a seed never runs");
	if ((b.spares || b.huge_pages) && !b.seed)
		return err_set(e, EINVAL, "spares and huge_pages are a seed's");
	seed = (struct vm_seed){ .spares = (unsigned int)b.spares, .huge_pages = b.huge_pages };
	r = vm_load(call->vm, b.snapshot_path, m.backend_path, b.seed ? &seed : NULL, e);
	if (!r && b.resume_vm)
		r = vm_resume(call->vm, e);
	return r;
}

int api_get_stats(struct api_call *call, json_t **reply, struct err *e)
{
	struct vm_stats s;
	json_t *j;

	vm_stats(call->vm, &s);
	j = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "uptime_ns",
		      (json_int_t)s.uptime_ns, "exits_total", (json_int_t)s.exits_total,
		      "exits_mmio", (json_int_t)s.exits_mmio, "exits_pio", (json_int_t)s.exits_pio,
		      "forks", (json_int_t)s.forks, "last_pause_ns", (json_int_t)s.last_pause_ns,
		      "last_forks", (json_int_t)s.last_forks, "last_fork_ns",
		      (json_int_t)s.last_fork_ns, "fork_depth", (json_int_t)s.fork_depth);
	*reply = j ? json_pack("{s:o, s:{s:I, s:I, s:I, s:I, s:I}}", "vm", j, "clocks", "forked_ns",
			       (json_int_t)s.forked_ns, "adopted_ns", (json_int_t)s.adopted_ns,
			       "entered_ns", (json_int_t)s.entered_ns, "first_exit_ns",
			       (json_int_t)s.first_exit_ns, "ready_ns", (json_int_t)s.ready_ns)
		   : NULL;
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}
