/* SPDX-License-Identifier: MIT */
/*
 * clone template: create, ls, inspect, verify, rm.
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
#include "cli/seed.h"
#include "cli/template_make.h"
#include "control/json.h"
#include "template/template.h"

const char cmd_template_usage[] =
	"create NAME --image IMAGE [--warm COMMAND]... [--memory SIZE] [--cpus N]\n"
	"                [--append ARGS] [--settle-timeout D] [--timeout D]\n"
	"       clone template ls [-o json]\n"
	"       clone template inspect NAME\n"
	"       clone template verify NAME...\n"
	"       clone template rm NAME...\n"
	"\n"
	"A template is a machine, booted and warmed up, that forks begin from. It never changes.\n"
	"  --warm C             a shell command to run in the guest first; may be repeated\n"
	"  --memory M           default 512M\n"
	"  --cpus N             default 1\n"
	"  --append A           more words for the kernel's command line\n"
	"  --timeout D          how long booting, and each warm-up command, may take; default 5m\n"
	"  --settle-timeout D   how long to wait for the guest to be idle; default 60s\n"
	"verify reads every byte of a template and of its base images again.\n";

#define WARM_MAX 64

static void step_shown(const char *what)
{
	fprintf(stderr, "  %s ...\n", what);
}

static void step_quiet(const char *what)
{
	(void)what;
}

enum { O_IMAGE = 1000, O_WARM, O_MEMORY, O_CPUS, O_APPEND_ARGS, O_SETTLE, O_TIMEOUT };

static int create_option(struct template_make *m, const char **warm, int opt, struct err *e)
{
	uint64_t v;
	int r;

	switch (opt) {
	case O_IMAGE:
		m->image = optarg;
		return 0;
	case O_WARM:
		if (m->nwarm == WARM_MAX)
			return err_set(e, E2BIG, "--warm: at most %d commands", WARM_MAX);
		warm[m->nwarm++] = optarg;
		return 0;
	case O_MEMORY:
		r = cli_parse_size(optarg, &m->mem_bytes, e);
		return r ? err_wrap(e, r, "--memory") : 0;
	case O_CPUS:
		r = cli_parse_uint(optarg, 1, 64, &v, e);
		if (r)
			return err_wrap(e, r, "--cpus");
		m->vcpus = (unsigned int)v;
		return 0;
	case O_APPEND_ARGS:
		m->append = optarg;
		return 0;
	case O_SETTLE:
		r = cli_parse_duration(optarg, &m->settle_ms, e);
		return r ? err_wrap(e, r, "--settle-timeout") : 0;
	case O_TIMEOUT:
		r = cli_parse_duration(optarg, &m->boot_ms, e);
		m->warm_ms = m->boot_ms;
		return r ? err_wrap(e, r, "--timeout") : 0;
	default:
		return -ENOSYS;
	}
}

static int template_create(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "image", required_argument, NULL, O_IMAGE },
		{ "warm", required_argument, NULL, O_WARM },
		{ "memory", required_argument, NULL, O_MEMORY },
		{ "cpus", required_argument, NULL, O_CPUS },
		{ "append", required_argument, NULL, O_APPEND_ARGS },
		{ "settle-timeout", required_argument, NULL, O_SETTLE },
		{ "timeout", required_argument, NULL, O_TIMEOUT },
		{ NULL, 0, NULL, 0 },
	};
	const char *warm[WARM_MAX];
	struct template_make m = { .warm = warm,
				   .mem_bytes = MIB(512),
				   .vcpus = 1,
				   .boot_ms = 300000,
				   .warm_ms = 300000,
				   .settle_ms = 60000,
				   .step = isatty(STDERR_FILENO) ? step_shown : step_quiet };
	struct err e;
	int opt, signals, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		r = create_option(&m, warm, opt, &e);
		if (r == -ENOSYS)
			return cli_bad_option("template", argv);
		if (r)
			return cli_usage("template", "%s", e.msg);
	}
	if (optind + 1 != argc)
		return cli_usage("template", "create: give one name");
	if (!m.image)
		return cli_usage("template", "create: --image is needed");
	m.name = argv[optind];
	if (cli_name_check("template", m.name, &e))
		return cli_fail(&e);
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = template_make(&m, signals, &e);
	if (r) {
		err_wrap(&e, r, "template %s", m.name);
		return cli_fail(&e);
	}
	puts(m.name);
	return cli_flush();
}

static json_t *to_json(const struct template *t)
{
	json_t *disks = json_array(), *files = json_array();
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:b, s:I, s:s, s:s, s:o, s:o}",
			      "name", t->name, "created", t->created, "clone_version",
			      t->clone_version, "image", t->image, "cpu", t->cpu, "memory_bytes",
			      (json_int_t)t->mem_bytes, "vcpus", (int)t->vcpus, "agent", t->agent,
			      "stored_bytes", (json_int_t)template_used_bytes(t), "directory",
			      t->dir, "sha256", t->sha256, "disks", disks, "files", files);

	for (size_t i = 0; j && i < t->ndisks; i++)
		json_array_append_new(disks, json_pack("{s:s, s:s, s:b}", "id", t->disks[i].id,
						       "base", t->disks[i].base, "read_only",
						       t->disks[i].read_only));
	for (size_t i = 0; j && i < t->nfiles; i++)
		json_array_append_new(files,
				      json_pack("{s:s, s:I, s:s}", "name", t->files[i].name,
						"size_bytes", (json_int_t)t->files[i].size_bytes,
						"sha256", t->files[i].sha256));
	return j;
}

static void print_row(const struct template *t)
{
	char mem[32], stored[32], age[32];

	cli_format_size(t->mem_bytes, mem, sizeof(mem));
	cli_format_size(template_used_bytes(t), stored, sizeof(stored));
	cli_format_age(t->created, age, sizeof(age));
	printf("%-24s %-16s %4u  %-8s %-8s %s\n", t->name, t->image, t->vcpus, mem, stored, age);
}

static int template_ls(int argc, char **argv)
{
	struct template *t = calloc(1, sizeof(*t));
	json_t *list = json_array();
	bool json = false;
	char **names = NULL;
	size_t n = 0;
	struct err e;
	int r;

	if (argc == 3 && !strcmp(argv[1], "-o")) {
		if (!cli_output_json("template", argv[2], &json))
			return CLI_USAGE;
	} else if (argc != 1) {
		return cli_usage("template", "ls takes only -o json");
	}
	r = t ? template_list(&names, &n, &e) : err_set(&e, ENOMEM, "out of memory");
	if (!r && !json)
		printf("%-24s %-16s %4s  %-8s %-8s %s\n", "NAME", "IMAGE", "CPUS", "MEMORY",
		       "STORED", "AGE");
	for (size_t i = 0; i < n; i++) {
		if (template_open(names[i], t, &e)) {
			fprintf(stderr, "clone: template %s: %s\n", names[i], e.msg);
		} else if (json) {
			json_array_append_new(list, to_json(t));
		} else {
			print_row(t);
		}
		free(names[i]);
	}
	free(names);
	free(t);
	if (r || !json) {
		json_decref(list);
		return r ? cli_fail(&e) : cli_flush();
	}
	return cli_print_json(list);
}

static int template_inspect(const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = t ? template_open(name, t, e) : err_set(e, ENOMEM, "out of memory");

	if (!r)
		cli_print_json(to_json(t));
	free(t);
	return r;
}

static int verify_one(const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = t ? template_open(name, t, e) : err_set(e, ENOMEM, "out of memory");

	if (!r)
		r = template_verify(t, e);
	if (!r)
		printf("%s: intact\n", name);
	free(t);
	return r ? err_wrap(e, r, "template %s", name) : 0;
}

/* Living forks keep what they map: removing the files takes only the name away. */
static int rm_one(const char *name, struct err *e)
{
	int r = cli_name_check("template", name, e);

	if (!r)
		r = seed_stop(name, e);
	return r ? r : template_rm(name, e);
}

static int each(int argc, char **argv, int (*fn)(const char *name, struct err *e))
{
	int code = CLI_OK;
	struct err e;

	if (argc < 2)
		return cli_usage("template", "%s: which template?", argv[0]);
	for (int i = 1; i < argc; i++)
		if (fn(argv[i], &e))
			code = cli_fail(&e);
	return code;
}

int cmd_template(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	if (!strcmp(verb, "create"))
		return template_create(argc - 1, argv + 1);
	if (!strcmp(verb, "ls"))
		return template_ls(argc - 1, argv + 1);
	if (!strcmp(verb, "inspect"))
		return each(argc - 1, argv + 1, template_inspect);
	if (!strcmp(verb, "verify"))
		return each(argc - 1, argv + 1, verify_one);
	if (!strcmp(verb, "rm"))
		return each(argc - 1, argv + 1, rm_one);
	return cli_usage("template", "create, ls, inspect, verify or rm");
}
