/* SPDX-License-Identifier: MIT */
/*
 * MACs as text. Pure functions.
 */
#include "net/address.h"

#include <stdio.h>
#include <string.h>

bool mac_from_text(const char *text, uint8_t mac[NIC_MAC])
{
	uint8_t m[NIC_MAC], any = 0;

	if (strlen(text) != MAC_TEXT - 1)
		return false;
	for (int i = 0; i < NIC_MAC; i++) {
		static const char hex[] = "0123456789abcdef0123456789ABCDEF";
		const char *hi = strchr(hex, text[3 * i]), *lo = strchr(hex, text[3 * i + 1]);

		if (!hi || !lo || text[3 * i + 2] != (i == NIC_MAC - 1 ? '\0' : ':'))
			return false;
		m[i] = (uint8_t)((hi - hex) % 16 * 16 + (lo - hex) % 16);
		any |= m[i];
	}
	if (m[0] & 1 || !any)
		return false;
	memcpy(mac, m, NIC_MAC);
	return true;
}

void mac_to_text(const uint8_t mac[NIC_MAC], char text[MAC_TEXT])
{
	snprintf(text, MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3],
		 mac[4], mac[5]);
}
