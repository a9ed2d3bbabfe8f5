/* SPDX-License-Identifier: MIT */
/*
 * Machines that come out of a template or snapshot, or go into one: the files granted, the request
 * made, and what vm.json says of them. Shared by seeds, restore, snapshot and template create. One
 * thread.
 */
#ifndef CLONE_CLI_MACHINE_H
#define CLONE_CLI_MACHINE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "cli/launch.h"
#include "template/template.h"

/*
 * Checks a template or snapshot and what it stands on, and loads it into a new VM process: as a
 * seed, or as a VM, which is paused then and has data files for its disks. know_ms: 0, or how long
 * its guest has to acknowledge who it is, from its resuming on, lest the VM end. networks: what its
 * NICs get (nics_request), granted already; NULL: none has a network.
 */
int machine_load(struct vmproc *p, const struct template *t, bool seed, uint64_t know_ms,
		 json_t *networks, struct err *e);

/* State and RAM of each of a chain, granted as PREFIX"N/state" and PREFIX"N/ram", and appended to
 * `list` in the API's words. */
int machine_grant_chain(struct vmproc *p, const struct template *chain, size_t n,
			const char *prefix, json_t *list, struct err *e);

/* A disk as vm.json and the listings describe it. NULL: out of memory. */
json_t *machine_disk_info(const struct template *t, const struct template_disk *d);
/* What vm.json of a machine out of t says: size, disks, where it comes from. NULL: out of memory.
 */
json_t *machine_info(const struct template *t);
/* The same of a fork of a VM: like its parent but for what is its own. */
json_t *machine_info_of_fork(const struct vmdir *parent, struct err *e);
/* Fills in what vm.json knows for a template or snapshot of that machine: all but the name. */
int machine_describe(const json_t *info, struct template *t, struct err *e);

struct machine_save {
	struct vmproc *p;
	struct template_stage *stage;
	struct template *t;	     /* described; its files and its parent are added here */
	const struct template *base; /* to differ from; NULL: all is stored */
	bool compress;
	uint64_t max_growth_bytes; /* 0: no limit */
};
/* A live snapshot of a VM into the stage. *result (the caller's): GET /snapshot's answer. */
int machine_save(const struct machine_save *s, json_t **result, struct err *e);

#endif
