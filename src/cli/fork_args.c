/* SPDX-License-Identifier: MIT */
/* The command line of clone fork. See fork_args.h. */
#include "cli/fork_args.h"

#include <errno.h>
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/commands.h"

#define FORK_MAX 10000

const char cmd_fork_usage[] =
	"TEMPLATE|VM [-n N] [--name NAME] [--all] [--paused] [--wait|--no-wait]\n"
	"            [--disk DISK]... [--network NAME|none]... [--ip A] [--mac M] [-p H:G]...\n"
	"            [--userdata FILE] [--balloon manual|auto[,WORD=VALUE]...]\n"
	"            [--memory-quota SIZE|none] [--ksm DOMAIN|none]\n"
	"            [--timeout DURATION] [-o json]\n"
	"       clone fork TEMPLATE|VM [--name NAME] [--rm] [--disk DISK]... [--network "
	"NAME|none]...\n"
	"            [--ip A] [--mac M] [-p H:G]... [--userdata FILE] [--memory-quota SIZE|none]\n"
	"            [--ksm DOMAIN|none] [--timeout DURATION] [-i] "
	"[-t] [-e KEY=VALUE]... [-w DIR] [-u USER] -- "
	"COMMAND [ARGUMENT]...\n"
	"\n"
	"  -n, --count N     how many (default 1)\n"
	"      --name NAME   of the fork; with -n NAME-1 to NAME-N. Default: SOURCE-xxxx\n"
	"      --all         all or none: when one fails, the others are ended and removed\n"
	"      --paused      they stand still until clone resume, which is also when they\n"
	"                    learn who they are\n"
	"      --disk D      a disk for an empty bay (--bays of template create or run), as with\n"
	"                    clone disk attach; may be repeated. Each fork writes to an overlay "
	"of\n"
	"                    its own, unless it is ,persistent: that can be one fork's only\n"
	"      --network N   instead of the network that the source was on (in order, if it has\n"
	"                    more than one interface); none: on none\n"
	"      --ip, --mac, -p H:G[/udp]  as in clone run\n"
	"      --userdata F  what each finds as /run/clone/userdata: the file F (-: standard\n"
	"                    input), 16 KiB at most; without it, there is no such file\n"
	"      --balloon manual  their balloons, if they have one, are only used on request\n"
	"      --balloon auto    they are looked after, see `clone balloon --auto`; default: as\n"
	"                    of the VM that is forked, of a template's fork manual\n"
	"      --memory-quota SIZE, --ksm DOMAIN  of each fork, as in clone run; none: without.\n"
	"                    Default: the VM's that is forked; of a template, its --ksm\n"
	"      --wait        return when the guests have acknowledged who they are (default)\n"
	"      --no-wait     return before that\n"
	"      --timeout D   how long a guest has for that; default 30s\n"
	"      --rm          remove the fork when COMMAND has ended\n"
	"  -i -t -e -w -u    of COMMAND, as in clone exec\n"
	"\n"
	"A template of that name is preferred to a VM of that name. A VM that is forked goes on,\n"
	"or stays paused if it is; its forks begin at that instant, with an identity, a disk and\n"
	"sockets of their own, and run unless --paused is given. Prints the names of those that\n"
	"are ready; exit 1 when one is not.\n"
	"With a COMMAND, runs it in the one fork and exits as clone exec does.\n";

enum {
	O_NAME = 1000,
	O_WAIT,
	O_NO_WAIT,
	O_TIMEOUT,
	O_RM,
	O_ALL,
	O_PAUSED,
	O_USERDATA,
	O_DISK,
	O_BALLOON
};

static int parse_option(void *arg, int opt, struct err *e)
{
	struct fork_args *a = arg;
	int r;

	switch (opt) {
	case 'n':
		r = cli_parse_uint(optarg, 1, FORK_MAX, &a->n, e);
		return r ? err_wrap(e, r, "-n") : 0;
	case 'o':
		return cli_output_json("fork", optarg, &a->json) ? 0 : -ECANCELED;
	case O_NAME:
		a->name = optarg;
		return cli_name_check("--name", optarg, e);
	case O_WAIT:
	case O_NO_WAIT:
		a->no_wait = opt == O_NO_WAIT; /* the last one counts */
		return 0;
	case O_ALL:
		a->all = true;
		return 0;
	case O_PAUSED:
		a->paused = true;
		return 0;
	case O_TIMEOUT:
		r = cli_parse_duration(optarg, &a->timeout_ms, e);
		return r ? err_wrap(e, r, "--timeout") : 0;
	case O_RM:
		a->rm = true;
		return 0;
	case O_DISK:
		return launch_disk_option(&a->disks, "--disk", optarg, e);
	case O_BALLOON:
		return balloon_option(&a->balloon, false, optarg, e);
	case O_USERDATA:
		a->userdata = optarg;
		return 0;
	default:
		r = nic_option(&a->net, opt, optarg, e);
		if (r == -ENOSYS)
			r = shares_option(&a->shares, opt, optarg, e);
		return r == -ENOSYS ? exec_cmd_option(&a->exec, opt, e) : r;
	}
}

/* "--" ends our arguments; what follows is the command's. */
static int cut_command(struct fork_args *a, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--") != 0)
			continue;
		a->command = argv + i + 1;
		return i;
	}
	return argc;
}

static int check_args(const struct fork_args *a)
{
	for (size_t i = 0; i < a->disks.ndisks; i++)
		if (a->disks.disks[i].persistent && a->n > 1)
			return cli_usage("fork", "a persistent disk has one writer: no -n");
	if (a->n > 1 && nic_options_single(&a->net))
		return cli_usage("fork", "--ip, --mac and -p are one fork's: no -n");
	if (!a->command) {
		if (a->rm || a->exec.nenv || a->exec.a.input || a->exec.a.tty || a->exec.a.cwd ||
		    a->exec.a.user)
			return cli_usage("fork", "--rm, -i, -t, -e, -w and -u need `-- COMMAND`");
		return CLI_OK;
	}
	if (!a->command[0])
		return cli_usage("fork", "which command?");
	if (a->n != 1 || a->no_wait || a->json || a->paused)
		return cli_usage("fork", "a command runs in one fork, when it is ready: no -n, "
					 "--no-wait, --paused or -o");
	return CLI_OK;
}

int fork_args_parse(struct fork_args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "count", required_argument, NULL, 'n' },
		{ "output", required_argument, NULL, 'o' },
		{ "name", required_argument, NULL, O_NAME },
		{ "wait", no_argument, NULL, O_WAIT },
		{ "no-wait", no_argument, NULL, O_NO_WAIT },
		{ "all", no_argument, NULL, O_ALL },
		{ "paused", no_argument, NULL, O_PAUSED },
		{ "timeout", required_argument, NULL, O_TIMEOUT },
		{ "rm", no_argument, NULL, O_RM },
		{ "userdata", required_argument, NULL, O_USERDATA },
		{ "disk", required_argument, NULL, O_DISK },
		{ "balloon", required_argument, NULL, O_BALLOON },
		NIC_OPTIONS,
		SHARES_OPTIONS,
		EXEC_CMD_OPTIONS,
		{ NULL, 0, NULL, 0 },
	};
	int r;

	argc = cut_command(a, argc, argv);
	r = cli_options("fork", argc, argv, "n:o:p:" EXEC_CMD_LETTERS, opts, parse_option, a);
	if (r)
		return r;
	if (optind + 1 != argc)
		return cli_usage("fork", "give one template or VM");
	a->source = argv[optind];
	return check_args(a);
}
