/* SPDX-License-Identifier: MIT */
/*
 * A machine's NICs: planned, placed on networks, handed over, described. See nics.h.
 */
#include "cli/nics.h"

#include <cap-ng.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/launch.h"
#include "cli/netpool.h"
#include "control/json.h"
#include "control/nic_json.h"
#include "virtio/net.h"

/* ---- planning ---- */

/* Whoever may not make networks has VMs without one unless they ask. */
static bool networks_possible(void)
{
	return !access("/dev/net/tun", R_OK | W_OK) && capng_get_caps_process() == 0 &&
	       capng_have_capability(CAPNG_EFFECTIVE, CAP_NET_ADMIN);
}

static int add(struct nics *k, const struct nic_want *w, struct err *e)
{
	struct nic_plan *p = &k->plan[k->n];

	if (strlen(w->network) > NETWORK_NAME_MAX)
		return err_set(e, EINVAL, "--network: '%s' is longer than %d characters",
			       w->network, NETWORK_NAME_MAX);
	*p = (struct nic_plan){ .queues = (unsigned int)MAX(w->queues, 1u),
				.rx_bytes = w->rx_bytes,
				.tx_bytes = w->tx_bytes };
	snprintf(p->id, sizeof(p->id), "net%zu", k->n++);
	snprintf(p->network, sizeof(p->network), "%s", w->network);
	return 0;
}

static int nobody_to_address(const struct nics *k, const struct nic_options *o, struct err *e)
{
	if (nic_options_single(o) && (!k->n || !k->plan[0].network[0]))
		return err_set(e, EINVAL, "--ip, --mac and -p need a network");
	return 0;
}

int nics_new(const struct nic_options *o, struct nics *out, struct err *e)
{
	const struct nic_want usual = { .network = NETWORK_DEFAULT };
	int r = 0;

	memset(out, 0, sizeof(*out));
	for (size_t i = 0; i < o->n && !r; i++)
		r = add(out, &o->nic[i], e);
	if (!r && !o->n && !o->none && (nic_options_single(o) || networks_possible()))
		r = add(out, &usual, e);
	return r ? r : nobody_to_address(out, o, e);
}

int nics_of(const json_t *info, const struct nic_options *o, struct nics *out, struct err *e)
{
	const json_t *list = json_object_get(info, "networks"), *j;
	size_t i;

	memset(out, 0, sizeof(*out));
	json_array_foreach(list, i, j)
	{
		struct nic_plan *p = &out->plan[i];
		const char *id = json_string_value(json_object_get(j, "id"));
		const char *network = json_string_value(json_object_get(j, "network"));
		const char *mac = json_string_value(json_object_get(j, "mac"));

		if (i == NICS_MAX || !id || !json_id_ok(id, DEVICE_ID_MAX - 1))
			return err_set(e, EBADMSG, "damaged list of networks");
		snprintf(p->id, sizeof(p->id), "%s", id);
		p->queues = (unsigned int)MAX(json_integer_value(json_object_get(j, "queues")), 1);
		if (p->queues > NETWORK_QUEUES_MAX)
			return err_set(e, EBADMSG, "damaged list of networks");
		if (json_is_false(json_object_get(info, "agent")))
			p->has_mac = mac_from_text(mac ? mac : "", p->mac);
		if (i < o->n)
			network = o->nic[i].network;
		if (!o->none)
			snprintf(p->network, sizeof(p->network), "%s", network ? network : "");
		out->n++;
	}
	if (o->n > out->n)
		return err_set(e, EINVAL,
			       "--network: it has %zu network interfaces, which it got when it was "
			       "made (`clone run --network`, `clone template create --network`)",
			       out->n);
	for (i = 0; i < o->n; i++)
		if (o->nic[i].queues || o->nic[i].rx_bytes || o->nic[i].tx_bytes)
			return err_set(e, EINVAL,
				       "--network: queues and limits are as they were when the "
				       "machine was made");
	return nobody_to_address(out, o, e);
}

/* ---- places ---- */

static int attach_one(const struct nics *k, size_t i, const struct nic_options *o,
		      const char *const *vms, size_t count, struct nic_ports *out, struct err *e)
{
	const struct nic_plan *plan = &k->plan[i];
	cleanup_free struct network_want *want = calloc(count, sizeof(*want));
	cleanup_free struct network_port *port = calloc(count, sizeof(*port));
	struct network nw;
	int r;

	if (!want || !port)
		return err_set(e, ENOMEM, "out of memory");
	r = network_open(plan->network, &nw, e);
	if (r)
		return r;
	for (size_t v = 0; v < count; v++) {
		network_port_init(&port[v]);
		want[v] = (struct network_want){ .vm = vms[v], .queues = plan->queues };
		/* on a segment of its own nobody sees that another one has it; on a bridge it would
		 * be the same machine twice */
		if (plan->has_mac && nw.mode != NETWORK_BRIDGE)
			want[v].mac = plan->mac;
		if (!o || i)
			continue;
		want[v].ip4 = o->has_ip4 ? o->ip4 : NULL;
		want[v].mac = o->has_mac ? o->mac : want[v].mac;
		want[v].publish = o->publish;
		want[v].nr_publish = o->nr_publish;
	}
	r = network_attach(&nw, want, count, port, e);
	if (r)
		return err_wrap(e, r, "network %s", plan->network);
	for (size_t v = 0; v < count; v++) {
		out[v].port[i] = port[v];
		out[v].on[i] = true;
		if (i) { /* one way out is enough */
			memset(out[v].port[i].addr.gw4, 0, 4);
			memset(out[v].port[i].addr.gw6, 0, 16);
		}
	}
	return 0;
}

int nics_attach(const struct nics *k, const struct nic_options *o, const char *const *vms,
		size_t count, struct nic_ports *out, struct err *e)
{
	int r = 0;

	for (size_t v = 0; v < count; v++)
		for (size_t i = 0; i < NICS_MAX; i++) {
			network_port_init(&out[v].port[i]);
			out[v].on[i] = false;
		}
	for (size_t i = 0; i < k->n && !r; i++)
		if (k->plan[i].network[0])
			r = attach_one(k, i, o, vms, count, out, e);
	if (r)
		nics_detach(k, out, count);
	return r;
}

void nics_detach(const struct nics *k, struct nic_ports *ports, size_t count)
{
	for (size_t v = 0; v < count; v++)
		for (size_t i = 0; i < k->n; i++)
			if (ports[v].on[i]) {
				network_port_close(&ports[v].port[i]);
				ports[v].on[i] = false;
			}
}

/* ---- handing over ---- */

#define GRANTS_MAX_NIC (3 * NETWORK_QUEUES_MAX + 2 + 2 * NETWORK_PUBLISH_MAX)

struct bundle {
	char name[GRANTS_MAX_NIC][192];
	int fd[GRANTS_MAX_NIC];
	bool ours[GRANTS_MAX_NIC]; /* opened here */
	size_t n;
};

static void put(struct bundle *b, const char *prefix, const char *id, const char *what, size_t i,
		int fd, bool ours)
{
	char number[24] = "";

	if (i)
		snprintf(number, sizeof(number), "%zu", i);
	snprintf(b->name[b->n], sizeof(b->name[0]), "%snet/%s/%s%s", prefix, id, what, number);
	b->ours[b->n] = ours;
	b->fd[b->n++] = fd;
}

static int grant_one(const struct nic_plan *plan, const struct network_port *p, const char *prefix,
		     int fdsock, struct err *e)
{
	struct bundle b = { .n = 0 };
	const char *names[GRANTS_MAX_NIC];
	size_t keep = 0;
	int r;

	for (size_t q = 0; q < plan->queues; q++) {
		/* without it the VM process moves the packets itself */
		int vhost = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);

		put(&b, prefix, plan->id, "tap", q, p->tap_fd[q], false);
		if (vhost >= 0)
			put(&b, prefix, plan->id, "vhost", q, vhost, true);
	}
	if (p->packet_fd >= 0)
		put(&b, prefix, plan->id, "packet", 0, p->packet_fd, false);
	put(&b, prefix, plan->id, "keep", keep++, p->lease_fd, false);
	for (size_t i = 0; i < p->nr_publish_fd; i++)
		put(&b, prefix, plan->id, "keep", keep++, p->publish_fd[i], false);
	for (size_t i = 0; i < b.n; i++)
		names[i] = b.name[i];
	r = client_grant(fdsock, names, b.fd, b.n, e);
	for (size_t i = 0; i < b.n; i++)
		if (b.ours[i])
			close(b.fd[i]);
	return r;
}

int nics_grant(const struct nics *k, const struct nic_ports *p, const char *prefix, int fdsock,
	       struct err *e)
{
	for (size_t i = 0; i < k->n; i++) {
		int r = p->on[i] ? grant_one(&k->plan[i], &p->port[i], prefix, fdsock, e) : 0;

		if (r)
			return r;
	}
	return 0;
}

json_t *nics_request(const struct nics *k, const struct nic_ports *p)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < k->n; i++)
		if (p->on[i] &&
		    json_array_append_new(list,
					  nic_identity_to_json(k->plan[i].id, &p->port[i].addr))) {
			json_decref(list);
			list = NULL;
		}
	return list;
}

static json_t *limit(uint64_t bytes)
{
	return bytes ? json_pack("{s:{s:I, s:i}}", "bandwidth", "size", (json_int_t)bytes,
				 "refill_time", 1000)
		     : NULL;
}

static int put_one(struct vmproc *p, const struct nic_plan *plan, const struct network_port *port,
		   struct err *e)
{
	char mac[MAC_TEXT], path[64];
	cleanup_json json_t *body = NULL;

	mac_to_text(port->addr.mac, mac);
	body = json_pack("{s:s, s:s, s:s, s:o, s:i, s:o*, s:o*}", "iface_id", plan->id,
			 "host_dev_name", port->tap, "guest_mac", mac, "address",
			 nic_address_to_json(&port->addr), "queue_pairs", (int)plan->queues,
			 "rx_rate_limiter", limit(plan->rx_bytes), "tx_rate_limiter",
			 limit(plan->tx_bytes));
	if (body && port->addr.mtu)
		json_object_set_new(body, "mtu", json_integer(port->addr.mtu));
	snprintf(path, sizeof(path), "/network-interfaces/%s", plan->id);
	return body ? vmproc_request(p, "PUT", path, body, LAUNCH_MS, NULL, e)
		    : err_set(e, ENOMEM, "out of memory");
}

int nics_put(struct vmproc *p, const struct nics *k, const struct nic_ports *ports, struct err *e)
{
	int r = nics_grant(k, ports, "", p->fdsock, e);

	for (size_t i = 0; i < k->n && !r; i++)
		if (ports->on[i])
			r = put_one(p, &k->plan[i], &ports->port[i], e);
	return r;
}

/* ---- describing ---- */

static json_t *published(const struct nic_options *o)
{
	json_t *list = json_array();

	for (size_t i = 0; o && i < o->nr_publish; i++) {
		const struct network_publish *b = &o->publish[i];

		json_array_append_new(list, json_pack("{s:i, s:i, s:s}", "host_port", b->host_port,
						      "guest_port", b->guest_port, "protocol",
						      b->udp ? "udp" : "tcp"));
	}
	return list;
}

json_t *nics_info(const struct nics *k, const struct nic_ports *p, const struct nic_options *o)
{
	json_t *list = json_array();

	for (size_t i = 0; list && i < k->n; i++) {
		const struct network_port *port = &p->port[i];
		char mac[MAC_TEXT];
		json_t *j = json_pack("{s:s, s:s, s:i}", "id", k->plan[i].id, "network",
				      k->plan[i].network, "queues", (int)k->plan[i].queues);

		json_array_append_new(list, j);
		if (!j || !p->on[i])
			continue;
		mac_to_text(port->addr.mac, mac);
		json_object_set_new(j, "tap", json_string(port->tap));
		json_object_set_new(j, "mac", json_string(mac));
		json_object_set_new(j, "address", nic_address_to_json(&port->addr));
		if (!i && o && o->nr_publish)
			json_object_set_new(j, "publish", published(o));
	}
	return list;
}

void nics_refill(const struct nics *k)
{
	for (size_t i = 0; i < k->n; i++)
		if (k->plan[i].network[0])
			network_refill_later(k->plan[i].network);
}
