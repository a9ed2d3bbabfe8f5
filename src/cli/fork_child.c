/* SPDX-License-Identifier: MIT */
/* See fork_child.h. */
#include "cli/fork_child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/gate.h"
#include "cli/group.h"
#include "cli/ksm.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "cli/shares.h"
#include "control/client.h"
#include "control/json.h"

#define GRANTS_PER_CHILD (6 + HOST_FDS + 2 * LAUNCH_DISKS)

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

static int send_bundle(const struct fork_session *s, struct bundle *b, int r, struct err *e)
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

/* What the child needs for its group, and its share of a trust domain. */
static int add_shares(const struct fork_session *s, struct bundle *b, const char *prefix,
		      const struct vmdir *d, struct err *e)
{
	struct shares_child c;
	int fd, r = shares_child_open(d, s->src->live ? s->src->dir : NULL, s->src->info, &c, e);

	if (r)
		return r;
	if (c.events >= 0)
		add(b, prefix, "cgroup/events", c.events, true);
	if (c.group) {
		fd = gates_add(s->gates, d, e);
		if (fd < 0)
			return fd;
		add(b, prefix, "cgroup/gate", fd, true);
	}
	if (s->ksm < 0)
		return 0;
	fd = ksm_share(s->ksm, e);
	if (fd < 0)
		return fd;
	add(b, prefix, "ksm", fd, true);
	return 0;
}

/* A fresh data file for each disk that is written to. */
static int add_overlays(const struct fork_session *s, struct bundle *b, const char *prefix,
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

int fork_child_prepare(const struct fork_session *s, const char *name, struct fork_prepared *p,
		       struct err *e)
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
	r = add_shares(s, &b, prefix, &p->dir, e);
	if (!r)
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

int fork_child_grant_parent(const struct fork_session *s, const char *first, struct err *e)
{
	struct bundle own = { .n = 0 };
	char prefix[96];

	if (!s->src->live)
		return 0;
	snprintf(prefix, sizeof(prefix), "child/%s/parent/", first);
	return send_bundle(s, &own, add_overlays(s, &own, prefix, e), e);
}

void fork_child_remove(struct vmdir *d)
{
	/* its pid is noted nowhere, and it need not listen: by its group it ends unasked */
	if (faccessat(d->fd, "vm.json", F_OK, 0))
		(void)group_settle(d, NULL);
	if (vmdir_alive(d))
		vm_kill(d, -1, NULL);
	vmdir_wait_end(d, LAUNCH_MS, -1, NULL);
	vmdir_remove(d, NULL);
}

void fork_child_discard(struct fork_prepared *p)
{
	if (!p->made)
		return;
	if (p->dir.lock_fd >= 0)
		close(take_fd(&p->dir.lock_fd));
	fork_child_remove(&p->dir);
	vmdir_close(&p->dir);
	p->made = false;
}
