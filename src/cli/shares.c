/* SPDX-License-Identifier: MIT */
/* See shares.h. */
#include "cli/shares.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cgroup/cgroup.h"
#include "cli/cli.h"
#include "cli/group.h"
#include "cli/ksm.h"
#include "control/json.h"

static int set_quota(struct shares *s, const char *arg, struct err *e)
{
	uint64_t bytes = 0;
	int r = strcmp(arg, "none") ? cli_parse_size(arg, &bytes, e) : 0;

	if (r)
		return err_wrap(e, r, "--memory-quota");
	if (strcmp(arg, "none") != 0 && (bytes < CGROUP_QUOTA_MIN || bytes > INT64_MAX))
		return err_set(e, EINVAL, "--memory-quota: '%s' is less than %lluM, or too much",
			       arg, CGROUP_QUOTA_MIN >> 20);
	s->quota_said = true;
	s->quota_bytes = bytes;
	return 0;
}

int shares_option(struct shares *s, int opt, const char *arg, struct err *e)
{
	switch (opt) {
	case O_SHARES_QUOTA:
		return set_quota(s, arg, e);
	case O_SHARES_KSM:
		s->ksm = strcmp(arg, "none") ? arg : "";
		return *s->ksm ? cli_name_check("--ksm", arg, e) : 0;
	default:
		return -ENOSYS;
	}
}

static const char *domain_of(const json_t *info)
{
	return json_string_value(json_object_get(info, "ksm"));
}

uint64_t shares_quota(const json_t *info)
{
	json_int_t n = json_integer_value(json_object_get(info, "memory_quota_bytes"));

	return (uint64_t)MAX(n, 0);
}

int shares_note(const struct shares *s, json_t *info, struct err *e)
{
	char warning[200] = "";
	int r = 0;

	if (s->quota_said)
		json_object_del(info, "memory_quota_bytes");
	if (s->quota_bytes)
		r = json_object_set_new(info, "memory_quota_bytes",
					json_integer((json_int_t)s->quota_bytes));
	if (s->ksm)
		json_object_del(info, "ksm");
	if (!r && s->ksm && *s->ksm)
		r = json_object_set_new(info, "ksm", json_string(s->ksm));
	if (r)
		return err_set(e, ENOMEM, "out of memory");
	if (shares_quota(info)) {
		r = group_ready(e);
		if (r)
			return err_wrap(e, r, "--memory-quota");
	}
	if (!domain_of(info))
		return 0;
	r = ksm_there(KSM_DIR, warning, sizeof(warning), e);
	return r ? err_wrap(e, r, "--ksm") : 0;
}

int shares_claim(const json_t *info, int *ksm, struct err *e)
{
	const char *domain = domain_of(info);
	char warning[200];

	*ksm = domain ? ksm_claim(domain, e) : -1;
	if (*ksm >= 0 && !ksm_there(KSM_DIR, warning, sizeof(warning), NULL) && *warning)
		fprintf(stderr, "clone: %s\n", warning);
	return domain ? MIN(*ksm, 0) : 0;
}

int shares_child_open(const struct vmdir *d, const struct vmdir *source, const json_t *info,
		      struct shares_child *c, struct err *e)
{
	uint64_t guest = (uint64_t)json_integer_value(json_object_get(info, "memory_bytes"));
	uint64_t quota = shares_quota(info);
	char path[PATH_MAX];

	*c = (struct shares_child){ .events = -1 };
	if (!quota && (!source || !group_path(source, path)))
		return 0;
	c->group = true;
	return group_make(d, quota, guest, &c->events, e);
}

void shares_child_close(struct shares_child *c)
{
	if (c->events >= 0)
		close(take_fd(&c->events));
}

static int give_quota(struct vmproc *p, const json_t *info, struct err *e)
{
	cleanup_json json_t *body =
		json_pack("{s:I}", "quota_bytes", (json_int_t)shares_quota(info));
	const char *const name = "cgroup/events";
	struct shares_child c;
	char path[PATH_MAX];
	int r = shares_child_open(&p->dir, NULL, info, &c, e);

	if (r)
		return r;
	/* it has touched nothing yet but its own program */
	if (group_path(&p->dir, path))
		r = cgroup_add(path, p->pid, e);
	if (!r)
		r = client_grant(p->fdsock, &name, &c.events, 1, e);
	shares_child_close(&c);
	return r ? r : vmproc_request(p, "PUT", "/memory-quota", body, LAUNCH_MS, NULL, e);
}

int shares_apply(struct vmproc *p, const json_t *info, struct err *e)
{
	const char *const name = "ksm";
	cleanup_close int ksm = -1;
	int r = shares_quota(info) ? give_quota(p, info, e) : 0;

	if (!r)
		r = shares_claim(info, &ksm, e);
	if (!r && ksm >= 0)
		r = client_grant(p->fdsock, &name, &ksm, 1, e);
	return r;
}
