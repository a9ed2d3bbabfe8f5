/* SPDX-License-Identifier: MIT */
/*
 * clone network: networks that VMs can be on, made, listed, described and removed. What they are is
 * in src/network. `refill` is for us alone: it makes TAPs ahead, in the background (netpool.c).
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/netpool.h"
#include "control/json.h"
#include "network/network.h"

const char cmd_network_usage[] =
	"create NAME [--mode nat|isolated] [--subnet CIDR] [--subnet6 CIDR|none]\n"
	"                            [--dns ADDR,...] [--mtu N] [--allow peers,host,metadata]\n"
	"       clone network create NAME --mode bridge --bridge IF [--mtu N] [--allow peers]\n"
	"       clone network ls [-q] [-o json]\n"
	"       clone network inspect NAME [-o json]\n"
	"       clone network rm NAME...\n"
	"\n"
	"      --mode M       nat: guests reach out by the host's address (the default);\n"
	"                     isolated: only the host reaches them, and who uses published ports;\n"
	"                     bridge: they are on the network of a bridge that there is\n"
	"      --bridge IF    that bridge\n"
	"      --subnet C     IPv4 addresses, /16 to /29; default: a /20 that the host does not "
	"use\n"
	"      --subnet6 C    IPv6 addresses, a /48; default: random local ones\n"
	"      --dns A,...    resolvers; default: those of the host\n"
	"      --mtu N        default: 1500, or the bridge's\n"
	"      --allow W,...  what guests may reach beside the outside: peers (each other), host\n"
	"                     (this machine), metadata (a cloud's service for its machines)\n"
	"  -q, --quiet        names only\n"
	"\n"
	"The network \"default\" is made when it is first used: nat.\n";

struct args {
	struct network_options o;
	bool json, quiet;
};

enum { O_MODE = 1000, O_BRIDGE, O_SUBNET, O_SUBNET6, O_DNS, O_MTU, O_ALLOW };

static int take_option(void *arg, int opt, struct err *e)
{
	struct args *a = arg;
	uint64_t v;
	int r;

	switch (opt) {
	case O_MODE:
		return network_mode_parse(optarg, &a->o.mode)
			       ? err_set(e, EINVAL, "--mode: '%s' is none of nat, isolated, bridge",
					 optarg)
			       : 0;
	case O_BRIDGE:
		a->o.bridge = optarg;
		return 0;
	case O_SUBNET:
		a->o.subnet4 = optarg;
		return 0;
	case O_SUBNET6:
		a->o.subnet6 = optarg;
		return 0;
	case O_DNS:
		a->o.dns = optarg;
		return 0;
	case O_MTU:
		r = cli_parse_uint(optarg, NIC_MTU_MIN, NIC_MTU_MAX, &v, e);
		if (r)
			return err_wrap(e, r, "--mtu");
		a->o.mtu = (unsigned int)v;
		return 0;
	case O_ALLOW:
		r = network_allow_parse(optarg, &a->o.allow, e);
		return r ? err_wrap(e, r, "--allow") : 0;
	case 'q':
		a->quiet = true;
		return 0;
	case 'o':
		return cli_output_json("network", optarg, &a->json) ? 0 : -ECANCELED;
	default:
		return -ENOSYS;
	}
}

static int parse(struct args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "mode", required_argument, NULL, O_MODE },
		{ "bridge", required_argument, NULL, O_BRIDGE },
		{ "subnet", required_argument, NULL, O_SUBNET },
		{ "subnet6", required_argument, NULL, O_SUBNET6 },
		{ "dns", required_argument, NULL, O_DNS },
		{ "mtu", required_argument, NULL, O_MTU },
		{ "allow", required_argument, NULL, O_ALLOW },
		{ "quiet", no_argument, NULL, 'q' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};

	return cli_options("network", argc, argv, "qo:", opts, take_option, a);
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "-";
}

static void print_list(const char *head, const json_t *list)
{
	size_t i;
	json_t *v;

	printf("%-10s", head);
	json_array_foreach(list, i, v)
	{
		printf("%s%s", i ? ", " : "", json_string_value(v));
	}
	puts(json_array_size(list) ? "" : "-");
}

static void print_warnings(const json_t *j)
{
	size_t i;
	json_t *v;

	json_array_foreach(json_object_get(j, "warnings"), i, v)
	{
		fprintf(stderr, "clone: warning: %s\n", json_string_value(v));
	}
}

static int network_cmd_create(int argc, char **argv)
{
	struct args a = { .json = false };
	cleanup_json json_t *j = NULL;
	struct network nw;
	struct err e;
	int r = parse(&a, argc, argv);

	if (r)
		return r;
	if (argc - optind != 1)
		return cli_usage("network", "create: give one name");
	if (network_create(argv[optind], &a.o, &nw, &e))
		return cli_fail(&e);
	if (!network_describe(&nw, &j, NULL))
		print_warnings(j);
	return CLI_OK;
}

static json_t *describe(const char *name, struct err *e)
{
	struct network nw;
	json_t *j = NULL;

	return network_open(name, &nw, e) || network_describe(&nw, &j, e) ? NULL : j;
}

static int network_cmd_ls(int argc, char **argv)
{
	cleanup_json json_t *all = json_array();
	struct args a = { .json = false };
	char **names;
	struct err e;
	size_t n;
	int r = parse(&a, argc, argv);

	if (r)
		return r;
	if (argc != optind)
		return cli_usage("network", "ls: '%s' is not expected", argv[optind]);
	if (network_list(&names, &n, &e))
		return cli_fail(&e);
	if (!a.json && !a.quiet)
		printf("%-20s %-9s %-19s %-24s %4s\n", "NAME", "MODE", "SUBNET", "SUBNET6", "VMS");
	for (size_t i = 0; i < n; i++) {
		json_t *j = a.quiet ? json_object() : describe(names[i], &e);

		if (a.quiet)
			puts(names[i]);
		else if (!j)
			fprintf(stderr, "clone: %s\n", e.msg);
		else if (!a.json)
			printf("%-20s %-9s %-19s %-24s %4zu\n", names[i], text(j, "mode"),
			       json_object_get(j, "bridge") ? text(j, "bridge")
							    : text(j, "subnet4"),
			       text(j, "subnet6"), json_array_size(json_object_get(j, "vms")));
		if (j)
			json_array_append_new(all, j);
	}
	network_list_free(names, n);
	return a.json ? cli_print_json(json_incref(all)) : cli_flush();
}

static void print_vms(const json_t *vms)
{
	size_t i, k;
	json_t *v, *p;

	if (json_array_size(vms))
		printf("\n%-24s %-15s %-26s %-17s %s\n", "VM", "IPV4", "IPV6", "MAC", "PORTS");
	json_array_foreach(vms, i, v)
	{
		printf("%-24s %-15s %-26s %-17s", text(v, "vm"), text(v, "ipv4"), text(v, "ipv6"),
		       text(v, "mac"));
		json_array_foreach(json_object_get(v, "publish"), k, p)
		{
			printf("%s%lld:%lld/%s", k ? "," : " ",
			       (long long)json_integer_value(json_object_get(p, "host_port")),
			       (long long)json_integer_value(json_object_get(p, "guest_port")),
			       text(p, "protocol"));
		}
		putchar('\n');
	}
}

static int network_cmd_inspect(int argc, char **argv)
{
	struct args a = { .json = false };
	cleanup_json json_t *j = NULL;
	struct err e;
	int r = parse(&a, argc, argv);

	if (r)
		return r;
	if (argc - optind != 1)
		return cli_usage("network", "inspect: give one name");
	j = describe(argv[optind], &e);
	if (!j)
		return cli_fail(&e);
	if (a.json)
		return cli_print_json(json_incref(j));
	printf("%-10s%s\n%-10s%s\n", "name", text(j, "name"), "mode", text(j, "mode"));
	if (json_object_get(j, "bridge"))
		printf("%-10s%s\n", "bridge", text(j, "bridge"));
	else
		printf("%-10s%s\n%-10s%s\n", "subnet", text(j, "subnet4"), "subnet6",
		       text(j, "subnet6"));
	printf("%-10s%lld\n", "mtu", (long long)json_integer_value(json_object_get(j, "mtu")));
	print_list("allow", json_object_get(j, "allow"));
	print_list("dns", json_object_get(j, "dns"));
	print_vms(json_object_get(j, "vms"));
	print_warnings(j);
	return cli_flush();
}

static int network_cmd_rm(int argc, char **argv)
{
	struct args a = { .json = false };
	int r = parse(&a, argc, argv), bad = CLI_OK;

	if (r)
		return r;
	if (argc == optind)
		return cli_usage("network", "rm: which?");
	network_sweep();
	for (int i = optind; i < argc; i++) {
		struct err e;

		if (network_remove(argv[i], &e))
			bad = cli_fail(&e);
	}
	return bad;
}

static int network_cmd_refill(int argc, char **argv)
{
	struct network nw;
	struct err e;

	if (argc != 2)
		return cli_usage("network", "refill: give one name");
	if (network_open(argv[1], &nw, &e) || network_refill(&nw, network_pool_size(), &e))
		return cli_fail(&e);
	return CLI_OK;
}

int cmd_network(int argc, char **argv)
{
	const char *sub = argc > 1 ? argv[1] : "";

	opterr = 0;
	if (!strcmp(sub, "create"))
		return network_cmd_create(argc - 1, argv + 1);
	if (!strcmp(sub, "ls"))
		return network_cmd_ls(argc - 1, argv + 1);
	if (!strcmp(sub, "inspect"))
		return network_cmd_inspect(argc - 1, argv + 1);
	if (!strcmp(sub, "rm"))
		return network_cmd_rm(argc - 1, argv + 1);
	if (!strcmp(sub, "refill"))
		return network_cmd_refill(argc - 1, argv + 1);
	return cli_usage("network", "create, ls, inspect or rm?");
}
