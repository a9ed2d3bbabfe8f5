/* SPDX-License-Identifier: MIT */
/*
 * See balloonopt.h. For the commands that make VMs.
 */
#include "cli/balloonopt.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "cli/launch.h"
#include "cli/squeezeopt.h"

/* What takes the keys of a word, cut at commas (spec: what follows the word, "" for nothing), and
 * makes of them the body of PUT /balloon/policy (owned by the caller), or nothing. */
typedef int policy_fn(const char *word, char *spec, json_t **body, struct err *e);

static int no_keys(const char *word, char *spec, json_t **body, struct err *e)
{
	(void)body;
	return *spec ? err_set(e, EINVAL, "%s goes alone, without %s", word, spec) : 0;
}

static const struct {
	const char *word;
	bool none;
	policy_fn *take;
} words[] = {
	{ "none", true, no_keys },
	{ "manual", false, squeeze_option_manual },
	{ "auto", false, squeeze_option },
};

int balloon_option(struct balloon_option *b, bool made, char *spec, struct err *e)
{
	char *rest = spec + strcspn(spec, ",");
	json_t *policy = NULL;

	if (*rest)
		*rest++ = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		int r;

		if (strcmp(spec, words[i].word) != 0)
			continue;
		if (words[i].none && !made)
			return err_set(e, EINVAL,
				       "--balloon none: a machine has the devices of "
				       "what it comes out of");
		r = words[i].take(spec, rest, &policy, e);
		if (r)
			return err_wrap(e, r, "--balloon");
		balloon_option_fini(b);
		*b = (struct balloon_option){ .none = words[i].none, .policy = policy };
		return 0;
	}
	return err_set(e, EINVAL, "--balloon: '%s' is none of none, manual and auto", spec);
}

int balloon_option_apply(const struct balloon_option *b, struct vmproc *p, struct err *e)
{
	int r = b->policy
			? vmproc_request(p, "PUT", "/balloon/policy", b->policy, LAUNCH_MS, NULL, e)
			: 0;

	return r ? err_wrap(e, r, "--balloon") : 0;
}

void balloon_option_fini(struct balloon_option *b)
{
	json_decref(b->policy);
	b->policy = NULL;
}
