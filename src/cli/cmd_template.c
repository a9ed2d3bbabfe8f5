/* SPDX-License-Identifier: MIT */
/*
 * clone template: create, and what is like clone snapshot (saved.c).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/balloonopt.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/saved.h"
#include "cli/shares.h"
#include "cli/state.h"
#include "cli/template_make.h"
#include "template/template.h"

const char cmd_template_usage[] =
	"create NAME --image IMAGE [--warm COMMAND]... [--memory SIZE] [--cpus N]\n"
	"                [--bays N] [--network NAME|none]... [--balloon none|manual]\n"
	"                [--append ARGS] [--ksm DOMAIN] [--settle-timeout D] [--timeout D]\n"
	"       clone template create NAME --from TEMPLATE|VM|SNAPSHOT [--warm COMMAND]... "
	"[--flat]\n"
	"                [--no-settle] [--settle-timeout D] [--ksm DOMAIN|none] [--timeout "
	"D]\n" SAVED_VERBS_USAGE(
		"template") "\n"
			    "A template is a machine, booted and warmed up, that forks begin from. "
			    "It never changes.\n"
			    "  --from SOURCE        made of a fork of a template, of a fork of a "
			    "VM (which goes on), or of\n"
			    "                       a snapshot; looked for in this order. It "
			    "stands on what SOURCE is or\n"
			    "                       came out of, stores only the memory that "
			    "differs, and shares the rest\n"
			    "  --flat               it stands on nothing: all is stored\n"
			    "  --no-settle          as it is: nothing is waited for or cleaned in "
			    "the guest\n"
			    "  --warm C             a shell command to run in the guest first; may "
			    "be repeated\n"
			    "  --memory M           default 512M\n"
			    "  --cpus N             default 1\n"
			    "  --bays N             N empty disks, for `clone fork --disk` and "
			    "`clone disk attach`;\n"
			    "                       default 0\n"
			    "  --network N          a network that it is on, and its forks "
			    "unless they say otherwise;\n"
			    "                       may be repeated; none: no network interface. "
			    "Default: default\n"
			    "  --balloon B          manual (default): the machine and its forks "
			    "have a balloon, see\n"
			    "                       `clone balloon`; none: they have none\n"
			    "  --ksm DOMAIN         its forks' pages may be merged with "
			    "those of this trust domain's\n"
			    "                       other VMs, unless they say otherwise: see "
			    "clone help run\n"
			    "  --append A           more words for the kernel's command line\n"
			    "  --timeout D          how long booting, and each warm-up command, "
			    "may take; default 5m\n"
			    "  --settle-timeout D   how long to wait for the guest to be idle; "
			    "default 60s\n"
			    "verify reads every byte of a template, of what it stands on and of "
			    "base images again. rm\n"
			    "refuses to remove what another one stands on.\n";

#define WARM_MAX 64

static void step_shown(const char *what)
{
	fprintf(stderr, "  %s ...\n", what);
}

static void step_quiet(const char *what)
{
	(void)what;
}

enum {
	O_IMAGE = 1000,
	O_FROM,
	O_WARM,
	O_MEMORY,
	O_CPUS,
	O_BAYS,
	O_BALLOON,
	O_APPEND_ARGS,
	O_SETTLE,
	O_TIMEOUT,
	O_FLAT,
	O_NO_SETTLE
};

struct create_args {
	struct template_make m;
	struct nic_options net;
	struct balloon_option balloon;
	struct shares shares; /* no quota: that is a VM's, not a template's */
	const char *warm[WARM_MAX];
};

static int create_option(void *arg, int opt, struct err *e)
{
	struct create_args *a = arg;
	struct template_make *m = &a->m;
	uint64_t v;
	int r;

	switch (opt) {
	case O_IMAGE:
		m->image = optarg;
		return 0;
	case O_FROM:
		m->from = optarg;
		return 0;
	case O_FLAT:
		m->flat = true;
		return 0;
	case O_NO_SETTLE:
		m->no_settle = true;
		return 0;
	case O_WARM:
		if (m->nwarm == WARM_MAX)
			return err_set(e, E2BIG, "--warm: at most %d commands", WARM_MAX);
		a->warm[m->nwarm++] = optarg;
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
	case O_BAYS:
		return launch_bays_option(&m->bays, optarg, e);
	case O_BALLOON:
		return balloon_option(&a->balloon, true, optarg, e);
	case O_APPEND_ARGS:
		m->append = optarg;
		return 0;
	case O_NIC_NETWORK:
		return nic_option_network(&a->net, optarg, e);
	case O_SHARES_KSM:
		return shares_option(&a->shares, opt, optarg, e);
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
		{ "from", required_argument, NULL, O_FROM },
		{ "flat", no_argument, NULL, O_FLAT },
		{ "no-settle", no_argument, NULL, O_NO_SETTLE },
		{ "warm", required_argument, NULL, O_WARM },
		{ "memory", required_argument, NULL, O_MEMORY },
		{ "cpus", required_argument, NULL, O_CPUS },
		{ "bays", required_argument, NULL, O_BAYS },
		{ "balloon", required_argument, NULL, O_BALLOON },
		{ "append", required_argument, NULL, O_APPEND_ARGS },
		{ "network", required_argument, NULL, O_NIC_NETWORK },
		{ "ksm", required_argument, NULL, O_SHARES_KSM },
		{ "settle-timeout", required_argument, NULL, O_SETTLE },
		{ "timeout", required_argument, NULL, O_TIMEOUT },
		{ NULL, 0, NULL, 0 },
	};
	struct create_args a = { .m = { .boot_ms = 300000,
					.warm_ms = 300000,
					.settle_ms = 60000,
					.step = isatty(STDERR_FILENO) ? step_shown : step_quiet } };
	struct template_make *m = &a.m;
	struct err e;
	int signals, r;

	m->warm = a.warm;
	m->net = &a.net;
	m->balloon = &a.balloon;
	r = cli_options("template", argc, argv, "", opts, create_option, &a);
	if (r)
		return r;
	if (optind + 1 != argc)
		return cli_usage("template", "create: give one name");
	if (!m->image == !m->from)
		return cli_usage("template", "create: give one of --image and --from");
	if (m->from && (m->mem_bytes || m->vcpus || m->append || m->bays))
		return cli_usage("template",
				 "create: --memory, --cpus, --bays and --append go with --image: "
				 "a fork has its parent's");
	if (m->from && a.balloon.none)
		return cli_usage("template", "create: --balloon none goes with --image: a fork has "
					     "its parent's devices");
	if (a.balloon.policy &&
	    !strcmp(json_string_value(json_object_get(a.balloon.policy, "mode")), "auto")) {
		balloon_option_fini(&a.balloon);
		return cli_usage("template", "create: a template does not keep --balloon auto: say "
					     "auto when you fork it");
	}
	if (m->image && (m->flat || m->no_settle))
		return cli_usage("template", "create: --flat and --no-settle go with --from");
	if (m->image && !m->mem_bytes)
		m->mem_bytes = MIB(512);
	if (m->image && !m->vcpus)
		m->vcpus = 1;
	m->ksm = a.shares.ksm;
	m->name = argv[optind];
	if (cli_name_check("template", m->name, &e))
		return cli_fail(&e);
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = template_make(m, signals, &e);
	balloon_option_fini(&a.balloon);
	if (r) {
		err_wrap(&e, r, "template %s", m->name);
		return cli_fail(&e);
	}
	puts(m->name);
	return cli_flush();
}

int cmd_template(int argc, char **argv)
{
	int r = -1;

	if (argc > 1 && !strcmp(argv[1], "create"))
		return template_create(argc - 1, argv + 1);
	if (argc > 1)
		r = saved_verb(STORE_TEMPLATES, argc - 1, argv + 1);
	return r >= 0 ? r : cli_usage("template", "create, ls, inspect, verify or rm");
}
