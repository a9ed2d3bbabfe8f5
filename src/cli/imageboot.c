/* SPDX-License-Identifier: MIT */
/*
 * Booting from an image. See imageboot.h.
 */
#include "cli/imageboot.h"
#include "cli/nics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/cli.h"
#include "image/initrd.h"

#define DEFAULT_CMDLINE "console=ttyS0 panic=-1"
#define BUSYBOX "/bin/busybox" /* the user space of a guest without a disk */

static int set_cmdline(struct image_boot *b, const char *base, const char *append,
		       struct launch_vm *vm, struct err *e)
{
	/* psi=1: without it Debian's kernel does not say when it is short of memory (vm/squeeze.h)
	 */
	if (asprintf(&b->cmdline, "%s psi=1%s%s", base, append ? " " : "", append ? append : "") <
	    0) {
		b->cmdline = NULL;
		return err_set(e, ENOMEM, "out of memory");
	}
	vm->cmdline = b->cmdline;
	return 0;
}

int image_boot_prepare(struct image_boot *b, const char *image, const char *append,
		       struct launch_vm *vm, struct err *e)
{
	struct initrd_cfg cfg = { 0 };
	int r = image_open(image, &b->img, e);

	if (r)
		return r;
	cfg.kernel = b->img.kernel;
	cfg.modules_dir = b->img.modules;
	cfg.root_fstype = b->img.root_fstype;
	r = initrd_compose(&cfg, &b->initrd_fd, e);
	if (r)
		return err_wrap(e, r, "image %s", image);
	vm->kernel = b->img.kernel;
	vm->initrd_fd = b->initrd_fd;
	if (vm->ndisks == LAUNCH_DISKS)
		return err_set(e, EINVAL, "--disk: at most %d disks besides the image's",
			       LAUNCH_DISKS - 1);
	memmove(&vm->disks[1], &vm->disks[0], vm->ndisks++ * sizeof(vm->disks[0]));
	vm->disks[0] =
		(struct launch_disk){ .id = ROOT_DISK_ID, .path = b->img.rootfs, .root = true };
	for (size_t i = 1; i < vm->ndisks; i++)
		vm->disks[i].root = false;
	return set_cmdline(b, b->img.cmdline, append, vm, e);
}

/* The value of KEY= in a command line, the last one counting; NULL when it is not there. */
static const char *cmdline_value(const char *words, const char *key, char *buf, size_t n)
{
	const char *found = NULL;
	size_t len = strlen(key);

	for (const char *p = words; p && *p; p += strcspn(p, " ")) {
		p += strspn(p, " ");
		if (strncmp(p, key, len) || p[len] != '=')
			continue;
		snprintf(buf, n, "%.*s", (int)strcspn(p + len + 1, " "), p + len + 1);
		found = buf;
	}
	return found;
}

static int compose_for_kernel(struct image_boot *b, const char *append, const struct launch_vm *vm,
			      struct err *e)
{
	struct initrd_cfg cfg = { .kernel = vm->kernel };
	char fstype[16];
	int r;

	cfg.root_fstype = cmdline_value(append, "rootfstype", fstype, sizeof(fstype));
	if (!vm->ndisks && !access(BUSYBOX, X_OK))
		cfg.busybox = BUSYBOX;
	r = initrd_compose(&cfg, &b->initrd_fd, e);
	if (r == -ENOENT && !access(vm->kernel, F_OK)) {
		struct err why = *e;

		err_set(e, ENOENT, "%.420s; give --initrd FILE, or --initrd none if it needs none",
			why.msg);
	}
	return r;
}

int kernel_boot_prepare(struct image_boot *b, const char *append, struct launch_vm *vm,
			struct err *e)
{
	const char *base = DEFAULT_CMDLINE;
	char root[64];
	int r;

	if (!vm->initrd) {
		r = compose_for_kernel(b, append, vm, e);
		if (r)
			return r;
		vm->initrd_fd = b->initrd_fd;
	} else if (!strcmp(vm->initrd, "none")) {
		vm->initrd = NULL;
	}
	if (vm->ndisks && !cmdline_value(append, "root", root, sizeof(root)))
		base = vm->disks[0].read_only ? DEFAULT_CMDLINE " root=/dev/vda ro"
					      : DEFAULT_CMDLINE " root=/dev/vda rw";
	return set_cmdline(b, base, append, vm, e);
}

void image_boot_fini(struct image_boot *b)
{
	if (b->initrd_fd >= 0)
		close(take_fd(&b->initrd_fd));
	free(take_ptr(b->cmdline));
}

json_t *launch_disk_info(const struct launch_disk *d, const struct disk_files *f)
{
	json_t *files = json_array();

	for (size_t i = 0; i < f->n; i++)
		json_array_append_new(files,
				      json_pack("{s:s, s:s}", "path", f->file[i].path, "format",
						f->file[i].qcow2 ? "qcow2" : "raw"));
	return json_pack("{s:s, s:s, s:b, s:o}", "id", d->id, "path", d->path, "read_only",
			 d->read_only, "files", files);
}

json_t *vm_info_base(const struct vmproc *p, const struct launch_vm *vm)
{
	json_t *disks = json_array();
	json_t *info;
	char now[32];

	cli_format_now(now, sizeof(now));
	for (size_t i = 0; i < vm->ndisks; i++)
		json_array_append_new(disks, launch_disk_info(&vm->disks[i], &vm->files[i]));
	info = json_pack("{s:s, s:s, s:s, s:I, s:I, s:i, s:b, s:o}", "name", p->dir.name, "created",
			 now, "clone_version", CLONE_VERSION, "uid", (json_int_t)p->dir.uid,
			 "memory_bytes", (json_int_t)vm->mem_bytes, "vcpus", (int)vm->vcpus,
			 "agent", 1, "disks", disks);
	if (info && vm->nics && vm->nics->n)
		json_object_set_new(info, "networks",
				    nics_info(vm->nics, vm->ports, vm->nic_options));
	return info;
}
