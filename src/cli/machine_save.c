/* SPDX-License-Identifier: MIT */
/*
 * A live snapshot from the caller's side: files of the stage granted, one request, and then asking
 * how far it is until it is done, so that people see it and a signal ends it. See machine.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "control/json.h"

#define POLL_US 20000

/* Names of one request's grants, apart from another's at the same time. */
static void in_folder(const struct machine_save *s, const char *what, char *buf, size_t n)
{
	snprintf(buf, n, "save/%s/%s", s->stage->name, what);
}

/* A new file of the stage, granted under `what` in the request's folder. */
static int stage_file(const struct machine_save *s, const char *file, const char *what,
		      struct err *e)
{
	int fd = template_stage_file(s->stage, file, e), r;
	char name[160];
	const char *grant = name;

	if (fd < 0)
		return fd;
	in_folder(s, what, name, sizeof(name));
	r = client_grant(s->p->fdsock, &grant, &fd, 1, e);
	close(fd);
	if (!r)
		snprintf(s->t->files[s->t->nfiles++].name, sizeof(s->t->files[0].name), "%s", file);
	return r;
}

static int stage_files(const struct machine_save *s, struct err *e)
{
	char folder[96];
	int r = stage_file(s, "state", "state", e);

	if (!r)
		r = stage_file(s, "ram", "ram", e);
	in_folder(s, "parent/", folder, sizeof(folder));
	for (size_t i = 0; i < s->t->ndisks && !r; i++) {
		struct template_disk *d = &s->t->disks[i];
		char file[48], grant[48];

		if (d->read_only)
			continue;
		snprintf(file, sizeof(file), "layer-%s", d->id);
		snprintf(grant, sizeof(grant), "layer/%s", d->id);
		d->layer = (int)s->t->nfiles;
		r = stage_file(s, file, grant, e);
		if (!r)
			r = launch_grant_overlay(s->p->fdsock, folder, d->id, e);
	}
	return r;
}

/* What it is to differ from, as the request's "parents". */
static int grant_base(const struct machine_save *s, json_t *body, struct err *e)
{
	struct template *chain = NULL;
	json_t *list = json_array();
	char folder[96];
	size_t n = 0;
	int r = list ? template_chain(s->base, &chain, &n, e) : err_set(e, ENOMEM, "out of memory");

	in_folder(s, "from/", folder, sizeof(folder));
	if (!r)
		r = machine_grant_chain(s->p, chain, n, folder, list, e);
	free(chain);
	if (!r && json_object_set(body, "parents", list))
		r = err_set(e, ENOMEM, "out of memory");
	json_decref(list);
	return r;
}

/* Until it is written. A signal to us gives it up. */
static int wait_written(const struct machine_save *s, json_int_t number, json_t **result,
			struct err *e)
{
	struct progress bar;
	int r;

	progress_begin(&bar, "writing memory");
	for (;;) {
		cleanup_json json_t *now = NULL;
		const char *state;

		r = vmproc_request(s->p, "GET", "/snapshot", NULL, LAUNCH_MS, &now, e);
		if (r)
			break;
		/* another one has begun, and we missed how ours ended: it may have failed */
		if (json_integer_value(json_object_get(now, "number")) != number) {
			r = err_set(e, EIO,
				    "another snapshot was begun before the end of this one "
				    "was heard of: take it again");
			break;
		}
		state = json_string_value(json_object_get(now, "state"));
		if (state && !strcmp(state, "writing")) {
			progress_show(
				&bar,
				(uint64_t)json_integer_value(json_object_get(now, "done_bytes")),
				(uint64_t)json_integer_value(json_object_get(now, "total_bytes")));
			usleep(POLL_US);
			continue;
		}
		if (state && !strcmp(state, "done")) {
			*result = json_incref(now);
		} else {
			const char *why = json_string_value(json_object_get(now, "error"));

			r = err_set(e, EIO, "%s", why ? why : "the snapshot failed");
		}
		break;
	}
	progress_end(&bar);
	return r;
}

/* Interrupted: the child writes for nobody. */
static void give_up(const struct machine_save *s, json_int_t number)
{
	cleanup_json json_t *body = json_pack("{s:I}", "number", number);
	struct client *c;

	if (client_open(s->p->dir.fd, &c, NULL))
		return;
	client_request(c, "PUT", "/snapshot/cancel", body, LAUNCH_MS, NULL, NULL);
	client_close(c);
}

int machine_save(const struct machine_save *s, json_t **result, struct err *e)
{
	cleanup_json json_t *body = NULL, *begun = NULL;
	char state[96], ram[96];
	json_int_t number;
	int r;

	in_folder(s, "state", state, sizeof(state));
	in_folder(s, "ram", ram, sizeof(ram));
	body = json_pack("{s:s, s:s, s:s, s:b, s:b, s:I}", "snapshot_type",
			 s->base ? "Diff" : "Full", "snapshot_path", state, "mem_file_path", ram,
			 "wait", 0, "compress", s->compress, "max_growth_bytes",
			 (json_int_t)s->max_growth_bytes);
	r = body ? stage_files(s, e) : err_set(e, ENOMEM, "out of memory");

	if (!r && s->base) {
		r = grant_base(s, body, e);
		s->t->parent.store = s->base->store;
		snprintf(s->t->parent.name, sizeof(s->t->parent.name), "%s", s->base->name);
		snprintf(s->t->parent.sha256, sizeof(s->t->parent.sha256), "%s", s->base->sha256);
	}
	if (!r)
		r = vmproc_request(s->p, "PUT", "/snapshot/create", body, LAUNCH_MS, &begun, e);
	if (r)
		return r;
	number = json_integer_value(json_object_get(begun, "number"));
	r = wait_written(s, number, result, e);
	if (r == -EINTR)
		give_up(s, number);
	return r;
}
