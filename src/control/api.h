/* SPDX-License-Identifier: MIT */
/*
 * Inside the control API: a resource's handler and how it answers. Private to src/control.
 */
#ifndef CLONE_CONTROL_API_H
#define CLONE_CONTROL_API_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"
#include "base/util.h"
#include "control/http.h"
#include "control/json.h"

struct loop;
struct vm;

#define API_LATER 1 /* the handler keeps rq and calls api_answer or api_refuse */
#define API_TIMEOUT_MAX_MS 86400000u

/* Requests that wait for the agent; control.c keeps one per control socket. */
struct api_waits;
struct api_waits *api_waits_create(struct loop *l);
void api_waits_destroy(struct api_waits *w);
/* Listens to the agent's changes, when there is an agent already. */
void api_waits_attach(struct api_waits *w, struct vm *vm);

struct api_call {
	struct vm *vm;
	struct api_waits *waits;
	const char *id; /* what stands for {id} in the path; NULL when nothing does */
	json_t *body;	/* the handler's call only; an empty object for GET */
	struct http_request *rq;
};

/*
 * 0 with *reply set (200; the reference is given away) or left NULL (204); API_LATER; -errno with e
 * (400). A handler must not answer rq itself and then return anything but API_LATER.
 */
typedef int api_fn(struct api_call *call, json_t **reply, struct err *e);

/* The later answers. api_answer takes over the reference; NULL is 204. */
void api_answer(struct http_request *rq, json_t *reply);
void api_refuse(struct http_request *rq, const struct err *e);

/* What a guest's agent said of itself. The caller's; NULL: no memory. */
struct proto_report;
json_t *api_report_json(const struct proto_report *p);

/* As GET / says it. */
const char *api_state_text(const struct vm *vm);

api_fn api_get_root, api_get_version, api_get_machine, api_put_machine, api_put_boot, api_put_drive,
	api_patch_drive, api_put_nic, api_patch_nic, api_put_vsock, api_put_entropy, api_put_quota;
api_fn api_get_balloon, api_put_balloon, api_patch_balloon, api_get_balloon_stats,
	api_patch_balloon_stats, api_get_balloon_hinting, api_patch_balloon_hinting;
api_fn api_put_actions, api_patch_vm, api_get_stats, api_get_events, api_get_metrics;
api_fn api_get_snapshot, api_put_snapshot_create, api_put_snapshot_cancel, api_put_snapshot_load,
	api_put_snapshot_flatten;
api_fn api_get_identity, api_put_identity, api_put_fork;
api_fn api_put_exec, api_put_agent;
api_fn api_get_policy, api_put_policy;
api_fn api_put_park, api_put_unpark;

#endif
