/* SPDX-License-Identifier: MIT */
/*
 * The table of resources, and the way from a request to its handler and back. See control.h and
 * doc/control.md. Main thread.
 */
#include "control/control.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/api.h"
#include "control/fdsock.h"
#include "event/fdtab.h"
#include "vm/vm.h"

struct control {
	struct vm *vm;
	struct http *http;
	struct fdsock *fdsock;
	struct api_waits *waits;
};

struct resource {
	enum http_method method;
	const char *path; /* may end in {id} */
	api_fn *fn;
};

static const struct resource resources[] = {
	{ HTTP_GET, "/", api_get_root },
	{ HTTP_GET, "/version", api_get_version },
	{ HTTP_GET, "/machine-config", api_get_machine },
	{ HTTP_PUT, "/machine-config", api_put_machine },
	{ HTTP_PUT, "/boot-source", api_put_boot },
	{ HTTP_PUT, "/drives/{id}", api_put_drive },
	{ HTTP_PATCH, "/drives/{id}", api_patch_drive },
	{ HTTP_PUT, "/network-interfaces/{id}", api_put_nic },
	{ HTTP_PATCH, "/network-interfaces/{id}", api_patch_nic },
	{ HTTP_PUT, "/vsock", api_put_vsock },
	{ HTTP_PUT, "/entropy", api_put_entropy },
	{ HTTP_GET, "/balloon", api_get_balloon },
	{ HTTP_PUT, "/balloon", api_put_balloon },
	{ HTTP_PATCH, "/balloon", api_patch_balloon },
	{ HTTP_GET, "/balloon/statistics", api_get_balloon_stats },
	{ HTTP_PATCH, "/balloon/statistics", api_patch_balloon_stats },
	{ HTTP_GET, "/balloon/hinting/status", api_get_balloon_hinting },
	{ HTTP_PATCH, "/balloon/hinting/start", api_patch_balloon_hinting },
	{ HTTP_GET, "/balloon/policy", api_get_policy },
	{ HTTP_PUT, "/balloon/policy", api_put_policy },
	{ HTTP_PUT, "/memory-quota", api_put_quota },
	{ HTTP_PUT, "/actions", api_put_actions },
	{ HTTP_PATCH, "/vm", api_patch_vm },
	{ HTTP_PUT, "/park", api_put_park },
	{ HTTP_PUT, "/unpark", api_put_unpark },
	{ HTTP_PUT, "/snapshot/create", api_put_snapshot_create },
	{ HTTP_PUT, "/snapshot/load", api_put_snapshot_load },
	{ HTTP_PUT, "/snapshot/cancel", api_put_snapshot_cancel },
	{ HTTP_PUT, "/snapshot/flatten", api_put_snapshot_flatten },
	{ HTTP_GET, "/snapshot", api_get_snapshot },
	{ HTTP_GET, "/identity", api_get_identity },
	{ HTTP_PUT, "/identity", api_put_identity },
	{ HTTP_PUT, "/fork", api_put_fork },
	{ HTTP_PUT, "/exec", api_put_exec },
	{ HTTP_PUT, "/agent", api_put_agent },
	{ HTTP_GET, "/stats", api_get_stats },
	{ HTTP_GET, "/events", api_get_events },
	{ HTTP_GET, "/metrics", api_get_metrics },
};

void api_answer(struct http_request *rq, json_t *reply)
{
	char *text = reply ? json_text(reply, JSON_COMPACT) : NULL;
	struct err e;

	if (reply && !text) {
		err_set(&e, ENOMEM, "out of memory");
		api_refuse(rq, &e);
	} else {
		http_reply(rq, reply ? 200 : 204, text, text ? strlen(text) : 0);
	}
	free(text);
	json_decref(reply);
}

void api_refuse(struct http_request *rq, const struct err *e)
{
	/* The story may quote what a client or guest said: only valid UTF-8 makes JSON. */
	json_t *j = json_pack("{s:s}", "fault_message", e->msg);
	char *text;

	if (!j)
		j = json_pack("{s:s}", "fault_message",
			      "the request failed; the reason is not text");
	text = j ? json_text(j, JSON_ENSURE_ASCII) : NULL;
	http_reply(rq, 400, text ? text : "{}", text ? strlen(text) : 2);
	free(text);
	json_decref(j);
}

/* true when path is the resource's; *id is set when it has one. */
static bool path_is(const struct resource *r, const char *path, const char **id)
{
	const char *brace = strchr(r->path, '{');
	size_t n = brace ? (size_t)(brace - r->path) : 0;

	*id = NULL;
	if (!brace)
		return !strcmp(path, r->path);
	if (strncmp(path, r->path, n) || !json_id_ok(path + n, 31))
		return false;
	*id = path + n;
	return true;
}

static int call_resource(struct control *c, const struct resource *r, const char *id,
			 struct http_request *rq, json_t **reply, struct err *e)
{
	cleanup_json json_t *body = NULL;
	struct api_call call = { .vm = c->vm, .waits = c->waits, .id = id, .rq = rq };

	if (r->method == HTTP_GET) {
		if (rq->body_bytes)
			return err_set(e, EINVAL, "a GET has no body");
		body = json_object();
		if (!body)
			return err_set(e, ENOMEM, "out of memory");
	} else {
		body = json_object_from(rq->body, rq->body_bytes, e);
		if (!body)
			return -EINVAL;
	}
	call.body = body;
	return r->fn(&call, reply, e);
}

static void control_request(void *arg, struct http_request *rq)
{
	static const char *const methods[] = { "GET", "PUT", "PATCH", "this method on" };
	struct control *c = arg;
	json_t *reply = NULL;
	struct err e;
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(resources); i++) {
		const char *id;

		if (rq->method != resources[i].method || !path_is(&resources[i], rq->path, &id))
			continue;
		r = call_resource(c, &resources[i], id, rq, &reply, &e);
		if (r == API_LATER)
			return;
		if (r < 0)
			api_refuse(rq, &e);
		else
			api_answer(rq, reply);
		return;
	}
	err_set(&e, EINVAL, "Invalid request method and/or path: %s %s", methods[rq->method],
		rq->path);
	api_refuse(rq, &e);
}

int control_open(struct vm *vm, struct loop *l, struct fdtab *fds, int api_fd, int fd_fd,
		 struct control **out, struct err *e)
{
	struct control *c = calloc(1, sizeof(*c));
	int r;

	if (c)
		c->waits = api_waits_create(l);
	if (!c || !c->waits) {
		fdtab_del(fds, api_fd);
		close(api_fd);
		r = err_set(e, ENOMEM, "control socket: out of memory");
		goto fail;
	}
	c->vm = vm;
	r = http_open(l, fds, api_fd, control_request, c, &c->http, e);
	if (r)
		goto fail;
	r = fdsock_open(l, fds, vm_grants(vm), fd_fd, &c->fdsock, e);
	if (r) {
		control_close(c);
		return r;
	}
	api_waits_attach(c->waits, vm);
	*out = c;
	return 0;
fail:
	fdtab_del(fds, fd_fd);
	close(fd_fd);
	control_close(c);
	return r;
}

void control_close(struct control *c)
{
	if (!c)
		return;
	http_close(c->http);
	fdsock_close(c->fdsock);
	api_waits_destroy(c->waits);
	free(c);
}

void control_forget(struct control *c)
{
	if (c)
		http_forget(c->http);
}

bool control_busy(const struct control *c)
{
	return http_busy(c->http) > 0 || fdsock_busy(c->fdsock);
}

uint64_t control_last_ns(const struct control *c)
{
	return http_last_ns(c->http);
}
