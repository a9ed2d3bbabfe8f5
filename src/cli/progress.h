/* SPDX-License-Identifier: MIT */
/*
 * A progress bar on standard error, when that is a terminal. One thread.
 */
#ifndef CLONE_CLI_PROGRESS_H
#define CLONE_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *what;
	bool tty, shown;
	int percent;
};

void progress_begin(struct progress *p, const char *what);
/* total 0: nothing is known yet. */
void progress_show(struct progress *p, uint64_t done, uint64_t total);
/* Removes it: what stays on the terminal is the command's result. */
void progress_end(struct progress *p);

#endif
