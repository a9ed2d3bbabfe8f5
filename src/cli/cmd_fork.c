/* SPDX-License-Identifier: MIT */
/*
 * clone fork: forks a template (through its seed) or a running VM.
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
#include "cli/disk_live.h"
#include "cli/exec_cmd.h"
#include "cli/forkreq.h"
#include "cli/machine.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "cli/seed.h"
#include "cli/userdata.h"
#include "control/json.h"

#define FORK_MAX 10000

const char cmd_fork_usage[] =
	"TEMPLATE|VM [-n N] [--name NAME] [--all] [--paused] [--wait|--no-wait]\n"
	"            [--disk DISK]... [--network NAME|none]... [--ip A] [--mac M] [-p H:G]...\n"
	"            [--userdata FILE] [--timeout DURATION] [-o json]\n"
	"       clone fork TEMPLATE|VM [--name NAME] [--rm] [--disk DISK]... [--network "
	"NAME|none]...\n"
	"            [--ip A] [--mac M] [-p H:G]... [--userdata FILE] [--timeout DURATION] [-i] "
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

struct fork_args {
	const char *source, *name, *userdata;
	int userdata_fd;
	uint64_t n, timeout_ms;
	bool no_wait, json, rm, all, paused;
	struct launch_vm disks; /* only those of it */
	struct nic_options net;
	char **command; /* NULL: none */
	struct exec_cmd exec;
};

enum { O_NAME = 1000, O_WAIT, O_NO_WAIT, O_TIMEOUT, O_RM, O_ALL, O_PAUSED, O_USERDATA, O_DISK };

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
	case O_USERDATA:
		a->userdata = optarg;
		return 0;
	default:
		r = nic_option(&a->net, opt, optarg, e);
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

static int parse_args(struct fork_args *a, int argc, char **argv)
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
		NIC_OPTIONS,
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

/* NAME for one, NAME-1 to NAME-N for -n. */
static struct fork_child_info *name_children(const struct fork_args *a, struct err *e)
{
	struct fork_child_info *c = calloc(a->n, sizeof(*c));
	char prefix[65];

	if (!c) {
		err_set(e, ENOMEM, "out of memory");
		return NULL;
	}
	if (a->name)
		snprintf(prefix, sizeof(prefix), "%s", a->name);
	else
		cli_auto_name(a->source, prefix, sizeof(prefix));
	for (uint64_t i = 0; i < a->n; i++) {
		int len = a->n > 1 ? snprintf(c[i].name, sizeof(c[i].name), "%s-%llu", prefix,
					      (unsigned long long)i + 1)
				   : snprintf(c[i].name, sizeof(c[i].name), "%s", prefix);

		if (len >= (int)sizeof(c[i].name)) {
			err_set(e, EINVAL, "--name: '%s-%llu' is longer than 64 characters", prefix,
				(unsigned long long)i + 1);
			free(c);
			return NULL;
		}
	}
	return c;
}

static int print(const struct fork_args *a, const struct fork_child_info *c, uint64_t pause_ns)
{
	json_t *list = a->json ? json_array() : NULL;
	size_t failed = 0;
	int r;

	for (uint64_t i = 0; i < a->n; i++) {
		if (c[i].ok && list) {
			json_object_set_new(c[i].clocks, "sent_ns",
					    json_integer((json_int_t)c[i].sent_ns));
			json_array_append(list, c[i].clocks);
		} else if (c[i].ok) {
			puts(c[i].name);
		} else if (!failed++) {
			fflush(stdout);
			fprintf(stderr, "clone: fork %s: %s\n", c[i].name, c[i].why);
		}
	}
	if (failed > 1 && a->all)
		fprintf(stderr, "clone: (so none of the %llu was made: --all)\n",
			(unsigned long long)a->n);
	else if (failed > 1)
		fprintf(stderr, "clone: (and %zu more of %llu failed)\n", failed - 1,
			(unsigned long long)a->n);
	r = list ? cli_print_json(json_pack("{s:I, s:o}", "pause_ns", (json_int_t)pause_ns,
					    "children", list))
		 : cli_flush();
	return failed ? CLI_FAIL : r;
}

/* The command in the one fork; its exit code. */
static int run_command(struct fork_args *a, const struct fork_child_info *c)
{
	struct vmdir d;
	struct err e;
	int r;

	if (!c->ok) {
		fprintf(stderr, "clone: fork %s: %s\n", c->name, c->why);
		return CLI_EXEC_FAILED;
	}
	if (!a->name && !a->rm)
		fprintf(stderr, "clone: the fork's name is %s\n", c->name);
	if (vmdir_open(PLACE_VM, c->name, &d, &e)) {
		cli_fail(&e);
		return CLI_EXEC_FAILED;
	}
	r = exec_cmd_run(&a->exec, &d, a->command);
	/* it may be gone already: the command was perhaps "poweroff" */
	if (a->rm && ((vmdir_alive(&d) && vm_kill(&d, -1, &e)) || vmdir_remove(&d, &e)))
		cli_fail(&e);
	vmdir_close(&d);
	return r;
}

/* Disks for a fork that stands still, which then runs. */
static int give_disks(const struct fork_args *a, struct vmproc *p, struct err *e)
{
	cleanup_json json_t *run = json_pack("{s:s}", "state", "Resumed");
	int r = 0;

	for (size_t i = 0; i < a->disks.ndisks && !r; i++) {
		struct launch_disk d = a->disks.disks[i];

		r = disk_live_attach(p, &d, e);
	}
	if (!r && !a->paused)
		r = vmproc_request(p, "PATCH", "/vm", run, LAUNCH_MS, NULL, e);
	return r;
}

/* Until it knows who it is, if there is an agent to tell it, and has seen its disks. */
static int wait_reconciled(const struct fork_args *a, struct vmproc *p, struct err *e)
{
	cleanup_json json_t *id = NULL;
	int r = vmproc_request(p, "GET", "/identity", NULL, LAUNCH_MS, &id, e);

	if (!r && json_is_true(json_object_get(id, "present")))
		r = launch_wait_agent(p, a->timeout_ms, e);
	if (!r)
		disk_live_until_seen(p);
	return r;
}

/* step 0: disks, step 1: waiting. One that fails is undone. */
static bool step_all(const struct fork_args *a, struct fork_child_info *c, int step)
{
	bool failed = false;
	struct vmproc p;
	struct err e;

	for (uint64_t i = 0; i < a->n; i++) {
		int r;

		if (!c[i].ok) {
			failed = true;
			continue;
		}
		r = vmproc_attach(c[i].name, -1, &p, &e);
		if (!r) {
			r = step ? wait_reconciled(a, &p, &e) : give_disks(a, &p, &e);
			vmproc_close(&p);
		}
		if (!r)
			continue;
		failed = true;
		snprintf(c[i].why, sizeof(c[i].why), "%s", e.msg);
		fork_child_undo(&c[i]);
	}
	return failed;
}

/* One that does not get its disks has failed, with --all all have. */
static void give_all_disks(const struct fork_args *a, struct fork_child_info *c)
{
	bool failed = step_all(a, c, 0);

	if (!a->paused && !a->no_wait && !(failed && a->all))
		failed |= step_all(a, c, 1);
	for (uint64_t i = 0; i < a->n && failed && a->all; i++) {
		if (!c[i].ok)
			continue;
		snprintf(c[i].why, sizeof(c[i].why), "another one failed");
		fork_child_undo(&c[i]);
	}
}

static int fork_from(struct fork_args *a, const struct fork_source *src, int signals, struct err *e)
{
	struct nics nics;
	const struct fork_how how = { .nics = &nics,
				      .net = a->n == 1 ? &a->net : NULL,
				      .wait = !a->no_wait,
				      .paused = a->paused || a->disks.ndisks,
				      .all = a->all,
				      .owned = a->rm,
				      .userdata_fd = a->userdata_fd,
				      .timeout_ms = a->timeout_ms };
	struct fork_child_info *c = name_children(a, e);
	uint64_t pause_ns = 0;
	int r;

	if (!c)
		return -EINVAL;
	r = nics_of(src->info, &a->net, &nics, e);
	if (!r)
		r = fork_request(src, c, a->n, &how, signals, &pause_ns, e);
	if (!r && a->disks.ndisks)
		give_all_disks(a, c);
	if (!r)
		r = a->command ? run_command(a, c) : print(a, c, pause_ns);
	else
		err_wrap(e, r, "fork %s", a->source);
	fork_child_info_free(c, a->n);
	return r;
}

/* *there: whether there is such a template. */
static int fork_template(struct fork_args *a, int signals, bool *there, struct err *e)
{
	struct template *t = calloc(1, sizeof(*t));
	cleanup_json json_t *info = NULL;
	struct fork_source src = { 0 };
	struct vmdir d;
	int use = -1, r;

	*there = true;
	if (!t)
		return err_set(e, ENOMEM, "out of memory");
	vmdir_init(&d);
	r = seed_get(a->source, signals, t, &d, &use, e);
	*there = r != -ENOENT;
	if (!r) {
		info = machine_info(t);
		src = (struct fork_source){ .dir = &d, .info = info };
		r = info ? fork_from(a, &src, signals, e) : err_set(e, ENOMEM, "out of memory");
		vmdir_close(&d);
		close(use);
	}
	free(t);
	return r;
}

static int fork_vm(struct fork_args *a, int signals, struct err *e)
{
	cleanup_json json_t *info = NULL;
	struct fork_source src;
	struct vmdir d;
	int r;

	vmdir_init(&d);
	if (vmdir_open(PLACE_VM, a->source, &d, NULL))
		return err_set(e, ENOENT, "there is no template and no VM called %s", a->source);
	info = machine_info_of_fork(&d, e);
	src = (struct fork_source){ .dir = &d, .live = true, .info = info };
	if (!info)
		r = -EINVAL;
	else if (!vmdir_alive(&d))
		r = err_set(e, EINVAL, "%s has ended: only a VM that lives can be forked",
			    a->source);
	else
		r = fork_from(a, &src, signals, e);
	vmdir_close(&d);
	return r;
}

int cmd_fork(int argc, char **argv)
{
	struct fork_args a = { .n = 1, .timeout_ms = 30000, .userdata_fd = -1 };
	int signals, r = 0;
	struct err e;
	bool there = true;

	exec_cmd_init(&a.exec);
	r = parse_args(&a, argc, argv);
	if (r)
		return r;
	r = cli_name_check("fork", a.source, &e);
	if (r)
		return cli_fail(&e);
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	if (a.userdata)
		r = a.userdata_fd = userdata_open(a.userdata, &e);
	if (r >= 0)
		r = fork_template(&a, signals, &there, &e);
	if (r < 0 && !there)
		r = fork_vm(&a, signals, &e);
	if (a.userdata_fd >= 0)
		close(a.userdata_fd);
	if (r < 0)
		cli_fail(&e);
	return r >= 0 ? r : a.command ? CLI_EXEC_FAILED : CLI_FAIL;
}
