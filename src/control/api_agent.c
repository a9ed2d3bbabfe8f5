/* SPDX-License-Identifier: MIT */
/*
 * What a VM's owner asks of the guest's agent through the VM process: waiting for it, settling,
 * shutting down. Commands with streams do not come here but over the vsock socket. See
 * doc/control.md. Main thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "base/time.h"
#include "agent/agent.h"
#include "control/api.h"
#include "event/loop.h"
#include "vm/park.h"
#include "vm/vm.h"

#define SETTLE_WORK_MS 300000u /* for the steps after the guest got idle */
#define CALL_MS 10000u

struct waiter {
	TAILQ_ENTRY(waiter) link;
	struct api_waits *all;
	struct vm *vm;
	struct http_request *rq;
	struct loop_timer *timer;
	uint64_t timeout_ms;
};

struct api_waits {
	struct loop *loop;
	TAILQ_HEAD(, waiter) list;
};

struct api_waits *api_waits_create(struct loop *l)
{
	struct api_waits *w = calloc(1, sizeof(*w));

	if (w) {
		w->loop = l;
		TAILQ_INIT(&w->list);
	}
	return w;
}

static void waiter_end(struct waiter *w, const struct err *e)
{
	struct http_request *rq = w->rq;

	TAILQ_REMOVE(&w->all->list, w, link);
	loop_del_timer(w->timer);
	free(w);
	if (e)
		api_refuse(rq, e);
	else
		api_answer(rq, NULL);
}

void api_waits_destroy(struct api_waits *w)
{
	struct err e;

	if (!w)
		return;
	err_set(&e, ECANCELED, "the VM ended");
	while (!TAILQ_EMPTY(&w->list))
		waiter_end(TAILQ_FIRST(&w->list), &e);
	free(w);
}

/* Reconciled, or never going to be: whoever waits is told at once. */
static void waits_changed(void *arg)
{
	struct api_waits *all = arg;
	struct waiter *w, *next;
	struct err e;

	for (w = TAILQ_FIRST(&all->list); w; w = next) {
		struct agent *a = vm_agent(w->vm);

		next = TAILQ_NEXT(w, link);
		if (a && agent_reconciled(a)) {
			waiter_end(w, NULL);
		} else if (a && *agent_identity_error(a)) {
			err_set(&e, ENOTRECOVERABLE,
				"the guest has not become a machine of its own: %s",
				agent_identity_error(a));
			waiter_end(w, &e);
		}
	}
}

void api_waits_attach(struct api_waits *w, struct vm *vm)
{
	struct agent *a = vm_agent(vm);

	if (a)
		agent_on_change(a, waits_changed, w);
}

static void wait_timeout(void *arg)
{
	struct waiter *w = arg;
	struct agent *a = vm_agent(w->vm);
	struct err e;

	err_set(&e, ETIMEDOUT, "the guest's agent did not answer within %llu ms: %s",
		(unsigned long long)w->timeout_ms,
		a && agent_present(a) ? "it is there but has not acknowledged its identity"
				      : "it never said hello (does the image have one?)");
	waiter_end(w, &e);
}

static int agent_wait(struct api_call *call, struct agent *a, uint64_t timeout_ms, struct err *e)
{
	struct waiter *w;

	if (agent_reconciled(a))
		return 0;
	w = calloc(1, sizeof(*w));
	if (w)
		w->timer = loop_add_timer(call->waits->loop, wait_timeout, w);
	if (!w || !w->timer) {
		free(w);
		return err_set(e, ENOMEM, "out of memory");
	}
	w->all = call->waits;
	w->vm = call->vm;
	w->rq = call->rq;
	w->timeout_ms = timeout_ms;
	loop_set_timer(w->timer, timeout_ms * NS_PER_MS);
	TAILQ_INSERT_TAIL(&call->waits->list, w, link);
	/* the agent came with the start of the VM, after control_open */
	api_waits_attach(call->waits, call->vm);
	return API_LATER;
}

static json_t *ack_json(const struct agent_reply *r)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} steps[] = {
		{ PROTO_SETTLE_IDLE, "idle" }, { PROTO_SETTLE_SYNC, "sync" },
		{ PROTO_SETTLE_DROP, "drop" }, { PROTO_SETTLE_COMPACT, "compact" },
		{ PROTO_SETTLE_ZERO, "zero" },
	};
	json_t *done = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(steps); i++)
		if (r->ack.done & steps[i].bit)
			json_array_append_new(done, json_string(steps[i].name));
	return json_pack("{s:i, s:I, s:o, s:s}", "version", (int)r->ack.version, "realtime_ns",
			 (json_int_t)MIN(r->ack.realtime_ns, INT64_MAX), "done", done, "text",
			 r->text);
}

/* The agent is the guest's: it may say any number. */
static void set(json_t *j, const char *key, uint64_t v)
{
	json_object_set_new(j, key, json_number(v));
}

/* What agents say from version 4 of the protocol on. */
static void add_more(json_t *j, const struct proto_report *p)
{
	json_t *psi;

	set(j, "mem_free_bytes", p->mem_free_bytes);
	set(j, "mem_cached_bytes", p->mem_cached_bytes);
	set(j, "swap_total_bytes", p->swap_total_bytes);
	set(j, "swap_used_bytes", p->swap_used_bytes);
	set(j, "swap_in_pages", p->swap_in_pages);
	set(j, "oom_kills", p->oom_kills);
	set(j, "cpu_busy_ms", p->cpu_busy_ms);
	set(j, "cpu_idle_ms", p->cpu_idle_ms);
	if (!(p->flags & PROTO_REPORT_PSI))
		return;
	psi = json_object();
	set(psi, "some_x100", p->psi_some_x100);
	set(psi, "full_x100", p->psi_full_x100);
	set(psi, "some_us", p->psi_some_us);
	set(psi, "full_us", p->psi_full_us);
	json_object_set_new(j, "psi", psi);
}

json_t *api_report_json(const struct proto_report *p)
{
	json_t *j = json_object();

	set(j, "uptime_ms", p->uptime_ms);
	set(j, "load1_x100", p->load1_x100);
	set(j, "procs", p->procs);
	set(j, "sessions", p->sessions);
	set(j, "exec_count", p->exec_count);
	set(j, "mem_total_bytes", p->mem_total_bytes);
	set(j, "mem_available_bytes", p->mem_available_bytes);
	if (p->last_exec_ms != UINT64_MAX)
		set(j, "last_exec_ms", p->last_exec_ms);
	if (p->more)
		add_more(j, p);
	return j;
}

static void agent_answered(void *arg, const struct agent_reply *r)
{
	json_t *j = NULL;
	struct err e;

	if (r->ret) {
		api_refuse(arg, &r->e);
		return;
	}
	j = r->type == PROTO_REPORT ? api_report_json(&r->report) : ack_json(r);
	if (j) {
		api_answer(arg, j);
		return;
	}
	err_set(&e, ENOMEM, "out of memory");
	api_refuse(arg, &e);
}

struct agent_body {
	const char *action;
	uint64_t timeout_ms;
};

/* The frame for an action; 0 for an unknown one. *call_ms: how long its answer may take. */
static size_t action_frame(const struct agent_body *b, uint8_t *buf, size_t cap,
			   unsigned int *call_ms)
{
	uint32_t ms = (uint32_t)b->timeout_ms;

	*call_ms = ms ? ms : CALL_MS;
	if (!strcmp(b->action, "ping"))
		return proto_put_empty(buf, cap, PROTO_PING);
	if (!strcmp(b->action, "activity"))
		return proto_put_empty(buf, cap, PROTO_ACTIVITY);
	if (!strcmp(b->action, "settle") || !strcmp(b->action, "idle")) {
		ms = ms ? ms : 30000;
		*call_ms = ms + SETTLE_WORK_MS;
		return proto_put_settle(
			buf, cap, b->action[0] == 'i' ? PROTO_SETTLE_IDLE : PROTO_SETTLE_ALL, ms);
	}
	*call_ms = CALL_MS;
	if (!strcmp(b->action, "poweroff"))
		return proto_put_shutdown(buf, cap, PROTO_SHUTDOWN_POWEROFF, ms);
	if (!strcmp(b->action, "reboot"))
		return proto_put_shutdown(buf, cap, PROTO_SHUTDOWN_REBOOT, ms);
	return 0;
}

int api_put_agent(struct api_call *call, json_t **reply, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct agent_body, action, WANT_STRING, true, 1, 32),
		JSON_FIELD(struct agent_body, timeout_ms, WANT_UINT, false, 1, API_TIMEOUT_MAX_MS),
	};
	struct agent *a = vm_agent(call->vm);
	uint8_t frame[PROTO_SMALL_FRAME];
	struct agent_body b = { 0 };
	unsigned int call_ms;
	size_t n;
	int r = json_fields(call->body, tab, ARRAY_SIZE(tab), &b, e);

	(void)reply;
	if (r)
		return r;
	if (!a)
		return err_set(e, ENOTCONN,
			       "this VM has not started, or has no vsock for an agent");
	if (!strcmp(b.action, "wait"))
		return agent_wait(call, a, b.timeout_ms ? b.timeout_ms : 60000, e);
	n = action_frame(&b, frame, sizeof(frame), &call_ms);
	if (!n)
		return err_set(
			e, EINVAL,
			"action: must be wait, ping, activity, idle, settle, poweroff or reboot");
	if (!agent_reconciled(a))
		return err_set(e, EAGAIN, "the guest's agent is not there yet (action wait waits)");
	r = vm_unpark(call->vm, "exec", e);
	if (r)
		return r;
	r = agent_request(a, frame, n, call_ms, agent_answered, call->rq, e);
	return r ? r : API_LATER;
}
