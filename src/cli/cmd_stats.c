/* SPDX-License-Identifier: MIT */
/*
 * clone stats: what VMs cost in memory, once.
 */
#include <errno.h>
#include <getopt.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/measure.h"
#include "cli/state.h"

const char cmd_stats_usage[] =
	"[-o json] [VM...]\n"
	"\n"
	"What VMs cost in memory, by what other machines share with them; all VMs with sums, the\n"
	"templates and the host unless some are named. MiB; in JSON bytes. Best as root: frame\n"
	"numbers tell relatives, template and merged pages apart.\n";

/* Is every one that was asked for there and running? Says which is not. */
static int check_names(const struct measure *m, char **names, size_t n)
{
	int code = CLI_OK;

	for (size_t i = 0; i < n; i++) {
		struct vmdir d;
		struct err e;
		bool found = false;

		for (size_t k = 0; k < m->account.nr_procs && !found; k++)
			found = measure_wanted(&m->account.procs[k], &names[i], 1);
		if (found)
			continue;
		if (!vmdir_open(PLACE_VM, names[i], &d, &e))
			err_set(&e, ESRCH, "%s is not running", names[i]);
		vmdir_close(&d);
		code = cli_fail(&e);
	}
	return code;
}

int cmd_stats(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	bool json = false;
	struct measure m;
	struct err e;
	size_t n;
	int opt, code, printed;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+o:", opts, NULL)) != -1) {
		if (opt != 'o')
			return cli_bad_option("stats", argv);
		if (!cli_output_json("stats", optarg, &json))
			return CLI_USAGE;
	}
	n = (size_t)(argc - optind);
	if (measure_take(&m, &e))
		return cli_fail(&e);
	measure_sort(&m, MEASURE_BY_NAME);
	code = check_names(&m, argv + optind, n);
	if (json) {
		printed = cli_print_json(measure_json(&m, argv + optind, n));
	} else {
		measure_print(stdout, &m, argv + optind, n, "", "");
		printed = cli_flush();
	}
	measure_fini(&m);
	return code ? code : printed;
}
