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
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "control/client.h"
#include "control/json.h"
#include "fork/fork.h"

#define GRANTS_PER_CHILD (3 + HOST_FDS + 2 * LAUNCH_DISKS)

struct session {
	const struct fork_source *src;
	const struct fork_how *how;
	struct client *api;
	int fdsock;
};

struct prepared {
	struct vmdir dir;
	bool made;
	const struct nic_ports *ports; /* NULL: no NICs */
};

/* Names and descriptors of one child, granted and closed together. */
struct bundle {
	char name[GRANTS_PER_CHILD][192];
	int fd[GRANTS_PER_CHILD];
	bool ours[GRANTS_PER_CHILD]; /* close it afterwards */
	size_t n;
};

static void add(struct bundle *b, const char *prefix, const char *what, int fd, bool ours)
{
	BUG_ON(b->n == GRANTS_PER_CHILD);
	snprintf(b->name[b->n], sizeof(b->name[0]), "%s%s", prefix, what);
	b->fd[b->n] = fd;
	b->ours[b->n++] = ours;
}

static int send_bundle(const struct session *s, struct bundle *b, int r, struct err *e)
{
	const char *names[GRANTS_PER_CHILD];

	for (size_t i = 0; i < b->n; i++)
		names[i] = b->name[i];
	if (!r)
		r = client_grant(s->fdsock, names, b->fd, b->n, e);
	for (size_t i = 0; i < b->n; i++)
		if (b->ours[i])
			close(b->fd[i]);
	return r;
}

/* A fresh data file for each disk that is written to. */
static int add_overlays(const struct session *s, struct bundle *b, const char *prefix,
			struct err *e)
{
	const json_t *disks = json_object_get(s->src->info, "disks"), *d;
	size_t i;

	json_array_foreach(disks, i, d)
	{
		const char *id = json_string_value(json_object_get(d, "id"));
		char what[64];
		int fd;

		if (!id || json_is_true(json_object_get(d, "read_only")))
			continue;
		if (b->n + 2 > GRANTS_PER_CHILD)
			return err_set(e, EINVAL, "more disks than a VM can have");
		fd = launch_overlay(e);
		if (fd < 0)
			return fd;
		snprintf(what, sizeof(what), "disk/%.32s/data", id);
		add(b, prefix, what, fd, true);
		fd = launch_overlay_reader(fd, e);
		if (fd < 0)
			return fd;
		snprintf(what, sizeof(what), "disk/%.32s/data-ro", id);
		add(b, prefix, what, fd, true);
	}
	return 0;
}

static int prepare(const struct session *s, const char *name, struct prepared *p, struct err *e)
{
	uint32_t share = s->src->live ? s->src->dir->uid : 0;
	struct bundle b = { .n = 0 };
	struct host_fds h;
	char prefix[96];
	int r;

	vmdir_init(&p->dir);
	r = vmdir_create(PLACE_VM, name, share, &p->dir, e);
	if (r)
		return r;
	p->made = true;
	r = host_fds_open(&p->dir, &h, e);
	if (r)
		return r;
	snprintf(prefix, sizeof(prefix), "child/%s/", name);
	add(&b, prefix, "dir", p->dir.fd, false);
	add(&b, prefix, "lock", p->dir.lock_fd, false);
	for (size_t i = 0; i < HOST_FDS; i++)
		add(&b, prefix, host_fd_names[i], h.fd[i], false);
	if (s->how->userdata_fd >= 0)
		add(&b, prefix, "userdata", s->how->userdata_fd, false);
	r = add_overlays(s, &b, prefix, e);
	r = send_bundle(s, &b, r, e);
	host_fds_close(&h);
	if (!r && p->ports)
		r = nics_grant(s->how->nics, p->ports, prefix, s->fdsock, e);
	if (!r && p->dir.lock_fd >= 0) {
		/* the lock lives where it was granted: a second holder here would keep a dead child
		 * alive */
		close(take_fd(&p->dir.lock_fd));
	}
	return r;
}

/* Dead or dying, and if it is neither, ended; nothing of it stays. */
static void end_and_remove(struct vmdir *d)
{
	if (vmdir_alive(d))
		vm_kill(d, -1, NULL);
	vmdir_wait_end(d, LAUNCH_MS, -1, NULL);
	vmdir_remove(d, NULL);
}

/* A child that failed. */
static void discard(struct prepared *p)
{
	if (!p->made)
		return;
	if (p->dir.lock_fd >= 0)
		close(take_fd(&p->dir.lock_fd));
	end_and_remove(&p->dir);
	p->made = false;
}

static int publish(const struct session *s, struct prepared *p, const json_t *clocks, struct err *e)
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

static json_t *request_body(const struct prepared *p, const struct fork_child_info *c, size_t n,
			    const struct fork_how *how)
{
	json_t *list = json_array();
	json_t *body = json_pack("{s:o, s:b, s:b, s:I}", "children", list, "wait", how->wait, "all",
				 how->all, "timeout_ms", (json_int_t)how->timeout_ms);

	for (size_t i = 0; body && i < n; i++) {
		if (!p[i].made)
			continue;
		json_array_append_new(
			list, json_pack("{s:s, s:I, s:I, s:b, s:o*}", "name", c[i].name, "uid",
					(json_int_t)p[i].dir.uid, "gid", (json_int_t)p[i].dir.gid,
					"paused", how->paused, "networks",
					p[i].ports ? nics_request(how->nics, p[i].ports) : NULL));
	}
	return body;
}

/* What the source said of one child. It may be missing: the source is not to be believed. */
static void settle_child(const struct session *s, struct prepared *p, struct fork_child_info *c,
			 json_t *children)
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
	if (!error && publish(s, p, j, &e))
		error = e.msg;
	if (error) {
		snprintf(c->why, sizeof(c->why), "%s", error);
		discard(p);
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
static void take_back(struct session *s, struct prepared *p, size_t n)
{
	if (s->fdsock >= 0)
		close(take_fd(&s->fdsock));
	for (size_t i = 0; i < n; i++)
		discard(&p[i]);
}

/* Those that cannot be prepared have failed, and say why. How many are ready to be made. */
static size_t prepare_all(const struct session *s, struct prepared *p, struct fork_child_info *c,
			  size_t n)
{
	size_t ready = 0;
	struct err e;

	for (size_t i = 0; i < n; i++) {
		if (prepare(s, c[i].name, &p[i], &e)) {
			snprintf(c[i].why, sizeof(c[i].why), "%s", e.msg);
			discard(&p[i]);
			if (s->how->all)
				return 0;
		} else {
			ready++;
		}
	}
	return ready;
}

/* What the disks of a running source go on with. */
static int grant_own(const struct session *s, const char *first, struct err *e)
{
	struct bundle own = { .n = 0 };
	char prefix[96];

	if (!s->src->live)
		return 0;
	snprintf(prefix, sizeof(prefix), "child/%s/parent/", first);
	return send_bundle(s, &own, add_overlays(s, &own, prefix, e), e);
}

/* One request: of those that are prepared, all are of one instant. */
static int ask(const struct session *s, struct prepared *p, struct fork_child_info *c, size_t n,
	       uint64_t *pause_ns, struct err *e)
{
	cleanup_json json_t *body = request_body(p, c, n, s->how), *reply = NULL;
	size_t first = 0;
	uint64_t sent;
	int r;

	if (!body)
		return err_set(e, ENOMEM, "out of memory");
	while (!p[first].made)
		first++;
	r = grant_own(s, c[first].name, e);
	sent = time_mono_ns();
	if (!r)
		r = client_request(s->api, "PUT", "/fork", body, s->how->timeout_ms + LAUNCH_MS,
				   &reply, e);
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
static int place_all(const struct session *s, struct prepared *p, const struct fork_child_info *c,
		     size_t n, struct nic_ports *ports, struct err *e)
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
static int batch(struct session *s, struct fork_child_info *c, size_t n, uint64_t *pause_ns,
		 struct err *e)
{
	const struct nics *nics = s->how->nics && s->how->nics->n ? s->how->nics : NULL;
	cleanup_free struct nic_ports *ports = nics ? calloc(n, sizeof(*ports)) : NULL;
	cleanup_free struct prepared *p = calloc(n, sizeof(*p));
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
		end_and_remove(&d);
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
	struct session s = { .src = src, .how = how, .fdsock = -1 };
	int r;

	if (src->live && n > most)
		return err_set(e, EINVAL,
			       "%zu forks: of a running VM at most %zu, which are of one instant",
			       n, most);
	for (size_t i = 0; i < n; i++)
		c[i].owner_fd = -1;
	r = client_open(src->dir->fd, &s.api, e);
	if (r)
		return r;
	client_set_cancel(s.api, cancel_fd);
	for (size_t at = 0; at < n; at += most) {
		size_t m = MIN(n - at, most);

		r = batch(&s, c + at, m, pause_ns, e);
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
	client_close(s.api);
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
