/* SPDX-License-Identifier: MIT */
/*
 * VMs as people and programs see them. See view.h.
 */
#include "cli/view.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cli/launch.h"
#include "control/json.h"

#define ASK_MS 3000

static const char *living_state(const struct vmdir *d)
{
	static const struct {
		const char *theirs, *ours;
	} states[] = { { "Running", "running" },
		       { "Paused", "paused" },
		       { "Parked", "parked" },
		       { "Not started", "starting" },
		       { "Seed", "seed" } };
	cleanup_json json_t *root = NULL;
	const char *s = NULL;
	struct client *c;

	if (!client_open(d->fd, &c, NULL)) {
		if (!client_request(c, "GET", "/", NULL, ASK_MS, &root, NULL))
			s = json_string_value(json_object_get(root, "state"));
		client_close(c);
	}
	for (size_t i = 0; s && i < ARRAY_SIZE(states); i++)
		if (!strcmp(s, states[i].theirs))
			return states[i].ours;
	return "unresponsive";
}

static void add_source(json_t *v)
{
	static const char *const keys[] = { "parent", "template", "image", "kernel" };

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *s = json_string_value(json_object_get(v, keys[i]));
		const char *base = s ? strrchr(s, '/') : NULL;
		char text[128];

		if (!s)
			continue;
		snprintf(text, sizeof(text), "%s:%s", keys[i], base ? base + 1 : s);
		json_object_set_new(v, "source", json_string(text));
		return;
	}
}

/* The end's words come from the VM process: printable ASCII only. */
static void add_end(json_t *v, const struct vmdir *d)
{
	char why[300];

	vmdir_end_text(d, why, sizeof(why));
	for (char *p = why; *p; p++)
		if (!isprint((unsigned char)*p))
			*p = '?';
	json_object_set_new(v, "end", json_string(why));
}

json_t *view_vm(const struct vmdir *d, struct err *e)
{
	const char *state = "exited";
	json_t *v = NULL;

	if (vmdir_info(d, &v, e))
		return NULL;
	add_source(v);
	if (vmdir_alive(d))
		state = living_state(d);
	/* it may have ended while we asked */
	if (!strcmp(state, "unresponsive") && !vmdir_alive(d))
		state = "exited";
	if (!strcmp(state, "exited"))
		add_end(v, d);
	json_object_set_new(v, "state", json_string(state));
	return v;
}

json_t *view_all(bool all, struct err *e)
{
	json_t *list = json_array();
	char **names = NULL;
	size_t n = 0;

	if (!list) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	if (vmdir_list(PLACE_VM, &names, &n, e)) {
		json_decref(list);
		return NULL;
	}
	for (size_t i = 0; i < n; i++) {
		struct vmdir d;
		json_t *v = NULL;

		/* gone or half made meanwhile: not there */
		if (!vmdir_open(PLACE_VM, names[i], &d, NULL))
			v = view_vm(&d, NULL);
		if (v && (all || strcmp(json_string_value(json_object_get(v, "state")), "exited")))
			json_array_append(list, v);
		json_decref(v);
		vmdir_close(&d);
	}
	vmdir_list_free(names, n);
	return list;
}
