/* SPDX-License-Identifier: MIT */
/*
 * Resolvers: those that a network was given, or those of the host that a guest can reach too. A
 * resolver on loopback (systemd-resolved, dnsmasq) is the host's alone.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "image/tree.h"
#include "network/private.h"

#define RESOLV_MAX (64u << 10)

/* In this order: the second is where systemd-resolved says whom it asks itself. */
static const char *const files[] = { "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf" };

static bool dns_one(const char *s, struct nic_dns *d)
{
	*d = (struct nic_dns){ .family = 4 };
	if (inet_pton(AF_INET, s, d->addr) == 1)
		return true;
	d->family = 6;
	return inet_pton(AF_INET6, s, d->addr) == 1;
}

static bool reachable(const struct nic_dns *d)
{
	static const uint8_t loopback6[16] = { [15] = 1 };

	if (d->family == 4)
		return d->addr[0] != 127 && d->addr[0] != 0 && d->addr[0] < 224;
	/* link-local ones are on one of the host's links */
	return memcmp(d->addr, loopback6, 16) && !bytes_are_zero(d->addr, 16) &&
	       d->addr[0] != 0xff && (d->addr[0] != 0xfe || (d->addr[1] & 0xc0) != 0x80);
}

void dns_text(const struct nic_dns *d, char *buf, size_t n)
{
	if (d->family == 4)
		ip4_text(d->addr, buf, n);
	else
		ip6_text(d->addr, buf, n);
}

int dns_parse(const char *list, struct nic_dns *d, uint8_t *n, struct err *e)
{
	struct nic_dns out[NIC_DNS_MAX];
	uint8_t count = 0;

	for (const char *p = list;; p++) {
		size_t len = strcspn(p, ",");
		char text[ADDR_TEXT];

		if (count == NIC_DNS_MAX)
			return err_set(e, EINVAL, "dns: at most %d addresses", NIC_DNS_MAX);
		snprintf(text, sizeof(text), "%.*s", (int)MIN(len, sizeof(text) - 1), p);
		if (!dns_one(text, &out[count]))
			return err_set(e, EINVAL, "dns: '%.60s' is not an address", text);
		if (!reachable(&out[count]))
			return err_set(e, EINVAL, "dns: a guest cannot reach %s", text);
		count++;
		p += len;
		if (!*p)
			break;
	}
	memcpy(d, out, count * sizeof(*d));
	*n = count;
	return 0;
}

static uint8_t dns_of_file(const char *path, struct nic_dns d[NIC_DNS_MAX])
{
	cleanup_free char *text = NULL;
	char *line, *rest;
	uint8_t n = 0;

	if (tree_read_text(path, RESOLV_MAX, &text, NULL))
		return 0;
	rest = text;
	while ((line = strsep(&rest, "\n")) && n < NIC_DNS_MAX) {
		char *word = strtok_r(line, " \t\r", &line);

		if (!word || strcmp(word, "nameserver"))
			continue;
		word = strtok_r(NULL, " \t\r", &line);
		if (word && dns_one(word, &d[n]) && reachable(&d[n]))
			n++;
	}
	return n;
}

uint8_t dns_of_host(struct nic_dns d[NIC_DNS_MAX])
{
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		uint8_t n = dns_of_file(files[i], d);

		if (n)
			return n;
	}
	return 0;
}
