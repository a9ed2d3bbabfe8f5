/* SPDX-License-Identifier: MIT */
/*
 * The program's entry: finds the command (commands.c) and runs it.
 */
#include <signal.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

int main(int argc, char **argv)
{
	const struct command *c;

	if (argc < 2)
		return cmd_help(1, argv) == CLI_OK ? CLI_USAGE : CLI_FAIL;
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
		return cmd_version(1, argv + 1);
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		return cmd_help(1, argv + 1);
	c = cli_find(argv[1]);
	if (!c)
		return cli_usage(NULL, "there is no command '%.64s'", argv[1]);
	if (c->summary && argc >= 3 && (!strcmp(argv[2], "--help") || !strcmp(argv[2], "-h")))
		return cli_print_help(c);
	signal(SIGPIPE, SIG_IGN);
	return c->run(argc - 1, argv + 1);
}
