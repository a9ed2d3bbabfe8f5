/* SPDX-License-Identifier: MIT */
/*
 * A network for people and machines: what it is, who is on it, and what is in the way.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "control/json.h"
#include "network/private.h"

static json_t *text_or_null(const char *s)
{
	return *s ? json_string(s) : json_null();
}

static json_t *vm_json(const struct lease *l)
{
	char mac[MAC_TEXT], ip4[ADDR_TEXT] = "", ip6[ADDR_TEXT] = "";
	json_t *publish = json_array();

	mac_to_text(l->mac, mac);
	if (!bytes_are_zero(l->ip4, 4))
		ip4_text(l->ip4, ip4, sizeof(ip4));
	if (!bytes_are_zero(l->ip6, 16))
		ip6_text(l->ip6, ip6, sizeof(ip6));
	for (size_t i = 0; i < l->nr_publish; i++)
		json_array_append_new(publish, json_pack("{s:i, s:i, s:s}", "host_port",
							 l->publish[i].host_port, "guest_port",
							 l->publish[i].guest_port, "protocol",
							 l->publish[i].udp ? "udp" : "tcp"));
	return json_pack("{s:s, s:s, s:s, s:o, s:o, s:o}", "vm", l->vm, "tap", l->tap, "mac", mac,
			 "ipv4", text_or_null(ip4), "ipv6", text_or_null(ip6), "publish", publish);
}

static int add_vms(const struct network *nw, const struct netdir *d, json_t *vms, size_t *waiting,
		   struct err *e)
{
	cleanup_free unsigned int *slots = NULL;
	size_t n = 0;
	int r = lease_slots(d->leases, &slots, &n, e);

	for (size_t i = 0; !r && i < n; i++) {
		struct lease l;

		if (lease_peek(nw, d, slots[i], &l))
			json_array_append_new(vms, vm_json(&l));
		else if (ready_is(d, slots[i]))
			++*waiting;
	}
	return r;
}

static void add_warnings(const struct network *nw, bool up, const struct up *u, json_t *warnings)
{
	struct nic_dns dns[NIC_DNS_MAX];
	json_t *more = NULL;

	if (nw->mode == NETWORK_NAT && !nw->nr_dns && !(up ? u->nr_dns : dns_of_host(dns)))
		json_array_append_new(
			warnings, json_string("the host has no resolver that a guest can reach: "
					      "guests get none (--dns)"));
	if (nw->mode != NETWORK_BRIDGE && may_admin() && !network_obstacles(&more, NULL))
		json_array_extend(warnings, more);
	json_decref(more);
}

int network_describe(const struct network *nw, json_t **out, struct err *e)
{
	cleanup_json json_t *j = network_json(nw);
	json_t *vms = json_array(), *warnings = json_array();
	struct up u = { .nr_dns = 0 };
	bool up = false;
	size_t waiting = 0;
	struct netdir d;
	int r = 0;

	if (!netdir_open(nw->name, false, &d, NULL)) {
		up = !up_read(&d, nw->name, &u);
		r = add_vms(nw, &d, vms, &waiting, e);
		netdir_close(&d);
	}
	add_warnings(nw, up, &u, warnings);
	if (json_object_set_new(j, "vms", vms) | json_object_set_new(j, "warnings", warnings) |
	    json_object_set_new(j, "waiting", json_integer((json_int_t)waiting)))
		return err_set(e, ENOMEM, "out of memory");
	if (r)
		return r;
	*out = json_incref(j);
	return 0;
}
