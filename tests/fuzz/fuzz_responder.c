/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: what a guest sends to the responder. The first byte chooses what its network gave
 * it, the rest is one frame, which ends where its memory does. An answer fits where it is put, is
 * the same again, and never says that the guest's own address is somebody else's.
 */
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "net/responder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t gw_mac[NIC_MAC] = { 2, 0xc1, [5] = 1 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t out[RESPONDER_FRAME_MAX], *frame, *exact, how = size ? *data : 0;
	struct nic_address a = {
		.mtu = how & 1 ? 1400 : 0,
		.prefix4 = how & 2 ? 20 : 32,
		.ip4 = { 10, 1, 2, 3 },
		.gw4 = { how & 4 ? 10 : 0, how & 4 ? 1 : 0, 0, how & 4 ? 1 : 0 },
		.prefix6 = how & 8 ? 64 : 128,
		.ip6 = { 0xfd },
		.gw6 = { how & 16 ? 0xfe : 0 },
		.nr_dns = how >> 5 & 3,
		.dns = { { 4, { 1 } }, { 6, { 2 } }, { 6, { 3 } } },
		.respond = true,
		.peers = how >> 7,
	};
	size_t n;

	if (!size)
		return 0;
	size--;
	frame = malloc(size + !size); /* exact, so that one byte too far is seen */
	BUG_ON(!frame);
	memcpy(frame, data + 1, size);
	n = responder_answer(&a, gw_mac, frame, size, out, sizeof(out));
	BUG_ON(n > 14 + 576 || (n && n < 42));
	if (n) {
		exact = malloc(n);
		BUG_ON(!exact || memcmp(out + 6, gw_mac, NIC_MAC));
		BUG_ON(responder_answer(&a, gw_mac, frame, size, exact, n) != n);
		BUG_ON(memcmp(exact, out, n) != 0);
		BUG_ON(responder_answer(&a, gw_mac, frame, size, exact, n - 1));
		BUG_ON(out[12] == 8 && out[13] == 6 && !memcmp(out + 28, a.ip4, 4));
		free(exact);
	}
	free(frame);
	return 0;
}
