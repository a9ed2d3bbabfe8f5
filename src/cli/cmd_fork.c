/* SPDX-License-Identifier: MIT */
/*
 * clone fork: forks a template (through its seed) or a running VM.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/disk_live.h"
#include "cli/fork_args.h"
#include "cli/forkreq.h"
#include "cli/group.h"
#include "cli/machine.h"
#include "cli/procid.h"
#include "cli/seed.h"
#include "cli/userdata.h"
#include "control/json.h"

/* NAME for one, NAME-1 to NAME-N for -n. */
static struct fork_child_info *name_children(const struct fork_args *a, struct err *e)
{
	struct fork_child_info *c = calloc(a->n, sizeof(*c));
	char prefix[65];

	if (!c) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	if (a->name)
		snprintf(prefix, sizeof(prefix), "%s", a->name);
	else
		cli_auto_name(a->source, prefix, sizeof(prefix));
	for (uint64_t i = 0; i < a->n; i++) {
		int len = a->n > 1 ? snprintf(c[i].name, sizeof(c[i].name), "%s-%llu", prefix,
					      (unsigned long long)i + 1)
				   : snprintf(c[i].name, sizeof(c[i].name), "%s", prefix);

		if (len >= (int)sizeof(c[i].name)) {
			err_set(e, EINVAL, "--name: '%s-%llu' is longer than 64 characters", prefix,
				(unsigned long long)i + 1);
			free(c);
			return NULL;
		}
	}
	return c;
}

/* Why is perhaps the source's word for it, which may have been taken over. */
static void print_failed(const struct fork_child_info *c)
{
	char why[sizeof(c->why)];

	cli_clean(c->why, why, sizeof(why));
	fprintf(stderr, "clone: fork %s: %s\n", c->name, why);
}

static int print(const struct fork_args *a, const struct fork_child_info *c, uint64_t pause_ns)
{
	json_t *list = a->json ? json_array() : NULL;
	size_t failed = 0;
	int r;

	for (uint64_t i = 0; i < a->n; i++) {
		if (c[i].ok && list) {
			json_object_set_new(c[i].clocks, "sent_ns",
					    json_integer((json_int_t)c[i].sent_ns));
			json_array_append(list, c[i].clocks);
		} else if (c[i].ok) {
			puts(c[i].name);
		} else if (!failed++) {
			fflush(stdout);
			print_failed(&c[i]);
		}
	}
	if (failed > 1 && a->all)
		fprintf(stderr, "clone: (so none of the %llu was made: --all)\n",
			(unsigned long long)a->n);
	else if (failed > 1)
		fprintf(stderr, "clone: (and %zu more of %llu failed)\n", failed - 1,
			(unsigned long long)a->n);
	r = list ? cli_print_json(json_pack("{s:I, s:o}", "pause_ns", (json_int_t)pause_ns,
					    "children", list))
		 : cli_flush();
	return failed ? CLI_FAIL : r;
}

/* The command in the one fork; its exit code. */
static int run_command(struct fork_args *a, const struct fork_child_info *c)
{
	struct vmdir d;
	struct err e;
	int r;

	if (!c->ok) {
		print_failed(c);
		return CLI_EXEC_FAILED;
	}
	if (!a->name && !a->rm)
		fprintf(stderr, "clone: the fork's name is %s\n", c->name);
	if (vmdir_open(PLACE_VM, c->name, &d, &e)) {
		cli_fail(&e);
		return CLI_EXEC_FAILED;
	}
	r = exec_cmd_run(&a->exec, &d, a->command);
	/* it may be gone already: the command was perhaps "poweroff" */
	if (a->rm && ((vmdir_alive(&d) && vm_kill(&d, -1, &e)) || vmdir_remove(&d, &e)))
		cli_fail(&e);
	vmdir_close(&d);
	return r;
}

/* Disks for a fork that stands still, which then runs. */
static int give_disks(const struct fork_args *a, struct vmproc *p, struct err *e)
{
	cleanup_json json_t *run = json_pack("{s:s}", "state", "Resumed");
	int r = 0;

	for (size_t i = 0; i < a->disks.ndisks && !r; i++) {
		struct launch_disk d = a->disks.disks[i];

		r = disk_live_attach(p, &d, e);
	}
	if (!r && !a->paused)
		r = vmproc_request(p, "PATCH", "/vm", run, LAUNCH_MS, NULL, e);
	return r;
}

/* Until it knows who it is, if there is an agent to tell it, and has seen its disks. */
static int wait_reconciled(const struct fork_args *a, struct vmproc *p, struct err *e)
{
	cleanup_json json_t *id = NULL;
	int r = vmproc_request(p, "GET", "/identity", NULL, LAUNCH_MS, &id, e);

	if (!r && json_is_true(json_object_get(id, "present")))
		r = launch_wait_agent(p, a->timeout_ms, e);
	if (!r)
		disk_live_until_seen(p);
	return r;
}

/* The policy is the VM's own: it may run already. */
static int give_balloon(const struct fork_args *a, struct vmproc *p, struct err *e)
{
	return balloon_option_apply(&a->balloon, p, e);
}

/* One that fails is undone. */
static bool step_all(const struct fork_args *a, struct fork_child_info *c,
		     int (*step)(const struct fork_args *a, struct vmproc *p, struct err *e))
{
	bool failed = false;
	struct vmproc p;
	struct err e;

	for (uint64_t i = 0; i < a->n; i++) {
		int r;

		if (!c[i].ok) {
			failed = true;
			continue;
		}
		r = vmproc_attach(c[i].name, -1, &p, &e);
		if (!r) {
			r = step(a, &p, &e);
			vmproc_close(&p);
		}
		if (!r)
			continue;
		failed = true;
		snprintf(c[i].why, sizeof(c[i].why), "%s", e.msg);
		fork_child_undo(&c[i]);
	}
	return failed;
}

/* One that does not get its disks, or what --balloon says, has failed, with --all all have. */
static void give_all(const struct fork_args *a, struct fork_child_info *c)
{
	bool failed = a->balloon.policy && step_all(a, c, give_balloon);

	if (a->disks.ndisks && !(failed && a->all))
		failed |= step_all(a, c, give_disks);
	if (a->disks.ndisks && !a->paused && !a->no_wait && !(failed && a->all))
		failed |= step_all(a, c, wait_reconciled);
	for (uint64_t i = 0; i < a->n && failed && a->all; i++) {
		if (!c[i].ok)
			continue;
		snprintf(c[i].why, sizeof(c[i].why), "another one failed");
		fork_child_undo(&c[i]);
	}
}

static int fork_from(struct fork_args *a, const struct fork_source *src, json_t *info, int signals,
		     struct err *e)
{
	struct nics nics;
	const struct fork_how how = { .nics = &nics,
				      .net = a->n == 1 ? &a->net : NULL,
				      .wait = !a->no_wait,
				      .paused = a->paused || a->disks.ndisks,
				      .all = a->all,
				      .owned = a->rm,
				      .userdata_fd = a->userdata_fd,
				      .timeout_ms = a->timeout_ms };
	struct fork_child_info *c = name_children(a, e);
	uint64_t pause_ns = 0;
	int r;

	if (!c)
		return -EINVAL;
	r = shares_note(&a->shares, info, e);
	if (!r)
		r = nics_of(info, &a->net, &nics, e);
	if (!r)
		r = fork_request(src, c, a->n, &how, signals, &pause_ns, e);
	if (!r && (a->disks.ndisks || a->balloon.policy))
		give_all(a, c);
	if (!r)
		r = a->command ? run_command(a, c) : print(a, c, pause_ns);
	else
		err_wrap(e, r, "fork %s", a->source);
	fork_child_info_free(c, a->n);
	return r;
}

/* *there: whether there is such a template. */
static int fork_template(struct fork_args *a, int signals, bool *there, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	cleanup_json json_t *info = NULL;
	struct fork_source src = { 0 };
	struct vmdir d;
	int use = -1, r;

	*there = true;
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	vmdir_init(&d);
	r = seed_get(a->source, signals, t, &d, &use, e);
	*there = r != -ENOENT;
	if (!r) {
		info = machine_info(t);
		src = (struct fork_source){ .dir = &d, .info = info };
		r = info ? fork_from(a, &src, info, signals, e)
			 : err_set(e, ENOMEM, "out of memory");
		vmdir_close(&d);
		close(use);
	}
	free(t);
	return r;
}

static int fork_vm(struct fork_args *a, int signals, struct err *e)
{
	cleanup_json json_t *info = NULL;
	struct fork_source src;
	struct vmdir d;
	int r;

	vmdir_init(&d);
	if (vmdir_open(PLACE_VM, a->source, &d, NULL))
		return err_set(e, ENOENT, "there is no template and no VM called %s", a->source);
	info = machine_info_of_fork(&d, e);
	src = (struct fork_source){ .dir = &d, .live = true, .info = info };
	if (!info)
		r = -EINVAL;
	else if (!vmdir_alive(&d))
		r = err_set(e, EINVAL, "%s has ended: only a VM that lives can be forked",
			    a->source);
	else
		r = fork_from(a, &src, info, signals, e);
	vmdir_close(&d);
	return r;
}

int cmd_fork(int argc, char **argv)
{
	struct fork_args a = { .n = 1, .timeout_ms = 30000, .userdata_fd = -1 };
	int signals, r = 0;
	struct err e;
	bool there = true;

	exec_cmd_init(&a.exec);
	r = fork_args_parse(&a, argc, argv);
	if (r)
		return r;
	r = cli_name_check("fork", a.source, &e);
	if (r)
		return cli_fail(&e);
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	/* also before a seed is started, which has its place there */
	if (a.shares.quota_bytes && group_ready(&e))
		r = err_wrap(&e, -ENOTSUP, "--memory-quota");
	if (!r && a.userdata)
		r = a.userdata_fd = userdata_open(a.userdata, &e);
	if (r >= 0)
		r = fork_template(&a, signals, &there, &e);
	if (r < 0 && !there)
		r = fork_vm(&a, signals, &e);
	if (a.userdata_fd >= 0)
		close(a.userdata_fd);
	balloon_option_fini(&a.balloon);
	if (r < 0)
		cli_fail(&e);
	return r >= 0 ? r : a.command ? CLI_EXEC_FAILED : CLI_FAIL;
}
