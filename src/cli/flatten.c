/* SPDX-License-Identifier: MIT */
/*
 * See flatten.h.
 */
#include "cli/flatten.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/machine.h"
#include "control/json.h"

#define FLATTEN_MS 3600000

struct work {
	struct template t;
	struct template_stage stage;
	struct vmproc p;
};

/* In a VM process that never becomes a VM. */
static int merge(struct work *w, const struct template *chain, size_t n, bool compress,
		 struct err *e)
{
	static const char *const names[] = { "state", "ram" };
	cleanup_json json_t *layers = json_array();
	cleanup_json json_t *body = NULL;
	int r = layers ? machine_grant_chain(&w->p, chain, n, "", layers, e)
		       : err_set(e, ENOMEM, "out of memory");

	for (size_t i = 0; i < ARRAY_SIZE(names) && !r; i++) {
		int fd = template_stage_file(&w->stage, names[i], e);

		r = fd < 0 ? fd : client_grant(w->p.fdsock, &names[i], &fd, 1, e);
		if (fd >= 0)
			close(fd);
	}
	if (r)
		return r;
	body = json_pack("{s:O, s:s, s:s, s:b}", "layers", layers, "snapshot_path", "state",
			 "mem_file_path", "ram", "compress", compress);
	return body ? vmproc_request(&w->p, "PUT", "/snapshot/flatten", body, FLATTEN_MS, NULL, e)
		    : err_set(e, ENOMEM, "out of memory");
}

/* RAM and state are new, disks' layers are complete in every snapshot. */
static int flatten(struct work *w, bool compress, int cancel_fd, struct err *e)
{
	struct template *chain = NULL;
	char temporary[65];
	size_t n = 0;
	int r = template_chain(&w->t, &chain, &n, e);

	for (size_t i = 0; i < n && !r; i++)
		r = template_check(&chain[i], -1, e);
	if (!r) {
		cli_auto_name("flatten", temporary, sizeof(temporary));
		r = vmproc_start(PLACE_VM, temporary, 0, cancel_fd, &w->p, e);
		if (!r) {
			r = merge(w, chain, n, compress, e);
			vmproc_abort(&w->p);
		}
	}
	for (size_t i = TEMPLATE_RAM + 1; i < w->t.nfiles && !r; i++)
		r = template_stage_link(&w->stage, &w->t, i, e);
	if (!r)
		r = template_unchanged(&w->t, e);
	free(chain);
	if (r)
		return r;
	memset(&w->t.parent, 0, sizeof(w->t.parent));
	return template_stage_publish(&w->stage, &w->t, e);
}

int snapshot_flatten(const char *name, const char *to, bool compress, int cancel_fd, struct err *e)
{
	struct work *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(e, ENOMEM, "out of memory");
	r = template_open(STORE_SNAPSHOTS, name, &w->t, e);
	if (!r) {
		r = to ? template_stage_begin(STORE_SNAPSHOTS, to, &w->stage, e)
		       : template_stage_begin_over(&w->t, &w->stage, e);
		if (!r)
			r = flatten(w, compress, cancel_fd, e);
		template_stage_end(&w->stage);
	}
	free(w);
	return r;
}
