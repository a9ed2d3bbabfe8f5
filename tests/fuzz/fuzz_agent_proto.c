/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the agent protocol, both ways. The input is a received stream; every frame in it is
 * given to every decoder, for a peer may send any frame at any time. It is copied so that it ends
 * where an allocation does, and each result is read to its last byte.
 */
#include <stdlib.h>

#include "guest/proto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void touch(struct proto_slice s)
{
	for (size_t i = 0; i < s.len; i++)
		__asm__ volatile("" : : "r"(s.p[i])); /* read it, whatever the optimiser thinks */
}

static void touch_list(struct proto_list l)
{
	struct proto_slice s;

	while (l.count && proto_list_next(&l, &s))
		touch(s);
	if (l.count || l.at.bad)
		abort(); /* a list that was accepted is whole */
}

static void decode(struct proto_rd r)
{
	struct proto_identity id;
	struct proto_exec ex;
	struct proto_error e;
	struct proto_ack a;
	uint32_t n[2];

	if (proto_get_exec(r, &ex))
		touch(ex.user), touch_list(ex.argv), touch_list(ex.env);
	if (proto_get_identity(r, &id))
		touch(id.gen), touch(id.userdata), touch(id.hostname);
	for (size_t i = 0; proto_get_identity(r, &id) && i < id.nnics; i++)
		if (!proto_nic_ok(&id.nics[i]))
			abort();
	if (proto_get_ack(r, &a))
		touch(a.text);
	if (proto_get_error(r, &e))
		touch(e.text);
	if (proto_get_exit(r, &n[0], &n[1]) && n[0] > PROTO_EXIT_TIMEOUT)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct proto_frame f;
	int n;

	memcpy(copy, data, size);
	for (size_t at = 0; (n = proto_frame(copy + at, size - at, &f)) > 0; at += (size_t)n)
		decode(f.payload);
	free(copy);
	return 0;
}
