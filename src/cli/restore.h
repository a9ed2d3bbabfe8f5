/* SPDX-License-Identifier: MIT */
/*
 * A VM out of a snapshot. One thread.
 */
#ifndef CLONE_CLI_RESTORE_H
#define CLONE_CLI_RESTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"
#include "template/template.h"

struct balloon_option;
struct nic_options;
struct shares; /* cli/shares.h */

struct restore {
	const struct template *t;
	const char *name; /* the VM's */
	bool paused;	  /* it stays so */
	bool wait;	  /* until the guest knows who it is, if it has an agent: else it fails */
	uint64_t timeout_ms;
	const struct balloon_option *balloon; /* NULL: nothing to say */
	const struct nic_options *net;	      /* NULL: each NIC is on the network that it was on */
	const struct shares *shares;	      /* NULL: no quota, and its trust domain */
};

/* A published VM, the caller's to close; on failure nothing is left. */
int restore_vm(const struct restore *rs, int cancel_fd, struct vmproc *p, struct err *e);

#endif
