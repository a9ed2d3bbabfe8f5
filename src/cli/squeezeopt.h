/* SPDX-License-Identifier: MIT */
/*
 * What --balloon and `clone balloon` say of a balloon's policy (vm/squeeze.h), as the body of PUT
 * /balloon/policy. One thread.
 */
#ifndef CLONE_CLI_SQUEEZEOPT_H
#define CLONE_CLI_SQUEEZEOPT_H

#include <jansson.h>

#include "base/err.h"

/* For usage texts: the words that may follow auto. */
#define SQUEEZE_WORDS                                                                              \
	"idle=D, step=N%, every=D, floor=SIZE|N%, low=N%, high=N%, psi=N%, full=N%, cpu=N%, "      \
	"cool=D, period=D, hold=D"

/*
 * auto: spec is what follows it, WORD=VALUE with commas between, or empty; it is cut. *body becomes
 * the caller's (json_decref). word: the option, for errors. -EINVAL, -ENOMEM.
 */
int squeeze_option(const char *word, char *spec, json_t **body, struct err *e);
/* manual: the same; nothing may follow. */
int squeeze_option_manual(const char *word, char *spec, json_t **body, struct err *e);

#endif
