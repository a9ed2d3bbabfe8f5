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
#include <sys/socket.h>
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

/* dir: RUN/networks/NAME, of whatever RUN. */
static bool owner_is_up(const char *dir)
{
	char path[PATH_MAX + 64];

	snprintf(path, sizeof(path), "%s/" UP_FILE, dir);
	return !access(path, F_OK);
}

bool network_is_last(const struct hostlock *l, const struct network *nw)
{
	json_t *owners = json_object_get(l->rec, "owners");
	char id[8];
	const char *key;
	json_t *v;

	snprintf(id, sizeof(id), "%04x", nw->id);
	json_object_foreach(owners, key, v)
	{
		const char *dir = json_string_value(v);

		/* whether its rules are there or somebody flushed them */
		if (strcmp(key, id) && dir && owner_is_up(dir))
			return false;
	}
	return !nft_other_network(nw->id);
}

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
	snprintf(dir, sizeof(dir), "%s/networks/%s", run, nw->name);
	owner = json_string_value(json_object_get(owners, id));
	if (owner && !strcmp(owner, dir))
		return 0;
	if (owner && owner_is_up(owner))
		return err_set(e, EBUSY, "network %s is in use from %s (another CLONE_RUN_DIR)",
			       nw->name, owner);
	if (!owners) {
		owners = json_object();
		if (json_object_set_new(l->rec, "owners", owners))
			return err_set(e, ENOMEM, "out of memory");
	}
	if (json_object_set_new(owners, id, json_string(dir)))
		return err_set(e, ENOMEM, "out of memory");
	return hostlock_save(l, e);
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

/* What was free when the network was made may be another's by now: of the host, or of a network of
 * another state directory. */
static int still_free(const struct network *nw, struct err *e)
{
	char which[ADDR_TEXT + 64], net[ADDR_TEXT];
	int r;

	if (nw->mode == NETWORK_BRIDGE)
		return 0;
	ip4_text(nw->subnet4, net, sizeof(net));
	r = host_overlap(AF_INET, nw->subnet4, nw->prefix4, which, sizeof(which), e);
	if (!r && nw->prefix6) {
		ip6_text(nw->subnet6, net, sizeof(net));
		r = host_overlap(AF_INET6, nw->subnet6, nw->prefix6, which, sizeof(which), e);
	}
	if (r <= 0)
		return r;
	return err_set(e, EADDRINUSE,
		       "network %s: its subnet %s overlaps %s, which the host has now: remove the "
		       "network and make it anew with another --subnet",
		       nw->name, net, which);
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
	/* it comes up for the first time: what bears its name was left by a RUN that is no more */
	if (!there && !u->nw.name[0]) {
		taps_delete_all(nw);
		r = still_free(nw, e);
	}
	if (!r && !there)
		r = put_rules(nw, d, &now, e);
	if (!r)
		r = host_prepare(l, nw, publish, !there, e);
	if (!r)
		*u = now;
	return r;
}
