/* SPDX-License-Identifier: MIT */
/*
 * One child of a fork before it lives: its directory, and the descriptors that its source is
 * granted for it. Inner part of forkreq.c. One thread.
 */
#ifndef CLONE_CLI_FORK_CHILD_H
#define CLONE_CLI_FORK_CHILD_H

#include "cli/forkreq.h"

struct gates;
struct nic_ports;

struct fork_session {
	const struct fork_source *src;
	const struct fork_how *how;
	int fdsock;
	int cancel_fd;
	int ksm; /* the claim on the children's trust domain; -1: none */
	struct gates *gates;
};

struct fork_prepared {
	struct vmdir dir;
	bool made;
	const struct nic_ports *ports; /* NULL: no NICs */
};

/* Makes its directory, with all that is its own, and grants it. On failure p->made says whether
 * fork_child_discard has anything to do. */
int fork_child_prepare(const struct fork_session *s, const char *name, struct fork_prepared *p,
		       struct err *e);
/* What the disks of a running source go on with, granted as the first child's. */
int fork_child_grant_parent(const struct fork_session *s, const char *first, struct err *e);
/* Dead or dying, and if it is neither, ended; nothing of it stays. */
void fork_child_remove(struct vmdir *d);
/* A child that failed; closes its directory. */
void fork_child_discard(struct fork_prepared *p);

#endif
