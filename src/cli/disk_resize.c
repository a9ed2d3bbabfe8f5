/* SPDX-License-Identifier: MIT */
/*
 * clone disk resize, attach, detach: of a file that no VM has, or of a VM that runs. See
 * disk_cmds.h.
 */
#include "cli/disk_cmds.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk.h"
#include "block/source.h"
#include "cli/cli.h"
#include "cli/disk_live.h"
#include "event/fdtab.h"
#include "event/loop.h"

/* The same engine as a VM's, with nobody else who uses it. base and data are owned. */
static int grow(enum blk_writes writes, struct source *base, int data, uint64_t bytes,
		struct err *e)
{
	struct blk_cfg cfg = { .writes = writes };
	pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct fdtab *fds = NULL;
	struct loop *loop = NULL;
	struct blk *b = NULL;
	int r = blk_create(&cfg, base, data, &b, e), end;

	if (!r)
		r = fdtab_create(&fds, e);
	if (!r)
		r = loop_create(&lock, &loop, e);
	if (!r)
		r = blk_adopt(b, loop, fds, -1, e);
	if (!r)
		r = blk_grow(b, bytes, e);
	end = b ? blk_finish(b) : 0;
	if (!r && end)
		r = err_sys(e, -end, "write");
	blk_destroy(b);
	if (loop)
		loop_destroy(loop);
	if (fds)
		fdtab_destroy(fds);
	return r;
}

static int resize_file(char *spec, uint64_t bytes, struct err *e)
{
	struct disk_files f = { 0 };
	struct source *s = NULL;
	int r = disk_cmd_open(spec, &f, e), data;
	bool qcow2;

	if (r)
		return r;
	qcow2 = f.file[0].qcow2;
	data = disk_files_writable(&f, e);
	r = MIN(data, 0);
	if (!r && qcow2)
		r = disk_cmd_source(&f, &s, e);
	if (!r)
		r = grow(qcow2 ? BLK_IN_QCOW2 : BLK_IN_RAW, s, take_fd(&data), bytes, e);
	if (data >= 0)
		close(data);
	disk_files_close(&f);
	return r ? err_wrap(e, r, "%s", spec) : 0;
}

static int with_vm(const char *name, struct vmproc *p, struct err *e)
{
	int r = cli_name_check("VM", name, e);

	return r ? r : vmproc_attach(name, -1, p, e);
}

int disk_cmd_resize(int argc, char **argv)
{
	bool live = argc > 3;
	struct disk_args a = { 0 };
	struct err e = { "" };
	struct vmproc p;
	uint64_t bytes;
	int r = disk_cmd_parse(&a, argc, argv, live ? 3 : 2, "DISK SIZE, or VM ID SIZE");

	if (r)
		return r;
	r = cli_parse_size(argv[argc - 1], &bytes, &e);
	if (!r && live) {
		r = with_vm(argv[optind], &p, &e);
		if (!r) {
			r = disk_live_resize(&p, argv[optind + 1], bytes, &e);
			disk_live_until_seen(&p);
			vmproc_close(&p);
		}
	} else if (!r) {
		r = resize_file(argv[optind], bytes, &e);
	}
	return r ? cli_fail(&e) : CLI_OK;
}

int disk_cmd_attach(int argc, char **argv)
{
	struct launch_vm vm = { .ndisks = 0 };
	struct disk_args a = { 0 };
	struct err e = { "" };
	struct vmproc p;
	int r = disk_cmd_parse(&a, argc, argv, 2, "a VM and a disk");

	if (r)
		return r;
	r = launch_disk_option(&vm, "disk", argv[optind + 1], &e);
	if (!r)
		r = with_vm(argv[optind], &p, &e);
	if (r)
		return cli_fail(&e);
	r = disk_live_attach(&p, &vm.disks[0], &e);
	disk_live_until_seen(&p);
	vmproc_close(&p);
	if (r)
		return cli_fail(&e);
	puts(vm.disks[0].id);
	return cli_flush();
}

int disk_cmd_detach(int argc, char **argv)
{
	struct disk_args a = { 0 };
	struct err e = { "" };
	struct vmproc p;
	int r = disk_cmd_parse(&a, argc, argv, 2, "a VM and its disk's ID");

	if (r)
		return r;
	r = with_vm(argv[optind], &p, &e);
	if (!r) {
		r = disk_live_detach(&p, argv[optind + 1], &e);
		disk_live_until_seen(&p);
		vmproc_close(&p);
	}
	return r ? cli_fail(&e) : CLI_OK;
}
