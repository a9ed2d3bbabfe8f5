/* SPDX-License-Identifier: MIT */
/*
 * clone exec: a command in a VM, as if it ran here.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/exec_cmd.h"

const char cmd_exec_usage[] =
	"[-i] [-t] [-e KEY=VALUE]... [-w DIR] [-u USER] [--timeout DURATION]\n"
	"            VM -- COMMAND [ARGUMENT]...\n"
	"\n"
	"  -i, --interactive   our stdin is the command's\n"
	"  -t, --tty           a terminal for the command\n"
	"  -e, --env K=V       may be repeated\n"
	"  -w, --workdir DIR   default: the user's home\n"
	"  -u, --user USER     a name or number, with :GROUP if wanted; default root\n"
	"      --timeout D     end the command's process group after this time\n"
	"      --wait D        how long to wait for the guest's agent; default 30s\n"
	"\n"
	"Exit: the command's code, 128+N if signal N ended it, 124 time-out, 125 clone failed, "
	"126\n"
	"cannot be executed, 127 not found.\n";

/* What a person or a program may send us is for the command; job control stays here. */
static int catch_for_guest(bool tty)
{
	static const int sigs[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 };
	sigset_t set;

	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		sigaddset(&set, sigs[i]);
	if (tty)
		sigaddset(&set, SIGWINCH);
	if (sigprocmask(SIG_BLOCK, &set, NULL))
		return -1;
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

void exec_cmd_init(struct exec_cmd *x)
{
	*x = (struct exec_cmd){ .a = { .connect_ms = 30000,
				       .in_fd = STDIN_FILENO,
				       .out_fd = STDOUT_FILENO,
				       .err_fd = STDERR_FILENO,
				       .signal_fd = -1 } };
}

int exec_cmd_option(struct exec_cmd *x, int opt, struct err *e)
{
	switch (opt) {
	case 'i':
		x->a.input = true;
		return 0;
	case 't':
		x->a.tty = true;
		return 0;
	case 'e':
		if (*optarg == '=' || !strchr(optarg, '='))
			return err_set(e, EINVAL, "-e %s: must be KEY=VALUE", optarg);
		if (x->nenv == EXEC_ENV_MAX)
			return err_set(e, EINVAL, "-e: at most %d variables", EXEC_ENV_MAX);
		x->env[x->nenv++] = optarg;
		return 0;
	case 'w':
		x->a.cwd = optarg;
		return 0;
	case 'u':
		x->a.user = optarg;
		return 0;
	default:
		return -ENOSYS;
	}
}

int exec_cmd_run(struct exec_cmd *x, const struct vmdir *d, char *const *argv)
{
	struct err e = { "" };
	int r;

	x->a.argv = (const char *const *)argv;
	x->a.env = x->env;
	if (x->a.signal_fd < 0)
		x->a.signal_fd = catch_for_guest(x->a.tty);
	r = exec_run(d, &x->a, &e);
	if (r == -EINTR)
		return CLI_SIGNAL + cli_signal_of(x->a.signal_fd);
	if (r < 0) {
		cli_fail(&e);
		return CLI_EXEC_FAILED;
	}
	if ((r == CLI_EXEC_CANNOT || r == CLI_EXEC_NOT_FOUND) && e.msg[0])
		cli_fail(&e);
	return r;
}

static int parse_option(void *arg, int opt, struct err *e)
{
	struct exec_cmd *x = arg;

	if (opt == 'T')
		return cli_parse_duration(optarg, &x->a.timeout_ms, e);
	if (opt == 'W')
		return cli_parse_duration(optarg, &x->a.connect_ms, e);
	return exec_cmd_option(x, opt, e);
}

static int parse_args(struct exec_cmd *x, int argc, char **argv, const char **vm)
{
	static const struct option opts[] = {
		EXEC_CMD_OPTIONS,
		{ "timeout", required_argument, NULL, 'T' },
		{ "wait", required_argument, NULL, 'W' },
		{ NULL, 0, NULL, 0 },
	};
	int r;

	r = cli_options("exec", argc, argv, "+" EXEC_CMD_LETTERS, opts, parse_option, x);
	if (r)
		return r;
	if (optind >= argc)
		return cli_usage("exec", "which VM?");
	*vm = argv[optind++];
	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	if (optind >= argc)
		return cli_usage("exec", "which command?");
	return CLI_OK;
}

int cmd_exec(int argc, char **argv)
{
	const char *vm = NULL;
	struct exec_cmd x;
	struct vmdir d;
	struct err e;
	int r;

	exec_cmd_init(&x);
	r = parse_args(&x, argc, argv, &vm);
	if (r)
		return r;
	/* from here on, what is sent to us is the command's, however long it takes to start */
	x.a.signal_fd = catch_for_guest(x.a.tty);
	if (vmdir_open(PLACE_VM, vm, &d, &e)) {
		cli_fail(&e);
		r = CLI_EXEC_FAILED;
	} else {
		r = exec_cmd_run(&x, &d, argv + optind);
	}
	vmdir_close(&d);
	return r;
}
