/* SPDX-License-Identifier: MIT */
/*
 * Making a template. The VM is a temporary one, booted or out of template_from.c; its state, RAM
 * and disk layers go to the store's staging directory and appear under the template's name all at
 * once. See template_make.h.
 */
#include "cli/template_make.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cli/balloon_wait.h"
#include "cli/balloonopt.h"
#include "cli/cli.h"
#include "cli/exec.h"
#include "cli/imageboot.h"
#include "cli/machine.h"
#include "cli/nics.h"
#include "cli/template_from.h"
#include "control/json.h"

#define REPORTED_MS 60000
#define SETTLE_EXTRA_MS 330000 /* the agent's own work after the guest is idle, and the answer */

struct maker {
	const struct template_make *m;
	struct vmproc p;
	struct image_boot ib;
	struct launch_vm vm;
	struct nics nics;
	struct nic_ports ports;
	struct template_stage stage;
	struct template t, base; /* base: what it stands on, when base.name is set */
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

static int boot(struct maker *k, int cancel_fd, json_t **info, struct err *e)
{
	char temporary[65];
	int r = image_boot_prepare(&k->ib, k->m->image, k->m->append, &k->vm, e);

	if (r)
		return r;
	k->m->step("booting");
	cli_auto_name("template", temporary, sizeof(temporary));
	r = vmproc_start(PLACE_VM, temporary, 0, cancel_fd, &k->p, e);
	if (!r)
		r = nics_new(k->m->net, &k->nics, e);
	if (r)
		return r;
	r = nics_attach(&k->nics, k->m->net, (const char *const[]){ temporary }, 1, &k->ports, e);
	if (!r) {
		r = launch_boot(&k->p, &k->vm, e);
		if (!r)
			*info = vm_info_base(&k->p, &k->vm);
		nics_detach(&k->nics, &k->ports, 1);
	}
	if (!r)
		r = launch_wait_agent(&k->p, k->m->boot_ms, e);
	/* the agent is there before the distribution has booted: warm up what has settled */
	if (!r)
		r = settle(k, "idle", e);
	if (r)
		return r;
	if (!*info || json_object_set_new(*info, "image", json_string(k->m->image)))
		return err_set(e, ENOMEM, "out of memory");
	return 0;
}

static int make_in_vm(struct maker *k, json_t *info, int cancel_fd, struct err *e)
{
	cleanup_json json_t *result = NULL;
	struct machine_save save = { .p = &k->p,
				     .stage = &k->stage,
				     .t = &k->t,
				     .base = k->base.name[0] ? &k->base : NULL };
	int r = warm_up(k, cancel_fd, e);

	if (!r && !k->m->no_settle) {
		k->m->step("settling");
		r = settle(k, "settle", e);
		/* what is left to report each fork would have to, anew */
		if (!r)
			r = balloon_wait_reported(&k->p, REPORTED_MS, e);
	}
	if (!r)
		r = balloon_option_apply(k->m->balloon, &k->p, e);
	if (!r)
		r = machine_describe(info, &k->t, e);
	if (!r) {
		k->m->step("writing memory");
		r = machine_save(&save, &result, e);
	}
	return r;
}

static int make(struct maker *k, int cancel_fd, struct err *e)
{
	cleanup_json json_t *info = NULL;
	struct template_from from = { .source = k->m->from,
				      .flat = k->m->flat,
				      .as_it_is = !k->m->nwarm && k->m->no_settle && !k->m->flat,
				      .timeout_ms = k->m->boot_ms,
				      .p = &k->p,
				      .stage = &k->stage,
				      .t = &k->t,
				      .base = &k->base,
				      .info = &info };
	int r;

	if (k->m->from)
		k->m->step("forking");
	r = k->m->from ? template_from(&from, cancel_fd, e) : boot(k, cancel_fd, &info, e);
	/* a snapshot as it is was linked, and there is no VM */
	if (!r && !k->t.nfiles)
		r = make_in_vm(k, info, cancel_fd, e);
	if (k->p.dir.fd >= 0)
		vmproc_abort(&k->p);
	return r;
}

int template_make(const struct template_make *m, int cancel_fd, struct err *e)
{
	struct maker *k = calloc(1, sizeof(*k));
	int r;

	if (!k)
		return err_set(e, ENOMEM, "out of memory");
	*k = (struct maker){ .m = m,
			     .p = { .pidfd = -1, .fdsock = -1 },
			     .ib.initrd_fd = -1,
			     .stage.dir = -1,
			     .vm = { .initrd_fd = -1,
				     .mem_bytes = m->mem_bytes,
				     .vcpus = m->vcpus,
				     .bays = m->bays,
				     .no_balloon = m->balloon->none } };
	k->vm.nics = &k->nics;
	k->vm.ports = &k->ports;
	k->vm.nic_options = m->net;
	vmdir_init(&k->p.dir);
	r = template_stage_begin(STORE_TEMPLATES, m->name, &k->stage, e);
	if (!r)
		r = make(k, cancel_fd, e);
	if (!r && m->ksm)
		snprintf(k->t.ksm, sizeof(k->t.ksm), "%s", m->ksm);
	if (!r) {
		m->step("computing digests");
		r = template_stage_publish(&k->stage, &k->t, e);
	}
	template_stage_end(&k->stage);
	image_boot_fini(&k->ib);
	launch_vm_fini(&k->vm);
	free(k);
	return r;
}
