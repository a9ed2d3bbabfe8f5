/* SPDX-License-Identifier: MIT */
/*
 * A VM process of a tiny guest and what is asked of it, for unit tests. See tiny_world.h.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/lib/tiny_world.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control/json.h"
#include "snapshot/format.h"
#include "snapshot/ram.h"
#include "tests/lib/must.h"
#include "tests/lib/scratch.h"
#include "tests/lib/tiny_kernel.h"

int tiny_world_setup(void **state)
{
	struct tiny_world *w = calloc(1, sizeof(*w));
	struct err e;

	w->dir = scratch_make();
	setenv("CLONE_RUN_DIR", w->dir, 1);
	w->kernel = tiny_kernel_counter();
	must(tiny_files_make(w->dir, &w->f, &e), &e);
	must(tiny_vm_boot("tiny", w->kernel, w->f.base, &w->p, &e), &e);
	*state = w;
	return 0;
}

int tiny_world_teardown(void **state)
{
	struct tiny_world *w = *state;

	vmproc_abort(&w->p);
	tiny_snapshot_close(&w->f);
	close(w->kernel);
	scratch_remove(w->dir);
	free(w);
	return 0;
}

json_t *tiny_get(struct vmproc *p, const char *path)
{
	json_t *reply = NULL;
	struct err e;

	must(vmproc_request(p, "GET", path, NULL, TINY_MS, &reply, &e), &e);
	return reply;
}

int tiny_send(struct vmproc *p, const char *method, const char *path, const char *text,
	      struct err *e)
{
	cleanup_json json_t *body = json_loads(text, 0, NULL);

	return vmproc_request(p, method, path, body, TINY_MS, NULL, e);
}

void tiny_ram_open(const struct tiny_snapshot *s, struct ram_layer *l)
{
	struct snap_file f;
	struct ram_index ix;
	struct rbuf r;
	struct err e;

	must(snap_open(s->state, &f, &e), &e);
	must(snap_find(&f, "ram", "", RAM_RECORD_VERSION, &r, &e), &e);
	must(ram_index_decode(&r, &ix, &e), &e);
	must(ram_layer_open(l, &ix, dup(s->ram), &e), &e);
	snap_close(&f);
}

void tiny_end_children(void)
{
	for (;;) {
		pid_t pid[16];

		for (size_t n = tiny_children(getpid(), pid, 16); n;)
			kill(pid[--n], SIGKILL);
		if (waitpid(-1, NULL, 0) < 0 && errno == ECHILD)
			break;
	}
}
