/* SPDX-License-Identifier: MIT */
/*
 * clone inspect: everything about a VM as one JSON object.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/group.h"
#include "cli/launch.h"
#include "cli/procid.h"
#include "cli/view.h"
#include "control/json.h"

const char cmd_inspect_usage[] =
	"VM...\n"
	"\n"
	"What the VM was made from, its identity, sockets, counters, clocks, events (a disk that "
	"is\n"
	"full, for one) and host memory. The output is JSON: an object for one VM, an array for\n"
	"more.\n";

static void add_request(json_t *v, struct client *c, const char *key, const char *path)
{
	json_t *j = NULL;

	if (!client_request(c, "GET", path, NULL, 3000, &j, NULL) && j)
		json_object_set_new(v, key, j);
}

/* Lines of /proc/PID/what that are "Field: N kB". */
static void add_lines(json_t *m, pid_t pid, const char *what)
{
	static const struct {
		const char *field, *key;
	} want[] = { { "Rss:", "rss_bytes" },
		     { "Pss:", "pss_bytes" },
		     { "Private_Dirty:", "private_dirty_bytes" },
		     { "Private_Clean:", "private_clean_bytes" },
		     { "AnonHugePages:", "huge_page_bytes" },
		     { "Swap:", "swap_bytes" },
		     { "VmPTE:", "page_table_bytes" } };
	char path[64], line[256];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, what);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
			unsigned long long kb;

			if (!strncmp(line, want[i].field, strlen(want[i].field)) &&
			    sscanf(line + strlen(want[i].field), "%llu", &kb) == 1)
				json_object_set_new(m, want[i].key,
						    json_integer((json_int_t)(kb << 10)));
		}
	}
	if (f)
		fclose(f);
}

/* Host memory of the process, in bytes. Page tables are what a fork of it copies. */
static void add_memory(json_t *v)
{
	pid_t pid = procid_pid(v);
	json_t *m = pid ? json_object() : NULL;

	if (!m)
		return;
	add_lines(m, pid, "smaps_rollup");
	add_lines(m, pid, "status");
	json_object_set_new(v, "host_memory", m);
}

/* What it may have and has, by the kernel's count. */
static void add_group(json_t *v, const struct vmdir *d)
{
	json_t *g = group_view(d);

	if (g)
		json_object_set_new(v, "memory_group", g);
}

static json_t *inspect(const char *name, struct err *e)
{
	char run[PATH_MAX - 80], path[PATH_MAX];
	struct client *c;
	struct vmdir d;
	json_t *v;

	if (vmdir_open(PLACE_VM, name, &d, e))
		return NULL;
	v = view_vm(&d, e);
	if (v && !run_path(run, sizeof(run), NULL)) {
		snprintf(path, sizeof(path), "%s/vms/%s", run, name);
		json_object_set_new(v, "directory", json_string(path));
	}
	if (v && vmdir_alive(&d) && !client_open(d.fd, &c, NULL)) {
		add_request(v, c, "identity", "/identity");
		add_request(v, c, "stats", "/stats");
		add_request(v, c, "events", "/events");
		add_request(v, c, "balloon", "/balloon/statistics");
		client_close(c);
		add_memory(v);
		add_group(v, &d);
	}
	vmdir_close(&d);
	return v;
}

int cmd_inspect(int argc, char **argv)
{
	cleanup_json json_t *list = json_array();
	int code = CLI_OK;
	struct err e;
	bool json;
	int opt;

	opterr = 0;
	while ((opt = getopt(argc, argv, "+o:")) != -1) {
		if (opt != 'o')
			return cli_bad_option("inspect", argv);
		if (!cli_output_json("inspect", optarg, &json))
			return CLI_USAGE;
	}
	if (optind >= argc)
		return cli_usage("inspect", "which VM?");
	for (int i = optind; i < argc; i++) {
		json_t *v = inspect(argv[i], &e);

		if (v)
			json_array_append_new(list, v);
		else
			code = cli_fail(&e);
	}
	if (argc - optind == 1 && json_array_size(list))
		return cli_print_json(json_incref(json_array_get(list, 0)));
	if (argc - optind > 1 && cli_print_json(json_incref(list)))
		return CLI_FAIL;
	return code;
}
