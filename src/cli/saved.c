/* SPDX-License-Identifier: MIT */
/*
 * Listing, describing, verifying and removing templates and snapshots. See saved.h.
 */
#include "cli/saved.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/machine.h"
#include "cli/saved_memory.h"
#include "cli/seed.h"
#include "control/json.h"

static json_t *to_json(const struct template *t)
{
	json_t *disks = json_array(), *files = json_array();
	json_t *j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:b, s:I, s:s, s:s, s:o, s:o}",
			      "name", t->name, "created", t->created, "clone_version",
			      t->clone_version, "image", t->image, "cpu", t->cpu, "memory_bytes",
			      (json_int_t)t->mem_bytes, "vcpus", (int)t->vcpus, "agent", t->agent,
			      "stored_bytes", (json_int_t)template_used_bytes(t), "sha256",
			      t->sha256, "directory", t->dir, "disks", disks, "files", files);

	for (size_t i = 0; j && i < t->ndisks; i++)
		json_array_append_new(disks, machine_disk_info(t, &t->disks[i]));
	for (size_t i = 0; j && i < t->nfiles; i++)
		json_array_append_new(files,
				      json_pack("{s:s, s:I, s:s}", "name", t->files[i].name,
						"size_bytes", (json_int_t)t->files[i].size_bytes,
						"sha256", t->files[i].sha256));
	if (j && t->parent.name[0])
		json_object_set_new(j, "parent",
				    json_pack("{s:s, s:s, s:s}", "store",
					      store_word(t->parent.store), "name", t->parent.name,
					      "sha256", t->parent.sha256));
	if (j && t->vm[0])
		json_object_set_new(j, "vm", json_string(t->vm));
	return j;
}

static void print_header(enum store where)
{
	printf("%-24s %-16s %4s  %-8s %-8s %-5s %s\n", "NAME",
	       where == STORE_TEMPLATES ? "IMAGE" : "VM", "CPUS", "MEMORY", "STORED", "AGE", "ON");
}

static void print_row(const struct template *t)
{
	char mem[32], stored[32], age[32], from[MAX(sizeof(t->image), sizeof(t->vm))];

	cli_format_size(t->mem_bytes, mem, sizeof(mem));
	cli_format_size(template_used_bytes(t), stored, sizeof(stored));
	cli_format_age(t->created, age, sizeof(age));
	cli_clean(t->store == STORE_TEMPLATES ? t->image : t->vm, from, sizeof(from));
	printf("%-24s %-16s %4u  %-8s %-8s %-5s %s%s%s\n", t->name, from, t->vcpus, mem, stored,
	       age, t->parent.name[0] ? store_word(t->parent.store) : "",
	       t->parent.name[0] ? " " : "", t->parent.name);
}

struct ls_args {
	bool json, quiet;
};

static int ls_args(enum store where, int argc, char **argv, struct ls_args *a)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "-q")) {
			a->quiet = true;
		} else if (!strcmp(argv[i], "-o") && i + 1 < argc) {
			if (!cli_output_json(store_word(where), argv[++i], &a->json))
				return CLI_USAGE;
		} else {
			return cli_usage(store_word(where), "ls takes only -q and -o json");
		}
	}
	return CLI_OK;
}

static int ls(enum store where, int argc, char **argv)
{
	cleanup_json json_t *list = json_array();
	struct template *t = calloc(1, sizeof(*t));
	struct ls_args a = { 0 };
	char **names = NULL;
	size_t n = 0;
	struct err e;
	int r = ls_args(where, argc, argv, &a);

	if (r) {
		free(t);
		return r;
	}
	r = t ? template_list(where, &names, &n, &e) : err_set(&e, ENOMEM, "out of memory");
	if (!r && !a.json && !a.quiet)
		print_header(where);
	for (size_t i = 0; i < n; i++) {
		if (a.quiet && !a.json)
			puts(names[i]);
		else if (template_open(where, names[i], t, &e))
			fprintf(stderr, "clone: %s\n", e.msg);
		else if (a.json)
			json_array_append_new(list, to_json(t));
		else
			print_row(t);
		free(names[i]);
	}
	free(names);
	free(t);
	if (r)
		return cli_fail(&e);
	return a.json ? cli_print_json(json_incref(list)) : cli_flush();
}

static int inspect_json(enum store where, const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = t ? template_open(where, name, t, e) : err_set(e, ENOMEM, "out of memory");
	struct saved_memory m;
	json_t *j;

	if (!r) {
		j = to_json(t);
		/* of a damaged one the rest may still help */
		r = saved_memory(t, &m, e);
		if (j && !r)
			json_object_set_new(j, "memory", saved_memory_json(&m));
		cli_print_json(j);
	}
	free(t);
	return r;
}

static void print_size(const char *label, uint64_t bytes)
{
	char text[32];

	cli_format_size(bytes, text, sizeof(text));
	printf("%-18s %s\n", label, text);
}

static int inspect_text(enum store where, const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	int r = t ? template_open(where, name, t, e) : err_set(e, ENOMEM, "out of memory");
	struct saved_memory m;
	char created[32];

	if (!r)
		r = saved_memory(t, &m, e);
	if (!r) {
		cli_clean(t->created, created, sizeof(created));
		printf("%-18s %s\n%-18s %s\n%-18s %u\n", store_word(t->store), t->name, "created",
		       created, "CPUs", t->vcpus);
		if (t->parent.name[0])
			printf("%-18s %s %s\n", "stands on", store_word(t->parent.store),
			       t->parent.name);
		print_size("on disk", template_used_bytes(t));
		print_size("memory", m.size);
		print_size("  stored", m.stored);
		if (t->parent.name[0])
			print_size("  shared", m.shared);
		print_size("  zero", m.zero);
		if (m.resident_known)
			print_size("resident", m.resident);
	}
	free(t);
	return r;
}

/* It and all that it stands on: without them it is nothing. */
static int verify(enum store where, const char *name, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t)), *chain = NULL;
	size_t n = 0;
	int r = t ? template_open(where, name, t, e) : err_set(e, ENOMEM, "out of memory");

	if (!r)
		r = template_chain(t, &chain, &n, e);
	for (size_t i = 0; i < n && !r; i++)
		r = template_verify(&chain[i], e);
	if (!r)
		printf("%s: intact\n", name);
	free(chain);
	free(t);
	return r;
}

/* Living machines keep what they map: removing the files takes only the name away. */
static int rm(enum store where, const char *name, struct err *e)
{
	int r = cli_name_check(store_word(where), name, e);

	if (!r && where == STORE_TEMPLATES)
		r = seed_stop(name, e);
	return r ? r : template_rm(where, name, e);
}

static int each(enum store where, int argc, char **argv,
		int (*fn)(enum store where, const char *name, struct err *e))
{
	int code = CLI_OK;
	struct err e;

	if (argc < 2)
		return cli_usage(store_word(where), "%s: which %s?", argv[0], store_word(where));
	for (int i = 1; i < argc; i++)
		if (fn(where, argv[i], &e))
			code = cli_fail(&e);
	return code;
}

struct inspect_args {
	const char *store;
	bool json;
};

static int inspect_option(void *arg, int opt, struct err *e)
{
	struct inspect_args *a = arg;

	(void)e;
	if (opt != 'o')
		return -ENOSYS;
	return cli_output_json(a->store, optarg, &a->json) ? 0 : -ECANCELED;
}

static int inspect(enum store where, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	struct inspect_args a = { .store = store_word(where), .json = true };
	int r = cli_options(a.store, argc, argv, "o:", opts, inspect_option, &a);

	if (r)
		return r;
	argv[optind - 1] = argv[0]; /* the verb, before the names */
	return each(where, argc - optind + 1, argv + optind - 1,
		    a.json ? inspect_json : inspect_text);
}

int saved_verb(enum store where, int argc, char **argv)
{
	if (!strcmp(argv[0], "ls"))
		return ls(where, argc, argv);
	if (!strcmp(argv[0], "inspect"))
		return inspect(where, argc, argv);
	if (!strcmp(argv[0], "verify"))
		return each(where, argc, argv, verify);
	if (!strcmp(argv[0], "rm"))
		return each(where, argc, argv, rm);
	return -1;
}
