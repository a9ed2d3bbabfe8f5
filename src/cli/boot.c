/* SPDX-License-Identifier: MIT */
/*
 * From an empty VM process to a booting VM: descriptors granted under their paths, then the
 * configuring requests in the order of doc/control.md. See launch.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/launch.h"
#include "control/json.h"

#define INITRD_NAME "initrd" /* of one that we composed: it has no path */
#define GUEST_CID 3

static int open_input(const char *what, const char *path, struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s %s", what, path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "%s %s: is neither a file nor a block device", what,
			       path);
	if (S_ISREG(st.st_mode) && !st.st_size)
		return err_set(e, EINVAL, "%s %s: is empty", what, path);
	fcntl(fd, F_SETFL, 0);
	return take_fd(&fd);
}

/* Grants one descriptor and closes ours. */
static int grant(struct vmproc *p, const char *name, int fd, struct err *e)
{
	int r = fd < 0 ? fd : client_grant(p->fdsock, &name, &fd, 1, e);

	if (fd >= 0)
		close(fd);
	return r;
}

static int put(struct vmproc *p, const char *path, json_t *body, struct err *e)
{
	int r = body ? vmproc_request(p, "PUT", path, body, LAUNCH_MS, NULL, e)
		     : err_set(e, EINVAL, "%s: a value is not valid UTF-8", path);

	json_decref(body);
	return r;
}

static int put_disk(struct vmproc *p, const struct launch_disk *d, struct err *e)
{
	char path[64];
	int r = grant(p, d->path, open_input("disk", d->path, e), e);

	if (!r && !d->read_only)
		r = launch_grant_overlay(p->fdsock, "", d->id, e);
	if (r)
		return r;
	snprintf(path, sizeof(path), "/drives/%s", d->id);
	return put(p, path,
		   json_pack("{s:s, s:s, s:b, s:b}", "drive_id", d->id, "path_on_host", d->path,
			     "is_root_device", d->root, "is_read_only", d->read_only),
		   e);
}

static int put_boot(struct vmproc *p, const struct launch_vm *vm, struct err *e)
{
	const char *initrd = vm->initrd_fd >= 0 ? INITRD_NAME : vm->initrd;
	int r = grant(p, vm->kernel, open_input("kernel", vm->kernel, e), e);

	if (!r && vm->initrd_fd >= 0)
		r = client_grant(p->fdsock, &initrd, &vm->initrd_fd, 1, e);
	else if (!r && initrd)
		r = grant(p, initrd, open_input("initrd", initrd, e), e);
	if (r)
		return r;
	return put(p, "/boot-source",
		   json_pack("{s:s, s:s*, s:s}", "kernel_image_path", vm->kernel, "initrd_path",
			     initrd, "boot_args", vm->cmdline),
		   e);
}

int launch_boot(struct vmproc *p, const struct launch_vm *vm, struct err *e)
{
	int r = put(p, "/machine-config",
		    json_pack("{s:i, s:I}", "vcpu_count", (int)vm->vcpus, "mem_size_mib",
			      (json_int_t)(vm->mem_bytes >> 20)),
		    e);

	if (!r)
		r = put_boot(p, vm, e);
	for (size_t i = 0; i < vm->ndisks && !r; i++)
		r = put_disk(p, &vm->disks[i], e);
	if (!r)
		r = put(p, "/vsock",
			json_pack("{s:i, s:s}", "guest_cid", GUEST_CID, "uds_path", "vsock.sock"),
			e);
	if (!r)
		r = put(p, "/entropy", json_object(), e);
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
