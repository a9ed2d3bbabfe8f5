/* SPDX-License-Identifier: MIT */
/*
 * clone disk: files that are disks, made, described, checked and copied. The formats are in
 * src/block; names in images are followed by diskfiles.c only.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk.h"
#include "block/qcow2.h"
#include "block/qcow2_tools.h"
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/disk_cmds.h"
#include "cli/diskcopy.h"
#include "cli/diskfiles.h"
#include "cli/launch.h"
#include "control/json.h"

const char cmd_disk_usage[] =
	"create FILE --size SIZE [--format qcow2|raw] [--cluster SIZE]\n"
	"       clone disk create FILE --backing DISK [--size SIZE] [--cluster SIZE]\n"
	"       clone disk info DISK [-o json]\n"
	"       clone disk check FILE [--repair] [-o json]\n"
	"       clone disk export DISK FILE [--format qcow2|raw] [--cluster SIZE] [-q]\n"
	"       clone disk resize DISK SIZE\n"
	"       clone disk resize VM ID SIZE\n"
	"       clone disk attach VM DISK[,OPTION]...\n"
	"       clone disk detach VM ID\n"
	"\n"
	"  DISK is FILE,format=raw or FILE,format=qcow2, with ,backing=DIR if a qcow2 may have "
	"the\n"
	"  files that it stands on opened, which must lie under DIR.\n"
	"\n"
	"      --size SIZE    of the disk; default: as what it stands on\n"
	"      --format F     of the new file; default qcow2\n"
	"      --cluster S    of a qcow2: 512 bytes to 2M, a power of two; default 64K\n"
	"      --backing D    a qcow2 that stands on D, which is not written from then on\n"
	"      --repair       give lost space back, and count anew what was not closed cleanly\n"
	"  -q, --quiet        no progress\n"
	"\n"
	"A disk only grows. ID is a VM's disk: disk0, disk1 ... (clone inspect). attach puts a "
	"disk into\n"
	"an empty bay (--bays) of a VM that runs, with the OPTIONs of clone run --disk but "
	"readonly and\n"
	"serial, and prints its ID; the guest sees a disk of no size grow. detach takes it out "
	"again:\n"
	"unmount it first. What was written to one that is not persistent is gone then.\n";

enum { O_SIZE = 1000, O_FORMAT, O_CLUSTER, O_BACKING, O_REPAIR };

static int take_option(void *arg, int opt, struct err *e)
{
	struct disk_args *a = arg;

	switch (opt) {
	case O_SIZE:
		return cli_parse_size(optarg, &a->size, e);
	case O_FORMAT:
		a->raw = !strcmp(optarg, "raw");
		return a->raw || !strcmp(optarg, "qcow2")
			       ? 0
			       : err_set(e, EINVAL, "--format: '%s' is neither qcow2 nor raw",
					 optarg);
	case O_CLUSTER:
		a->cluster = 512;
		if (strcmp(optarg, "512") && cli_parse_size(optarg, &a->cluster, e))
			return err_wrap(e, -EINVAL, "--cluster");
		a->cluster_bits = (unsigned int)__builtin_ctzll(a->cluster);
		return a->cluster == 1ull << a->cluster_bits && a->cluster <= MIB(2)
			       ? 0
			       : err_set(e, EINVAL, "--cluster: %s is none of 512, 1K, 2K ... 2M",
					 optarg);
	case O_BACKING:
		a->backing = optarg;
		return 0;
	case O_REPAIR:
		a->repair = true;
		return 0;
	case 'q':
		a->quiet = true;
		return 0;
	case 'o':
		return cli_output_json("disk", optarg, &a->json) ? 0 : -ECANCELED;
	default:
		return -ENOSYS;
	}
}

/* The words behind the options: exactly n of them. */
int disk_cmd_parse(struct disk_args *a, int argc, char **argv, int n, const char *want)
{
	static const struct option opts[] = {
		{ "size", required_argument, NULL, O_SIZE },
		{ "format", required_argument, NULL, O_FORMAT },
		{ "cluster", required_argument, NULL, O_CLUSTER },
		{ "backing", required_argument, NULL, O_BACKING },
		{ "repair", no_argument, NULL, O_REPAIR },
		{ "quiet", no_argument, NULL, 'q' },
		{ "output", required_argument, NULL, 'o' },
		{ NULL, 0, NULL, 0 },
	};
	int r = cli_options("disk", argc, argv, "qo:", opts, take_option, a);

	if (r)
		return r;
	return argc - optind == n ? CLI_OK : cli_usage("disk", "give %s", want);
}

/* DISK in words. */
int disk_cmd_disk(char *spec, struct launch_disk *d, struct err *e)
{
	struct launch_vm vm = { .ndisks = 0 };
	int r = launch_disk_option(&vm, "disk", spec, e);

	if (r)
		return r;
	*d = vm.disks[0];
	if (d->read_only || d->persistent || d->direct || d->serial || d->bandwidth || d->iops ||
	    d->quota)
		return err_set(e, EINVAL, "%s: only format= and backing= are for a file", d->path);
	return 0;
}

/* Opens what DISK names, with all that it stands on. */
int disk_cmd_open(char *spec, struct disk_files *f, struct err *e)
{
	struct launch_disk d;
	int r = disk_cmd_disk(spec, &d, e);

	return r ? r : disk_files_open(d.path, d.qcow2, d.backing_dir, f, e);
}

int disk_cmd_source(const struct disk_files *f, struct source **s, struct err *e)
{
	struct source_file files[SOURCE_FILES];

	for (size_t i = 0; i < f->n; i++)
		files[i] = (struct source_file){ fcntl(f->file[i].fd, F_DUPFD_CLOEXEC, 0),
						 f->file[i].qcow2 ? SOURCE_QCOW2 : SOURCE_RAW };
	return source_open(files, (unsigned int)f->n, s, e);
}

/* ---- create ---- */

/* The name that the new image refers to its base by: absolute. */
static int base_of(struct disk_args *a, struct qcow2_new *n, struct disk_files *f, struct err *e)
{
	struct source *s = NULL;
	int r = disk_cmd_open(a->backing, f, e);

	if (!r)
		r = disk_cmd_source(f, &s, e);
	if (r)
		return r;
	n->backing = f->file[0].path;
	n->backing_format = f->file[0].qcow2 ? "qcow2" : "raw";
	n->size_bytes = a->size ? a->size : ROUND_UP(source_bytes(s), (uint64_t)BLK_SECTOR);
	source_close(s, NULL);
	return 0;
}

static int disk_create(int argc, char **argv)
{
	struct disk_files base = { 0 };
	struct disk_args a = { 0 };
	struct qcow2_new n = { 0 };
	struct err e = { "" };
	const char *path;
	int fd = -1, r;

	r = disk_cmd_parse(&a, argc, argv, 1, "one file to create");
	if (r)
		return r;
	path = argv[optind];
	if (!a.size && !a.backing)
		return cli_usage("disk", "create: --size, or --backing?");
	if (a.raw && (a.backing || a.cluster_bits))
		return cli_usage("disk",
				 "create: a raw file stands on nothing and has no clusters");
	n = (struct qcow2_new){ .size_bytes = a.size, .cluster_bits = a.cluster_bits };
	if (a.backing)
		r = base_of(&a, &n, &base, &e);
	if (!r) {
		fd = disk_new_file(path, &e);
		r = MIN(fd, 0);
	}
	if (!r && a.raw && ftruncate(fd, (off_t)a.size))
		r = err_sys(&e, errno, "%s", path);
	else if (!r && !a.raw)
		r = qcow2_create(fd, &n, &e);
	if (r && fd >= 0)
		unlink(path);
	if (fd >= 0)
		close(fd);
	disk_files_close(&base);
	return r ? cli_fail(&e) : CLI_OK;
}

/* ---- export ---- */

static int disk_export(int argc, char **argv)
{
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	struct source *s = NULL;
	struct err e = { "" };
	int signals,
		r = disk_cmd_parse(&a, argc, argv, 2, "a disk (FILE,format=...) and a new file");

	if (r)
		return r;
	if (a.raw && a.cluster_bits)
		return cli_usage("disk", "export: a raw file has no clusters");
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = disk_cmd_open(argv[optind], &f, &e);
	if (!r)
		r = disk_cmd_source(&f, &s, &e);
	if (!r)
		r = disk_copy(s, argv[optind + 1],
			      &(struct disk_copy){ .raw = a.raw,
						   .quiet = a.quiet,
						   .cluster_bits = a.cluster_bits,
						   .signals = signals },
			      &e);
	source_close(s, NULL);
	disk_files_close(&f);
	return r ? cli_fail(&e) : CLI_OK;
}

int cmd_disk(int argc, char **argv)
{
	const char *sub = argc > 1 ? argv[1] : "";

	opterr = 0;
	if (!strcmp(sub, "create"))
		return disk_create(argc - 1, argv + 1);
	if (!strcmp(sub, "info"))
		return disk_cmd_info(argc - 1, argv + 1);
	if (!strcmp(sub, "check"))
		return disk_cmd_check(argc - 1, argv + 1);
	if (!strcmp(sub, "export"))
		return disk_export(argc - 1, argv + 1);
	if (!strcmp(sub, "resize"))
		return disk_cmd_resize(argc - 1, argv + 1);
	if (!strcmp(sub, "attach"))
		return disk_cmd_attach(argc - 1, argv + 1);
	if (!strcmp(sub, "detach"))
		return disk_cmd_detach(argc - 1, argv + 1);
	return cli_usage("disk", "create, info, check, export, resize, attach or detach?");
}
