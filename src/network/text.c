/* SPDX-License-Identifier: MIT */
/*
 * Addresses and names of interfaces as text. Used by all of src/network; pure functions.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "network/private.h"

void ip4_text(const uint8_t a[4], char *buf, size_t n)
{
	if (!inet_ntop(AF_INET, a, buf, (socklen_t)n))
		buf[0] = '\0';
}

void ip6_text(const uint8_t a[16], char *buf, size_t n)
{
	if (!inet_ntop(AF_INET6, a, buf, (socklen_t)n))
		buf[0] = '\0';
}

/* Is there anything behind the first n bits? */
static bool host_bits(const uint8_t *a, size_t bytes, unsigned int n)
{
	for (size_t i = n / 8; i < bytes; i++)
		if (a[i] & (i == n / 8 ? 0xffu >> (n % 8) : 0xffu))
			return true;
	return false;
}

int cidr_parse(int family, const char *s, uint8_t *a, uint8_t *prefix, struct err *e)
{
	unsigned int bits = family == AF_INET ? 32 : 128;
	const char *slash = strchr(s, '/');
	uint8_t out[16] = { 0 };
	char text[ADDR_TEXT], *end;
	unsigned long n;

	if (!slash || (size_t)(slash - s) >= sizeof(text))
		return err_set(e, EINVAL, "'%.60s' is not a subnet: give ADDRESS/PREFIX", s);
	memcpy(text, s, (size_t)(slash - s));
	text[slash - s] = '\0';
	n = strtoul(slash + 1, &end, 10);
	if (inet_pton(family, text, out) != 1 || slash[1] < '0' || slash[1] > '9' || *end ||
	    n > bits)
		return err_set(e, EINVAL, "'%.60s' is not an %s subnet", s,
			       family == AF_INET ? "IPv4" : "IPv6");
	if (host_bits(out, bits / 8, (unsigned int)n))
		return err_set(e, EINVAL, "'%.60s': the address has bits behind the prefix", s);
	memcpy(a, out, bits / 8);
	*prefix = (uint8_t)n;
	return 0;
}

bool prefix_overlap(const uint8_t *a, unsigned int na, const uint8_t *b, unsigned int nb)
{
	unsigned int n = MIN(na, nb);

	if (memcmp(a, b, n / 8))
		return false;
	return !(n % 8) || !((a[n / 8] ^ b[n / 8]) >> (8 - n % 8));
}

/* What rules may name: no quotes, no pattern. */
bool if_name_ok(const char *name)
{
	size_t n = strlen(name);

	return n && n < NETWORK_TAP_MAX && strcmp(name, ".") && strcmp(name, "..") &&
	       n == strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
				 "0123456789_.-");
}
