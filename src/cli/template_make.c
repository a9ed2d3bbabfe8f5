/* SPDX-License-Identifier: MIT */
/*
 * Making a template. The VM is a temporary one; its state, RAM and disk layer go to the store's
 * staging directory and appear under the template's name all at once. See template_make.h.
 */
#include "cli/template_make.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/exec.h"
#include "cli/imageboot.h"
#include "cli/launch.h"
#include "control/json.h"
#include "template/template.h"

#define SNAPSHOT_MS 600000
#define SETTLE_EXTRA_MS 60000 /* the agent's own work after the guest is idle */

struct maker {
	const struct template_make *m;
	struct vmproc p;
	struct image_boot ib;
	struct launch_vm vm;
	struct template_stage stage;
	struct template t;
};

static int warm_up(struct maker *k, int cancel_fd, struct err *e)
{
	for (size_t i = 0; i < k->m->nwarm; i++) {
		const char *argv[] = { "/bin/sh", "-c", k->m->warm[i], NULL };
		char said[200] = "";
		struct exec_args a = { .argv = argv,
				       .in_fd = -1,
				       .out_fd = -1,
				       .err_fd = -1,
				       .timeout_ms = k->m->warm_ms,
				       .connect_ms = LAUNCH_MS,
				       .stderr_text = said,
				       .stderr_cap = sizeof(said),
				       .signal_fd = cancel_fd };
		int r;

		k->m->step(k->m->warm[i]);
		r = exec_run(&k->p.dir, &a, e);
		if (r < 0)
			return err_wrap(e, r, "--warm '%.60s'", k->m->warm[i]);
		for (char *c = said; *c; c++)
			if (*c == '\n')
				*c = c[1] ? ';' : '\0';
		if (r)
			return err_set(e, EIO, "--warm '%.60s' failed with %d%s%s", k->m->warm[i],
				       r, said[0] ? ": " : "", said);
	}
	return 0;
}

/* action: "idle" only waits for the guest to be idle, "settle" makes it ready to be a template. */
static int settle(struct maker *k, const char *action, struct err *e)
{
	cleanup_json json_t *body = json_pack("{s:s, s:I}", "action", action, "timeout_ms",
					      (json_int_t)k->m->settle_ms);

	return vmproc_request(&k->p, "PUT", "/agent", body, k->m->settle_ms + SETTLE_EXTRA_MS, NULL,
			      e);
}

/* A new file of the stage, granted under `grant`. */
static int stage_file(struct maker *k, const char *file, const char *grant, struct err *e)
{
	int fd = template_stage_file(&k->stage, file, e), r;

	if (fd < 0)
		return fd;
	r = client_grant(k->p.fdsock, &grant, &fd, 1, e);
	close(fd);
	if (!r)
		snprintf(k->t.files[k->t.nfiles++].name, sizeof(k->t.files[0].name), "%s", file);
	return r;
}

static int snapshot(struct maker *k, struct err *e)
{
	cleanup_json json_t *body = json_pack("{s:s, s:s, s:s}", "snapshot_type", "Full",
					      "snapshot_path", "state", "mem_file_path", "ram");
	int r = stage_file(k, "state", "state", e);

	k->m->step("writing memory");
	if (!r)
		r = stage_file(k, "ram", "ram", e);
	for (size_t i = 0; i < k->t.ndisks && !r; i++) {
		char file[48], grant[48];

		if (k->t.disks[i].read_only)
			continue;
		snprintf(file, sizeof(file), "layer-%s", k->t.disks[i].id);
		snprintf(grant, sizeof(grant), "layer/%s", k->t.disks[i].id);
		k->t.disks[i].layer = (int)k->t.nfiles;
		r = stage_file(k, file, grant, e);
	}
	if (!r)
		r = vmproc_request(&k->p, "PUT", "/snapshot/create", body, SNAPSHOT_MS, NULL, e);
	return r;
}

static void cpu_name(char *buf, size_t n)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char line[256];

	snprintf(buf, n, "unknown");
	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (strncmp(line, "model name", 10) != 0 || !colon)
			continue;
		colon[strcspn(colon, "\n")] = '\0';
		snprintf(buf, n, "%s", colon + 2);
		break;
	}
	if (f)
		fclose(f);
}

static int describe(struct maker *k, struct err *e)
{
	struct template *t = &k->t;

	snprintf(t->name, sizeof(t->name), "%s", k->m->name);
	snprintf(t->image, sizeof(t->image), "%s", k->m->image);
	snprintf(t->clone_version, sizeof(t->clone_version), "%s", CLONE_VERSION);
	cli_format_now(t->created, sizeof(t->created));
	cpu_name(t->cpu, sizeof(t->cpu));
	t->mem_bytes = k->m->mem_bytes;
	t->vcpus = k->m->vcpus;
	t->agent = true;
	for (size_t i = 0; i < k->vm.ndisks; i++) {
		struct template_disk *d = &t->disks[t->ndisks++];
		char *real = realpath(k->vm.disks[i].path, NULL);

		if (!real)
			return err_sys(e, errno, "disk %s", k->vm.disks[i].path);
		snprintf(d->id, sizeof(d->id), "%s", k->vm.disks[i].id);
		snprintf(d->base, sizeof(d->base), "%s", real);
		free(real);
		d->read_only = k->vm.disks[i].read_only;
		d->layer = -1;
	}
	return 0;
}

static int make_in_vm(struct maker *k, int cancel_fd, struct err *e)
{
	int r;

	k->m->step("booting");
	r = launch_boot(&k->p, &k->vm, e);
	if (!r)
		r = launch_wait_agent(&k->p, k->m->boot_ms, e);
	/* the agent is there before the distribution has booted: warm up what has settled */
	if (!r)
		r = settle(k, "idle", e);
	if (!r)
		r = warm_up(k, cancel_fd, e);
	k->m->step("settling");
	if (!r)
		r = settle(k, "settle", e);
	if (!r)
		r = describe(k, e);
	if (!r)
		r = snapshot(k, e);
	return r;
}

int template_make(const struct template_make *m, int cancel_fd, struct err *e)
{
	struct maker *k = calloc(1, sizeof(*k));
	char temporary[65];
	int r;

	if (!k)
		return err_set(e, ENOMEM, "out of memory");
	*k = (struct maker){
		.m = m,
		.ib.initrd_fd = -1,
		.stage.dir = -1,
		.vm = { .initrd_fd = -1, .mem_bytes = m->mem_bytes, .vcpus = m->vcpus }
	};
	r = template_stage_begin(m->name, &k->stage, e);
	if (!r)
		r = image_boot_prepare(&k->ib, m->image, m->append, &k->vm, e);
	if (!r) {
		cli_auto_name("template", temporary, sizeof(temporary));
		r = vmproc_start(PLACE_VM, temporary, 0, cancel_fd, &k->p, e);
		if (!r) {
			r = make_in_vm(k, cancel_fd, e);
			vmproc_abort(&k->p);
		}
	}
	if (!r) {
		m->step("computing digests");
		r = template_stage_publish(&k->stage, &k->t, e);
	}
	template_stage_end(&k->stage);
	image_boot_fini(&k->ib);
	free(k);
	return r;
}
