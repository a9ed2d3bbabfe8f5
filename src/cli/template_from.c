/* SPDX-License-Identifier: MIT */
/*
 * See template_from.h.
 */
#include "cli/template_from.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/forkreq.h"
#include "cli/machine.h"
#include "cli/nics.h"
#include "cli/origin.h"
#include "cli/restore.h"
#include "cli/seed.h"
#include "cli/shares.h"
#include "control/json.h"

/* One fork of src under a temporary name, attached to. It lives briefly and is never merged:
 * whoever has KSM meanwhile, and whatever domain is recorded. */
static int fork_once(const struct template_from *f, const struct fork_source *src, int cancel_fd,
		     struct err *e)
{
	const struct nic_options as_it_is = { .n = 0 };
	struct nics nics;
	const struct fork_how how = { .nics = &nics,
				      .wait = true,
				      .owned = true,
				      .userdata_fd = -1,
				      .timeout_ms = f->timeout_ms };
	cleanup_json json_t *info = json_deep_copy(src->info);
	const struct fork_source unmerged = { .dir = src->dir, .live = src->live, .info = info };
	struct fork_child_info *c = calloc(1, sizeof(*c));
	uint64_t pause_ns;
	int r;

	if (!c || !info) {
		free(c);
		return err_set(e, ENOMEM, "out of memory");
	}
	json_object_del(info, "ksm");
	cli_auto_name("template", c->name, sizeof(c->name));
	r = nics_of(info, &as_it_is, &nics, e);
	if (!r)
		r = fork_request(&unmerged, c, 1, &how, cancel_fd, &pause_ns, e);
	if (!r && !c->ok)
		r = err_set(e, EIO, "fork %s: %s", f->source, c->why);
	if (!r)
		r = vmproc_attach(c->name, cancel_fd, f->p, e);
	if (!r)
		f->p->dir.creator_fd = take_fd(&c->owner_fd);
	fork_child_info_free(c, 1);
	return r;
}

/* Before any work: the new one can stand on it. */
static int check_base(const struct template_from *f, struct err *e)
{
	return f->flat ? 0 : template_check_base(f->base, e);
}

static int from_template(const struct template_from *f, int cancel_fd, struct err *e)
{
	struct template *t = f->base;
	struct fork_source src;
	struct vmdir seed;
	int use = -1, r;

	vmdir_init(&seed);
	r = seed_get(f->source, cancel_fd, t, &seed, &use, e);
	if (r)
		return r;
	*f->info = machine_info(t);
	src = (struct fork_source){ .dir = &seed, .info = *f->info };
	r = *f->info ? fork_once(f, &src, cancel_fd, e) : err_set(e, ENOMEM, "out of memory");
	vmdir_close(&seed);
	close(use);
	return r;
}

static int from_vm(const struct template_from *f, int cancel_fd, struct err *e)
{
	struct fork_source src;
	struct vmdir d;
	int r;

	vmdir_init(&d);
	r = vmdir_open(PLACE_VM, f->source, &d, e);
	if (!r && !vmdir_alive(&d))
		r = err_set(e, EINVAL, "%s has ended", f->source);
	if (!r) {
		*f->info = machine_info_of_fork(&d, e);
		r = *f->info ? 0 : -EINVAL;
	}
	/* a VM that came out of nothing has nothing to stand on: all is stored */
	if (!r && origin_of(*f->info, f->base, NULL))
		memset(f->base, 0, sizeof(*f->base));
	else if (!r)
		r = check_base(f, e);
	if (!r) {
		src = (struct fork_source){ .dir = &d, .live = true, .info = *f->info };
		r = fork_once(f, &src, cancel_fd, e);
	}
	vmdir_close(&d);
	return r;
}

static int link_snapshot(const struct template_from *f, struct err *e)
{
	int r = 0;

	for (size_t i = 0; i < f->base->nfiles && !r; i++)
		r = template_stage_link(f->stage, f->base, i, e);
	if (!r)
		r = template_unchanged(f->base, e);
	if (r)
		return r;
	*f->t = *f->base;
	cli_format_now(f->t->created, sizeof(f->t->created));
	f->t->vm[0] = f->t->vm_created[0] = '\0';
	return 0;
}

static int from_snapshot(const struct template_from *f, int cancel_fd, struct err *e)
{
	const struct shares unmerged = { .ksm = "" };
	struct restore rs = {
		.t = f->base, .timeout_ms = f->timeout_ms, .wait = true, .shares = &unmerged
	};
	char temporary[65];
	int r;

	if (f->as_it_is)
		return link_snapshot(f, e);
	r = check_base(f, e);
	if (r)
		return r;
	cli_auto_name("template", temporary, sizeof(temporary));
	rs.name = temporary;
	r = restore_vm(&rs, cancel_fd, f->p, e);
	if (!r) {
		*f->info = machine_info(f->base);
		r = *f->info ? 0 : err_set(e, ENOMEM, "out of memory");
	}
	return r;
}

int template_from(const struct template_from *f, int cancel_fd, struct err *e)
{
	struct vmdir d;
	int r = template_open(STORE_TEMPLATES, f->source, f->base, e);

	if (!r) {
		r = check_base(f, e);
		if (!r)
			r = from_template(f, cancel_fd, e);
	} else if (r == -ENOENT) {
		vmdir_init(&d);
		if (!vmdir_open(PLACE_VM, f->source, &d, NULL)) {
			vmdir_close(&d);
			r = from_vm(f, cancel_fd, e);
		} else {
			r = template_open(STORE_SNAPSHOTS, f->source, f->base, e);
			if (!r)
				r = from_snapshot(f, cancel_fd, e);
			else if (r == -ENOENT)
				r = err_set(e, ENOENT,
					    "there is no template, VM or snapshot called %s",
					    f->source);
		}
	}
	if (!r && f->flat)
		memset(f->base, 0, sizeof(*f->base));
	return r;
}
