/* SPDX-License-Identifier: MIT */
/*
 * clone run: boots a VM from an image, or from a kernel and disks, in the foreground with the
 * console on this terminal, or in the background.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"
#include "cli/balloonopt.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/imageboot.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "cli/procid.h"
#include "cli/shares.h"
#include "cli/term.h"
#include "control/json.h"
#include "control/sock.h"

const char cmd_run_usage[] =
	"[-d] [--rm] [--name NAME] (--image IMAGE | --kernel FILE [--initrd FILE|none])\n"
	"           [--disk FILE,format=raw|qcow2[,OPTION]...]... [--append ARGS] [--memory SIZE]\n"
	"           [--cpus N] [--bays N] [--network NAME|none[,OPTION]...]... [--ip A] [--mac M]\n"
	"           [-p HOSTPORT:GUESTPORT]... [--balloon none|manual|auto[,WORD=VALUE]...]\n"
	"           [--memory-quota SIZE] [--ksm DOMAIN] [--no-agent] [--no-wait]\n"
	"           [--timeout DURATION] [-o json]\n"
	"\n"
	"  -d, --detach      in the background; returns when the guest's agent answers\n"
	"      --rm          remove the VM's directory when it has ended\n"
	"      --name NAME   default: two words\n"
	"      --image I     an image of `clone image ls`; writes go to an overlay that is not "
	"kept\n"
	"      --kernel K    a bzImage, or an ELF with a PVH entry; its modules are looked for\n"
	"                    beside it and in /lib/modules\n"
	"      --initrd I    instead of the built-in one (which has the modules that the root "
	"disk\n"
	"                    and the agent need); none: none at all\n"
	"      --disk D      a disk: FILE,format=raw or FILE,format=qcow2 (it is never guessed); "
	"may\n"
	"                    be repeated. Writes go to an overlay that is not kept. Options:\n"
	"                      readonly     no overlay, and a guest that cannot write\n"
	"                      persistent   no overlay: writes go to the file itself, and stay\n"
	"                      direct       of a persistent one: not by the host's cache\n"
	"                      bandwidth=SIZE, iops=N  at most that a second\n"
	"                      quota=SIZE   what the overlay may hold\n"
	"                      serial=TEXT  what the guest sees as its serial number\n"
	"                      backing=DIR  a qcow2 that stands on other files may have them, if\n"
	"                                   they lie under DIR\n"
	"      --bays N      N empty disks, for `clone disk attach`; default 0\n"
	"      --network N   a network that it is on (`clone network ls`); may be repeated. "
	"Options:\n"
	"                      queues=N           pairs of queues, for N processors at once\n"
	"                      rx=SIZE, tx=SIZE   at most that a second, to and from the guest\n"
	"                    none: no network interface. Default: the network default, for those\n"
	"                    who may make networks\n"
	"      --ip, --mac   of the first interface; default: chosen\n"
	"  -p, --publish H:G[/udp]\n"
	"                    port H of the host leads to port G of the guest; may be repeated\n"
	"      --balloon B   manual (default): memory can be taken from the guest by `clone "
	"balloon`,\n"
	"                    and what it frees it gives back; none: no such device; auto: memory\n"
	"                    is taken from it while it is idle and given back when it works, by\n"
	"                    the thresholds of `clone balloon --auto`\n"
	"      --append A    more words for the kernel's command line; with --kernel and without\n"
	"                    root= in it the first --disk is the root\n"
	"      --memory M    default 512M\n"
	"      --cpus N      default 1\n"
	"      --memory-quota SIZE  what it may cost the host: beyond it the VM is slowed down,\n"
	"                    then ended, and no other; its forks have it too\n"
	"      --ksm DOMAIN  its pages may be merged with those of the other VMs of this trust\n"
	"                    domain, who can then tell by timing what it holds\n"
	"      --no-agent    the guest has no agent: nothing to wait for\n"
	"      --no-wait     with -d: return when the VM has started\n"
	"      --timeout D   with -d: how long to wait for the agent; default 2m\n"
	"\n"
	"Without -d the VM's end is ours: exit 0 power-off, 10 reset, 11 panic, 12 error, 13 "
	"killed;\n"
	"Ctrl-] detaches.\n";

struct run_args {
	bool detach, rm, no_agent, no_wait, json;
	const char *name, *image, *append;
	uint64_t timeout_ms;
	struct launch_vm vm;
	struct nic_options net;
	struct nics nics;
	struct nic_ports ports;
	struct balloon_option balloon;
	struct shares shares;
	char auto_name[65];
};

enum {
	O_RM = 256,
	O_NAME,
	O_IMAGE,
	O_KERNEL,
	O_INITRD,
	O_DISK,
	O_BAYS,
	O_BALLOON,
	O_APPEND_ARGS,
	O_MEMORY,
	O_CPUS,
	O_NO_AGENT,
	O_NO_WAIT,
	O_TIMEOUT
};

static int parse_option(void *arg, int opt, struct err *e)
{
	struct run_args *a = arg;
	uint64_t v;
	int r;

	switch (opt) {
	case 'd':
		a->detach = true;
		return 0;
	case 'o':
		return cli_output_json("run", optarg, &a->json) ? 0 : -ECANCELED;
	case O_RM:
		a->rm = true;
		return 0;
	case O_NAME:
		a->name = optarg;
		return cli_name_check("--name", optarg, e);
	case O_IMAGE:
		a->image = optarg;
		return cli_name_check("--image", optarg, e);
	case O_KERNEL:
		a->vm.kernel = optarg;
		return 0;
	case O_INITRD:
		a->vm.initrd = optarg;
		return 0;
	case O_DISK:
		return launch_disk_option(&a->vm, "--disk", optarg, e);
	case O_BAYS:
		return launch_bays_option(&a->vm.bays, optarg, e);
	case O_BALLOON:
		r = balloon_option(&a->balloon, true, optarg, e);
		a->vm.no_balloon = a->balloon.none;
		return r;
	case O_APPEND_ARGS:
		a->append = optarg;
		return 0;
	case O_MEMORY:
		r = cli_parse_size(optarg, &a->vm.mem_bytes, e);
		return r ? err_wrap(e, r, "--memory") : 0;
	case O_CPUS:
		r = cli_parse_uint(optarg, 1, 64, &v, e);
		if (r)
			return err_wrap(e, r, "--cpus");
		a->vm.vcpus = (unsigned int)v;
		return 0;
	case O_NO_AGENT:
		a->no_agent = true;
		return 0;
	case O_NO_WAIT:
		a->no_wait = true;
		return 0;
	case O_TIMEOUT:
		r = cli_parse_duration(optarg, &a->timeout_ms, e);
		return r ? err_wrap(e, r, "--timeout") : 0;
	default:
		r = nic_option(&a->net, opt, optarg, e);
		return r == -ENOSYS ? shares_option(&a->shares, opt, optarg, e) : r;
	}
}

static int parse_args(struct run_args *a, int argc, char **argv)
{
	static const struct option opts[] = {
		{ "detach", no_argument, NULL, 'd' },
		{ "output", required_argument, NULL, 'o' },
		{ "rm", no_argument, NULL, O_RM },
		{ "name", required_argument, NULL, O_NAME },
		{ "image", required_argument, NULL, O_IMAGE },
		{ "kernel", required_argument, NULL, O_KERNEL },
		{ "initrd", required_argument, NULL, O_INITRD },
		{ "disk", required_argument, NULL, O_DISK },
		{ "bays", required_argument, NULL, O_BAYS },
		{ "balloon", required_argument, NULL, O_BALLOON },
		{ "append", required_argument, NULL, O_APPEND_ARGS },
		{ "memory", required_argument, NULL, O_MEMORY },
		{ "cpus", required_argument, NULL, O_CPUS },
		{ "no-agent", no_argument, NULL, O_NO_AGENT },
		{ "no-wait", no_argument, NULL, O_NO_WAIT },
		{ "timeout", required_argument, NULL, O_TIMEOUT },
		NIC_OPTIONS,
		SHARES_OPTIONS,
		{ NULL, 0, NULL, 0 },
	};
	int r;

	r = cli_options("run", argc, argv, "+do:p:", opts, parse_option, a);
	if (r)
		return r;
	if (optind < argc)
		return cli_usage("run", "'%s' is not expected: a VM takes no command",
				 argv[optind]);
	if (!a->image == !a->vm.kernel)
		return cli_usage("run", "give one of --image and --kernel");
	if (a->image && a->vm.initrd)
		return cli_usage("run", "--initrd goes with --kernel");
	if (a->json && !a->detach)
		return cli_usage("run", "-o json goes with -d");
	return CLI_OK;
}

static json_t *run_info(const struct run_args *a, const struct vmproc *p, const json_t *shares)
{
	json_t *info = vm_info_base(p, &a->vm);

	if (info && a->image)
		json_object_set_new(info, "image", json_string(a->image));
	if (info && a->vm.kernel && !a->image)
		json_object_set_new(info, "kernel", json_string(a->vm.kernel));
	if (info)
		procid_note(info, p->pid);
	if (info && a->rm)
		json_object_set_new(info, "rm", json_true());
	if (info && a->no_agent)
		json_object_set_new(info, "agent", json_false());
	if (info)
		json_object_update_missing(info, (json_t *)shares);
	return info;
}

/* Starts the VM and publishes it. On failure nothing is left. */
static int start(struct run_args *a, struct vmproc *p, const json_t *shares, int *console,
		 struct err *e)
{
	cleanup_json json_t *info = NULL;
	int r = 0;

	if (!a->detach) {
		*console = sock_connect(p->dir.fd, "console.sock", SOCK_STREAM, e);
		r = MIN(*console, 0);
	}
	if (!r)
		r = shares_apply(p, shares, e);
	if (!r)
		r = launch_boot(p, &a->vm, e);
	if (!r)
		r = balloon_option_apply(&a->balloon, p, e);
	if (!r) {
		info = run_info(a, p, shares);
		r = info ? vmdir_publish(&p->dir, info, e) : err_set(e, ENOMEM, "out of memory");
	}
	if (!r && a->detach && !a->no_wait && !a->no_agent)
		r = launch_wait_agent(p, a->timeout_ms, e);
	return r;
}

/* The foreground VM was told to go by a signal to us: its power button, then by force. */
static int wait_child(struct vmproc *p, int sig)
{
	cleanup_json json_t *button = json_pack("{s:s}", "action_type", "SendCtrlAltDel");
	int status;

	if (sig) {
		client_set_cancel(p->api, -1);
		client_request(p->api, "PUT", "/actions", button, LAUNCH_MS, NULL, NULL);
		if (vmdir_wait_end(&p->dir, 10000, -1, NULL))
			return CLI_SIGNAL + sig; /* our caller aborts it */
	}
	while (waitpid(p->pid, &status, 0) < 0)
		if (errno != EINTR)
			return CLI_FAIL;
	p->pid = 0;
	if (sig)
		return CLI_SIGNAL + sig;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 12;
}

static int foreground(struct run_args *a, struct vmproc *p, int console, int signals)
{
	struct err e;
	int code, r = console_session(console, signals, &e);

	if (r == CONSOLE_DETACHED) {
		fprintf(stderr, "\nclone: detached; %s runs on: `clone console %s` to return\n",
			p->dir.name, p->dir.name);
		vmproc_close(p);
		return CLI_OK;
	}
	if (r < 0) {
		cli_fail(&e);
		vmproc_abort(p);
		return CLI_FAIL;
	}
	code = wait_child(p, r == CONSOLE_SIGNAL ? cli_signal_of(signals) : 0);
	if (code >= 11 && code < CLI_SIGNAL) {
		char why[300];

		vmdir_end_text(&p->dir, why, sizeof(why));
		fprintf(stderr, "clone: %s ended: %s\n", p->dir.name, why);
	}
	network_sweep();
	if (a->rm || p->pid)
		vmproc_abort(p);
	else
		vmproc_close(p);
	return code;
}

static int background(const struct run_args *a, struct vmproc *p)
{
	int r;

	if (a->json) {
		r = cli_print_json(json_pack("{s:s}", "name", p->dir.name));
	} else {
		puts(p->dir.name);
		r = cli_flush();
	}
	vmproc_close(p);
	return r;
}

int cmd_run(int argc, char **argv)
{
	struct run_args a = { .timeout_ms = 120000,
			      .vm = { .initrd_fd = -1, .mem_bytes = MIB(512), .vcpus = 1 } };
	struct image_boot ib = { .initrd_fd = -1 };
	int signals, console = -1, r = parse_args(&a, argc, argv);
	cleanup_json json_t *shares = NULL;
	struct vmproc p;
	struct err e;

	if (r)
		return r;
	a.vm.nics = &a.nics;
	a.vm.ports = &a.ports;
	a.vm.nic_options = &a.net;
	state_sweep();
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = a.image ? image_boot_prepare(&ib, a.image, a.append, &a.vm, &e)
		    : kernel_boot_prepare(&ib, a.append, &a.vm, &e);
	if (!r && !a.name) {
		cli_auto_name(NULL, a.auto_name, sizeof(a.auto_name));
		a.name = a.auto_name;
	}
	if (!r)
		r = nics_new(&a.net, &a.nics, &e);
	if (!r) {
		shares = json_pack("{s:I}", "memory_bytes", (json_int_t)a.vm.mem_bytes);
		r = shares_note(&a.shares, shares, &e);
	}
	if (!r)
		r = vmproc_start(PLACE_VM, a.name, 0, signals, &p, &e);
	if (!r) {
		r = nics_attach(&a.nics, &a.net, &a.name, 1, &a.ports, &e);
		if (!r) {
			r = start(&a, &p, shares, &console, &e);
			nics_detach(&a.nics, &a.ports, 1);
		}
		if (r)
			vmproc_abort(&p);
	}
	image_boot_fini(&ib);
	launch_vm_fini(&a.vm);
	balloon_option_fini(&a.balloon);
	if (r)
		return cli_fail(&e);
	r = a.detach ? background(&a, &p) : foreground(&a, &p, console, signals);
	if (console >= 0)
		close(console);
	return r;
}
