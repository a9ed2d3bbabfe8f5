/* SPDX-License-Identifier: MIT */
/*
 * clone ls: which VMs there are and how they are.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/view.h"

const char cmd_ls_usage[] = "[-a] [-q] [-o json]\n"
			    "\n"
			    "  -a, --all     also VMs that have ended\n"
			    "  -q, --quiet   names only\n";

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

/* Of its first interface, as long as it has it; "" when there is none. */
static const char *address(const json_t *v)
{
	const json_t *nic = json_array_get(json_object_get(v, "networks"), 0);
	const char *ip4 = text(json_object_get(nic, "address"), "ipv4");

	return *text(v, "end") ? "" : ip4;
}

static void print_row(const json_t *v, bool quiet)
{
	const char *state = text(v, "state"), *on = "", *off = "";
	char mem[16], age[16];

	if (quiet) {
		puts(text(v, "name"));
		return;
	}
	if (cli_colour()) {
		on = !strcmp(state, "running") ? "\033[32m" : "\033[33m";
		off = "\033[0m";
	}
	cli_format_size((uint64_t)json_integer_value(json_object_get(v, "memory_bytes")), mem,
			sizeof(mem));
	cli_format_age(text(v, "created"), age, sizeof(age));
	printf("%-24s %s%-9s%s %-20s %5lld %7s %6s", text(v, "name"), on, state, off,
	       text(v, "source"), (long long)json_integer_value(json_object_get(v, "vcpus")), mem,
	       age);
	if (*address(v))
		printf("  %s", address(v));
	if (*text(v, "end"))
		printf("  %s", text(v, "end"));
	putchar('\n');
}

int cmd_ls(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "all", no_argument, NULL, 'a' },
		{ "quiet", no_argument, NULL, 'q' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	bool all = false, quiet = false, json = false;
	json_t *list;
	struct err e;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+aqo:", opts, NULL)) != -1) {
		if (opt == 'a')
			all = true;
		else if (opt == 'q')
			quiet = true;
		else if (opt != 'o')
			return cli_bad_option("ls", argv);
		else if (!cli_output_json("ls", optarg, &json))
			return CLI_USAGE;
	}
	if (optind < argc)
		return cli_usage("ls", "'%s' is not expected", argv[optind]);
	list = view_all(all, &e);
	if (!list)
		return cli_fail(&e);
	if (json)
		return cli_print_json(list);
	if (!quiet)
		printf("%-24s %-9s %-20s %5s %7s %6s  %s\n", "NAME", "STATE", "SOURCE", "CPUS",
		       "MEMORY", "AGE", "ADDRESS");
	for (size_t i = 0; i < json_array_size(list); i++)
		print_row(json_array_get(list, i), quiet);
	json_decref(list);
	return cli_flush();
}
