/* SPDX-License-Identifier: MIT */
/*
 * What `clone template` and `clone snapshot` do alike: ls, inspect, verify, rm. One thread.
 */
#ifndef CLONE_CLI_SAVED_H
#define CLONE_CLI_SAVED_H

#include "template/template.h"

#define SAVED_VERBS_USAGE(word)                                                                    \
	"       clone " word " ls [-q] [-o json]\n"                                                \
	"       clone " word " inspect [-o text|json] NAME...\n"                                   \
	"       clone " word " verify NAME...\n"                                                   \
	"       clone " word " rm NAME...\n"

/* Runs argv[0] (ls, inspect, verify, rm): the exit code, or -1 when it is another verb. */
int saved_verb(enum store where, int argc, char **argv);

#endif
