/* SPDX-License-Identifier: MIT */
/*
 * A network's definition in words and as JSON, which is what its file holds.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"
#include "network/private.h"

static const char *const modes[] = { "nat", "isolated", "bridge" };

const char *network_mode_name(enum network_mode m)
{
	return modes[m];
}

static const struct {
	unsigned int bit;
	const char *name;
} allows[] = { { NETWORK_ALLOW_PEERS, "peers" },
	       { NETWORK_ALLOW_HOST, "host" },
	       { NETWORK_ALLOW_METADATA, "metadata" } };

int network_mode_parse(const char *s, enum network_mode *m)
{
	for (size_t i = 0; i < ARRAY_SIZE(modes); i++)
		if (!strcmp(s, modes[i])) {
			*m = (enum network_mode)i;
			return 0;
		}
	return -EINVAL;
}

int network_allow_parse(const char *list, unsigned int *allow, struct err *e)
{
	unsigned int got = 0;

	for (const char *p = list;; p++) {
		size_t len = strcspn(p, ","), i;

		for (i = 0; i < ARRAY_SIZE(allows); i++)
			if (strlen(allows[i].name) == len && !strncmp(p, allows[i].name, len))
				break;
		if (i == ARRAY_SIZE(allows))
			return err_set(e, EINVAL, "'%.*s' is none of peers, host, metadata",
				       (int)MIN(len, 40), p);
		got |= allows[i].bit;
		p += len;
		if (!*p)
			break;
	}
	*allow = got;
	return 0;
}

/* ---- as JSON ---- */

static json_t *prefix_json(int family, const uint8_t *a, uint8_t prefix)
{
	char text[ADDR_TEXT], both[ADDR_TEXT + 8];

	if (!prefix)
		return json_null();
	inet_ntop(family, a, text, sizeof(text));
	snprintf(both, sizeof(both), "%s/%u", text, prefix);
	return json_string(both);
}

json_t *network_json(const struct network *nw)
{
	json_t *allow = json_array(), *dns = json_array(), *j;

	for (size_t i = 0; i < ARRAY_SIZE(allows); i++)
		if (nw->allow & allows[i].bit)
			json_array_append_new(allow, json_string(allows[i].name));
	for (size_t i = 0; i < nw->nr_dns; i++) {
		char text[ADDR_TEXT];

		dns_text(&nw->dns[i], text, sizeof(text));
		json_array_append_new(dns, json_string(text));
	}
	j = json_pack("{s:s, s:s, s:i, s:o, s:o, s:o, s:i, s:o}", "name", nw->name, "mode",
		      modes[nw->mode], "id", nw->id, "allow", allow, "subnet4",
		      prefix_json(AF_INET, nw->subnet4, nw->prefix4), "subnet6",
		      prefix_json(AF_INET6, nw->subnet6, nw->prefix6), "mtu", nw->mtu, "dns", dns);
	if (j && nw->bridge[0] && json_object_set_new(j, "bridge", json_string(nw->bridge))) {
		json_decref(j);
		j = NULL;
	}
	return j;
}

struct form {
	const char *name, *mode, *subnet4, *subnet6, *bridge;
	uint64_t id, mtu;
	json_t *allow, *dns;
};

static const struct json_field fields[] = {
	JSON_FIELD(struct form, name, WANT_STRING, true, 1, NETWORK_NAME_MAX),
	JSON_FIELD(struct form, mode, WANT_STRING, true, 1, 16),
	JSON_FIELD(struct form, subnet4, WANT_STRING, false, 1, ADDR_TEXT),
	JSON_FIELD(struct form, subnet6, WANT_STRING, false, 1, ADDR_TEXT),
	JSON_FIELD(struct form, bridge, WANT_STRING, false, 1, NETWORK_TAP_MAX - 1),
	JSON_FIELD(struct form, id, WANT_UINT, true, 0, 65535),
	JSON_FIELD(struct form, mtu, WANT_UINT, true, NIC_MTU_MIN, NIC_MTU_MAX),
	JSON_FIELD(struct form, allow, WANT_ARRAY, false, 0, ARRAY_SIZE(allows)),
	JSON_FIELD(struct form, dns, WANT_ARRAY, false, 0, NIC_DNS_MAX),
};

static int from_form(const struct form *f, struct network *nw, struct err *e)
{
	int r = network_mode_parse(f->mode, &nw->mode);

	if (r)
		return err_set(e, EBADMSG, "mode '%.20s'", f->mode);
	nw->id = (uint16_t)f->id;
	nw->mtu = (uint16_t)f->mtu;
	if (f->subnet4)
		r = cidr_parse(AF_INET, f->subnet4, nw->subnet4, &nw->prefix4, e);
	if (!r && f->subnet6)
		r = cidr_parse(AF_INET6, f->subnet6, nw->subnet6, &nw->prefix6, e);
	for (size_t i = 0; !r && i < json_array_size(f->allow); i++) {
		const char *s = json_string_value(json_array_get(f->allow, i));
		unsigned int bit = 0;

		r = network_allow_parse(s ? s : "", &bit, e);
		nw->allow |= bit;
	}
	for (size_t i = 0; !r && i < json_array_size(f->dns); i++) {
		const char *s = json_string_value(json_array_get(f->dns, i));
		uint8_t one;

		r = strchr(s ? s : ",", ',') ? err_set(e, EBADMSG, "dns")
					     : dns_parse(s, &nw->dns[nw->nr_dns], &one, e);
		if (!r)
			nw->nr_dns++;
	}
	if (!r && f->bridge) {
		if (!if_name_ok(f->bridge))
			return err_set(e, EBADMSG, "bridge '%.20s'", f->bridge);
		snprintf(nw->bridge, sizeof(nw->bridge), "%s", f->bridge);
	}
	if (r)
		return r;
	if (nw->mode == NETWORK_BRIDGE
		    ? !nw->bridge[0] || nw->prefix4 || nw->prefix6
		    : nw->prefix4 < 16 || nw->prefix4 > 29 || (nw->prefix6 && nw->prefix6 != 48))
		return err_set(e, EBADMSG, "a subnet or a bridge is missing or makes no sense");
	return 0;
}

int network_from_json(const json_t *j, const char *name, struct network *out, struct err *e)
{
	struct network nw = { .mtu = 0 };
	struct form f = { 0 };
	int r;

	snprintf(nw.name, sizeof(nw.name), "%s", name);
	r = json_fields(j, fields, ARRAY_SIZE(fields), &f, e);
	if (!r)
		r = from_form(&f, &nw, e);
	if (r)
		return err_wrap(e, -EBADMSG, "network %s", name);
	*out = nw;
	return 0;
}
