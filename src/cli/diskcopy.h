/* SPDX-License-Identifier: MIT */
/*
 * A disk's content as a new file. One thread.
 */
#ifndef CLONE_CLI_DISKCOPY_H
#define CLONE_CLI_DISKCOPY_H

#include <stdbool.h>

#include "base/err.h"
#include "block/source.h"

struct disk_copy {
	bool raw; /* else qcow2 */
	bool quiet;
	unsigned int cluster_bits; /* of a qcow2; 0: the default */
	int signals;		   /* cli_catch_signals: one that arrives ends the copying */
};

/* A file that was not there before, to be written. -EEXIST. */
int disk_new_file(const char *path, struct err *e);
/* All that s reads, in a new file whose bytes are durable then; on failure there is none. */
int disk_copy(struct source *s, const char *path, const struct disk_copy *how, struct err *e);

#endif
