/* SPDX-License-Identifier: MIT */
/*
 * clone balloon: shows a VM's balloon, says how much is to be in it, asks for free pages.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/balloon_wait.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/launch.h"
#include "cli/squeezeopt.h"
#include "control/json.h"

const char cmd_balloon_usage[] =
	"VM [-o json]\n"
	"       clone balloon VM SIZE [--no-wait] [-o json]\n"
	"       clone balloon VM --hint [-o json]\n"
	"       clone balloon VM --auto[=WORD=VALUE,...] | --manual [-o json]\n"
	"\n"
	"What a guest puts into its balloon it does without, and the host has again. Shows how "
	"much\n"
	"that is to be and is, what the guest has given back in all, and what it says of its "
	"memory.\n"
	"\n"
	"  SIZE          so much is to be in the balloon (0: all goes back to the guest); waits "
	"until\n"
	"                it is, and fails when the guest makes no progress for 5 s, 1 MiB at "
	"least\n"
	"                (the VM goes on to try)\n"
	"      --no-wait return at once\n"
	"      --hint    the guest names its free pages once; waits for the end of it. The host "
	"has\n"
	"                those then that the guest has not written to meanwhile\n"
	"      --manual  its balloon is only used on request; what is in it stays\n"
	"      --auto    it is looked after: memory is taken from the guest in steps while it is\n"
	"                idle, and given back at once when it works or is short of it. D: seconds\n"
	"                or a duration, N%: percent\n"
	"                  idle=D      idle so long before anything is taken; default 30s\n"
	"                  cpu=N%      more of its CPUs' time is not idle; 10%\n"
	"                  step=N%     of its available memory, at a time; 10%\n"
	"                  every=D     a step; 5s\n"
	"                  floor=SIZE  stays available; or floor=N%, of RAM; the larger of 64M\n"
	"                              and 10%; a size alone is without the 10%\n"
	"                  low=N%      of the floor: less available is too little; 50%\n"
	"                  high=N%     of the floor: so much it gets then, or when it works; 150%\n"
	"                  psi=N%      of the time a task waits for memory: pressure; 5%\n"
	"                  full=N%     all tasks do: all is given back; 20%\n"
	"                  cool=D      nothing is taken so long after pressure; 60s\n"
	"                  period=D    it is asked so often; 5s\n"
	"                  hold=D      it gets all back when it was silent so long; 60s\n";

struct balloon_args {
	const char *vm;
	uint64_t bytes;
	bool set, hint, no_wait, json;
	json_t *policy; /* to be had from now on; owned */
};

/* "0" needs no unit: it is nothing in any. */
static int parse_amount(const char *text, uint64_t *bytes, struct err *e)
{
	int r;

	*bytes = 0;
	if (!strcmp(text, "0"))
		return 0;
	r = cli_parse_size(text, bytes, e);
	if (!r && *bytes % MIB(1))
		r = err_set(e, EINVAL, "%s: a balloon has whole MiB", text);
	return r;
}

enum { O_NO_WAIT = 1000, O_HINT, O_AUTO, O_MANUAL };

static int parse_policy(struct balloon_args *a, bool on, char *spec, struct err *e)
{
	char none[] = "";

	if (a->policy)
		return err_set(e, EINVAL, "--auto and --manual: one at a time");
	return on ? squeeze_option("--auto", spec ? spec : none, &a->policy, e)
		  : squeeze_option_manual("--manual", none, &a->policy, e);
}

static int parse_option(void *arg, int opt, struct err *e)
{
	struct balloon_args *a = arg;

	switch (opt) {
	case 'o':
		return cli_output_json("balloon", optarg, &a->json) ? 0 : -ECANCELED;
	case O_NO_WAIT:
		a->no_wait = true;
		return 0;
	case O_HINT:
		a->hint = true;
		return 0;
	case O_AUTO:
	case O_MANUAL:
		return parse_policy(a, opt == O_AUTO, optarg, e);
	default:
		return -ENOSYS;
	}
}

static int parse_args(struct balloon_args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "output", required_argument, NULL, 'o' },
		{ "no-wait", no_argument, NULL, O_NO_WAIT },
		{ "hint", no_argument, NULL, O_HINT },
		{ "auto", optional_argument, NULL, O_AUTO },
		{ "manual", no_argument, NULL, O_MANUAL },
		{ NULL, 0, NULL, 0 },
	};
	int r = cli_options("balloon", argc, argv, "o:", opts, parse_option, a);
	struct err e;

	if (r)
		return r;
	if (optind >= argc || optind + 2 < argc)
		return cli_usage("balloon", "which VM, and how much?");
	a->vm = argv[optind];
	a->set = optind + 2 == argc;
	if (a->set && parse_amount(argv[optind + 1], &a->bytes, &e))
		return cli_usage("balloon", "%s", e.msg);
	if (a->set && a->hint)
		return cli_usage("balloon", "SIZE and --hint: one at a time");
	if (a->policy && (a->set || a->hint))
		return cli_usage("balloon", "SIZE, --hint, --auto and --manual: one at a time");
	if (a->no_wait && !a->set)
		return cli_usage("balloon", "--no-wait goes with a SIZE");
	return CLI_OK;
}

static int set_target(struct vmproc *p, uint64_t bytes, struct err *e)
{
	cleanup_json json_t *body = json_pack("{s:I}", "amount_mib", (json_int_t)(bytes >> 20));

	return vmproc_request(p, "PATCH", "/balloon", body, LAUNCH_MS, NULL, e);
}

static void print_size(const json_t *j, const char *key, const char *label)
{
	char text[32];

	cli_format_size((uint64_t)json_integer_value(json_object_get(j, key)), text, sizeof(text));
	printf("%-22s %s\n", label, text);
}

/* What the guest says of itself: only what it has said. */
static void print_guest(const json_t *j)
{
	static const struct {
		const char *key, *label;
		bool bytes;
	} rows[] = {
		{ "total_memory", "guest: memory", true },
		{ "free_memory", "guest: free", true },
		{ "available_memory", "guest: available", true },
		{ "disk_caches", "guest: caches", true },
		{ "swap_in", "guest: swapped in", true },
		{ "swap_out", "guest: swapped out", true },
		{ "major_faults", "guest: major faults", false },
		{ "minor_faults", "guest: minor faults", false },
		{ "oom_kill", "guest: OOM kills", false },
	};
	const json_t *age = json_object_get(j, "stats_age_ms");

	if (!age) {
		printf("%-22s %s\n", "guest", "has not said anything of its memory yet");
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const json_t *v = json_object_get(j, rows[i].key);

		if (v && rows[i].bytes)
			print_size(j, rows[i].key, rows[i].label);
		else if (v)
			printf("%-22s %" JSON_INTEGER_FORMAT "\n", rows[i].label,
			       json_integer_value(v));
	}
	printf("%-22s %.1f s ago\n", "guest: said", (double)json_integer_value(age) / 1000);
}

static void print_policy(const json_t *p)
{
	const char *mode = json_string_value(json_object_get(p, "mode")),
		   *state = json_string_value(json_object_get(p, "state")),
		   *why = json_string_value(json_object_get(json_object_get(p, "last"), "reason"));

	char words[2][64];

	/* the VM process's words: it may have been taken over */
	cli_clean(state ? state : "?", words[0], sizeof(words[0]));
	cli_clean(why ? why : "new", words[1], sizeof(words[1]));
	if (mode && !strcmp(mode, "auto"))
		printf("%-22s auto: %s (%s)\n", "policy", words[0], words[1]);
	else
		printf("%-22s manual\n", "policy");
}

static int print(const json_t *j)
{
	printf("%-22s %s\n", "driver",
	       json_is_true(json_object_get(j, "driver")) ? "at work" : "none (yet)");
	print_policy(json_object_get(j, "policy"));
	print_size(j, "target_bytes", "wanted");
	print_size(j, "actual_bytes", "in the balloon");
	print_size(j, "given_back_bytes", "given back");
	print_size(j, "inflated_bytes", "  by the balloon");
	print_size(j, "reported_bytes", "  by reporting");
	print_size(j, "hinted_bytes", "  by hinting");
	print_size(j, "kept_bytes", "  but not taken");
	print_guest(j);
	return cli_flush();
}

/* Does what was asked for; *j (the caller's): how the balloon is then, when that is to be shown. */
static int work(const struct balloon_args *a, struct vmproc *p, json_t **j, struct err *e)
{
	json_t *policy = NULL;
	uint64_t from = 0;
	int r = 0;

	if (a->policy) {
		r = vmproc_request(p, "PUT", "/balloon/policy", a->policy, LAUNCH_MS, NULL, e);
		if (!r && a->json)
			r = vmproc_request(p, "GET", "/balloon/policy", NULL, LAUNCH_MS, j, e);
		return r;
	} else if (a->set) {
		r = balloon_actual(p, &from, e);
		if (!r)
			r = set_target(p, a->bytes, e);
		if (!r && !a->no_wait)
			r = balloon_wait_target(p, from, a->bytes, e);
	} else if (a->hint) {
		r = balloon_hint(p, BALLOON_HINT_MS, e);
	} else {
		balloon_refresh(p);
	}
	if (r || (a->set && !a->json))
		return r;
	r = vmproc_request(p, "GET", "/balloon/statistics", NULL, LAUNCH_MS, j, e);
	if (!r)
		r = vmproc_request(p, "GET", "/balloon/policy", NULL, LAUNCH_MS, &policy, e);
	if (!r && json_object_set_new(*j, "policy", policy))
		r = err_set(e, ENOMEM, "out of memory");
	return r;
}

static int run(const struct balloon_args *a)
{
	cleanup_json json_t *j = NULL;
	struct vmproc p;
	struct err e;
	int r = cli_name_check("VM", a->vm, &e), signals;

	if (r)
		return cli_fail(&e);
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = vmproc_attach(a->vm, signals, &p, &e);
	if (!r) {
		r = work(a, &p, &j, &e);
		vmproc_close(&p);
	}
	if (r) {
		err_wrap(&e, r, "balloon %s", a->vm);
		cli_fail(&e);
		return r == -EINTR ? CLI_SIGNAL + cli_signal_of(signals) : CLI_FAIL;
	}
	if (!j)
		return CLI_OK;
	return a->json ? cli_print_json(json_incref(j)) : print(j);
}

int cmd_balloon(int argc, char **argv)
{
	struct balloon_args a = { 0 };
	int r = parse_args(&a, argc, argv);

	if (!r)
		r = run(&a);
	json_decref(a.policy);
	return r;
}
