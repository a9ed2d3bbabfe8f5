/* SPDX-License-Identifier: MIT */
/*
 * A network goes off the host, or what its dead users left does. What is removed is what up.json
 * and the leases say was put there; a lease is dropped only when its rules are gone, so that
 * nothing is ever left that nobody would look for. Under the host lock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "control/json.h"
#include "network/private.h"

static int sweep_dead(const struct network *nw, const struct netdir *d, struct leases *gone,
		      size_t *live, struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;
	int r = lease_slots(d->leases, &slots, &n, e);

	*live = 0;
	for (size_t i = 0; !r && i < n; i++) {
		struct lease l;

		if (ready_is(d, slots[i]) && !lease_held(d, slots[i]))
			continue;
		r = lease_lock(d, slots[i], false, &l);
		if (r == -EAGAIN)
			++*live;
		/* whoever fills the pool says so with the lease locked */
		else if (!r && ready_is(d, slots[i]))
			lease_close(&l);
		else if (!r) {
			lease_read(nw, d, slots[i], &l);
			r = leases_add(gone, &l, e);
			if (r)
				lease_close(&l);
		}
		if (r == -EAGAIN || r == -ENOENT)
			r = 0;
	}
	return r;
}

/* Those that wait, so that nobody takes one any more. */
static int sweep_ready(const struct network *nw, const struct netdir *d, struct leases *gone,
		       size_t *live, struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;
	int r = lease_slots(d->ready, &slots, &n, e);

	for (size_t i = 0; !r && i < n; i++) {
		struct lease l;

		r = lease_lock(d, slots[i], false, &l);
		if (r == -EAGAIN)
			++*live;
		if (r == -ENOENT)
			ready_take(d, slots[i]);
		if (r) {
			r = 0;
			continue;
		}
		lease_read(nw, d, slots[i], &l);
		r = ready_take(d, slots[i]) ? leases_add(gone, &l, e) : -EAGAIN;
		if (r)
			lease_close(&l);
		if (r == -EAGAIN) {
			++*live;
			r = 0;
		}
	}
	return r;
}

static int count_others(const struct netdir *d, const struct leases *ours, size_t *live,
			struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0, held = 0;
	int r = lease_slots(d->leases, &slots, &n, e);

	for (size_t i = 0; !r && i < n; i++)
		held += lease_held(d, slots[i]);
	if (!r && held > ours->n)
		*live += held - ours->n;
	return r;
}

static void drop_all(const struct netdir *d, struct leases *gone, bool rules_gone)
{
	for (size_t i = 0; i < gone->n; i++) {
		/* what still has rules must be found again */
		if (rules_gone)
			lease_drop(d, &gone->v[i]);
		else
			lease_close(&gone->v[i]);
	}
	free(gone->v);
	*gone = (struct leases){ .n = 0 };
}

/* Their rules, then their TAPs: never one without the other. */
static int remove_leases(const struct network *nw, const struct leases *gone, struct err *e)
{
	struct wbuf w;
	int r = 0;

	wbuf_init(&w, RULES_MAX);
	for (size_t i = 0; i < gone->n; i++)
		rules_lease_remove(&w, nw, &gone->v[i]);
	if (nft_tables_there())
		r = nft_apply(&w, e);
	wbuf_fini(&w);
	for (size_t i = 0; i < gone->n; i++)
		tap_delete(gone->v[i].tap);
	return r;
}

int network_sweep_leases(const struct network *nw, const struct netdir *d, struct err *e)
{
	struct leases gone = { .n = 0 };
	size_t live;
	int r = sweep_dead(nw, d, &gone, &live, e);

	if (!r && gone.n)
		r = remove_leases(nw, &gone, e);
	drop_all(d, &gone, !r);
	return r;
}

static void disown(struct hostlock *l, const struct network *nw)
{
	json_t *owners = json_object_get(l->rec, "owners");
	char id[8];

	snprintf(id, sizeof(id), "%04x", nw->id);
	json_object_del(owners, id);
	if (!json_object_size(owners))
		json_object_del(l->rec, "owners");
	hostlock_save(l, NULL);
}

/* Nobody is on it: all of it goes. */
static int take_down(struct hostlock *l, const struct up *u, const struct leases *gone,
		     struct err *e)
{
	bool tables = nft_tables_there(), last = network_is_last(l, &u->nw);
	struct wbuf w;
	int r = 0;

	wbuf_init(&w, RULES_MAX);
	if (tables && last) {
		rules_no_tables(&w);
	} else if (tables) {
		for (size_t i = 0; i < gone->n; i++)
			rules_lease_remove(&w, &u->nw, &gone->v[i]);
		rules_network(&w, RULES_ADD, &u->nw, u->dns, u->nr_dns);
		rules_network(&w, RULES_DELETE, &u->nw, u->dns, u->nr_dns);
	}
	r = nft_apply(&w, e);
	wbuf_fini(&w);
	if (r)
		return r;
	taps_delete_all(&u->nw);
	disown(l, &u->nw);
	if (last)
		host_restore(l);
	return 0;
}

static int down(struct hostlock *l, const struct up *u, const struct netdir *d, bool wanted,
		struct err *e)
{
	struct leases gone = { .n = 0 };
	size_t live = 0;
	bool all = false;
	int r = sweep_dead(&u->nw, d, &gone, &live, e);

	if (!r && !live && (wanted || !hold_is(d))) {
		r = sweep_ready(&u->nw, d, &gone, &live, e);
		/* one that waited when we looked may have been taken before we took the others */
		if (!r && !live)
			r = count_others(d, &gone, &live, e);
	} else {
		++live;
	}
	if (!r && !live) {
		all = true;
		r = take_down(l, u, &gone, e);
	} else if (!r && gone.n) {
		r = remove_leases(&u->nw, &gone, e);
	}
	drop_all(d, &gone, !r);
	if (!r && all)
		netdir_remove(u->nw.name);
	return r ? r : all ? 0 : -EBUSY;
}

void network_sweep_one(struct hostlock *l, const char *name, const struct netdir *d)
{
	cleanup_free unsigned int *slots = NULL;
	struct up u;
	size_t n = 0;

	/* without that, nothing on the host is ours: rules of the name may be another RUN's */
	if (!up_read(d, name, &u))
		down(l, &u, d, false, NULL);
	else if (!lease_slots(d->leases, &slots, &n, NULL) && !n && !hold_is(d))
		netdir_remove(name);
}

int network_down(struct hostlock *l, const struct network *nw, const struct netdir *d,
		 struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	struct up u;
	size_t n = 0;
	int r;

	if (up_read(d, nw->name, &u)) {
		netdir_remove(nw->name);
		return 0;
	}
	r = down(l, &u, d, true, e);
	if (r != -EBUSY)
		return r;
	r = lease_slots(d->leases, &slots, &n, e);
	for (size_t i = 0; !r && i < n; i++) {
		struct lease one;

		if (lease_peek(nw, d, slots[i], &one) && one.vm[0])
			return err_set(e, EBUSY, "VM %s is on it", one.vm);
	}
	return r ? r : err_set(e, EBUSY, "a VM is on it");
}
