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
	"  -q, --quiet        no progress\n";

enum { O_SIZE = 1000, O_FORMAT, O_CLUSTER, O_BACKING, O_REPAIR };

struct disk_args {
	uint64_t size, cluster;
	unsigned int cluster_bits; /* 0: not said */
	char *backing;
	bool raw, repair, json, quiet;
};

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
static int parse(struct disk_args *a, int argc, char **argv, int n, const char *want)
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
static int parse_disk(char *spec, struct launch_disk *d, struct err *e)
{
	struct launch_vm vm = { .ndisks = 0 };
	int r = launch_disk_option(&vm, "disk", spec, e);

	if (r)
		return r;
	*d = vm.disks[0];
	if (d->read_only || d->persistent || d->serial || d->bandwidth || d->iops || d->quota)
		return err_set(e, EINVAL, "%s: only format= and backing= are for a file", d->path);
	return 0;
}

/* Opens what DISK names, with all that it stands on. */
static int open_disk(char *spec, struct disk_files *f, struct err *e)
{
	struct launch_disk d;
	int r = parse_disk(spec, &d, e);

	return r ? r : disk_files_open(d.path, d.qcow2, d.backing_dir, f, e);
}

static int open_source(const struct disk_files *f, struct source **s, struct err *e)
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
	int r = open_disk(a->backing, f, e);

	if (!r)
		r = open_source(f, &s, e);
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

	r = parse(&a, argc, argv, 1, "one file to create");
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

/* ---- info ---- */

static json_t *describe_file(const struct disk_file *f, struct err *e)
{
	struct qcow2_head h;
	struct stat st;
	uint64_t bytes = 0;
	json_t *j;
	int r;

	if (fstat(f->fd, &st)) {
		err_sys(e, errno, "%s", f->path);
		return NULL;
	}
	if (blk_base_bytes(f->fd, &bytes, e))
		return NULL;
	j = json_pack("{s:s, s:s, s:I, s:I}", "path", f->path, "format", f->qcow2 ? "qcow2" : "raw",
		      "file_bytes", (json_int_t)bytes, "used_bytes",
		      (json_int_t)st.st_blocks * 512);
	if (!j)
		err_set(e, EILSEQ, "%s: its name is not UTF-8", f->path);
	if (!f->qcow2 || !j)
		return j;
	r = qcow2_read_head(f->fd, bytes, &h, e);
	if (r) {
		err_wrap(e, r, "%s", f->path);
		json_decref(j);
		return NULL;
	}
	json_object_update_new(
		j,
		json_pack("{s:I, s:i, s:I, s:s, s:i, s:b, s:b, s:i}", "size_bytes",
			  (json_int_t)h.size_bytes, "version", (int)h.version, "cluster_bytes",
			  (json_int_t)qcow2_cluster_bytes(&h), "compression",
			  h.zstd ? "zstd" : "zlib", "refcount_bits", (int)h.refcount_bits,
			  "lazy_refcounts", (h.compatible & QCOW2_LAZY_REFCOUNTS) != 0, "dirty",
			  (h.incompatible & QCOW2_DIRTY) != 0, "snapshots", (int)h.nr_snapshots));
	if (h.backing[0]) {
		json_t *name = json_string(h.backing), *format = json_string(h.backing_format);

		json_object_set_new(j, "backing", name ? name : json_string("(not UTF-8)"));
		json_object_set_new(j, "backing_format",
				    format ? format : json_string("(not UTF-8)"));
	}
	return j;
}

static int print_info(const json_t *info)
{
	char size[32], name[PATH_MAX];
	const json_t *f;
	size_t i;

	cli_format_size((uint64_t)json_integer_value(json_object_get(info, "size_bytes")), size,
			sizeof(size));
	printf("size      %s\n", size);
	json_array_foreach(json_object_get(info, "files"), i, f)
	{
		const json_t *cluster = json_object_get(f, "cluster_bytes");

		cli_format_size((uint64_t)json_integer_value(json_object_get(f, "used_bytes")),
				size, sizeof(size));
		cli_clean(json_string_value(json_object_get(f, "path")), name, sizeof(name));
		printf("%-9s %s (%s, %s used", i ? "  on" : "file", name,
		       json_string_value(json_object_get(f, "format")), size);
		if (cluster)
			printf(", clusters of %lld bytes", (long long)json_integer_value(cluster));
		if (json_is_true(json_object_get(f, "dirty")))
			printf(", not closed cleanly");
		if (i + 1 == json_array_size(json_object_get(info, "files")) &&
		    json_object_get(f, "backing")) {
			cli_clean(json_string_value(json_object_get(f, "backing")), name,
				  sizeof(name));
			printf(", stands on %s, not opened", name);
		}
		puts(")");
	}
	return cli_flush();
}

/* Without leave to open what it stands on, the file alone is described. */
static int open_to_describe(char *spec, struct disk_files *f, struct err *e)
{
	struct launch_disk d;
	int r = parse_disk(spec, &d, e);

	if (!r)
		r = disk_files_open(d.path, d.qcow2 && d.backing_dir, d.backing_dir, f, e);
	if (!r)
		f->file[0].qcow2 = d.qcow2;
	return r;
}

static int disk_info(int argc, char **argv)
{
	cleanup_json json_t *info = NULL;
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	uint64_t bytes = 0;
	struct err e = { "" };
	json_t *files = NULL;
	int r = parse(&a, argc, argv, 1, "one disk: FILE,format=...");

	if (r)
		return r;
	r = open_to_describe(argv[optind], &f, &e);
	if (!r)
		r = source_file_bytes(f.file[0].fd, f.file[0].qcow2 ? SOURCE_QCOW2 : SOURCE_RAW,
				      &bytes, &e);
	if (!r) {
		files = json_array();
		info = json_pack("{s:I, s:o}", "size_bytes", (json_int_t)bytes, "files", files);
	}
	for (size_t i = 0; i < f.n && !r; i++) {
		json_t *j = describe_file(&f.file[i], &e);

		r = j ? json_array_append_new(files, j) : -EINVAL;
	}
	disk_files_close(&f);
	if (r)
		return cli_fail(&e);
	return a.json ? cli_print_json(json_incref(info)) : print_info(info);
}

/* ---- check ---- */

static int print_report(const char *path, const struct qcow2_report *rep)
{
	printf("%s: %llu clusters, %llu of data, %llu compressed\n", path,
	       (unsigned long long)rep->clusters, (unsigned long long)rep->data,
	       (unsigned long long)rep->packed);
	if (rep->errors)
		printf("%llu errors; the first: %s\n", (unsigned long long)rep->errors, rep->first);
	if (rep->dirty)
		printf("it was not closed cleanly%s\n", rep->repaired ? "; counted anew" : "");
	if (rep->leaks)
		printf("%llu clusters are lost%s\n", (unsigned long long)rep->leaks,
		       rep->repaired ? " no longer" : "");
	return cli_flush();
}

static int disk_check(int argc, char **argv)
{
	struct qcow2_report rep = { 0 };
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	struct err e = { "" };
	int fd = -1, r, code;

	r = parse(&a, argc, argv, 1, "one qcow2 file");
	if (r)
		return r;
	/* one file, whatever it stands on */
	r = disk_files_open(argv[optind], false, NULL, &f, &e);
	if (!r && a.repair) {
		fd = disk_files_writable(&f, &e);
		r = MIN(fd, 0);
	}
	if (!r)
		r = qcow2_check(a.repair ? fd : f.file[0].fd, a.repair, &rep, &e);
	if (fd >= 0)
		close(fd);
	disk_files_close(&f);
	if (r) {
		err_wrap(&e, r, "%s", argv[optind]);
		return cli_fail(&e);
	}
	code = a.json ? cli_print_json(json_pack("{s:I, s:I, s:I, s:I, s:I, s:s, s:b, s:b}",
						 "clusters", (json_int_t)rep.clusters, "data",
						 (json_int_t)rep.data, "compressed",
						 (json_int_t)rep.packed, "leaks",
						 (json_int_t)rep.leaks, "errors",
						 (json_int_t)rep.errors, "first_error", rep.first,
						 "dirty", rep.dirty, "repaired", rep.repaired))
		      : print_report(argv[optind], &rep);
	if (code == CLI_OK && (rep.errors || ((rep.leaks || rep.dirty) && !rep.repaired)))
		code = CLI_FAIL;
	return code;
}

/* ---- export ---- */

static int disk_export(int argc, char **argv)
{
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	struct source *s = NULL;
	struct err e = { "" };
	int signals, r = parse(&a, argc, argv, 2, "a disk (FILE,format=...) and a new file");

	if (r)
		return r;
	if (a.raw && a.cluster_bits)
		return cli_usage("disk", "export: a raw file has no clusters");
	signals = cli_catch_signals(&e);
	if (signals < 0)
		return cli_fail(&e);
	r = open_disk(argv[optind], &f, &e);
	if (!r)
		r = open_source(&f, &s, &e);
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
		return disk_info(argc - 1, argv + 1);
	if (!strcmp(sub, "check"))
		return disk_check(argc - 1, argv + 1);
	if (!strcmp(sub, "export"))
		return disk_export(argc - 1, argv + 1);
	return cli_usage("disk", "create, info, check or export?");
}
