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
	union {
		struct proto_identity id;
		struct proto_report report;
		struct proto_ready ready;
		struct proto_error error;
		struct proto_exec exec;
		struct proto_ack ack;
		uint32_t n[2];
	} u;

	if (proto_get_exec(r, &u.exec))
		touch(u.exec.user), touch_list(u.exec.argv), touch_list(u.exec.env);
	if (proto_get_identity(r, &u.id))
		touch(u.id.gen), touch(u.id.userdata), touch(u.id.hostname);
	if (proto_get_ack(r, &u.ack))
		touch(u.ack.text);
	if (proto_get_error(r, &u.error))
		touch(u.error.text);
	proto_get_report(r, &u.report);
	proto_get_ready(r, &u.ready);
	proto_get_settle(r, &u.n[0], &u.n[1]);
	proto_get_exit(r, &u.n[0], &u.n[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);
	struct proto_frame f;
	int n;

	if (!copy)
		return 0;
	memcpy(copy, data, size);
	for (size_t at = 0; (n = proto_frame(copy + at, size - at, &f)) > 0; at += (size_t)n)
		decode(f.payload);
	decode((struct proto_rd){ .p = copy, .left = size });
	free(copy);
	return 0;
}
