/* SPDX-License-Identifier: MIT */
/*
 * Forking, from the privileged caller's side. See forkreq.h.
 */
#include "cli/forkreq.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/cli.h"
#include "cli/fork_child.h"
#include "cli/gate.h"
#include "cli/group.h"
#include "cli/ksm.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "cli/shares.h"
#include "control/client.h"
#include "control/json.h"
#include "fork/fork.h"

static int publish(const struct fork_session *s, struct fork_prepared *p, const json_t *clocks,
		   struct err *e)
{
	cleanup_json json_t *info = json_deep_copy(s->src->info);
	char now[64];

	if (!info)
		return err_set(e, ENOMEM, "out of memory");
	cli_format_now(now, sizeof(now));
	json_object_set_new(info, "name", json_string(p->dir.name));
	json_object_set_new(info, "created", json_string(now));
	json_object_set_new(info, "uid", json_integer(p->dir.uid));
	if (s->how->owned)
		json_object_set_new(info, "owned", json_true());
	if (p->ports)
		json_object_set_new(info, "networks",
				    nics_info(s->how->nics, p->ports, s->how->net));
	procid_note(info, (pid_t)json_integer_value(json_object_get(clocks, "pid")));
	return vmdir_publish(&p->dir, info, e);
}

static json_t *request_body(const struct fork_session *s, const struct fork_prepared *p,
			    const struct fork_child_info *c, size_t n)
{
	const struct fork_how *how = s->how;
	uint64_t quota = shares_quota(s->src->info);
	json_t *list = json_array();
	json_t *body = json_pack("{s:o, s:b, s:b, s:I}", "children", list, "wait", how->wait, "all",
				 how->all, "timeout_ms", (json_int_t)how->timeout_ms);

	for (size_t i = 0; body && i < n; i++) {
		if (!p[i].made)
			continue;
		json_array_append_new(
			list, json_pack("{s:s, s:I, s:I, s:b, s:I, s:o*}", "name", c[i].name, "uid",
					(json_int_t)p[i].dir.uid, "gid", (json_int_t)p[i].dir.gid,
					"paused", how->paused, "quota_bytes", (json_int_t)quota,
					"networks",
					p[i].ports ? nics_request(how->nics, p[i].ports) : NULL));
	}
	return body;
}

/* What the source said of one child. It may be missing: the source is not to be believed. */
static void settle_child(const struct fork_session *s, struct fork_prepared *p,
			 struct fork_child_info *c, json_t *children)
{
	json_t *j = NULL;
	const char *error;
	struct err e;
	size_t i;

	json_array_foreach(children, i, j)
	{
		const char *name = json_string_value(json_object_get(j, "name"));

		if (name && !strcmp(name, c->name))
			break;
		j = NULL;
	}
	error = j ? json_string_value(json_object_get(j, "error"))
		  : "the answer does not mention it";
	error = gates_verdict(s->gates, &p->dir,
			      (pid_t)json_integer_value(json_object_get(j, "pid")), error);
	if (!error && publish(s, p, j, &e))
		error = e.msg;
	if (error) {
		snprintf(c->why, sizeof(c->why), "%s", error);
		if (!vmdir_alive(&p->dir) && !group_settle(&p->dir, NULL))
			(void)group_end_text(&p->dir, c->why, sizeof(c->why));
		fork_child_discard(p);
		return;
	}
	c->ok = true;
	c->clocks = json_incref(j);
	if (p->ports)
		json_object_set_new(j, "networks", nics_info(s->how->nics, p->ports, s->how->net));
	c->owner_fd = take_fd(&p->dir.creator_fd);
	vmdir_close(&p->dir);
}

/* Nobody may hold a child's lock who is not it: grants that were not taken end with the connection.
 */
static void take_back(struct fork_session *s, struct fork_prepared *p, size_t n)
{
	if (s->fdsock >= 0)
		close(take_fd(&s->fdsock));
	for (size_t i = 0; i < n; i++)
		fork_child_discard(&p[i]);
}

/* Those that cannot be prepared have failed, and say why. How many are ready to be made. */
static size_t prepare_all(const struct fork_session *s, struct fork_prepared *p,
			  struct fork_child_info *c, size_t n)
{
	size_t ready = 0;
	struct err e;

	for (size_t i = 0; i < n; i++) {
		if (fork_child_prepare(s, c[i].name, &p[i], &e)) {
			snprintf(c[i].why, sizeof(c[i].why), "%s", e.msg);
			fork_child_discard(&p[i]);
			if (s->how->all)
				return 0;
		} else {
			ready++;
		}
	}
	return ready;
}

/* The connection is made for the request: a source ends one that is silent for long, and to
 * prepare children may take long where the host is busy. */
static int put_fork(const struct fork_session *s, const json_t *body, json_t **reply, struct err *e)
{
	struct client *api;
	int r = client_open(s->src->dir->fd, &api, e);

	if (r)
		return r;
	client_set_cancel(api, s->cancel_fd);
	r = gates_watch(s->gates, api, e);
	if (!r)
		r = client_request(api, "PUT", "/fork", body, s->how->timeout_ms + LAUNCH_MS, reply,
				   e);
	client_close(api);
	return r;
}

/* One request: of those that are prepared, all are of one instant. */
static int ask(const struct fork_session *s, struct fork_prepared *p, struct fork_child_info *c,
	       size_t n, uint64_t *pause_ns, struct err *e)
{
	cleanup_json json_t *body = request_body(s, p, c, n), *reply = NULL;
	size_t first = 0;
	uint64_t sent;
	int r;

	if (!body)
		return err_set(e, ENOMEM, "out of memory");
	while (!p[first].made)
		first++;
	r = fork_child_grant_parent(s, c[first].name, e);
	sent = time_mono_ns();
	if (!r)
		r = put_fork(s, body, &reply, e);
	if (r)
		return r;
	*pause_ns = (uint64_t)json_integer_value(json_object_get(reply, "pause_ns"));
	for (size_t i = 0; i < n; i++) {
		if (!p[i].made)
			continue;
		c[i].sent_ns = sent;
		settle_child(s, &p[i], &c[i], json_object_get(reply, "children"));
	}
	return 0;
}

/* Places on the networks for all of them at once. */
static int place_all(const struct fork_session *s, struct fork_prepared *p,
		     const struct fork_child_info *c, size_t n, struct nic_ports *ports,
		     struct err *e)
{
	cleanup_free const char **names = calloc(n, sizeof(*names));
	int r;

	if (!names)
		return err_set(e, ENOMEM, "out of memory");
	for (size_t i = 0; i < n; i++)
		names[i] = c[i].name;
	r = nics_attach(s->how->nics, s->how->net, names, n, ports, e);
	for (size_t i = 0; i < n && !r; i++)
		p[i].ports = &ports[i];
	return r;
}

/* On failure none of these was made. */
static int batch(struct fork_session *s, struct fork_child_info *c, size_t n, uint64_t *pause_ns,
		 struct err *e)
{
	const struct nics *nics = s->how->nics && s->how->nics->n ? s->how->nics : NULL;
	cleanup_free struct nic_ports *ports = nics ? calloc(n, sizeof(*ports)) : NULL;
	cleanup_free struct fork_prepared *p = calloc(n, sizeof(*p));
	size_t ready = 0;
	int r = 0;

	if (!p || (nics && !ports))
		return err_set(e, ENOMEM, "out of memory");
	if (s->fdsock < 0)
		s->fdsock = client_fdsock(s->src->dir->fd, e);
	if (s->fdsock < 0)
		return s->fdsock;
	if (nics)
		r = place_all(s, p, c, n, ports, e);
	if (r)
		return r;
	ready = prepare_all(s, p, c, n);
	if (ready)
		r = ask(s, p, c, n, pause_ns, e);
	if (r || !ready)
		take_back(s, p, n);
	if (nics) {
		nics_detach(nics, ports, n);
		nics_refill(nics);
	}
	return r;
}

void fork_child_undo(struct fork_child_info *c)
{
	struct vmdir d;

	vmdir_init(&d);
	if (!vmdir_open(PLACE_VM, c->name, &d, NULL)) {
		fork_child_remove(&d);
		vmdir_close(&d);
	}
	c->ok = false;
}

/* Those that have no story of their own failed by this one. */
static void fail_rest(struct fork_child_info *c, size_t n, const char *why)
{
	char story[ERR_MSG_MAX];

	snprintf(story, sizeof(story), "%s", why);
	for (size_t i = 0; i < n; i++)
		if (!c[i].ok && !c[i].why[0])
			snprintf(c[i].why, sizeof(c[i].why), "%s", story);
}

/* All or none: the source ended those of its batch; what is left are those that it had made before,
 * and those of which we could not make VMs. */
static bool undo_if_failed(struct fork_child_info *c, size_t done, size_t n)
{
	size_t bad = 0;

	while (bad < done && c[bad].ok)
		bad++;
	if (bad == done)
		return false;
	while (bad + 1 < done && !c[bad].why[0])
		bad++;
	for (size_t i = 0; i < done; i++)
		if (c[i].ok)
			fork_child_undo(&c[i]);
	fail_rest(c, n, c[bad].why);
	return true;
}

int fork_request(const struct fork_source *src, struct fork_child_info *c, size_t n,
		 const struct fork_how *how, int cancel_fd, uint64_t *pause_ns, struct err *e)
{
	const size_t most = src->live ? VM_FORK_MAX : FORK_BATCH;
	struct fork_session s = {
		.src = src, .how = how, .fdsock = -1, .cancel_fd = cancel_fd, .ksm = -1
	};
	int r;

	if (src->live && n > most)
		return err_set(e, EINVAL,
			       "%zu forks: of a running VM at most %zu, which are of one instant",
			       n, most);
	for (size_t i = 0; i < n; i++)
		c[i].owner_fd = -1;
	r = shares_claim(src->info, &s.ksm, e);
	if (r)
		return r;
	for (size_t at = 0; at < n; at += most) {
		size_t m = MIN(n - at, most);

		s.gates = gates_new(m, src->dir, src->live);
		r = s.gates ? batch(&s, c + at, m, pause_ns, e)
			    : err_set(e, ENOMEM, "out of memory, or of descriptors");
		gates_free(s.gates);
		if (r && !at)
			break; /* none was made: that is the caller's to say */
		if (r)
			fail_rest(c + at, n - at, e->msg);
		if ((how->all && undo_if_failed(c, MIN(at + m, n), n)) || r) {
			r = 0;
			break;
		}
	}
	if (s.fdsock >= 0)
		close(s.fdsock);
	if (s.ksm >= 0)
		close(s.ksm);
	return r;
}

void fork_child_info_free(struct fork_child_info *c, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		json_decref(c[i].clocks);
		if (c[i].owner_fd >= 0)
			close(c[i].owner_fd);
	}
	free(c);
}
