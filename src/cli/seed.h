/* SPDX-License-Identifier: MIT */
/*
 * Seeds: a template's process that only answers forks. Started when a fork needs it, by one of all
 * who ask at once; ends by itself when nobody forks for a while. One thread.
 */
#ifndef CLONE_CLI_SEED_H
#define CLONE_CLI_SEED_H

#include <stdbool.h>

#include "base/err.h"
#include "cli/state.h"
#include "template/template.h"

#define SEED_LINGER_MS 60000
#define SEED_SPARES 2 /* children ready ahead of time */

/* What makes forks faster and costs memory: see clone(1), CLONE_SEED. */
struct seed_options {
	unsigned int spares;
	bool huge_pages, working_set;
};
/* As the environment says. -EINVAL says what is wrong there. */
int seed_options(struct seed_options *o, struct err *e);

/*
 * The template's seed, started when none runs (the template is checked then): its directory in d.
 * *use is a lock (the caller closes it) under which the template stays in use: seed_stop refuses.
 * -ENOENT when there is no such template, and for nothing else.
 */
int seed_get(const char *name, int cancel_fd, struct template *t, struct vmdir *d, int *use,
	     struct err *e);
/* Ends the template's seed if one runs; -EBUSY while somebody forks from it. */
int seed_stop(const char *name, struct err *e);

#endif
