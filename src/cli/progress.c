/* SPDX-License-Identifier: MIT */
/*
 * See progress.h.
 */
#include "cli/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

#define WIDTH 30

void progress_begin(struct progress *p, const char *what)
{
	*p = (struct progress){ .what = what, .tty = isatty(STDERR_FILENO), .percent = -1 };
}

void progress_show(struct progress *p, uint64_t done, uint64_t total)
{
	int percent = total ? (int)(MIN(done, total) * 100 / total) : 0;
	char bar[WIDTH + 1];

	if (!p->tty || percent == p->percent)
		return;
	p->percent = percent;
	p->shown = true;
	memset(bar, '.', WIDTH);
	memset(bar, '#', (size_t)(percent * WIDTH / 100));
	bar[WIDTH] = '\0';
	fprintf(stderr, "\r  %s [%s] %3d %%", p->what, bar, percent);
	fflush(stderr);
}

void progress_end(struct progress *p)
{
	if (p->shown)
		fputs("\r\033[K", stderr);
	p->shown = false;
}
