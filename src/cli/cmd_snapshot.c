/* SPDX-License-Identifier: MIT */
/*
 * clone snapshot: a running VM into the store of snapshots, and a chain into one; the rest is like
 * clone template (saved.c).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/flatten.h"
#include "cli/machine.h"
#include "cli/origin.h"
#include "cli/saved.h"
#include "control/json.h"

const char cmd_snapshot_usage[] =
	"[create] VM NAME [--incremental] [--base NAME] [--compress]\n"
	"                [--max-growth SIZE] [-o json]\n"
	"       clone snapshot flatten NAME [--name NEW] [--compress]\n" SAVED_VERBS_USAGE(
		"snapshot") "\n"
			    "Saves a VM, which stands still only for the moment of a fork, "
			    "whatever its memory: a frozen\n"
			    "copy of it writes itself out. `clone restore NAME` makes a VM of it.\n"
			    "\n"
			    "      --incremental     store only the memory that differs from the "
			    "last snapshot of the VM,\n"
			    "                        or from what it was restored or forked from\n"
			    "      --base NAME       from this snapshot or template instead\n"
			    "      --compress        with zstd: smaller, but restored by copying "
			    "instead of sharing\n"
			    "      --max-growth M    give up when the VM's own writes meanwhile "
			    "may cost more memory\n"
			    "  -o json               what was stored, and how long the VM stood "
			    "still\n"
			    "\n"
			    "flatten makes an incremental snapshot stand on nothing: in place, or "
			    "as a new one. rm refuses\n"
			    "to remove what another one stands on.\n";

struct args {
	const char *vm, *name, *base;
	bool incremental, compress, json;
	uint64_t max_growth_bytes;
};

enum { O_INCREMENTAL = 1000, O_BASE, O_COMPRESS, O_MAX_GROWTH, O_NAME };

static int parse_option(void *arg, int opt, struct err *e)
{
	struct args *a = arg;
	int r;

	switch (opt) {
	case O_INCREMENTAL:
		a->incremental = true;
		return 0;
	case O_BASE:
		a->incremental = true;
		a->base = optarg;
		return 0;
	case O_COMPRESS:
		a->compress = true;
		return 0;
	case O_MAX_GROWTH:
		r = cli_parse_size(optarg, &a->max_growth_bytes, e);
		return r ? err_wrap(e, r, "--max-growth") : 0;
	case 'o':
		return cli_output_json("snapshot", optarg, &a->json) ? 0 : -ECANCELED;
	default:
		return -ENOSYS;
	}
}

static int parse_args(struct args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "incremental", no_argument, NULL, O_INCREMENTAL },
		{ "base", required_argument, NULL, O_BASE },
		{ "compress", no_argument, NULL, O_COMPRESS },
		{ "max-growth", required_argument, NULL, O_MAX_GROWTH },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	struct err e;
	int r;

	r = cli_options("snapshot", argc, argv, "o:", opts, parse_option, a);
	if (r)
		return r;
	if (optind + 2 != argc)
		return cli_usage("snapshot", "give a VM and the snapshot's name, or ls, inspect, "
					     "verify, rm, flatten");
	a->vm = argv[optind];
	a->name = argv[optind + 1];
	if (cli_name_check("VM", a->vm, &e) || cli_name_check("snapshot", a->name, &e))
		return cli_usage("snapshot", "%s", e.msg);
	return CLI_OK;
}

static void set_source(struct template *t, const json_t *info)
{
	const char *created = json_string_value(json_object_get(info, "created"));
	const char *name = json_string_value(json_object_get(info, "name"));

	snprintf(t->vm, sizeof(t->vm), "%s", name ? name : "");
	snprintf(t->vm_created, sizeof(t->vm_created), "%s", created ? created : "");
}

struct work {
	struct template t, base;
	struct template_stage stage;
	struct vmproc p;
};

static int take(const struct args *a, struct work *w, json_t **result, struct err *e)
{
	cleanup_json json_t *info = NULL;
	struct machine_save save = { .p = &w->p,
				     .stage = &w->stage,
				     .t = &w->t,
				     .base = a->incremental ? &w->base : NULL,
				     .compress = a->compress,
				     .max_growth_bytes = a->max_growth_bytes };
	int r = vmdir_info(&w->p.dir, &info, e);

	if (!r && a->incremental) {
		r = origin_nearest(info, a->base, &w->base, e);
		if (r == -ENOENT && !a->base)
			r = err_set(e, ENOENT,
				    "there is nothing to differ from yet: take a full one first");
		if (!r)
			r = template_check_base(&w->base, e);
	}
	if (!r)
		r = machine_describe(info, &w->t, e);
	if (!r) {
		set_source(&w->t, info);
		r = machine_save(&save, result, e);
	}
	return r ? r : template_stage_publish(&w->stage, &w->t, e);
}

static int snapshot(const struct args *a, int signals, json_t **result, struct err *e)
{
	struct work *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(e, ENOMEM, "out of memory");
	r = vmproc_attach(a->vm, signals, &w->p, e);
	if (!r) {
		r = template_stage_begin(STORE_SNAPSHOTS, a->name, &w->stage, e);
		if (!r)
			r = take(a, w, result, e);
		template_stage_end(&w->stage);
		vmproc_close(&w->p);
	}
	free(w);
	return r;
}

static int create(int argc, char **argv)
{
	cleanup_json json_t *result = NULL;
	struct args a = { 0 };
	int signals, r = parse_args(&a, argc, argv);
	struct err e;

	if (r)
		return r;
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = snapshot(&a, signals, &result, &e);
	if (r) {
		err_wrap(&e, r, "snapshot %s", a.vm);
		return cli_fail(&e);
	}
	if (!a.json) {
		puts(a.name);
		return cli_flush();
	}
	json_object_del(result, "state");
	json_object_del(result, "number");
	json_object_set_new(result, "name", json_string(a.name));
	return cli_print_json(json_incref(result));
}

struct flatten_args {
	const char *to;
	bool compress;
};

static int parse_flatten(void *arg, int opt, struct err *e)
{
	struct flatten_args *a = arg;

	switch (opt) {
	case O_NAME:
		a->to = optarg;
		return cli_name_check("--name", optarg, e);
	case O_COMPRESS:
		a->compress = true;
		return 0;
	default:
		return -ENOSYS;
	}
}

static int flatten(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "name", required_argument, NULL, O_NAME },
		{ "compress", no_argument, NULL, O_COMPRESS },
		{ NULL, 0, NULL, 0 },
	};
	struct flatten_args a = { 0 };
	int signals, r = cli_options("snapshot", argc, argv, "", opts, parse_flatten, &a);
	struct err e;

	if (r)
		return r;
	if (optind + 1 != argc)
		return cli_usage("snapshot", "flatten: which snapshot?");
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = snapshot_flatten(argv[optind], a.to, a.compress, signals, &e);
	if (r) {
		err_wrap(&e, r, "flatten %s", argv[optind]);
		return cli_fail(&e);
	}
	puts(a.to ? a.to : argv[optind]);
	return cli_flush();
}

int cmd_snapshot(int argc, char **argv)
{
	int r = argc > 1 ? saved_verb(STORE_SNAPSHOTS, argc - 1, argv + 1) : -1;

	if (r >= 0)
		return r;
	if (argc > 1 && !strcmp(argv[1], "flatten"))
		return flatten(argc - 1, argv + 1);
	if (argc > 1 && !strcmp(argv[1], "create"))
		return create(argc - 1, argv + 1);
	return create(argc, argv);
}
