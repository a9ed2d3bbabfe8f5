/* SPDX-License-Identifier: MIT */
/*
 * The options of networks: see nics.h. For the commands that start VMs.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/nics.h"
#include "control/nic_json.h"

int nic_option_network(struct nic_options *o, char *spec, struct err *e)
{
	char *save, *name = strtok_r(spec, ",", &save);
	struct nic_want *w = &o->nic[o->n];
	int r;

	if (!name)
		return err_set(e, EINVAL, "--network: which?");
	if (!strcmp(name, "none")) {
		o->none = true;
		return o->n || *save ? err_set(e, EINVAL, "--network none goes alone") : 0;
	}
	if (o->none)
		return err_set(e, EINVAL, "--network none goes alone");
	if (o->n == NICS_MAX)
		return err_set(e, EINVAL, "--network: at most %d", NICS_MAX);
	r = cli_name_check("--network", name, e);
	if (r)
		return r;
	*w = (struct nic_want){ .network = name };
	for (char *p; (p = strtok_r(NULL, ",", &save));) {
		if (!strncmp(p, "queues=", 7))
			r = cli_parse_uint(p + 7, 1, NETWORK_QUEUES_MAX, &w->queues, e);
		else if (!strncmp(p, "rx=", 3))
			r = cli_parse_size(p + 3, &w->rx_bytes, e);
		else if (!strncmp(p, "tx=", 3))
			r = cli_parse_size(p + 3, &w->tx_bytes, e);
		else
			r = err_set(e, EINVAL,
				    "'%s' is none of queues=N, rx=SIZE and tx=SIZE (a second)", p);
		if (r)
			return err_wrap(e, r, "--network %s", name);
	}
	o->n++;
	return 0;
}

int nic_option_ip(struct nic_options *o, const char *text, struct err *e)
{
	if (inet_pton(AF_INET, text, o->ip4) != 1)
		return err_set(e, EINVAL, "--ip: '%s' is no IPv4 address", text);
	o->has_ip4 = true;
	return 0;
}

int nic_option_mac(struct nic_options *o, const char *text, struct err *e)
{
	if (!mac_from_text(text, o->mac))
		return err_set(e, EINVAL,
			       "--mac: '%s' is no MAC of one machine, such as 02:00:00:12:34:56",
			       text);
	o->has_mac = true;
	return 0;
}

/* HOST:GUEST[/tcp|/udp] */
int nic_option_publish(struct nic_options *o, const char *text, struct err *e)
{
	char buf[32], *guest, *proto;
	uint64_t host_port, guest_port;

	if (o->nr_publish == NETWORK_PUBLISH_MAX)
		return err_set(e, EINVAL, "-p: at most %d", NETWORK_PUBLISH_MAX);
	snprintf(buf, sizeof(buf), "%s", text);
	guest = strchr(buf, ':');
	if (guest)
		*guest++ = '\0';
	proto = guest ? strchr(guest, '/') : NULL;
	if (proto)
		*proto++ = '\0';
	if (!guest || (proto && strcmp(proto, "tcp") && strcmp(proto, "udp")) ||
	    cli_parse_uint(buf, 1, 65535, &host_port, e) ||
	    cli_parse_uint(guest, 1, 65535, &guest_port, e))
		return err_set(e, EINVAL,
			       "-p: '%s' is not HOSTPORT:GUESTPORT, with /tcp or /udp behind it",
			       text);
	o->publish[o->nr_publish++] =
		(struct network_publish){ .udp = proto && !strcmp(proto, "udp"),
					  .host_port = (uint16_t)host_port,
					  .guest_port = (uint16_t)guest_port };
	return 0;
}

int nic_option(struct nic_options *o, int opt, char *arg, struct err *e)
{
	switch (opt) {
	case O_NIC_NETWORK:
		return nic_option_network(o, arg, e);
	case O_NIC_IP:
		return nic_option_ip(o, arg, e);
	case O_NIC_MAC:
		return nic_option_mac(o, arg, e);
	case 'p':
		return nic_option_publish(o, arg, e);
	default:
		return -ENOSYS;
	}
}

bool nic_options_single(const struct nic_options *o)
{
	return o->has_ip4 || o->has_mac || o->nr_publish;
}
