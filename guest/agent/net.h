/* SPDX-License-Identifier: MIT */
/*
 * The network's part of IDENTITY. All of it is done at once, on the agent's thread.
 */
#ifndef CLONE_AGENT_NET_H
#define CLONE_AGENT_NET_H

#include "identity.h"

/* net.c: all of it, as proto.h says. Returns 0, or -errno with interface and step in id->step. */
int net_apply(struct identity *id, const struct proto_identity *x);

/* tcp.c: ends the connections that led out of the parent. What cannot be done is a remark. */
void tcp_refuse(struct identity *id);

/* resolv.c: the name servers of all NICs, if there are any. What cannot be done is a remark. */
void resolv_apply(struct identity *id, const struct proto_identity *x);

#endif
