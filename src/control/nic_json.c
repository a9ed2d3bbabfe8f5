/* SPDX-License-Identifier: MIT */
/*
 * See nic_json.h.
 */
#include "control/nic_json.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"

/* "ADDRESS/PREFIX". */
static int take_cidr(const char *what, const char *text, int family, uint8_t *addr, uint8_t *prefix,
		     struct err *e)
{
	char buf[INET6_ADDRSTRLEN + 4], *slash;
	unsigned int bits = 0, most = family == AF_INET ? 32 : 128;

	snprintf(buf, sizeof(buf), "%s", text);
	slash = strchr(buf, '/');
	if (slash) {
		*slash++ = '\0';
		for (; *slash >= '0' && *slash <= '9' && bits <= most; slash++)
			bits = bits * 10 + (unsigned int)(*slash - '0');
		if (*slash)
			bits = 0;
	}
	if (!bits || bits > most || inet_pton(family, buf, addr) != 1)
		return err_set(e, EINVAL, "%s: '%s' is no address with a prefix length", what,
			       text);
	*prefix = (uint8_t)bits;
	return 0;
}

static int take_addr(const char *what, const char *text, int family, uint8_t *addr, struct err *e)
{
	if (inet_pton(family, text, addr) == 1)
		return 0;
	return err_set(e, EINVAL, "%s: '%s' is no address", what, text);
}

static int take_dns(const json_t *list, struct nic_address *a, struct err *e)
{
	const json_t *j;
	size_t i;

	json_array_foreach(list, i, j)
	{
		const char *text = json_string_value(j);
		struct nic_dns *d = &a->dns[i];

		if (text && inet_pton(AF_INET, text, d->addr) == 1)
			d->family = 4;
		else if (text && inet_pton(AF_INET6, text, d->addr) == 1)
			d->family = 6;
		else
			return err_set(e, EINVAL, "dns[%zu]: is no address", i);
	}
	a->nr_dns = (uint8_t)json_array_size(list);
	return 0;
}

struct address_body {
	const char *ipv4, *gateway4, *ipv6, *gateway6;
	json_t *dns;
	uint64_t mtu;
	bool respond, peers;
};

int nic_address_from_json(const json_t *j, struct nic_address *a, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct address_body, ipv4, WANT_STRING, false, 1, INET6_ADDRSTRLEN),
		JSON_FIELD(struct address_body, gateway4, WANT_STRING, false, 1, INET6_ADDRSTRLEN),
		JSON_FIELD(struct address_body, ipv6, WANT_STRING, false, 1, INET6_ADDRSTRLEN + 3),
		JSON_FIELD(struct address_body, gateway6, WANT_STRING, false, 1, INET6_ADDRSTRLEN),
		JSON_FIELD(struct address_body, dns, WANT_ARRAY, false, 0, NIC_DNS_MAX),
		JSON_FIELD(struct address_body, mtu, WANT_UINT, false, NIC_MTU_MIN, NIC_MTU_MAX),
		JSON_FIELD(struct address_body, respond, WANT_BOOL, false, 0, 0),
		JSON_FIELD(struct address_body, peers, WANT_BOOL, false, 0, 0),
	};
	struct address_body b = { 0 };
	struct nic_address new_addr = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (!r && b.ipv4)
		r = take_cidr("ipv4", b.ipv4, AF_INET, new_addr.ip4, &new_addr.prefix4, e);
	if (!r && b.gateway4)
		r = take_addr("gateway4", b.gateway4, AF_INET, new_addr.gw4, e);
	if (!r && b.ipv6)
		r = take_cidr("ipv6", b.ipv6, AF_INET6, new_addr.ip6, &new_addr.prefix6, e);
	if (!r && b.gateway6)
		r = take_addr("gateway6", b.gateway6, AF_INET6, new_addr.gw6, e);
	if (!r)
		r = take_dns(b.dns, &new_addr, e);
	if (r)
		return r;
	new_addr.mtu = (uint16_t)b.mtu;
	new_addr.respond = b.respond;
	new_addr.peers = b.peers;
	memcpy(new_addr.mac, a->mac, NIC_MAC);
	*a = new_addr;
	return 0;
}

static void put_addr(json_t *j, const char *key, int family, const uint8_t *addr, int prefix)
{
	char text[INET6_ADDRSTRLEN + 4];

	inet_ntop(family, addr, text, INET6_ADDRSTRLEN);
	if (prefix)
		snprintf(text + strlen(text), 5, "/%d", prefix);
	json_object_set_new(j, key, json_string(text));
}

json_t *nic_address_to_json(const struct nic_address *a)
{
	static const uint8_t none[16];
	json_t *j = json_object(), *dns;

	if (!j)
		return NULL;
	if (a->prefix4)
		put_addr(j, "ipv4", AF_INET, a->ip4, a->prefix4);
	if (memcmp(a->gw4, none, sizeof(a->gw4)))
		put_addr(j, "gateway4", AF_INET, a->gw4, 0);
	if (a->prefix6)
		put_addr(j, "ipv6", AF_INET6, a->ip6, a->prefix6);
	if (memcmp(a->gw6, none, sizeof(a->gw6)))
		put_addr(j, "gateway6", AF_INET6, a->gw6, 0);
	dns = json_array();
	for (unsigned int i = 0; i < a->nr_dns; i++) {
		char text[INET6_ADDRSTRLEN];

		inet_ntop(a->dns[i].family == 4 ? AF_INET : AF_INET6, a->dns[i].addr, text,
			  sizeof(text));
		json_array_append_new(dns, json_string(text));
	}
	json_object_set_new(j, "dns", dns);
	if (a->mtu)
		json_object_set_new(j, "mtu", json_integer(a->mtu));
	json_object_set_new(j, "respond", json_boolean(a->respond));
	json_object_set_new(j, "peers", json_boolean(a->peers));
	return j;
}

struct nic_body {
	const char *iface_id, *guest_mac;
	json_t *address;
};

int nic_identity_from_json(const json_t *j, struct nic_identity *n, struct err *e)
{
	static const struct json_field tab[] = {
		JSON_FIELD(struct nic_body, iface_id, WANT_ID, true, 1, DEVICE_ID_MAX - 1),
		JSON_FIELD(struct nic_body, guest_mac, WANT_STRING, true, 1, MAC_TEXT),
		JSON_FIELD(struct nic_body, address, WANT_OBJECT, true, 0, 0),
	};
	struct nic_body b = { 0 };
	int r = json_fields(j, tab, ARRAY_SIZE(tab), &b, e);

	if (r)
		return r;
	*n = (struct nic_identity){ 0 };
	snprintf(n->id, sizeof(n->id), "%s", b.iface_id);
	if (!mac_from_text(b.guest_mac, n->addr.mac))
		return err_set(e, EINVAL, "guest_mac: '%s' is no MAC of one machine", b.guest_mac);
	r = nic_address_from_json(b.address, &n->addr, e);
	return r ? err_wrap(e, r, "address") : 0;
}

json_t *nic_identity_to_json(const char *id, const struct nic_address *a)
{
	char mac[MAC_TEXT];

	mac_to_text(a->mac, mac);
	return json_pack("{s:s, s:s, s:o}", "iface_id", id, "guest_mac", mac, "address",
			 nic_address_to_json(a));
}

int nics_from_json(const json_t *list, struct nic_identity *nics, uint32_t *n, struct err *e)
{
	size_t count = json_array_size(list);

	*n = 0;
	if (count > NICS_MAX)
		return err_set(e, EINVAL, "%zu NICs: at most %d", count, NICS_MAX);
	for (size_t i = 0; i < count; i++) {
		int r = nic_identity_from_json(json_array_get(list, i), &nics[i], e);

		if (r)
			return err_wrap(e, r, "networks[%zu]", i);
		for (size_t k = 0; k < i; k++)
			if (!strcmp(nics[i].id, nics[k].id))
				return err_set(e, EINVAL, "networks: two are of '%s'", nics[i].id);
	}
	*n = (uint32_t)count;
	return 0;
}
