/* SPDX-License-Identifier: MIT */
/*
 * The machine that a template is made of when it is not booted: a fork of a template or of a VM, or
 * a snapshot restored; and what the new template can stand on. One thread.
 */
#ifndef CLONE_CLI_TEMPLATE_FROM_H
#define CLONE_CLI_TEMPLATE_FROM_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"
#include "template/template.h"

struct template_from {
	const char *source; /* a template, a VM or a snapshot, looked for in this order */
	bool flat;	    /* stand on nothing */
	bool as_it_is;	    /* a snapshot need not run: its files are linked */
	uint64_t timeout_ms;
	struct vmproc *p; /* out: a temporary VM in no trust domain, the caller's to abort */
	struct template_stage *stage;
	struct template *t;    /* out: of a snapshot as it is: all but the name */
	struct template *base; /* out: what to stand on; its name is "" for nothing */
	json_t **info;	       /* out: the VM's vm.json, for machine_describe */
};

int template_from(const struct template_from *f, int cancel_fd, struct err *e);

#endif
