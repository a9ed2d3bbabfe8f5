/* SPDX-License-Identifier: MIT */
/*
 * Who a VM is, and forks of it. See doc/control.md. Main thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "agent/agent.h"
#include "control/api.h"
#include "control/nic_json.h"
#include "fork/fork.h"
#include "vm/vm.h"

static void to_hex(const uint8_t *p, size_t n, char *out)
{
	for (size_t i = 0; i < n; i++)
		snprintf(out + 2 * i, 3, "%02x", p[i]);
}

int api_get_identity(struct api_call *call, json_t **reply, struct err *e)
{
	const struct identity *id = vm_identity(call->vm);
	struct agent *agent = vm_agent(call->vm);
	char gen[33];

	to_hex(id->generation, sizeof(id->generation), gen);
	*reply = json_pack("{s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:s, s:s}", "name", id->name,
			   "hostname", id->hostname, "machine_id", id->machine_id, "generation",
			   gen, "reconciled", agent && agent_reconciled(agent), "agent",
			   agent != NULL, "present", agent && agent_present(agent), "error",
			   agent ? agent_identity_error(agent) : "", "state",
			   api_state_text(call->vm));
	return *reply ? 0 : err_set(e, ENOMEM, "out of memory");
}

/* A host name that the kernel, the agent and people accept. */
static bool hostname_ok(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.");

	return n >= 1 && n <= 64 && !s[n] && s[0] != '-' && s[0] != '.';
}

static bool name_ok(const char *s)
{
	size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");

	return n >= 1 && n <= VM_NAME_MAX && !s[n] && !strchr("_.-", s[0]);
}

static bool machine_id_ok(const char *s)
{
	return strlen(s) == 32 && strspn(s, "0123456789abcdef") == 32;
}

/* Checks and copies what a request says about a machine; NULL leaves a field. */
static int set_names(struct identity *id, const char *hostname, const char *machine_id,
		     struct err *e)
{
	if (hostname && !hostname_ok(hostname))
		return err_set(e, EINVAL, "hostname: only letters, digits, - and . are allowed");
	if (machine_id && !machine_id_ok(machine_id))
		return err_set(e, EINVAL, "machine_id: must be 32 lower-case hex digits");
	if (hostname)
		snprintf(id->hostname, sizeof(id->hostname), "%s", hostname);
	if (machine_id)
		snprintf(id->machine_id, sizeof(id->machine_id), "%s", machine_id);
	return 0;
}

struct identity_body {
	const char *hostname, *machine_id;
};

int api_put_identity(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct identity_body, hostname, WANT_STRING, false, 1, 64),
		JSON_FIELD(struct identity_body, machine_id, WANT_STRING, false, 32, 32),
	};
	struct identity id = *vm_identity(call->vm);
	struct identity_body b = { 0 };
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (!r)
		r = set_names(&id, b.hostname, b.machine_id, e);
	return r ? r : vm_set_identity(call->vm, &id, e);
}

struct child_body {
	const char *name, *hostname, *machine_id;
	json_t *networks;
	uint64_t uid, gid, quota_bytes;
	bool paused;
};

static int child_spec(const json_t *j, struct vm_child_spec *spec, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct child_body, name, WANT_STRING, true, 1, VM_NAME_MAX),
		JSON_FIELD(struct child_body, hostname, WANT_STRING, false, 1, 64),
		JSON_FIELD(struct child_body, machine_id, WANT_STRING, false, 32, 32),
		JSON_FIELD(struct child_body, uid, WANT_UINT, false, 0, UINT32_MAX - 1),
		JSON_FIELD(struct child_body, gid, WANT_UINT, false, 0, UINT32_MAX - 1),
		JSON_FIELD(struct child_body, paused, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct child_body, networks, WANT_ARRAY, false, 0, NICS_MAX),
		JSON_FIELD(struct child_body, quota_bytes, WANT_UINT, false, 0, INT64_MAX),
	};
	struct child_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (r)
		return r;
	if (!name_ok(b.name))
		return err_set(e, EINVAL, "name: not a VM's name");
	snprintf(spec->id.name, sizeof(spec->id.name), "%s", b.name);
	snprintf(spec->id.hostname, sizeof(spec->id.hostname), "%s", b.name);
	for (char *p = spec->id.hostname; *p; p++)
		if (*p == '_')
			*p = '-';
	spec->uid = (uint32_t)b.uid;
	spec->gid = (uint32_t)b.gid;
	spec->paused = b.paused;
	spec->quota_bytes = b.quota_bytes;
	r = nics_from_json(b.networks, spec->id.nics, &spec->id.nr_nics, e);
	if (r)
		return r;
	return set_names(&spec->id, b.hostname, b.machine_id, e);
}

static int child_specs(const json_t *children, struct vm_child_spec *specs, struct err *e)
{
	for (size_t i = 0; i < json_array_size(children); i++) {
		int r = child_spec(json_array_get(children, i), &specs[i], e);

		if (r)
			return err_wrap(e, r, "children[%zu]", i);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(specs[k].id.name, specs[i].id.name))
				return err_set(e, EINVAL, "children: two are named %s",
					       specs[i].id.name);
	}
	return 0;
}

static json_t *child_json(const struct vm_child_result *c)
{
	json_t *j = json_pack("{s:s, s:i, s:I, s:I, s:I, s:I, s:I}", "name", c->name, "pid", c->pid,
			      "forked_ns", (json_int_t)c->forked_ns, "adopted_ns",
			      (json_int_t)c->adopted_ns, "entered_ns", (json_int_t)c->entered_ns,
			      "first_exit_ns", (json_int_t)c->first_exit_ns, "ready_ns",
			      (json_int_t)c->ready_ns);
	const char *msg = c->msg[0] ? c->msg : strerrordesc_np(-c->error);
	json_t *text;

	if (!j || !c->error)
		return j;
	text = json_string(msg);
	json_object_set_new(j, "error", text ? text : json_string("failed"));
	return j;
}

static void fork_done(void *arg, const struct vm_child_result *res, size_t n, uint64_t pause_ns)
{
	json_t *list = json_array();
	json_t *reply = json_pack("{s:I, s:o}", "pause_ns", (json_int_t)pause_ns, "children", list);
	struct err e;

	for (size_t i = 0; reply && i < n; i++) {
		json_t *c = child_json(&res[i]);

		if (!c || json_array_append_new(list, c)) {
			json_decref(reply);
			reply = NULL;
		}
	}
	if (reply) {
		api_answer(arg, reply);
		return;
	}
	err_set(&e, ENOMEM, "out of memory");
	api_refuse(arg, &e);
}

struct fork_body {
	json_t *children;
	bool wait, all;
	uint64_t timeout_ms;
};

int api_put_fork(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct fork_body, children, WANT_ARRAY, true, 1, VM_FORK_MAX),
		JSON_FIELD(struct fork_body, wait, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct fork_body, all, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct fork_body, timeout_ms, WANT_UINT, false, 1, API_TIMEOUT_MAX_MS),
	};
	struct fork_body b = { .wait = true, .timeout_ms = 30000 };
	cleanup_free struct vm_child_spec *specs = NULL;
	struct vm_fork_request rq;
	size_t n;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	n = json_array_size(b.children);
	specs = calloc(n, sizeof(*specs));
	if (!specs)
		return err_set(e, ENOMEM, "out of memory");
	r = child_specs(b.children, specs, e);
	if (r)
		return r;
	rq = (struct vm_fork_request){ .specs = specs,
				       .n = n,
				       .wait = b.wait,
				       .all = b.all,
				       .timeout_ms = (uint32_t)b.timeout_ms,
				       .done = fork_done,
				       .arg = call->rq };
	r = vm_fork(call->vm, &rq, e);
	return r < 0 ? r : API_LATER;
}
