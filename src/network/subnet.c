/* SPDX-License-Identifier: MIT */
/*
 * Which addresses a network has: chosen so that neither the host nor another network uses them.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/util.h"
#include "network/private.h"

#define PREFIX4 20u
#define PREFIX6 48u

/* Ranges that are cut into /20s, in order of preference. Not 192.168: that is where people's own
 * networks are, also those that they will join later. */
static const uint8_t ranges[][4] = { { 10, 77 }, { 172, 30 }, { 10, 177 } };

static bool taken_by_network(const struct network *others, size_t n, int family, const uint8_t *a,
			     unsigned int prefix, const char **who)
{
	for (size_t i = 0; i < n; i++) {
		const struct network *o = &others[i];
		unsigned int p = family == AF_INET ? o->prefix4 : o->prefix6;

		if (p &&
		    prefix_overlap(a, prefix, family == AF_INET ? o->subnet4 : o->subnet6, p)) {
			*who = o->name;
			return true;
		}
	}
	return false;
}

static int choose4(struct network *nw, const struct network *others, size_t n, struct err *e)
{
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
		for (unsigned int third = 0; third < 256; third += 1u << (24 - PREFIX4)) {
			uint8_t a[4] = { ranges[i][0], ranges[i][1], (uint8_t)third, 0 };
			char which[ADDR_TEXT];
			const char *who;
			int r;

			if (taken_by_network(others, n, AF_INET, a, PREFIX4, &who))
				continue;
			r = host_overlap(AF_INET, a, PREFIX4, which, sizeof(which), e);
			if (r < 0)
				return r;
			if (r)
				continue;
			memcpy(nw->subnet4, a, 4);
			nw->prefix4 = PREFIX4;
			return 0;
		}
	}
	return err_set(e, EINVAL, "no subnet found that the host does not use: give --subnet");
}

static int take4(struct network *nw, const char *text, const struct network *others, size_t n,
		 struct err *e)
{
	char which[ADDR_TEXT];
	uint8_t a[4], prefix;
	const char *who;
	int r = cidr_parse(AF_INET, text, a, &prefix, e);

	if (r)
		return r;
	if (prefix < 16 || prefix > 29)
		return err_set(e, EINVAL, "subnet %s: the prefix must be 16 to 29", text);
	if (a[0] == 0 || a[0] == 127 || a[0] >= 224 || (a[0] == 169 && a[1] == 254))
		return err_set(e, EINVAL, "subnet %s: not addresses that hosts can have", text);
	if (taken_by_network(others, n, AF_INET, a, prefix, &who))
		return err_set(e, EINVAL, "subnet %s overlaps that of network %s", text, who);
	r = host_overlap(AF_INET, a, prefix, which, sizeof(which), e);
	if (r)
		return r < 0 ? r
			     : err_set(e, EINVAL, "subnet %s overlaps %s, which the host uses",
				       text, which);
	memcpy(nw->subnet4, a, 4);
	nw->prefix4 = prefix;
	return 0;
}

/* RFC 4193: 40 random bits make it unlikely that two networks that meet have the same. */
static int choose6(struct network *nw, struct err *e)
{
	uint8_t a[16] = { 0xfd };

	if (getrandom(a + 1, 5, 0) != 5)
		return err_sys(e, errno, "getrandom");
	memcpy(nw->subnet6, a, 16);
	nw->prefix6 = PREFIX6;
	return 0;
}

static int take6(struct network *nw, const char *text, const struct network *others, size_t n,
		 struct err *e)
{
	char which[ADDR_TEXT];
	uint8_t a[16], prefix;
	const char *who;
	int r = cidr_parse(AF_INET6, text, a, &prefix, e);

	if (r)
		return r;
	if (prefix != PREFIX6)
		return err_set(e, EINVAL, "subnet6 %s: the prefix must be %u: each guest has a /64",
			       text, PREFIX6);
	if (a[0] == 0 || a[0] == 0xff || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80))
		return err_set(e, EINVAL, "subnet6 %s: not addresses that hosts can have", text);
	if (taken_by_network(others, n, AF_INET6, a, prefix, &who))
		return err_set(e, EINVAL, "subnet6 %s overlaps that of network %s", text, who);
	r = host_overlap(AF_INET6, a, prefix, which, sizeof(which), e);
	if (r)
		return r < 0 ? r
			     : err_set(e, EINVAL, "subnet6 %s overlaps %s, which the host uses",
				       text, which);
	memcpy(nw->subnet6, a, 16);
	nw->prefix6 = prefix;
	return 0;
}

int subnets_choose(struct network *nw, const struct network_options *o,
		   const struct network *others, size_t n_others, struct err *e)
{
	bool no6 = (o->subnet6 && !strcmp(o->subnet6, "none")) ||
		   (!o->subnet6 && nw->mtu && nw->mtu < 1280);
	int r = o->subnet4 ? take4(nw, o->subnet4, others, n_others, e)
			   : choose4(nw, others, n_others, e);

	if (!r && !no6)
		r = o->subnet6 ? take6(nw, o->subnet6, others, n_others, e) : choose6(nw, e);
	if (!r && nw->prefix6 && nw->mtu < 1280)
		r = err_set(e, EINVAL, "IPv6 needs an MTU of 1280: use --subnet6 none");
	return r;
}
