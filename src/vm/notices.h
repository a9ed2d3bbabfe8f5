/* SPDX-License-Identifier: MIT */
/*
 * What happened to a VM that its owner should know and nobody asked for: a disk's host is full, and
 * the like. The last few, for GET /events; a line in the log as well. A guest can provoke most of
 * them as often as it likes, so the same from the same device is one entry, counted. Plain memory;
 * main, or a vCPU thread with the device lock.
 */
#ifndef CLONE_VM_NOTICES_H
#define CLONE_VM_NOTICES_H

#include <stdint.h>

#include "base/log.h"

#define NOTICES_MAX 32

struct notice {
	uint64_t number;	    /* of its last time, among all of this VM's; from 1 */
	uint64_t count;		    /* how often */
	uint64_t first_ms, last_ms; /* since the epoch */
	char kind[24];		    /* a word for programs: "disk-full" */
	char who[32];		    /* the device's id */
	char detail[160];	    /* for people, of the last time */
};

struct notices {
	struct notice n[NOTICES_MAX]; /* count 0: free */
	uint64_t number;
	struct log_limit log;
};

/* What has no room replaces the one that is longest ago. */
void notices_add(struct notices *s, const char *kind, const char *who, const char *detail);
/* A fork's child has none. */
void notices_clear(struct notices *s);

#endif
