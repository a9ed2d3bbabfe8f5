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
#include "cli/exec.h"

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

#define ENV_MAX 256

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

struct parsed {
	struct exec_args a;
	const char *env[ENV_MAX + 1];
	size_t nenv;
	const char *vm;
};

static int parse_option(struct parsed *p, int opt, struct err *e)
{
	switch (opt) {
	case 'i':
		p->a.input = true;
		return 0;
	case 't':
		p->a.tty = true;
		return 0;
	case 'e':
		if (*optarg == '=' || !strchr(optarg, '='))
			return err_set(e, EINVAL, "-e %s: must be KEY=VALUE", optarg);
		if (p->nenv == ENV_MAX)
			return err_set(e, EINVAL, "-e: at most %d variables", ENV_MAX);
		p->env[p->nenv++] = optarg;
		return 0;
	case 'w':
		p->a.cwd = optarg;
		return 0;
	case 'u':
		p->a.user = optarg;
		return 0;
	case 'T':
		return cli_parse_duration(optarg, &p->a.timeout_ms, e);
	case 'W':
		return cli_parse_duration(optarg, &p->a.connect_ms, e);
	default:
		return -ENOSYS;
	}
}

static int parse_args(struct parsed *p, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "interactive", no_argument, NULL, 'i' },
		{ "tty", no_argument, NULL, 't' },
		{ "env", required_argument, NULL, 'e' },
		{ "workdir", required_argument, NULL, 'w' },
		{ "user", required_argument, NULL, 'u' },
		{ "timeout", required_argument, NULL, 'T' },
		{ "wait", required_argument, NULL, 'W' },
		{ NULL, 0, NULL, 0 },
	};
	struct err e;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+ite:w:u:", opts, NULL)) != -1) {
		int r = parse_option(p, opt, &e);

		if (r == -ENOSYS)
			return cli_bad_option("exec", argv);
		if (r)
			return cli_usage("exec", "%s", e.msg);
	}
	if (optind >= argc)
		return cli_usage("exec", "which VM?");
	p->vm = argv[optind++];
	if (optind < argc && !strcmp(argv[optind], "--"))
		optind++;
	if (optind >= argc)
		return cli_usage("exec", "which command?");
	p->a.argv = (const char *const *)(argv + optind);
	p->a.env = p->env;
	return CLI_OK;
}

int cmd_exec(int argc, char **argv)
{
	struct parsed p = { .a = { .connect_ms = 30000,
				   .in_fd = STDIN_FILENO,
				   .out_fd = STDOUT_FILENO,
				   .err_fd = STDERR_FILENO } };
	struct vmdir d;
	struct err e;
	int r = parse_args(&p, argc, argv);

	if (r)
		return r;
	p.a.signal_fd = catch_for_guest(p.a.tty);
	r = vmdir_open(PLACE_VM, p.vm, &d, &e);
	if (!r)
		r = exec_run(&d, &p.a, &e);
	vmdir_close(&d);
	if (r == -EINTR)
		return CLI_SIGNAL + cli_signal_of(p.a.signal_fd);
	if (r < 0) {
		cli_fail(&e);
		return CLI_EXEC_FAILED;
	}
	if ((r == CLI_EXEC_CANNOT || r == CLI_EXEC_NOT_FOUND) && e.msg[0])
		cli_fail(&e);
	return r;
}
