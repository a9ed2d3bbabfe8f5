/* SPDX-License-Identifier: MIT */
/*
 * What networks change of the host beside their own table: forwarding is turned on, and where
 * Docker drops what it does not know, guests are let through the chain that Docker keeps for that.
 * All of it is recorded in the host lock's file, and undone when the last network goes.
 *
 * IPv6 forwarding is turned on only for a network that has a use for it: a way out (nat and a
 * default route of the host), guests that see each other, or published ports. A host that forwards
 * ignores router advertisements, so interfaces that live by them are told not to.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "control/json.h"
#include "network/private.h"

#define MINE "clone" /* the comment of rules of ours in others' chains */

/* ---- other people's tables ---- */

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

static int chains(json_t **out, struct err *e)
{
	static const char *const argv[] = { "nft", "-j", "list", "chains", NULL };

	return nft_json(argv, out, e);
}

static bool is_mine(const json_t *chain)
{
	return !strcmp(text(chain, "table"), "clone");
}

static bool drops_forwarding(const json_t *chain)
{
	return chain && !is_mine(chain) && !strcmp(text(chain, "hook"), "forward") &&
	       !strcmp(text(chain, "policy"), "drop") &&
	       (!strcmp(text(chain, "family"), "ip") || !strcmp(text(chain, "family"), "ip6") ||
		!strcmp(text(chain, "family"), "inet"));
}

/* Docker's chain for what its owner adds; it is asked first. */
static bool has_docker_chain(const json_t *all, const char *family)
{
	size_t i;
	json_t *o;

	json_array_foreach(json_object_get(all, "nftables"), i, o)
	{
		const json_t *c = json_object_get(o, "chain");

		if (c && !strcmp(text(c, "family"), family) &&
		    !strcmp(text(c, "table"), "filter") && !strcmp(text(c, "name"), "DOCKER-USER"))
			return true;
	}
	return false;
}

/* Handles of our rules there; their number. */
static size_t docker_rules(const char *family, long long *handles, size_t cap)
{
	const char *const argv[] = { "nft",  "-j",     "-a",	      "list", "chain",
				     family, "filter", "DOCKER-USER", NULL };
	cleanup_json json_t *j = NULL;
	size_t i, n = 0;
	json_t *o;

	if (nft_json(argv, &j, NULL))
		return 0;
	json_array_foreach(json_object_get(j, "nftables"), i, o)
	{
		const json_t *rule = json_object_get(o, "rule");

		if (rule && n < cap && !strcmp(text(rule, "comment"), MINE))
			handles[n++] = json_integer_value(json_object_get(rule, "handle"));
	}
	return n;
}

static void say_rule(struct wbuf *w, const char *family, const char *rest)
{
	char line[200];
	int n = snprintf(line, sizeof(line), "%s filter DOCKER-USER %s\n", family, rest);

	wbuf_bytes(w, line, (size_t)n);
}

static int pass_docker(struct hostlock *l, const char *family, struct err *e)
{
	static const char *const dir[] = { "iifname", "oifname" };
	long long handles[8];
	struct wbuf w;
	int r;

	if (docker_rules(family, handles, ARRAY_SIZE(handles)))
		return 0;
	wbuf_init(&w, RULES_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(dir); i++) {
		char rest[100];

		snprintf(rest, sizeof(rest),
			 "%s \"" TAP_PREFIX "*\" counter accept comment \"" MINE "\"", dir[i]);
		wbuf_bytes(&w, "insert rule ", 12);
		say_rule(&w, family, rest);
	}
	r = host_record(l, !strcmp(family, "ip") ? "docker_ip" : "docker_ip6", json_true(), e);
	if (!r)
		r = nft_apply(&w, e);
	wbuf_fini(&w);
	return r;
}

static void unpass_docker(const char *family)
{
	long long handles[8];
	size_t n = docker_rules(family, handles, ARRAY_SIZE(handles));
	struct wbuf w;

	wbuf_init(&w, RULES_MAX);
	for (size_t i = 0; i < n; i++) {
		char rest[40];

		snprintf(rest, sizeof(rest), "handle %lld", handles[i]);
		wbuf_bytes(&w, "delete rule ", 12);
		say_rule(&w, family, rest);
	}
	nft_apply(&w, NULL);
	wbuf_fini(&w);
}

static int let_through(struct hostlock *l, struct err *e)
{
	cleanup_json json_t *all = NULL;
	int r = chains(&all, e);
	size_t i;
	json_t *o;

	if (r)
		return r;
	json_array_foreach(json_object_get(all, "nftables"), i, o)
	{
		const json_t *c = json_object_get(o, "chain");

		if (!r && drops_forwarding(c) && !strcmp(text(c, "table"), "filter") &&
		    has_docker_chain(all, text(c, "family")))
			r = pass_docker(l, text(c, "family"), e);
	}
	return r;
}

/* ---- both ---- */

/* Others' chains that forwarding matters to. */
static int list_others(json_t *out, struct err *e)
{
	cleanup_json json_t *all = NULL;
	size_t i;
	json_t *o;
	int r = chains(&all, e);

	if (r)
		return r;
	json_array_foreach(json_object_get(all, "nftables"), i, o)
	{
		const json_t *c = json_object_get(o, "chain");
		char name[300];

		if (!c || is_mine(c) ||
		    (strcmp(text(c, "hook"), "forward") && strcmp(text(c, "type"), "nat")))
			continue;
		snprintf(name, sizeof(name), "%.20s %.120s %.120s", text(c, "family"),
			 text(c, "table"), text(c, "name"));
		json_object_set_new(out, name, json_true());
	}
	return 0;
}

/* Those that were there while it was off can do without it. */
static int note_others(struct hostlock *l, struct err *e)
{
	json_t *list = json_object();
	int r = list ? list_others(list, e) : err_set(e, ENOMEM, "out of memory");

	if (r) {
		json_decref(list);
		return r;
	}
	return host_record(l, "others", list, e);
}

int host_prepare(struct hostlock *l, const struct network *nw, bool publish, bool first,
		 struct err *e)
{
	int r;

	if (nw->mode == NETWORK_BRIDGE)
		return 0;
	r = forwarding_is_on() ? 0 : note_others(l, e);
	if (!r)
		r = forwarding_on(l, nw, publish, e);
	return r || !first ? r : let_through(l, e);
}

/* Has somebody come to rely on forwarding since we turned it on? 1, 0; -errno: it cannot be told.
 */
static int others_forward(const struct hostlock *l, struct err *e)
{
	cleanup_json json_t *now = json_object();
	const char *name;
	json_t *v;
	int r = now ? list_others(now, e) : -ENOMEM;

	if (r)
		return r;
	json_object_foreach(now, name, v)
	{
		if (!json_object_get(json_object_get(l->rec, "others"), name))
			return 1;
	}
	return 0;
}

void host_restore(struct hostlock *l)
{
	int others;

	if (!json_object_size(l->rec))
		return;
	if (json_object_get(l->rec, "docker_ip"))
		unpass_docker("ip");
	if (json_object_get(l->rec, "docker_ip6"))
		unpass_docker("ip6");
	others = others_forward(l, NULL);
	if (others < 0)
		return; /* the record stays: whoever takes a network down next tries again */
	if (!others)
		forwarding_off(l);
	json_object_clear(l->rec);
	hostlock_save(l, NULL);
}

int network_obstacles(json_t **out, struct err *e)
{
	cleanup_json json_t *all = NULL;
	long long handles[8];
	json_t *list, *o;
	size_t i;
	int r = chains(&all, e);

	if (r)
		return r;
	list = json_array();
	json_array_foreach(json_object_get(all, "nftables"), i, o)
	{
		const json_t *c = json_object_get(o, "chain");
		char line[300];

		if (!drops_forwarding(c))
			continue;
		if (!strcmp(text(c, "table"), "filter") &&
		    has_docker_chain(all, text(c, "family")) &&
		    docker_rules(text(c, "family"), handles, ARRAY_SIZE(handles)))
			continue;
		snprintf(line, sizeof(line),
			 "forwarding is dropped by table %s %.60s, chain %.60s: let interfaces "
			 "\"" TAP_PREFIX "*\" through there",
			 text(c, "family"), text(c, "table"), text(c, "name"));
		json_array_append_new(list, json_string(line));
	}
	if (!list)
		return err_set(e, ENOMEM, "out of memory");
	*out = list;
	return 0;
}
