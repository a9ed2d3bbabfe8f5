/* SPDX-License-Identifier: MIT */
/*
 * Every mapping of a process, accounted for: the fd table's sibling for memory. A fork's child may
 * share nothing with its parent that either can write to: what is MAP_SHARED (vCPUs' run pages,
 * rings) stays behind, guest RAM is private. For debug builds and tests. Main thread.
 */
#ifndef CLONE_EVENT_MAPS_H
#define CLONE_EVENT_MAPS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/* A range that is known. */
struct map_range {
	const void *at;
	size_t len;
	bool shared; /* it may be; if not, that is an error too */
	const char *who;
};

/*
 * How many mappings are neither in one of the n ranges nor the process's own: its program and
 * libraries (files of which a part is executable), private anonymous memory. The first is named in
 * e. -errno when /proc/self/maps cannot be read: in a jail.
 */
int maps_unknown(const struct map_range *known, size_t n, struct err *e);

#endif
