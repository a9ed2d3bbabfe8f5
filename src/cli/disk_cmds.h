/* SPDX-License-Identifier: MIT */
/*
 * Inside `clone disk`: what its files share. Its parts take their arguments with argv[0] their own
 * name, print their errors and return an exit code of cli.h.
 */
#ifndef CLONE_CLI_DISK_CMDS_H
#define CLONE_CLI_DISK_CMDS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/diskfiles.h"
#include "cli/launch.h"

struct source;

struct disk_args {
	uint64_t size, cluster;
	unsigned int cluster_bits; /* 0: not said */
	char *backing;
	bool raw, repair, json, quiet;
};

int disk_cmd_info(int argc, char **argv);
int disk_cmd_check(int argc, char **argv);
int disk_cmd_resize(int argc, char **argv);
int disk_cmd_attach(int argc, char **argv);
int disk_cmd_detach(int argc, char **argv);

/* Options, and exactly n words behind them (from argv[optind] on); want names those. */
int disk_cmd_parse(struct disk_args *a, int argc, char **argv, int n, const char *want);
/* DISK in words, which is cut: format and backing, and nothing that is for a VM's disk only. */
int disk_cmd_disk(char *spec, struct launch_disk *d, struct err *e);
/* Opens what DISK names, with all that it stands on. */
int disk_cmd_open(char *spec, struct disk_files *f, struct err *e);
/* What can be read there; f stays the caller's. */
int disk_cmd_source(const struct disk_files *f, struct source **s, struct err *e);

#endif
