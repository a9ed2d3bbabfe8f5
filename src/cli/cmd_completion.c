/* SPDX-License-Identifier: MIT */
/*
 * clone completion: a script for the shell, made from the table of commands.
 */
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

const char cmd_completion_usage[] = "bash\n"
				    "\n"
				    "To use it: source <(clone completion bash)\n";

static const char body[] =
	"_clone()\n"
	"{\n"
	"\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
	"\tlocal cmd=${COMP_WORDS[1]} words=\n"
	"\tCOMPREPLY=()\n"
	"\tcase $prev in\n"
	"\t--image) words=$(clone image ls -q 2>/dev/null) ;;\n"
	"\t--kernel|--initrd|--disk) COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
	"\t-o|--output) words='json text' ;;\n"
	"\t--balloon) words='none manual auto' ;;\n"
	"\t--memory-quota|--ksm) words=none ;;\n"
	"\t*)\n"
	"\t\tif [[ $COMP_CWORD == 1 ]]; then\n"
	"\t\t\twords=$_clone_commands\n"
	"\t\telif [[ $cur == -* ]]; then\n"
	"\t\t\twords=$(clone help \"$cmd\" 2>/dev/null | grep -oE -- '(^| |\\[)--?[a-z][a-z-]*' |\n"
	"\t\t\t\ttr -d ' [' | sort -u)\n"
	"\t\telse\n"
	"\t\t\tcase $cmd in\n"
	"\t\t\texec|inspect|stats|logs|console|pause|resume|park|unpark|stop|kill|balloon)\n"
	"\t\t\t\twords=$(clone ls -q 2>/dev/null) "
	";;\n"
	"\t\t\trm) words=$(clone ls -aq 2>/dev/null) ;;\n"
	"\t\t\tfork) words=\"$(clone template ls -q 2>/dev/null) $(clone ls -q 2>/dev/null)\" ;;\n"
	"\t\t\ttemplate)\n"
	"\t\t\t\tif [[ $COMP_CWORD == 2 ]]; then words='create ls inspect verify rm'\n"
	"\t\t\t\telse words=$(clone template ls -q 2>/dev/null); fi ;;\n"
	"\t\t\tsnapshot)\n"
	"\t\t\t\tif [[ $COMP_CWORD == 2 ]]; then\n"
	"\t\t\t\t\twords=\"create flatten ls inspect verify rm $(clone ls -q 2>/dev/null)\"\n"
	"\t\t\t\telse words=$(clone snapshot ls -q 2>/dev/null); fi ;;\n"
	"\t\t\trestore) words=$(clone snapshot ls -q 2>/dev/null) ;;\n"
	"\t\t\timage)\n"
	"\t\t\t\tif [[ $COMP_CWORD == 2 ]]; then words='build ls inspect verify rm'\n"
	"\t\t\t\telse words=$(clone image ls -q 2>/dev/null); fi ;;\n"
	"\t\t\tdisk)\n"
	"\t\t\t\tif [[ $COMP_CWORD == 2 ]]; then words='create info check export'\n"
	"\t\t\t\telse COMPREPLY=($(compgen -f -- \"$cur\")); return; fi ;;\n"
	"\t\t\tnetwork)\n"
	"\t\t\t\tif [[ $COMP_CWORD == 2 ]]; then words='create ls inspect rm'\n"
	"\t\t\t\telse words=$(clone network ls -q 2>/dev/null); fi ;;\n"
	"\t\t\thelp) words=$_clone_commands ;;\n"
	"\t\t\tcompletion) words=bash ;;\n"
	"\t\t\tesac\n"
	"\t\tfi ;;\n"
	"\tesac\n"
	"\tCOMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
	"}\n"
	"complete -F _clone clone\n";

int cmd_completion(int argc, char **argv)
{
	if (argc != 2 || strcmp(argv[1], "bash"))
		return cli_usage("completion", "which shell? bash is known");
	printf("# bash completion for clone %s\n_clone_commands='", CLONE_VERSION);
	for (const struct command *c = cli_commands; c->name; c++)
		if (c->summary)
			printf("%s%s", c == cli_commands ? "" : " ", c->name);
	printf("'\n%s", body);
	return cli_flush();
}
