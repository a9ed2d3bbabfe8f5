/* SPDX-License-Identifier: MIT */
/*
 * clone rm: forgets VMs that have ended.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/group.h"
#include "cli/procid.h"
#include "cli/state.h"

const char cmd_rm_usage[] =
	"[-f] VM...\n"
	"       clone rm --all [-f]\n"
	"\n"
	"  -f, --force   end running VMs first; a VM that is not there is no error\n"
	"      --all     every VM that has ended (with -f: every VM)\n";

static int rm_one(const char *name, bool force, struct err *e)
{
	struct vmdir d;
	int r = vmdir_open(PLACE_VM, name, &d, e);

	if (r == -ENOENT && force)
		return 0;
	if (!r && force)
		r = vm_kill(&d, -1, e);
	if (!r)
		r = vmdir_remove(&d, e);
	if (r == -EBUSY && force && !vmdir_alive(&d)) {
		group_forget(&d); /* what is in it does not end */
		r = vmdir_remove(&d, e);
	}
	vmdir_close(&d);
	return r;
}

static int rm_all(bool force)
{
	int r, code = CLI_OK;
	char **names;
	struct err e;
	size_t n;

	r = vmdir_list(PLACE_VM, &names, &n, &e);
	if (r)
		return cli_fail(&e);
	for (size_t i = 0; i < n; i++) {
		r = rm_one(names[i], force, &e);
		if (r && (force || r != -EBUSY))
			code = cli_fail(&e);
	}
	vmdir_list_free(names, n);
	return code;
}

int cmd_rm(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "force", no_argument, NULL, 'f' },
		{ "all", no_argument, NULL, 'a' },
		{ NULL, 0, NULL, 0 },
	};
	bool force = false, all = false;
	int opt, code = CLI_OK;
	struct err e;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+f", opts, NULL)) != -1) {
		if (opt == 'f')
			force = true;
		else if (opt == 'a')
			all = true;
		else
			return cli_bad_option("rm", argv);
	}
	if (all == (optind < argc))
		return cli_usage("rm", all ? "--all takes no names" : "which VM?");
	if (all)
		return rm_all(force);
	for (int i = optind; i < argc; i++)
		if (rm_one(argv[i], force, &e))
			code = cli_fail(&e);
	return code;
}
