/* SPDX-License-Identifier: MIT */
/*
 * clone doctor: what this host has of what clone wants, and what to do about the rest. A table of
 * checks; each looks at one thing and changes nothing (doctor.h). One thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/doctor.h"
#include "cli/ksm.h"
#include "cli/state.h"
#include "image/image.h"
#include "image/initrd.h"
#include "image/proc.h"
#include "kvm/probe.h"
#include "network/network.h"

const char cmd_doctor_usage[] =
	"[-o json]\n"
	"\n"
	"A line for each thing looked at: ok, warn (works without, but worse) or fail, what was\n"
	"found, and what to do. Exit 1 when anything failed.\n";

#define PROBE_MS 5000 /* native KVM needs 100 ms; an emulated host some seconds */
#define FILES_WANTED 4096
#define PROCESSES_WANTED 4096

static const char *const status_text[] = { "ok", "warn", "fail" };

enum status doctor_say(struct finding *f, enum status s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(f->found, sizeof(f->found), fmt, ap);
	va_end(ap);
	return s;
}

bool doctor_line(const char *path, char *buf, size_t n)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t r = fd < 0 ? -1 : read(fd, buf, n - 1);

	if (r < 0)
		return false;
	buf[r] = '\0';
	buf[strcspn(buf, "\n")] = '\0';
	return true;
}

static enum status look_kvm(const struct check *c, struct finding *f)
{
	cleanup_close int fd = open(c->arg, O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0 && errno == EACCES) {
		snprintf(f->advice, sizeof(f->advice),
			 "run as root, or join the group that owns %s", c->arg);
		return doctor_say(f, FAIL, "%s: no permission", c->arg);
	}
	if (fd < 0)
		return doctor_say(f, FAIL, "%s: %s", c->arg, strerrordesc_np(errno));
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return doctor_say(f, FAIL, "%s speaks API version %d, not %d", c->arg, version,
				  KVM_API_VERSION);
	return doctor_say(f, OK, "%s, API version %d", c->arg, version);
}

static enum status look_guests(const struct check *c, struct finding *f)
{
	char why[200];
	int r = kvm_probe_stock(PROBE_MS, why, sizeof(why));

	(void)c;
	if (r == 1)
		return doctor_say(f, OK, "a probe guest ran as a stock kernel would");
	if (r == 0)
		return doctor_say(f, FAIL, "a stock kernel would not run: %s", why);
	return doctor_say(f, FAIL, "the probe could not run: %s", strerrordesc_np(-r));
}

static enum status look_device(const struct check *c, struct finding *f)
{
	cleanup_close int fd = open(c->arg, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return doctor_say(f, WARN, "%s: %s", c->arg, strerrordesc_np(errno));
	return doctor_say(f, OK, "%s", c->arg);
}

/* clone answers vsock in the VM process: the host's module is for other programs. */
static enum status look_optional(const struct check *c, struct finding *f)
{
	if (look_device(c, f) != OK) {
		size_t n = strlen(f->found);

		snprintf(f->found + n, sizeof(f->found) - n, "; not needed by clone itself");
	}
	return OK;
}

static enum status look_nx(const struct check *c, struct finding *f)
{
	char line[16];

	if (!doctor_line(c->arg, line, sizeof(line)))
		return doctor_say(f, OK, "this KVM has no such setting");
	if (!strcmp(line, "Y"))
		return doctor_say(f, WARN,
				  "on: making a VM starts a kernel thread and splits huge pages");
	return doctor_say(f, OK, "%s", line);
}

static enum status limit(struct finding *f, int which, rlim_t wanted)
{
	struct rlimit l;

	if (getrlimit(which, &l))
		return doctor_say(f, WARN, "%s", strerrordesc_np(errno));
	if (l.rlim_cur == RLIM_INFINITY)
		return doctor_say(f, OK, "no limit");
	return doctor_say(f, l.rlim_cur < wanted ? WARN : OK, "%" PRIu64, (uint64_t)l.rlim_cur);
}

static enum status look_nofile(const struct check *c, struct finding *f)
{
	(void)c;
	return limit(f, RLIMIT_NOFILE, FILES_WANTED);
}

static enum status look_nproc(const struct check *c, struct finding *f)
{
	(void)c;
	return limit(f, RLIMIT_NPROC, PROCESSES_WANTED);
}

static enum status look_uring(const struct check *c, struct finding *f)
{
	char line[16];

	if (!doctor_line(c->arg, line, sizeof(line)) || !strcmp(line, "0"))
		return doctor_say(f, OK, "allowed");
	if (!strcmp(line, "2"))
		return doctor_say(f, FAIL, "2: disabled for everybody; VMs with disks cannot run");
	return doctor_say(f, WARN, "%s: only for the privileged, which VM processes are not", line);
}

/* Space at path, or at the nearest directory above it that exists. */
static enum status look_space(struct finding *f, char *path, uint64_t wanted)
{
	struct statvfs fs;
	char size[16];
	uint64_t left;

	while (access(path, F_OK) && strlen(path) > 1) {
		char *slash = strrchr(path, '/');

		slash[slash == path] = '\0';
	}
	if (statvfs(path, &fs))
		return doctor_say(f, FAIL, "%.300s: %s", path, strerrordesc_np(errno));
	if (access(path, W_OK | X_OK))
		return doctor_say(f, FAIL, "%.300s: %s", path, strerrordesc_np(errno));
	left = (uint64_t)fs.f_bavail * fs.f_frsize;
	cli_format_size(left, size, sizeof(size));
	return doctor_say(f, left < wanted ? WARN : OK, "%s left in %.300s", size, path);
}

static enum status look_state(const struct check *c, struct finding *f)
{
	char path[PATH_MAX];
	struct err e;

	(void)c;
	if (image_state_dir(path, sizeof(path), &e))
		return doctor_say(f, FAIL, "%.390s", e.msg);
	return look_space(f, path, GIB(4));
}

static enum status look_run(const struct check *c, struct finding *f)
{
	char path[PATH_MAX];
	struct err e;

	(void)c;
	if (run_path(path, sizeof(path), &e))
		return doctor_say(f, FAIL, "%.390s", e.msg);
	return look_space(f, path, MIB(64));
}

static enum status look_guest(const struct check *c, struct finding *f)
{
	char path[PATH_MAX];
	struct err e;

	if (guest_program_path(c->arg, path, sizeof(path), &e))
		return doctor_say(f, FAIL, "%.390s", e.msg);
	return doctor_say(f, OK, "%.390s", path);
}

static enum status look_networks(const struct check *c, struct finding *f)
{
	json_t *list = NULL;
	enum status s;
	struct err e;

	(void)c;
	if (proc_have("nft", "nftables", &e) || network_obstacles(&list, &e))
		return doctor_say(f, WARN, "%.390s", e.msg);
	if (json_array_size(list))
		s = doctor_say(f, WARN, "%.390s", json_string_value(json_array_get(list, 0)));
	else
		s = doctor_say(f, OK, "nft; nothing drops what is forwarded");
	json_decref(list);
	return s;
}

static enum status look_tools(const struct check *c, struct finding *f)
{
	static const char *const tools[][2] = {
		{ "mmdebstrap", "mmdebstrap" }, { "mke2fs", "e2fsprogs" },
		{ "apt-get", "apt" },		{ "dpkg-deb", "dpkg" },
		{ "depmod", "kmod" },		{ "busybox", "busybox-static" },
	};
	char missing[200] = "", packages[200] = "";

	(void)c;
	for (size_t i = 0; i < ARRAY_SIZE(tools); i++) {
		size_t m = strlen(missing), p = strlen(packages);

		if (!proc_have(tools[i][0], tools[i][1], NULL))
			continue;
		snprintf(missing + m, sizeof(missing) - m, " %s", tools[i][0]);
		snprintf(packages + p, sizeof(packages) - p, " %s", tools[i][1]);
	}
	if (!*missing)
		return doctor_say(f, OK, "all there");
	snprintf(f->advice, sizeof(f->advice), "apt install%s", packages);
	return doctor_say(f, WARN, "missing:%s", missing);
}

static const struct check checks[] = {
	{ "kvm", look_kvm, "/dev/kvm",
	  "turn on virtualisation in the firmware (in a VM: nested), then modprobe kvm_intel or "
	  "kvm_amd" },
	{ "kvm-guests", look_guests, NULL,
	  "use a host with hardware virtualisation; the tests bring an emulated one (make rig)" },
	{ "guest-agent", look_guest, "clone-agent", "make guest, or set CLONE_LIBDIR" },
	{ "guest-init", look_guest, "clone-init", "make guest, or set CLONE_LIBDIR" },
	{ "vhost-net", look_device, "/dev/vhost-net", "modprobe vhost_net, for fast networking" },
	{ "vhost-vsock", look_optional, "/dev/vhost-vsock", NULL },
	{ "tun", look_device, "/dev/net/tun", "modprobe tun, for networking" },
	{ "networks", look_networks, NULL, "for networks; VMs run without (--network none)" },
	{ "ksm", look_ksm, KSM_DIR,
	  "a kernel with CONFIG_KSM, if pages are to be merged on request" },
	{ "cgroup", look_cgroup, "/sys/fs/cgroup", "mount -o remount,favordynmods /sys/fs/cgroup" },
	{ "memory-quota", look_quota, NULL, NULL },
	{ "swap", look_swap, "/proc/swaps", NULL },
	{ "huge-pages", look_thp, "/sys/kernel/mm/transparent_hugepage",
	  "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" },
	{ "nx-huge-pages", look_nx, "/sys/module/kvm/parameters/nx_huge_pages",
	  "if the CPU is not affected by iTLB multihit: boot with kvm.nx_huge_pages=never" },
	{ "open-files", look_nofile, NULL, "ulimit -n 65536, for many forks at once" },
	{ "processes", look_nproc, NULL, "ulimit -u 65536, for many VMs" },
	{ "overcommit", look_overcommit, "/proc/sys/vm/overcommit_memory",
	  "sysctl vm.overcommit_memory=0" },
	{ "io-uring", look_uring, "/proc/sys/kernel/io_uring_disabled",
	  "sysctl kernel.io_uring_disabled=0" },
	{ "state-dir", look_state, NULL, "make room or permission there, or set CLONE_STATE_DIR" },
	{ "run-dir", look_run, NULL, "make room or permission there, or set CLONE_RUN_DIR" },
	{ "image-tools", look_tools, NULL, NULL },
};

/* Runs one check. Advice is only for those who need it. */
static enum status run_check(const struct check *c, struct finding *f)
{
	enum status s;

	*f = (struct finding){ 0 };
	s = c->look(c, f);
	if (s == OK)
		f->advice[0] = '\0';
	else if (!*f->advice && c->advice)
		snprintf(f->advice, sizeof(f->advice), "%s", c->advice);
	return s;
}

static void print_finding(const struct check *c, enum status s, const struct finding *f)
{
	static const char *const colour[] = { "\033[32m", "\033[33m", "\033[31m" };
	bool on = cli_colour();
	char found[sizeof(f->found)];

	cli_clean(f->found, found, sizeof(found));
	printf("%s%-5s%s%-14s %s\n", on ? colour[s] : "", status_text[s], on ? "\033[0m" : "",
	       c->name, found);
	if (*f->advice)
		printf("%20s-> %s\n", "", f->advice);
}

int cmd_doctor(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	json_t *all = NULL;
	bool json = false, failed = false;
	int opt, r;

	opterr = 0;
	while ((opt = getopt_long(argc, argv, "+o:", opts, NULL)) != -1) {
		if (opt != 'o')
			return cli_bad_option("doctor", argv);
		if (!cli_output_json("doctor", optarg, &json))
			return CLI_USAGE;
	}
	if (optind < argc)
		return cli_usage("doctor", "'%s' is not expected", argv[optind]);
	if (json)
		all = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(checks); i++) {
		struct finding f;
		enum status s = run_check(&checks[i], &f);

		failed |= s == FAIL;
		if (json)
			json_array_append_new(all,
					      json_pack("{s:s, s:s, s:s, s:s}", "name",
							checks[i].name, "status", status_text[s],
							"found", f.found, "advice", f.advice));
		else
			print_finding(&checks[i], s, &f);
	}
	r = json ? cli_print_json(all) : cli_flush();
	return r ? r : failed ? CLI_FAIL : CLI_OK;
}
