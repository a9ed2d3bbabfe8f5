/* SPDX-License-Identifier: MIT */
/*
 * clone restore: a VM out of a snapshot.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"
#include "cli/balloonopt.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/machine.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "cli/restore.h"
#include "cli/shares.h"
#include "control/json.h"

const char cmd_restore_usage[] =
	"SNAPSHOT [--name NAME] [--paused] [--network NAME|none]... [--ip A] [--mac M] [-p "
	"H:G]...\n"
	"              [--balloon manual|auto[,WORD=VALUE]...] [--memory-quota SIZE]\n"
	"              [--ksm DOMAIN|none] [--no-wait] [--timeout DURATION] [-o json]\n"
	"\n"
	"The machine goes on where it was when the snapshot was taken, as a VM with an identity "
	"of\n"
	"its own: a snapshot can be restored many times.\n"
	"\n"
	"      --name NAME   of the VM; default: the name it had\n"
	"      --paused      it stays paused: `clone resume` lets it go on, and that is when the\n"
	"                    guest learns who it is\n"
	"      --network N   instead of the network that it was on; none: on none\n"
	"      --ip, --mac, -p H:G[/udp]  as in clone run\n"
	"      --balloon manual  its balloon, if it has one, is only used on request (default)\n"
	"      --balloon auto    it is looked after, see `clone balloon --auto`\n"
	"      --memory-quota SIZE, --ksm DOMAIN  as in clone run; default: no quota, and the\n"
	"                    trust domain that it had\n"
	"      --no-wait     return before the guest has acknowledged who it is, and let it\n"
	"                    live if it never does\n"
	"      --timeout D   how long it has for that; default 30s\n";

static int publish(struct vmproc *p, json_t *info, struct err *e)
{
	char now[64];

	cli_format_now(now, sizeof(now));
	if (!info || json_object_set_new(info, "name", json_string(p->dir.name)) ||
	    json_object_set_new(info, "created", json_string(now)) ||
	    json_object_set_new(info, "uid", json_integer(p->dir.uid)))
		return err_set(e, ENOMEM, "out of memory");
	procid_note(info, p->pid);
	return vmdir_publish(&p->dir, info, e);
}

/* Loads it with its NICs on their networks; info then says where. */
static int load(const struct restore *rs, struct vmproc *p, json_t *info, struct err *e)
{
	const struct nic_options as_it_is = { .n = 0 };
	const struct nic_options *o = rs->net ? rs->net : &as_it_is;
	cleanup_json json_t *networks = NULL;
	struct nic_ports ports;
	struct nics nics;
	int r = nics_of(info, o, &nics, e);

	if (!r)
		r = nics_attach(&nics, o, &rs->name, 1, &ports, e);
	if (r)
		return r;
	r = nics_grant(&nics, &ports, "", p->fdsock, e);
	if (!r) {
		networks = nics_request(&nics, &ports);
		r = machine_load(p, rs->t, false, rs->paused && rs->wait ? rs->timeout_ms : 0,
				 networks, e);
	}
	if (nics.n)
		json_object_set_new(info, "networks", nics_info(&nics, &ports, o));
	nics_detach(&nics, &ports, 1);
	return r;
}

int restore_vm(const struct restore *rs, int cancel_fd, struct vmproc *p, struct err *e)
{
	cleanup_json json_t *resumed = json_pack("{s:s}", "state", "Resumed");
	cleanup_json json_t *info = machine_info(rs->t);
	const struct shares as_it_is = { .ksm = NULL };
	int r = info ? shares_note(rs->shares ? rs->shares : &as_it_is, info, e)
		     : err_set(e, ENOMEM, "out of memory");

	if (!r)
		r = vmproc_start(PLACE_VM, rs->name, 0, cancel_fd, p, e);
	if (r)
		return r;
	r = shares_apply(p, info, e);
	if (!r)
		r = load(rs, p, info, e);
	if (!r && rs->balloon)
		r = balloon_option_apply(rs->balloon, p, e);
	if (!r && !rs->paused)
		r = vmproc_request(p, "PATCH", "/vm", resumed, LAUNCH_MS, NULL, e);
	if (!r && !rs->paused && rs->wait && rs->t->agent)
		r = launch_wait_agent(p, rs->timeout_ms, e);
	if (!r)
		r = publish(p, info, e);
	if (r)
		vmproc_abort(p);
	return r;
}

struct args {
	const char *snapshot;
	struct restore rs;
	struct nic_options net;
	struct balloon_option balloon;
	struct shares shares;
	bool json;
};

enum { O_NAME = 1000, O_PAUSED, O_BALLOON, O_NO_WAIT, O_TIMEOUT };

static int parse_option(void *arg, int opt, struct err *e)
{
	struct args *a = arg;
	int r;

	switch (opt) {
	case O_NAME:
		a->rs.name = optarg;
		return cli_name_check("--name", optarg, e);
	case O_PAUSED:
		a->rs.paused = true;
		return 0;
	case O_BALLOON:
		return balloon_option(&a->balloon, false, optarg, e);
	case O_NO_WAIT:
		a->rs.wait = false;
		return 0;
	case O_TIMEOUT:
		r = cli_parse_duration(optarg, &a->rs.timeout_ms, e);
		return r ? err_wrap(e, r, "--timeout") : 0;
	case 'o':
		return cli_output_json("restore", optarg, &a->json) ? 0 : -ECANCELED;
	default:
		r = nic_option(&a->net, opt, optarg, e);
		return r == -ENOSYS ? shares_option(&a->shares, opt, optarg, e) : r;
	}
}

static int parse_args(struct args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "name", required_argument, NULL, O_NAME },
		{ "paused", no_argument, NULL, O_PAUSED },
		{ "balloon", required_argument, NULL, O_BALLOON },
		{ "no-wait", no_argument, NULL, O_NO_WAIT },
		{ "timeout", required_argument, NULL, O_TIMEOUT },
		{ "output", required_argument, NULL, 'o' },
		NIC_OPTIONS,
		SHARES_OPTIONS,
		{ NULL, 0, NULL, 0 },
	};
	int r = cli_options("restore", argc, argv, "o:p:", opts, parse_option, a);

	if (r)
		return r;
	if (optind + 1 != argc)
		return cli_usage("restore", "give one snapshot");
	a->snapshot = argv[optind];
	return CLI_OK;
}

int cmd_restore(int argc, char **argv)
{
	struct args a = { .rs = { .wait = true, .timeout_ms = 30000 } };
	cleanup_free struct template *t = calloc(1, sizeof(*t));
	int signals, r = parse_args(&a, argc, argv);
	struct vmproc p;
	struct err e;

	if (r)
		return r;
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = t ? template_open(STORE_SNAPSHOTS, a.snapshot, t, &e)
	      : err_set(&e, ENOMEM, "out of memory");
	if (!r) {
		a.rs.t = t;
		a.rs.net = &a.net;
		a.rs.balloon = &a.balloon;
		a.rs.shares = &a.shares;
		if (!a.rs.name)
			a.rs.name = t->vm[0] ? t->vm : t->name;
		r = restore_vm(&a.rs, signals, &p, &e);
	}
	balloon_option_fini(&a.balloon);
	if (r) {
		err_wrap(&e, r, "restore %s", a.snapshot);
		return cli_fail(&e);
	}
	if (a.json) {
		r = cli_print_json(json_pack("{s:s}", "name", p.dir.name));
	} else {
		puts(p.dir.name);
		r = cli_flush();
	}
	vmproc_close(&p);
	return r;
}
