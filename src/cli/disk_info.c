/* SPDX-License-Identifier: MIT */
/*
 * clone disk info and check: what a file is, and whether it is whole. See disk_cmds.h.
 */
#include "cli/disk_cmds.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk.h"
#include "block/qcow2.h"
#include "block/qcow2_tools.h"
#include "block/source.h"
#include "cli/cli.h"
#include "control/json.h"

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
	int r = disk_cmd_disk(spec, &d, e);

	if (!r)
		r = disk_files_open(d.path, d.qcow2 && d.backing_dir, d.backing_dir, f, e);
	if (!r)
		f->file[0].qcow2 = d.qcow2;
	return r;
}

int disk_cmd_info(int argc, char **argv)
{
	cleanup_json json_t *info = NULL;
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	uint64_t bytes = 0;
	struct err e = { "" };
	json_t *files = NULL;
	int r = disk_cmd_parse(&a, argc, argv, 1, "one disk: FILE,format=...");

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

int disk_cmd_check(int argc, char **argv)
{
	struct qcow2_report rep = { 0 };
	struct disk_files f = { 0 };
	struct disk_args a = { 0 };
	struct err e = { "" };
	int fd = -1, r, code;

	r = disk_cmd_parse(&a, argc, argv, 1, "one qcow2 file");
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
