/* SPDX-License-Identifier: MIT */
/*
 * What a slot was given: small JSON, written by whoever has the lease locked, read by everybody.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"
#include "control/json.h"
#include "image/image.h"
#include "network/private.h"

#define LEASE_MAX 8192u

void lease_defaults(const struct network *nw, unsigned int slot, struct lease *l)
{
	snprintf(l->tap, sizeof(l->tap), TAP_PREFIX "%04x%04x", nw->id, slot & 0xffffu);
	l->mac[0] = 0x02;
	l->mac[1] = 0xc1;
	l->mac[2] = (uint8_t)(nw->id >> 8);
	l->mac[3] = (uint8_t)nw->id;
	l->mac[4] = (uint8_t)(slot >> 8);
	l->mac[5] = (uint8_t)slot;
	if (nw->mode == NETWORK_BRIDGE) {
		/* others on that segment may be ours too, from other hosts */
		if (getrandom(l->mac, NIC_MAC, 0) == NIC_MAC)
			l->mac[0] = (uint8_t)((l->mac[0] & 0xfc) | 0x02);
		return;
	}
	slot_ip4(nw, slot, l->ip4);
	if (host_has_ip6())
		slot_ip6(nw, slot, l->ip6);
}

static json_t *publish_json(const struct lease *l)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < l->nr_publish; i++) {
		char text[32];

		snprintf(text, sizeof(text), "%u:%u/%s", l->publish[i].host_port,
			 l->publish[i].guest_port, l->publish[i].udp ? "udp" : "tcp");
		if (json_array_append_new(list, json_string(text))) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

int lease_write(const struct netdir *d, const struct lease *l, struct err *e)
{
	char mac[MAC_TEXT], ip4[ADDR_TEXT] = "", ip6[ADDR_TEXT] = "";
	cleanup_json json_t *j = NULL;
	char name[8];

	mac_to_text(l->mac, mac);
	if (!bytes_are_zero(l->ip4, 4))
		ip4_text(l->ip4, ip4, sizeof(ip4));
	if (!bytes_are_zero(l->ip6, 16))
		ip6_text(l->ip6, ip6, sizeof(ip6));
	j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:o}", "vm", l->vm, "tap", l->tap, "mac", mac,
		      "ipv4", ip4, "ipv6", ip6, "publish", publish_json(l));
	slot_name(l->slot, name);
	return j ? json_write_file(d->given, name, 0600, j, e)
		 : err_set(e, ENOMEM, "lease of %s: out of memory", l->tap);
}

static void read_publish(const json_t *list, struct lease *l)
{
	for (size_t i = 0; i < json_array_size(list) && i < NETWORK_PUBLISH_MAX; i++) {
		const char *s = json_string_value(json_array_get(list, i));
		unsigned int host, guest;
		char proto[4];

		if (!s || sscanf(s, "%5u:%5u/%3s", &host, &guest, proto) != 3 || host > 65535 ||
		    guest > 65535)
			continue;
		l->publish[l->nr_publish++] =
			(struct network_publish){ !strcmp(proto, "udp"), (uint16_t)host,
						  (uint16_t)guest };
	}
}

void lease_read(const struct network *nw, const struct netdir *d, unsigned int slot,
		struct lease *l)
{
	const char *vm = "", *tap = "", *mac = "", *ip4 = "", *ip6 = "";
	cleanup_json json_t *j = NULL;
	const json_t *publish = NULL;
	char name[8];
	int keep = l->fd;

	*l = (struct lease){ .slot = slot, .fd = keep };
	snprintf(l->tap, sizeof(l->tap), TAP_PREFIX "%04x%04x", nw->id, slot & 0xffffu);
	slot_name(slot, name);
	if (json_read_file(d->given, name, LEASE_MAX, &j, NULL))
		return;
	if (json_unpack(j, "{s:s, s:s, s:s, s:s, s:s, s:o}", "vm", &vm, "tap", &tap, "mac", &mac,
			"ipv4", &ip4, "ipv6", &ip6, "publish", &publish))
		return;
	if (!mac_from_text(mac, l->mac))
		return;
	if (image_name_ok(vm))
		snprintf(l->vm, sizeof(l->vm), "%s", vm);
	if (inet_pton(AF_INET, ip4, l->ip4) != 1)
		memset(l->ip4, 0, 4);
	if (inet_pton(AF_INET6, ip6, l->ip6) != 1)
		memset(l->ip6, 0, 16);
	read_publish(publish, l);
}
