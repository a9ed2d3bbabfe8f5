/* SPDX-License-Identifier: MIT */
/*
 * clone pause, resume, stop, kill: one request, or a few, to each VM named.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/group.h"
#include "cli/launch.h"
#include "cli/netpool.h"
#include "cli/procid.h"
#include "control/json.h"

const char cmd_pause_usage[] =
	"VM...\n"
	"\n"
	"The guest stops where it is and keeps its memory; `clone resume` lets it go on.\n";
const char cmd_resume_usage[] = "VM...\n";
const char cmd_stop_usage[] = "[--timeout DURATION] VM...\n"
			      "\n"
			      "Presses the power button and waits for the guest to power off.\n"
			      "\n"
			      "      --timeout D   then ends it by force; default 10s\n";
const char cmd_kill_usage[] = "VM...\n"
			      "\n"
			      "Ends VMs at once, as if the power cord were pulled.\n";

#define KILL_MS 5000

struct life {
	const char *cmd;
	int (*fn)(const struct life *l, struct vmdir *d, struct err *e);
	uint64_t timeout_ms;
	int signals;
};

static int request(struct vmdir *d, const char *method, const char *path, json_t *body,
		   struct err *e)
{
	struct client *c;
	int r = client_open(d->fd, &c, e);

	if (r) {
		json_decref(body);
		return r;
	}
	r = client_request(c, method, path, body, LAUNCH_MS, NULL, e);
	json_decref(body);
	client_close(c);
	return r;
}

static int do_state(struct vmdir *d, const char *state, struct err *e)
{
	if (!vmdir_alive(d))
		return err_set(e, ESRCH, "%s is not running", d->name);
	return request(d, "PATCH", "/vm", json_pack("{s:s}", "state", state), e);
}

static int do_pause(const struct life *l, struct vmdir *d, struct err *e)
{
	(void)l;
	return do_state(d, "Paused", e);
}

static int do_resume(const struct life *l, struct vmdir *d, struct err *e)
{
	(void)l;
	return do_state(d, "Resumed", e);
}

/* Its directory stays; what it had on networks does not. */
static void ended(const struct vmdir *d)
{
	cleanup_json json_t *info = NULL;

	if (!vmdir_info(d, &info, NULL))
		network_vm_ended(info);
}

int vm_kill(struct vmdir *d, int cancel_fd, struct err *e)
{
	char group[PATH_MAX];
	struct err why;
	int r;

	if (!vmdir_alive(d))
		return 0;
	r = request(d, "PUT", "/actions", json_pack("{s:s}", "action_type", "Kill"), &why);
	if (!r || r == -ECONNRESET)
		r = vmdir_wait_end(d, KILL_MS, cancel_fd, e);
	if (!r)
		ended(d);
	if (!r || r == -EINTR)
		return r;
	/* It does not listen: by signal, if it is provably the process we started. */
	r = procid_kill(d, e);
	if (!r)
		r = vmdir_wait_end(d, KILL_MS, cancel_fd, e);
	/* Or it was not that alone: nobody is in its group whom we did not put there, but what such
	 * a one has made. */
	if (r && r != -EINTR && group_path(d, group)) {
		r = group_settle(d, e);
		if (!r)
			r = vmdir_wait_end(d, KILL_MS, cancel_fd, e);
	}
	if (!r)
		ended(d);
	return r;
}

static int do_kill(const struct life *l, struct vmdir *d, struct err *e)
{
	if (!vmdir_alive(d))
		return err_set(e, ESRCH, "%s is not running", d->name);
	return vm_kill(d, l->signals, e);
}

static int do_stop(const struct life *l, struct vmdir *d, struct err *e)
{
	struct err why;
	int r;

	if (!vmdir_alive(d))
		return 0;
	r = request(d, "PUT", "/actions", json_pack("{s:s}", "action_type", "SendCtrlAltDel"),
		    &why);
	if (!r)
		r = vmdir_wait_end(d, l->timeout_ms, l->signals, e);
	if (!r)
		ended(d);
	if (!r || r == -EINTR)
		return r;
	return vm_kill(d, l->signals, e);
}

static int each(struct life *l, int argc, char **argv)
{
	int code = CLI_OK;
	struct err e;

	if (optind >= argc)
		return cli_usage(l->cmd, "which VM?");
	l->signals = cli_catch_signals(&e);
	if (l->signals < 0)
		return cli_fail(&e);
	for (int i = optind; i < argc; i++) {
		struct vmdir d;
		int r = vmdir_open(PLACE_VM, argv[i], &d, &e);

		if (!r)
			r = l->fn(l, &d, &e);
		if (r) {
			err_wrap(&e, r, "%s %.64s", l->cmd, argv[i]);
			code = cli_fail(&e);
		}
		vmdir_close(&d);
		if (r == -EINTR)
			return CLI_SIGNAL + cli_signal_of(l->signals);
	}
	return code;
}

static int simple(struct life *l, int argc, char **argv)
{
	opterr = 0;
	if (getopt(argc, argv, "+") != -1)
		return cli_bad_option(l->cmd, argv);
	return each(l, argc, argv);
}

int cmd_pause(int argc, char **argv)
{
	struct life l = { .cmd = "pause", .fn = do_pause };

	return simple(&l, argc, argv);
}

int cmd_resume(int argc, char **argv)
{
	struct life l = { .cmd = "resume", .fn = do_resume };

	return simple(&l, argc, argv);
}

int cmd_kill(int argc, char **argv)
{
	struct life l = { .cmd = "kill", .fn = do_kill };

	return simple(&l, argc, argv);
}

int cmd_stop(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "timeout", required_argument, NULL, 't' },
		{ NULL, 0, NULL, 0 },
	};
	struct life l = { .cmd = "stop", .fn = do_stop, .timeout_ms = 10000 };
	struct err e;
	int opt;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+", opts, NULL)) != -1) {
		if (opt != 't')
			return cli_bad_option("stop", argv);
		if (cli_parse_duration(optarg, &l.timeout_ms, &e))
			return cli_usage("stop", "--timeout: %s", e.msg);
	}
	return each(&l, argc, argv);
}
