/* SPDX-License-Identifier: MIT */
/*
 * A network as a whole: its rules are there, or not, or somebody flushed them. RUN/networks/NAME/
 * up.json says what was put there, so that just that can be taken away again, whatever became of
 * the definition and of the host's resolvers meanwhile.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "control/json.h"
#include "image/rundir.h"
#include "network/private.h"

#define UP_FILE "up.json"
#define UP_MAX (64u << 10)

/* ---- up.json ---- */

int up_read(const struct netdir *d, const char *name, struct up *u)
{
	cleanup_json json_t *j = NULL;
	json_t *dns, *v;
	size_t i;
	int r = json_read_file(d->fd, UP_FILE, UP_MAX, &j, NULL);

	*u = (struct up){ .nr_dns = 0 };
	if (r)
		return r;
	r = network_from_json(json_object_get(j, "network"), name, &u->nw, NULL);
	if (r)
		return r;
	dns = json_object_get(j, "resolvers");
	json_array_foreach(dns, i, v)
	{
		const char *s = json_string_value(v);
		uint8_t one;

		if (s && u->nr_dns < NIC_DNS_MAX && !strchr(s, ',') &&
		    !dns_parse(s, &u->dns[u->nr_dns], &one, NULL))
			u->nr_dns++;
	}
	return 0;
}

static int up_write(const struct netdir *d, const struct up *u, struct err *e)
{
	cleanup_json json_t *j = NULL;
	json_t *dns = json_array();

	for (size_t i = 0; i < u->nr_dns; i++) {
		char text[ADDR_TEXT];

		dns_text(&u->dns[i], text, sizeof(text));
		json_array_append_new(dns, json_string(text));
	}
	j = json_pack("{s:o, s:o}", "network", network_json(&u->nw), "resolvers", dns);
	return j ? json_write_file(d->fd, UP_FILE, 0600, j, e)
		 : err_set(e, ENOMEM, "out of memory");
}

/* As it should be now. */
static void up_now(const struct network *nw, struct up *u)
{
	*u = (struct up){ .nw = *nw, .nr_dns = nw->nr_dns };
	memcpy(u->dns, nw->dns, sizeof(u->dns));
	if (!u->nr_dns && nw->mode == NETWORK_NAT)
		u->nr_dns = dns_of_host(u->dns);
}

static bool same_dns(const struct up *a, const struct up *b)
{
	if (a->nr_dns != b->nr_dns)
		return false;
	for (size_t i = 0; i < a->nr_dns; i++)
		if (a->dns[i].family != b->dns[i].family ||
		    memcmp(a->dns[i].addr, b->dns[i].addr, a->dns[i].family == 4 ? 4 : 16))
			return false;
	return true;
}

bool network_is_up(const struct network *nw, const struct netdir *d, struct up *u)
{
	struct up now;

	up_now(nw, &now);
	return !up_read(d, nw->name, u) && u->nw.id == nw->id && same_dns(u, &now) &&
	       nft_network_there(nw->id);
}

/* ---- whose it is ---- */

/* A definition can be used from several run directories, but its addresses only from one at once.
 */
static int own(struct hostlock *l, const struct network *nw, struct err *e)
{
	json_t *owners = json_object_get(l->rec, "owners");
	char id[8], run[PATH_MAX], dir[PATH_MAX + 64];
	const char *owner;
	int r = run_path(run, sizeof(run), e);

	if (r)
		return r;
	snprintf(id, sizeof(id), "%04x", nw->id);
	owner = json_string_value(json_object_get(owners, id));
	if (owner && !strcmp(owner, run))
		return 0;
	snprintf(dir, sizeof(dir), "%s/networks/%s/" UP_FILE, owner ? owner : "", nw->name);
	if (owner && !access(dir, F_OK))
		return err_set(e, EBUSY, "network %s is in use from CLONE_RUN_DIR=%s", nw->name,
			       owner);
	if (!owners) {
		owners = json_object();
		if (json_object_set_new(l->rec, "owners", owners))
			return err_set(e, ENOMEM, "out of memory");
	}
	if (json_object_set_new(owners, id, json_string(run)))
		return err_set(e, ENOMEM, "out of memory");
	return hostlock_save(l, e);
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

/* ---- up ---- */

/* Those who have a lease and those that wait, after somebody flushed our table. */
static int rules_all_leases(struct wbuf *w, const struct network *nw, const struct netdir *d,
			    struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;
	int r = lease_slots(d->leases, &slots, &n, e);

	for (size_t i = 0; !r && i < n; i++) {
		struct lease l;

		if (lease_peek(nw, d, slots[i], &l) || ready_is(d, slots[i]))
			rules_lease(w, RULES_ADD, nw, &l);
	}
	return r;
}

static int put_rules(const struct network *nw, const struct netdir *d, const struct up *now,
		     struct err *e)
{
	bool tables = nft_tables_there(), mine = tables && nft_network_there(nw->id);
	struct up old;
	struct wbuf w;
	int r = 0;

	wbuf_init(&w, RULES_MAX);
	if (!tables) {
		rules_no_tables(&w);
		rules_tables(&w);
	}
	if (mine && !up_read(d, nw->name, &old)) {
		rules_network(&w, RULES_ADD, &old.nw, old.dns, old.nr_dns);
		rules_network(&w, RULES_DELETE, &old.nw, old.dns, old.nr_dns);
	}
	rules_network(&w, RULES_ADD, nw, now->dns, now->nr_dns);
	if (!mine)
		r = rules_all_leases(&w, nw, d, e);
	if (!r)
		r = up_write(d, now, e);
	if (!r)
		r = nft_apply(&w, e);
	wbuf_fini(&w);
	return r;
}

int network_up(struct hostlock *l, const struct network *nw, const struct netdir *d, bool publish,
	       struct up *u, struct err *e)
{
	struct up now;
	bool there;
	int r;

	up_now(nw, &now);
	r = own(l, nw, e);
	if (r)
		return r;
	there = network_is_up(nw, d, u);
	if (!there && u->nw.name[0] && u->nw.id != nw->id)
		return err_set(e, EBUSY,
			       "network %s was made anew while VMs are on the old one: end them",
			       nw->name);
	if (!there)
		r = put_rules(nw, d, &now, e);
	if (!r)
		r = host_prepare(l, nw, publish, !there, e);
	if (!r)
		*u = now;
	return r;
}

/* ---- down ---- */

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
			lease_read(nw, l.fd, slots[i], &l);
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
		lease_read(nw, l.fd, slots[i], &l);
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

/* Nobody is on it: all of it goes. */
static int take_down(struct hostlock *l, const struct up *u, const struct leases *gone,
		     struct err *e)
{
	bool tables = nft_tables_there(), last = !nft_other_network(u->nw.id);
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

	if (!r && !live && (wanted || !hold_is(d)))
		r = sweep_ready(&u->nw, d, &gone, &live, e);
	else
		++live;
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
