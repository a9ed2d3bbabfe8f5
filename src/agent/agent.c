/* SPDX-License-Identifier: MIT */
/*
 * The client of the guest agent: see agent.h. Here is when an identity is given, and what it means
 * that the agent answered or said hello; agent_call.c moves the frames. Main thread, device lock
 * held, called by the loop, by agent_call.c (hellos, answers) and by virtio-vsock (ready).
 */
#include "agent/agent.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "agent/agent_call.h"
#include "agent/agent_exec.h"
#include "event/loop.h"
#include "virtio/vsock.h"

#define IDENTITY_MAX                                                                               \
	(PROTO_HEADER + 384u + PROTO_MAX_ENTROPY + PROTO_MAX_USERDATA +                            \
	 PROTO_MAX_NICS * PROTO_MAX_NIC)

struct agent {
	struct machine *m;
	struct device *vsock;
	struct calls calls;
	struct execs execs;
	void (*changed)(void *arg);
	void *changed_arg;
	void (*acknowledged)(void *arg);
	void *acknowledged_arg;
	void (*pressure)(void *arg, const struct proto_report *p);
	void *pressure_arg;

	/* The identity given last, kept to be given again. */
	bool wanted, set_clock, fresh; /* fresh: `entropy` has not been used */
	bool renew;		       /* the guest has run under another identity */
	uint8_t gen[PROTO_GEN];
	uint8_t entropy[sizeof(((struct identity *)0)->entropy)];
	char name[sizeof(((struct identity *)0)->name)];
	char hostname[sizeof(((struct identity *)0)->hostname)];
	char machine_id[sizeof(((struct identity *)0)->machine_id)];
	void *userdata;
	size_t userdata_len;
	struct proto_nic nics[PROTO_MAX_NICS];
	size_t nnics;

	/* Giving it. */
	bool giving;	    /* until acknowledged, failed or timed out */
	struct call *giver; /* the call that does, once it could be made */
	struct loop_timer *give_timer;
	unsigned int give_ms;
	uint64_t give_end_ns;
	agent_done_fn give_done;
	void *give_arg;
	bool reconciled;
	char why[sizeof(((struct err *)0)->msg)]; /* the last one failed so; "": it did not */
};

static void tell_change(struct agent *a)
{
	if (a->changed)
		a->changed(a->changed_arg);
}

/* ---- identity ---- */

static void drop_giver(struct agent *a)
{
	if (a->giver)
		call_drop(a->giver);
	a->giver = NULL;
}

static void give_end(struct agent *a, const struct agent_reply *r)
{
	agent_done_fn done = a->give_done;
	void *arg = a->give_arg;

	a->giving = false;
	a->give_done = NULL;
	loop_set_timer(a->give_timer, 0);
	drop_giver(a);
	/* Without an agent there is still hope: when one says hello it is given again. */
	snprintf(a->why, sizeof(a->why), "%s", r->ret && agent_present(a) ? r->e.msg : "");
	if (a->why[0])
		tell_change(a);
	if (done)
		done(arg, r);
	else if (r->ret && r->ret != -ECANCELED)
		log_guest(&a->calls.log, "again, after the agent restarted: %s", r->e.msg);
}

static void give_or_end(struct agent *a);

static void give_answered(void *arg, const struct agent_reply *answer)
{
	struct agent *a = arg;
	struct agent_reply r = *answer;

	a->giver = NULL;
	/* On a host with more guests than it can run, the agent may have waited for its time while
	 * what we sent was on its way. It has taken nothing; our own time goes on. */
	if (r.type == PROTO_ERROR && r.ret == -ETIMEDOUT && r.stage == PROTO_STAGE_PROTOCOL) {
		give_or_end(a);
		return;
	}
	if (!r.ret && r.type != PROTO_ACK)
		call_not_an_answer(&r, "a frame of the wrong type", r.type);
	else if (!r.ret && !call_version_ok(r.ack.version))
		call_not_an_answer(&r, "another version of the protocol", r.ack.version);
	else if (!r.ret && memcmp(r.ack.gen, a->gen, PROTO_GEN))
		call_not_an_answer(&r, "another generation than it was given", r.ack.gen[0]);
	if (r.ret)
		err_wrap(&r.e, r.ret, "identity");
	a->reconciled = !r.ret;
	if (a->reconciled) {
		/* From here on the guest is this one: when its agent restarts and is told again,
		 * nothing is left in it that is another's, and its connections are its own. */
		a->renew = false;
		if (a->acknowledged)
			a->acknowledged(a->acknowledged_arg);
		tell_change(a);
	}
	give_end(a, &r);
}

static uint32_t time_left_ms(const struct agent *a)
{
	uint64_t now = time_mono_ns();

	return a->give_end_ns > now ? (uint32_t)((a->give_end_ns - now) / NS_PER_MS) + 1 : 1;
}

/* Sends the identity if it can be sent now. */
static int give(struct agent *a, struct err *e)
{
	struct proto_identity_args args = {
		.gen = a->gen,
		.flags = a->renew ? PROTO_IDENTITY_FORK : 0,
		.timeout_ms = time_left_ms(a),
		.entropy = a->entropy,
		.entropy_len = sizeof(a->entropy),
		.name = a->name,
		.hostname = a->hostname,
		.machine_id = a->machine_id,
		.userdata = a->userdata,
		.userdata_len = a->userdata_len,
		.nics = a->nics,
		.nnics = a->nnics,
	};
	cleanup_free uint8_t *frame = NULL;
	size_t n;
	int ret;

	if (!a->giving || a->giver || !agent_present(a) || virtio_vsock_resetting(a->vsock))
		return 0;
	frame = malloc(IDENTITY_MAX);
	if (!frame)
		return err_set(e, ENOMEM, "no memory for the identity");
	if (!a->fresh && getrandom(a->entropy, sizeof(a->entropy), 0) != sizeof(a->entropy))
		return err_sys(e, errno, "identity: getrandom");
	args.realtime_ns = a->set_clock ? time_real_ns() : 0;
	n = proto_put_identity(frame, IDENTITY_MAX, &args);
	BUG_ON(!n); /* all was checked in agent_set_identity */
	ret = call_send(&a->calls, frame, n, 0, give_answered, a, &a->giver, e);
	explicit_bzero(frame, n);
	explicit_bzero(a->entropy, sizeof(a->entropy));
	a->fresh = false;
	return ret;
}

static void give_or_end(struct agent *a)
{
	struct agent_reply r = { 0 };

	r.ret = give(a, &r.e);
	if (r.ret)
		give_end(a, &r);
}

static void give_timeout(void *arg)
{
	struct agent *a = arg;
	struct agent_reply r = { 0 };
	const char *what = "the guest's agent has not acknowledged it";

	if (!agent_present(a))
		what = "no agent has said hello";
	else if (virtio_vsock_resetting(a->vsock))
		what = "the guest's vsock driver has not acknowledged the reset";
	r.ret = err_set(&r.e, ETIMEDOUT, "identity: %s within %u ms", what, a->give_ms);
	give_end(a, &r);
}

static void give_start(struct agent *a, unsigned int timeout_ms, agent_done_fn done, void *arg)
{
	a->giving = true;
	a->why[0] = '\0';
	a->give_done = done;
	a->give_arg = arg;
	a->give_ms = timeout_ms;
	a->give_end_ns = time_mono_ns() + timeout_ms * NS_PER_MS;
	loop_set_timer(a->give_timer, timeout_ms * NS_PER_MS);
}

static bool text_ok(const char *s, size_t cap)
{
	return strnlen(s, cap) < cap;
}

/* What the guest is told of its NICs; false: the list is not one that can be sent. */
static bool nics_copy(struct proto_nic *to, const struct identity *id)
{
	_Static_assert(NICS_MAX <= PROTO_MAX_NICS && NIC_DNS_MAX <= PROTO_MAX_DNS, "fits");
	if (id->nr_nics > NICS_MAX)
		return false;
	memset(to, 0, PROTO_MAX_NICS * sizeof(*to));
	for (size_t i = 0; i < id->nr_nics; i++) {
		const struct nic_address *n = &id->nics[i].addr;
		struct proto_nic *c = &to[i];

		if (n->nr_dns > NIC_DNS_MAX)
			return false;
		memcpy(c->driver_mac, id->nics[i].driver_mac, sizeof(c->driver_mac));
		memcpy(c->mac, n->mac, sizeof(c->mac));
		c->mtu = n->mtu;
		c->prefix4 = n->prefix4;
		memcpy(c->ip4, n->ip4, sizeof(c->ip4));
		memcpy(c->gw4, n->gw4, sizeof(c->gw4));
		c->prefix6 = n->prefix6;
		memcpy(c->ip6, n->ip6, sizeof(c->ip6));
		memcpy(c->gw6, n->gw6, sizeof(c->gw6));
		c->ndns = n->nr_dns;
		for (size_t k = 0; k < n->nr_dns; k++) {
			c->dns[k].family = n->dns[k].family;
			memcpy(c->dns[k].addr, n->dns[k].addr, sizeof(c->dns[k].addr));
		}
		if (!proto_nic_ok(c))
			return false;
	}
	return true;
}

int agent_set_identity(struct agent *a, const struct identity *id, bool set_clock,
		       const void *userdata, size_t userdata_len, unsigned int timeout_ms,
		       agent_done_fn done, void *arg, struct err *e)
{
	struct proto_nic nics[PROTO_MAX_NICS];
	void *copy = NULL;
	int ret;

	if (proto_gen_is_zero(id->generation))
		return err_set(e, EINVAL, "identity: the generation is all zero");
	if (userdata_len > PROTO_MAX_USERDATA)
		return err_set(e, EINVAL, "identity: user data of %zu bytes exceeds %u",
			       userdata_len, PROTO_MAX_USERDATA);
	if (!text_ok(id->hostname, PROTO_MAX_HOSTNAME + 1) ||
	    !text_ok(id->machine_id, sizeof(id->machine_id)) ||
	    !text_ok(id->name, sizeof(id->name)) || !timeout_ms)
		return err_set(e, EINVAL,
			       "identity: name, host name, machine id or time-out is bad");
	if (!nics_copy(nics, id))
		return err_set(e, EINVAL, "identity: the addresses of a NIC are bad");
	if (userdata_len) {
		copy = malloc(userdata_len);
		if (!copy)
			return err_set(e, ENOMEM, "identity: no memory for the user data");
		memcpy(copy, userdata, userdata_len);
	}
	if (a->giving) {
		struct agent_reply r = { 0 };

		r.ret = err_set(&r.e, ECANCELED, "identity: replaced by another");
		give_end(a, &r);
	}
	free(a->userdata);
	a->userdata = copy;
	a->userdata_len = userdata_len;
	memcpy(a->nics, nics, sizeof(a->nics));
	a->nnics = id->nr_nics;
	memcpy(a->gen, id->generation, sizeof(a->gen));
	memcpy(a->entropy, id->entropy, sizeof(a->entropy));
	strcpy(a->name, id->name);
	strcpy(a->hostname, id->hostname);
	strcpy(a->machine_id, id->machine_id);
	a->wanted = a->fresh = true;
	a->set_clock = set_clock;
	a->renew = id->renew;
	if (a->reconciled) {
		a->reconciled = false;
		tell_change(a);
	}
	give_start(a, timeout_ms, done, arg);
	ret = give(a, e);
	if (ret) {
		a->giving = false;
		a->give_done = NULL;
		loop_set_timer(a->give_timer, 0);
	}
	return ret;
}

/* ---- hello ---- */

/* An agent that (re)started: what it was given before it has forgotten. */
static void said_hello(void *arg, const struct proto_ready *y)
{
	struct agent *a = arg;

	virtio_vsock_set_agent_seen(a->vsock);
	if (a->wanted && (!a->reconciled || memcmp(y->gen, a->gen, PROTO_GEN))) {
		a->reconciled = false;
		drop_giver(a); /* it went to an agent that is no more */
		if (!a->giving)
			give_start(a, AGENT_AGAIN_MS, NULL, NULL);
		give_or_end(a);
	}
	tell_change(a);
}

/* Anything in the guest that is root can say it; who listens minds only that. */
static void said_pressure(void *arg, const struct proto_report *p)
{
	struct agent *a = arg;

	if (a->pressure && agent_reconciled(a))
		a->pressure(a->pressure_arg, p);
}

/* ---- the rest of the API ---- */

static void on_ready(void *arg)
{
	give_or_end(arg);
}

static bool gate(void *arg, uint32_t port)
{
	return port != PROTO_AGENT_PORT || agent_reconciled(arg);
}

int agent_create(struct machine *m, struct device *vsock, struct agent **out, struct err *e)
{
	struct agent *a = calloc(1, sizeof(*a));

	if (!a)
		return err_set(e, ENOMEM, "no memory for the agent's client");
	a->m = m;
	a->vsock = vsock;
	calls_init(&a->calls, m, vsock, said_hello, said_pressure, a);
	execs_init(&a->execs, m, vsock);
	vsock_mux_set_gate(virtio_vsock_mux(vsock), gate, a);
	virtio_vsock_set_ready_cb(vsock, on_ready, a);
	*out = a;
	return 0;
}

static void forget_identity(struct agent *a)
{
	free(a->userdata);
	a->userdata = NULL;
	a->userdata_len = 0;
	a->nnics = 0;
	a->wanted = a->giving = a->reconciled = false;
	a->give_done = NULL;
	a->giver = NULL;
	a->why[0] = '\0';
	memset(a->gen, 0, sizeof(a->gen));
	explicit_bzero(a->entropy, sizeof(a->entropy));
}

void agent_destroy(struct agent *a)
{
	if (!a)
		return;
	calls_drop(&a->calls);
	execs_drop(&a->execs);
	vsock_mux_set_gate(virtio_vsock_mux(a->vsock), NULL, NULL);
	virtio_vsock_set_ready_cb(a->vsock, NULL, NULL);
	loop_del_timer(a->give_timer);
	forget_identity(a);
	free(a);
}

int agent_adopt(struct agent *a, struct err *e)
{
	calls_forget(&a->calls);
	execs_forget(&a->execs);
	forget_identity(a);
	a->give_timer = loop_add_timer(a->m->loop, give_timeout, a);
	if (!a->give_timer)
		return err_set(e, ENOMEM, "no memory for the agent's client");
	return 0;
}

void agent_on_change(struct agent *a, void (*fn)(void *arg), void *arg)
{
	a->changed = fn;
	a->changed_arg = arg;
}

void agent_on_reconciled(struct agent *a, void (*fn)(void *arg), void *arg)
{
	a->acknowledged = fn;
	a->acknowledged_arg = arg;
}

void agent_on_pressure(struct agent *a, void (*fn)(void *arg, const struct proto_report *p),
		       void *arg)
{
	a->pressure = fn;
	a->pressure_arg = arg;
}

bool agent_present(const struct agent *a)
{
	return virtio_vsock_agent_seen(a->vsock);
}

bool agent_reconciled(const struct agent *a)
{
	/* A guest that reset its driver meanwhile (it rebooted) is another one. */
	return a->reconciled && agent_present(a);
}

const char *agent_identity_error(const struct agent *a)
{
	return a->why;
}

const uint8_t *agent_generation(const struct agent *a)
{
	return a->gen;
}

int agent_request(struct agent *a, const void *frame, size_t n, unsigned int timeout_ms,
		  agent_done_fn done, void *arg, struct err *e)
{
	if (!agent_present(a))
		return err_set(e, ENOTCONN, "the guest has no agent (none has said hello)");
	if (virtio_vsock_resetting(a->vsock))
		return err_set(e, EAGAIN, "the guest's vsock transport is being reset");
	return call_send(&a->calls, frame, n, timeout_ms, done, arg, NULL, e);
}

void agent_request_drop(struct agent *a, agent_done_fn done, const void *arg)
{
	calls_drop_of(&a->calls, done, arg);
}

int agent_exec(struct agent *a, const struct proto_exec_args *x, agent_exec_fn done, void *arg,
	       struct err *e)
{
	struct proto_exec_args own = *x;

	if (!agent_present(a))
		return err_set(e, EAGAIN, "the guest has no agent (none has said hello)");
	if (!agent_reconciled(a))
		return err_set(e, EAGAIN, "the guest's agent has not acknowledged its identity");
	if (virtio_vsock_resetting(a->vsock))
		return err_set(e, EAGAIN, "the guest's vsock transport is being reset");
	own.gen = a->gen;
	return exec_start(&a->execs, &own, done, arg, e);
}
