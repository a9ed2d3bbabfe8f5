/* SPDX-License-Identifier: MIT */
/*
 * Slots: their addresses, by arithmetic, and the search for one that nobody has.
 */
#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "network/private.h"

static uint32_t host4(const uint8_t a[4])
{
	return (uint32_t)a[0] << 24 | (uint32_t)a[1] << 16 | (uint32_t)a[2] << 8 | a[3];
}

static void put4(uint8_t a[4], uint32_t v)
{
	for (unsigned int i = 0; i < 4; i++)
		a[i] = (uint8_t)(v >> (24 - 8 * i));
}

unsigned int slot_last(const struct network *nw)
{
	/* the last address is the subnet's broadcast */
	return nw->prefix4 ? (1u << (32 - nw->prefix4)) - 2 : SLOT_MAX;
}

bool slot_ip4(const struct network *nw, unsigned int slot, uint8_t ip[4])
{
	memset(ip, 0, 4);
	if (!nw->prefix4 || slot > slot_last(nw))
		return false;
	put4(ip, host4(nw->subnet4) + slot);
	return true;
}

void slot_ip6(const struct network *nw, unsigned int slot, uint8_t ip[16])
{
	memset(ip, 0, 16);
	if (!nw->prefix6)
		return;
	memcpy(ip, nw->subnet6, 6);
	ip[6] = (uint8_t)(slot >> 8);
	ip[7] = (uint8_t)slot;
	ip[15] = 2;
}

unsigned int slot_of_ip4(const struct network *nw, const uint8_t ip[4])
{
	uint32_t n = host4(ip) - host4(nw->subnet4);

	return nw->prefix4 && n >= SLOT_FIRST && n <= slot_last(nw) ? n : 0;
}

void gateway_ip4(const struct network *nw, uint8_t ip[4])
{
	put4(ip, host4(nw->subnet4) + 1);
}

/* ---- the search ---- */

static bool in(const unsigned int *v, size_t n, unsigned int slot)
{
	size_t lo = 0, hi = n;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (v[mid] < slot)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < n && v[lo] == slot;
}

int slot_take(const struct network *nw, const struct netdir *d, struct lease *l, struct err *e)
{
	unsigned int last = slot_last(nw), at = next_slot(d), count = last - SLOT_FIRST + 1;
	cleanup_free unsigned int *used = NULL;
	size_t n = 0;
	int r = lease_slots(d->leases, &used, &n, e);

	if (r)
		return r;
	if (at < SLOT_FIRST || at > last)
		at = SLOT_FIRST;
	/* what nobody has used, round and round, so that an address is not soon another's; then
	 * what waits or was left */
	for (unsigned int pass = 0; pass < 2; pass++) {
		for (unsigned int i = 0; i < count; i++) {
			unsigned int slot = SLOT_FIRST + (at - SLOT_FIRST + i) % count;

			if (in(used, n, slot) != (pass == 1))
				continue;
			r = lease_lock(d, slot, true, l);
			if (r == -EAGAIN)
				continue;
			if (r)
				return err_sys(e, -r, "lease of network %s", nw->name);
			next_set(d, slot == last ? SLOT_FIRST : slot + 1);
			return 0;
		}
	}
	return err_set(e, ENOSPC, "network %s: all %u addresses are in use", nw->name, count);
}
