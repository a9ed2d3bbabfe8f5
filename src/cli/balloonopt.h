/* SPDX-License-Identifier: MIT */
/*
 * The option --balloon of the commands that make VMs. One thread.
 */
#ifndef CLONE_CLI_BALLOONOPT_H
#define CLONE_CLI_BALLOONOPT_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"

struct vmproc;

/* As --balloon says it; all zero: a balloon that is only used when somebody asks. */
struct balloon_option {
	bool none;	/* no device */
	json_t *policy; /* of PUT /balloon/policy, owned; NULL: nothing to say */
};

/*
 * none | manual | auto[,KEY=VALUE...]. Cuts spec. made: the machine is made by this command, so it
 * may have none; else it has what its source has. The last one said counts. -EINVAL.
 */
int balloon_option(struct balloon_option *b, bool made, char *spec, struct err *e);
/* Tells a VM that is there; no-op when there is nothing to say. As vmproc_request. */
int balloon_option_apply(const struct balloon_option *b, struct vmproc *p, struct err *e);
void balloon_option_fini(struct balloon_option *b);

#endif
