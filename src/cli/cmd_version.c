/* SPDX-License-Identifier: MIT */
/*
 * clone version and clone help.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

const char cmd_version_usage[] = "[-o json]\n";
const char cmd_help_usage[] = "[COMMAND]\n";

int cmd_version(int argc, char **argv)
{
	bool json = false;
	int opt;

	opterr = 0;
	while ((opt = getopt(argc, argv, "+o:")) != -1) {
		if (opt != 'o')
			return cli_bad_option("version", argv);
		if (!cli_output_json("version", optarg, &json))
			return CLI_USAGE;
	}
	if (json)
		return cli_print_json(json_pack("{s:s}", "clone_version", CLONE_VERSION));
	printf("clone %s\n", CLONE_VERSION);
	return cli_flush();
}

int cmd_help(int argc, char **argv)
{
	const struct command *c;

	if (argc > 2)
		return cli_usage("help", "one command at a time");
	if (argc == 2) {
		c = cli_find(argv[1]);
		if (!c || !c->summary)
			return cli_usage(NULL, "there is no command '%.64s'", argv[1]);
		return cli_print_help(c);
	}
	printf("usage: clone COMMAND [OPTIONS]\n\n"
	       "Virtual machines that fork: boot a template once, then copy it in "
	       "milliseconds.\n\n");
	for (c = cli_commands; c->name; c++)
		if (c->summary)
			printf("  %-12s %s\n", c->name, c->summary);
	printf("\n`clone help COMMAND` says more; so does clone(1).\n");
	return cli_flush();
}
