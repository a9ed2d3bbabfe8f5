/* SPDX-License-Identifier: MIT */
/*
 * What all machines of the run directory cost, measured at once, and how people and programs see
 * that: `clone stats` and `clone top`. doc/accounting.md says what each figure means. One thread.
 */
#ifndef CLONE_CLI_MEASURE_H
#define CLONE_CLI_MEASURE_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "account/account.h"
#include "base/err.h"

enum measure_order { MEASURE_BY_NAME, MEASURE_BY_MEM, MEASURE_BY_UNIQUE };

struct measure {
	struct account account;
	struct account_host host;
	uint64_t spent_ns; /* all that taking it cost */
};

/* Looks at every VM, every seed, and their children that are no VM (spares, snapshots that are
 * being written). One that cannot be looked at is account_unread. -errno; the same as
 * account_measure; -EMFILE, -ENFILE: some would be missing. */
int measure_take(struct measure *m, struct err *e);
void measure_fini(struct measure *m);
/* Sorted: seeds and helpers stay among the rest. */
void measure_sort(struct measure *m, enum measure_order order);
/* What p costs: its own, its share of what it has with others, page tables, the VMM, and the
 * kernel's memory of it if that is known. ACCOUNT_UNKNOWN: it was not looked at. */
uint64_t measure_cost(const struct measure *m, const struct account_proc *p);

/*
 * Only those of the n names; n 0: all, with the sums. The caller's reference; NULL: no memory.
 * Bytes; null is what the kernel does not tell. A process that was not looked at has a "warning",
 * and is in no sum.
 */
json_t *measure_json(const struct measure *m, char *const *names, size_t n);
/* The same as a table in MiB; `head` and `foot` (each "" or an escape sequence) go around its
 * first line. */
void measure_print(FILE *f, const struct measure *m, char *const *names, size_t n, const char *head,
		   const char *foot);
bool measure_wanted(const struct account_proc *p, char *const *names, size_t n);

#endif
