/* SPDX-License-Identifier: MIT */
/*
 * The resources that save and load a VM. See doc/control.md. Main thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "control/api.h"
#include "control/nic_json.h"
#include "event/grants.h"
#include "fork/frozen.h"
#include "snapshot/ram.h"
#include "snapshot/snapshot.h"
#include "vm/vm.h"

struct files_body {
	const char *snapshot_path, *mem_file_path;
};

/* A list of {"snapshot_path", "mem_file_path"}; the names stay the body's. */
static int read_chain(const json_t *list, struct vm_files *out, size_t *n, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct files_body, snapshot_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct files_body, mem_file_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
	};

	*n = json_array_size(list); /* 0 for none; json_fields has checked the most */
	for (size_t i = 0; i < *n; i++) {
		struct files_body b = { 0 };
		int r = json_fields(json_array_get(list, i), tab, ARRAY_SIZE(tab), &b, e);

		if (r)
			return err_wrap(e, r, "files %zu", i);
		out[i] = (struct vm_files){ b.snapshot_path, b.mem_file_path };
	}
	return 0;
}

struct create_body {
	const char *snapshot_type, *snapshot_path, *mem_file_path;
	json_t *parents;
	bool compress, wait;
	uint64_t max_growth_bytes;
};

static void on_written(void *arg, const struct vm_snapshot_result *res)
{
	struct err e;

	if (!res->error) {
		api_answer(arg, NULL);
		return;
	}
	err_set(&e, EIO, "%s", res->msg);
	api_refuse(arg, &e);
}

int api_put_snapshot_create(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct create_body, snapshot_type, WANT_STRING, false, 1, 32),
		JSON_FIELD(struct create_body, snapshot_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct create_body, mem_file_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct create_body, parents, WANT_ARRAY, false, 1, RAM_LAYERS_MAX),
		JSON_FIELD(struct create_body, compress, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct create_body, wait, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct create_body, max_growth_bytes, WANT_UINT, false, 0, INT64_MAX),
	};
	struct create_body b = { .snapshot_type = "Full", .wait = true };
	struct vm_files base[RAM_LAYERS_MAX];
	struct vm_snapshot_request rq;
	struct vm_snapshot_state s;
	size_t n = 0;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);
	bool diff;

	if (r)
		return r;
	diff = !strcmp(b.snapshot_type, "Diff");
	if (!diff && strcmp(b.snapshot_type, "Full"))
		return err_set(e, EINVAL, "snapshot_type: must be Full or Diff");
	if (diff != (b.parents != NULL))
		return err_set(e, EINVAL,
			       "parents: what a Diff snapshot differs from, and only that");
	r = read_chain(b.parents, base, &n, e);
	if (r)
		return err_wrap(e, r, "parents");
	rq = (struct vm_snapshot_request){ .to = { b.snapshot_path, b.mem_file_path },
					   .base = base,
					   .nr_base = n,
					   .compress = b.compress,
					   .max_growth_bytes = b.max_growth_bytes,
					   .done = b.wait ? on_written : NULL,
					   .arg = call->rq };
	r = vm_snapshot(call->vm, &rq, e);
	if (r || b.wait)
		return r ? r : API_LATER;
	vm_snapshot_state(call->vm, &s);
	*reply = json_pack("{s:I}", "number", (json_int_t)s.number);
	if (*reply)
		return 0;
	vm_snapshot_cancel(call->vm, "snapshot: nobody could be told of it");
	return err_set(e, ENOMEM, "out of memory");
}

struct cancel_body {
	uint64_t number;
};

int api_put_snapshot_cancel(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct cancel_body, number, WANT_UINT, false, 1, INT64_MAX),
	};
	struct cancel_body b = { 0 };
	struct vm_snapshot_state s;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	vm_snapshot_state(call->vm, &s);
	if (!r && (!b.number || b.number == s.number))
		vm_snapshot_cancel(call->vm, "snapshot: given up, as was asked for");
	return r;
}

int api_get_snapshot(struct api_call *call, json_t **reply, struct err *e)
{
	struct vm_snapshot_state s;
	const struct vm_snapshot_result *l = &s.last;

	vm_snapshot_state(call->vm, &s);
	if (s.writing)
		*reply = json_pack("{s:s, s:I, s:I, s:I}", "state", "writing", "done_bytes",
				   (json_int_t)s.done_bytes, "total_bytes",
				   (json_int_t)s.total_bytes, "growth_bytes",
				   (json_int_t)s.growth_bytes);
	else if (!s.done)
		*reply = json_pack("{s:s}", "state", "none");
	else if (l->error)
		*reply = json_pack("{s:s, s:s, s:I}", "state", "failed", "error", l->msg,
				   "growth_bytes", (json_int_t)l->growth_bytes);
	else
		*reply = json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "state", "done", "pause_ns",
				   (json_int_t)l->pause_ns, "fork_ns", (json_int_t)l->fork_ns,
				   "write_ns", (json_int_t)l->write_ns, "stored_bytes",
				   (json_int_t)l->stored_bytes, "growth_bytes",
				   (json_int_t)l->growth_bytes);
	if (*reply && s.number &&
	    json_object_set_new(*reply, "number", json_integer((json_int_t)s.number))) {
		json_decref(*reply);
		*reply = NULL;
	}
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

struct load_body {
	const char *snapshot_path;
	json_t *mem_backend, *parents, *networks;
	bool resume_vm, seed, huge_pages, working_set, wait;
	uint64_t spares, timeout_ms;
};

struct backend_body {
	const char *backend_type, *backend_path;
};

/* What load says of the machine's own files: in Firecracker's words. */
static int read_backend(const struct load_body *b, struct vm_files *own, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct backend_body, backend_type, WANT_STRING, true, 1, 32),
		JSON_FIELD(struct backend_body, backend_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
	};
	struct backend_body m = { 0 };
	int r = json_fields(b->mem_backend, tab, ARRAY_SIZE(tab), &m, e);

	if (r)
		return r;
	if (strcmp(m.backend_type, "File"))
		return err_set(e, EINVAL, "mem_backend: backend_type: only File is supported");
	*own = (struct vm_files){ b->snapshot_path, m.backend_path };
	return 0;
}

int api_put_snapshot_load(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct load_body, snapshot_path, WANT_STRING, true, 1, GRANT_NAME_MAX),
		JSON_FIELD(struct load_body, mem_backend, WANT_OBJECT, true, 0, 0),
		JSON_FIELD(struct load_body, parents, WANT_ARRAY, false, 1, RAM_LAYERS_MAX - 1),
		JSON_FIELD(struct load_body, resume_vm, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, seed, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, huge_pages, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, working_set, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, spares, WANT_UINT, false, 0, VM_SPARES_MAX),
		JSON_FIELD(struct load_body, networks, WANT_ARRAY, false, 0, NICS_MAX),
		JSON_FIELD(struct load_body, wait, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct load_body, timeout_ms, WANT_UINT, false, 1, API_TIMEOUT_MAX_MS),
	};
	struct vm_files chain[RAM_LAYERS_MAX];
	struct load_body b = { .timeout_ms = 30000 };
	struct nic_identity nics[NICS_MAX];
	struct vm_seed seed;
	uint32_t nr_nics = 0;
	size_t n = 0;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = read_chain(b.parents, chain, &n, e);
	if (!r)
		r = read_backend(&b, &chain[n], e);
	if (!r)
		r = nics_from_json(b.networks, nics, &nr_nics, e);
	if (!r)
		r = vm_set_nics(call->vm, nics, nr_nics, e);
	if (r)
		return r;
	if (b.seed && b.resume_vm)
		return err_set(e, EINVAL, "resume_vm: a seed never runs");
	if ((b.spares || b.huge_pages || b.working_set) && !b.seed)
		return err_set(e, EINVAL, "spares, huge_pages and working_set are a seed's");
	seed = (struct vm_seed){ .spares = (unsigned int)b.spares,
				 .huge_pages = b.huge_pages,
				 .working_set = b.working_set };
	r = vm_load(call->vm, chain, n + 1, b.seed ? &seed : NULL, e);
	if (!r && b.wait)
		vm_must_know(call->vm, (uint32_t)b.timeout_ms);
	if (!r && b.resume_vm)
		r = vm_resume(call->vm, e);
	return r;
}

struct flatten_body {
	const char *snapshot_path, *mem_file_path;
	json_t *layers;
	bool compress;
};

int api_put_snapshot_flatten(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct flatten_body, snapshot_path, WANT_STRING, true, 1,
			   GRANT_NAME_MAX),
		JSON_FIELD(struct flatten_body, mem_file_path, WANT_STRING, true, 1,
			   GRANT_NAME_MAX),
		JSON_FIELD(struct flatten_body, layers, WANT_ARRAY, true, 1, RAM_LAYERS_MAX),
		JSON_FIELD(struct flatten_body, compress, WANT_BOOL, false, 0, 0),
	};
	struct vm_files chain[RAM_LAYERS_MAX], to;
	struct flatten_body b = { 0 };
	size_t n = 0;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = read_chain(b.layers, chain, &n, e);
	if (r)
		return r;
	to = (struct vm_files){ b.snapshot_path, b.mem_file_path };
	return vm_flatten(call->vm, chain, n, &to, b.compress, e);
}
