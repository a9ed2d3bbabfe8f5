/* SPDX-License-Identifier: MIT */
/*
 * From an empty VM process to a booting VM: descriptors granted under their paths, then the
 * configuring requests in the order of doc/control.md. See launch.h.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/launch.h"
#include "cli/nics.h"
#include "control/json.h"

#define INITRD_NAME "initrd" /* of one that we composed: it has no path */
#define GUEST_CID 3

/* Grants one descriptor and closes ours. */
static int grant(struct vmproc *p, const char *name, int fd, struct err *e)
{
	int r = fd < 0 ? fd : client_grant(p->fdsock, &name, &fd, 1, e);

	if (fd >= 0)
		close(fd);
	return r;
}

static int send(struct vmproc *p, const char *method, const char *path, json_t *body, struct err *e)
{
	int r = body ? vmproc_request(p, method, path, body, LAUNCH_MS, NULL, e)
		     : err_set(e, EINVAL, "%s: a value is not valid UTF-8", path);

	json_decref(body);
	return r;
}

static int put(struct vmproc *p, const char *path, json_t *body, struct err *e)
{
	return send(p, "PUT", path, body, e);
}

/* The chain under a disk: granted, and as the request names it. */
static int grant_backing(struct vmproc *p, const struct launch_disk *d, const struct disk_files *f,
			 json_t *list, struct err *e)
{
	for (size_t i = 1; i < f->n; i++) {
		char name[96];
		const char *const names[] = { name };
		int r;

		snprintf(name, sizeof(name), "disk/%s/backing/%zu", d->id, i);
		r = client_grant(p->fdsock, names, &f->file[i].fd, 1, e);
		if (r)
			return r;
		if (json_array_append_new(list,
					  json_pack("{s:s, s:s}", "path_on_host", name, "format",
						    f->file[i].qcow2 ? "qcow2" : "raw")))
			return err_set(e, ENOMEM, "out of memory");
	}
	return 0;
}

/* The disk's own file once more, for its one writer. */
static int grant_writable(struct vmproc *p, const struct launch_disk *d, struct disk_files *f,
			  struct err *e)
{
	char name[64];
	int fd = disk_files_writable(f, e), r;

	snprintf(name, sizeof(name), "disk/%s/data", d->id);
	r = grant(p, name, fd, e);
	if (r || !d->direct)
		return r;
	snprintf(name, sizeof(name), "disk/%s/direct", d->id);
	return grant(p, name, disk_files_direct(f, e), e);
}

static json_t *per_second(uint64_t n)
{
	return n ? json_pack("{s:I, s:i}", "size", (json_int_t)n, "refill_time", 1000) : NULL;
}

/* NULL: none were said. */
static json_t *limits(const struct launch_disk *d)
{
	return d->bandwidth || d->iops
		       ? json_pack("{s:o*, s:o*}", "bandwidth", per_second(d->bandwidth), "ops",
				   per_second(d->iops))
		       : NULL;
}

int launch_put_disk(struct vmproc *p, const char *method, const struct launch_disk *d,
		    struct disk_files *f, struct err *e)
{
	json_t *backing = json_array();
	char path[64];
	int r = client_grant(p->fdsock, &d->path, &f->file[0].fd, 1, e);

	if (!r)
		r = grant_backing(p, d, f, backing, e);
	if (!r && d->persistent)
		r = grant_writable(p, d, f, e);
	else if (!r && !d->read_only)
		r = launch_grant_overlay(p->fdsock, "", d->id, e);
	if (r) {
		json_decref(backing);
		return r;
	}
	snprintf(path, sizeof(path), "/drives/%s", d->id);
	return send(p, method, path,
		    json_pack("{s:s, s:s, s:s, s:o, s:s, s:b, s:b, s:b, s:b, s:I, s:o*}",
			      "drive_id", d->id, "path_on_host", d->path, "format",
			      d->qcow2 ? "qcow2" : "raw", "backing", backing, "serial",
			      d->serial ? d->serial : "", "is_root_device", d->root, "is_read_only",
			      d->read_only, "direct", d->direct, "persistent", d->persistent,
			      "quota_bytes", (json_int_t)d->quota, "rate_limiter", limits(d)),
		    e);
}

static int put_bay(struct vmproc *p, size_t i, struct err *e)
{
	char id[32], path[64];

	snprintf(id, sizeof(id), "disk%zu", i);
	snprintf(path, sizeof(path), "/drives/%s", id);
	return put(p, path, json_pack("{s:s}", "drive_id", id), e);
}

static int put_boot(struct vmproc *p, const struct launch_vm *vm, struct err *e)
{
	const char *initrd = vm->initrd_fd >= 0 ? INITRD_NAME : vm->initrd;
	int r = grant(p, vm->kernel, disk_input_open("kernel", vm->kernel, e), e);

	if (!r && vm->initrd_fd >= 0)
		r = client_grant(p->fdsock, &initrd, &vm->initrd_fd, 1, e);
	else if (!r && initrd)
		r = grant(p, initrd, disk_input_open("initrd", initrd, e), e);
	if (r)
		return r;
	return put(p, "/boot-source",
		   json_pack("{s:s, s:s*, s:s}", "kernel_image_path", vm->kernel, "initrd_path",
			     initrd, "boot_args", vm->cmdline),
		   e);
}

void launch_vm_fini(struct launch_vm *vm)
{
	for (size_t i = 0; i < vm->ndisks; i++)
		disk_files_close(&vm->files[i]);
}

int launch_boot(struct vmproc *p, struct launch_vm *vm, struct err *e)
{
	int r = put(p, "/machine-config",
		    json_pack("{s:i, s:I}", "vcpu_count", (int)vm->vcpus, "mem_size_mib",
			      (json_int_t)(vm->mem_bytes >> 20)),
		    e);
	size_t numbered = 0;

	if (!r)
		r = put_boot(p, vm, e);
	for (size_t i = 0; i < vm->ndisks && !r; i++) {
		const struct launch_disk *d = &vm->disks[i];

		numbered += !strncmp(d->id, "disk", 4); /* an image's is "root" */
		r = disk_files_open(d->path, d->qcow2, d->backing_dir, &vm->files[i], e);
		if (!r)
			r = launch_put_disk(p, "PUT", d, &vm->files[i], e);
	}
	for (size_t i = 0; i < vm->bays && !r; i++)
		r = put_bay(p, numbered + i, e);
	if (!r && vm->nics)
		r = nics_put(p, vm->nics, vm->ports, e);
	if (!r)
		r = put(p, "/vsock",
			json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path", "vsock.sock"),
			e);
	if (!r)
		r = put(p, "/entropy", json_object(), e);
	if (!r && !vm->no_balloon)
		r = put(p, "/balloon",
			json_pack("{s:i, s:b}", "amount_mib", 0, "deflate_on_oom", 1), e);
	if (!r)
		r = put(p, "/actions", json_pack("{s:s}", "action_type", "InstanceStart"), e);
	return r;
}

int launch_wait_agent(struct vmproc *p, uint64_t timeout_ms, struct err *e)
{
	cleanup_json json_t *body =
		json_pack("{s:s, s:I}", "action", "wait", "timeout_ms", (json_int_t)timeout_ms);
	int r = vmproc_request(p, "PUT", "/agent", body, timeout_ms + LAUNCH_MS, NULL, e);

	return r ? err_wrap(e, r, "waiting for the guest's agent") : 0;
}
