/* SPDX-License-Identifier: MIT */
/*
 * See squeezeopt.h. For the commands that make VMs, and clone balloon.
 */
#include "cli/squeezeopt.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "vm/squeeze.h"

enum unit { PERCENT, SECONDS, FLOOR };

/* What a person says, and the threshold's name in the API. */
static const struct {
	const char *word, *name;
	enum unit unit;
} words[] = {
	{ "idle", "idle_s", SECONDS },	   { "step", "step_percent", PERCENT },
	{ "every", "step_s", SECONDS },	   { "floor", "floor_mib", FLOOR },
	{ "low", "low_percent", PERCENT }, { "high", "high_percent", PERCENT },
	{ "psi", "psi_some", PERCENT },	   { "full", "psi_full", PERCENT },
	{ "cpu", "cpu_percent", PERCENT }, { "cool", "cool_s", SECONDS },
	{ "period", "period_s", SECONDS }, { "hold", "hold_s", SECONDS },
};

static int put(json_t *body, const char *name, uint64_t v, struct err *e)
{
	const struct squeeze_limit *l = squeeze_limits;

	while (strcmp(l->name, name) != 0)
		l++; /* every name of ours is there: a test says so */
	if (v < l->min || v > l->max)
		return err_set(e, EINVAL, "%llu is not in %u..%u", (unsigned long long)v, l->min,
			       l->max);
	if (json_object_set_new(body, name, json_integer((json_int_t)v)))
		return err_set(e, ENOMEM, "out of memory");
	return 0;
}

/* "10%" or "10" */
static int parse_percent(const char *text, uint64_t *v, struct err *e)
{
	char buf[16];
	size_t n = strlen(text);

	n -= n && text[n - 1] == '%';
	if (n >= sizeof(buf))
		return err_set(e, EINVAL, "'%s' is not a percentage", text);
	snprintf(buf, sizeof(buf), "%.*s", (int)n, text);
	return cli_parse_uint(buf, 0, 100000, v, e);
}

/* The policy counts in seconds. */
static int put_seconds(json_t *body, const char *name, const char *text, struct err *e)
{
	uint64_t ms;
	int r = cli_parse_duration(text, &ms, e);

	if (!r && ms % 1000)
		r = err_set(e, EINVAL, "'%s' is not a number of whole seconds", text);
	return r ? r : put(body, name, ms / 1000, e);
}

/* A size alone is the floor, whatever RAM there is; with both said the larger counts. */
static int put_floor(json_t *body, const char *text, struct err *e)
{
	size_t n = strlen(text);
	uint64_t v;
	int r;

	if (n && text[n - 1] == '%') {
		r = parse_percent(text, &v, e);
		return r ? r : put(body, "floor_percent", v, e);
	}
	r = cli_parse_size(text, &v, e);
	if (!r && v % MIB(1))
		r = err_set(e, EINVAL, "'%s' is not a number of whole MiB", text);
	if (!r)
		r = put(body, "floor_mib", v >> 20, e);
	if (!r && !json_object_get(body, "floor_percent"))
		r = put(body, "floor_percent", 0, e);
	return r;
}

static int take(json_t *body, const char *word, const char *value, struct err *e)
{
	uint64_t v;
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcmp(word, words[i].word) != 0)
			continue;
		if (words[i].unit == SECONDS)
			return put_seconds(body, words[i].name, value, e);
		if (words[i].unit == FLOOR)
			return put_floor(body, value, e);
		r = parse_percent(value, &v, e);
		return r ? r : put(body, words[i].name, v, e);
	}
	return err_set(e, EINVAL, "it is none of %s", SQUEEZE_WORDS);
}

int squeeze_option(const char *word, char *spec, json_t **body, struct err *e)
{
	json_t *j = json_pack("{s:s}", "mode", "auto");
	char *save;

	if (!j)
		return err_set(e, ENOMEM, "out of memory");
	for (char *w = strtok_r(spec, ",", &save); w; w = strtok_r(NULL, ",", &save)) {
		char *value = strchr(w, '=');
		int r;

		if (value)
			*value++ = '\0';
		r = value ? take(j, w, value, e)
			  : err_set(e, EINVAL, "it is none of %s", SQUEEZE_WORDS);
		if (r) {
			json_decref(j);
			return err_wrap(e, r, "%s: %s", word, w);
		}
	}
	*body = j;
	return 0;
}

int squeeze_option_manual(const char *word, char *spec, json_t **body, struct err *e)
{
	if (*spec)
		return err_set(e, EINVAL, "%s goes alone, without %s", word, spec);
	*body = json_pack("{s:s}", "mode", "manual");
	return *body ? 0 : err_set(e, ENOMEM, "out of memory");
}
