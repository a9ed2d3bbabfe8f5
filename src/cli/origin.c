/* SPDX-License-Identifier: MIT */
/*
 * See origin.h.
 */
#include "cli/origin.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text(const json_t *j, const char *key)
{
	const char *s = json_string_value(json_object_get(j, key));

	return s ? s : "";
}

int origin_of(const json_t *info, struct template *t, struct err *e)
{
	const json_t *o = json_object_get(info, "origin");
	const char *name = text(o, "name");
	enum store where = strcmp(text(o, "store"), store_word(STORE_SNAPSHOTS)) ? STORE_TEMPLATES
										 : STORE_SNAPSHOTS;
	int r;

	if (!name[0])
		return err_set(e, ENOENT, "it came out of no template and no snapshot");
	r = template_open(where, name, t, e);
	if (!r && strcmp(t->sha256, text(o, "sha256")))
		r = err_set(e, ENOENT, "the %s %s is not the one it came out of", store_word(where),
			    name);
	return r;
}

/* The newest of its snapshots that can be read. */
static int last_snapshot(const json_t *info, struct template *t, struct err *e)
{
	struct template *s = calloc(1, sizeof(*s));
	char **names = NULL;
	size_t n = 0;
	int r = s ? template_list(STORE_SNAPSHOTS, &names, &n, e)
		  : err_set(e, ENOMEM, "out of memory");
	bool found = false;

	for (size_t i = 0; i < n; i++) {
		if (!template_open(STORE_SNAPSHOTS, names[i], s, NULL) &&
		    !strcmp(s->vm, text(info, "name")) &&
		    !strcmp(s->vm_created, text(info, "created")) &&
		    (!found || strcmp(s->created, t->created) >= 0)) {
			*t = *s;
			found = true;
		}
		free(names[i]);
	}
	free(names);
	free(s);
	return r ? r : found ? 0 : err_set(e, ENOENT, "no snapshot was taken of it");
}

int origin_nearest(const json_t *info, const char *name, struct template *t, struct err *e)
{
	int r;

	if (name) {
		r = template_open(STORE_SNAPSHOTS, name, t, e);
		if (r == -ENOENT)
			r = template_open(STORE_TEMPLATES, name, t, NULL) == 0
				    ? 0
				    : err_set(e, ENOENT,
					      "there is no snapshot and no template called %s",
					      name);
		return r;
	}
	r = last_snapshot(info, t, e);
	if (r == -ENOENT)
		r = origin_of(info, t, e);
	return r;
}
