/* SPDX-License-Identifier: MIT */
/*
 * From an image's name to what launch_boot needs: kernel, composed initrd, root disk, command
 * line. Used by run and template create. One thread.
 */
#ifndef CLONE_CLI_IMAGEBOOT_H
#define CLONE_CLI_IMAGEBOOT_H

#include <jansson.h>

#include "cli/launch.h"
#include "image/image.h"

#define ROOT_DISK_ID "root"

struct image_boot {
	struct image img; /* vm's paths point in here */
	char *cmdline;
	int initrd_fd; /* set to -1 before image_boot_prepare */
};

/* Fills kernel, initrd_fd, cmdline and the root disk of vm; the rest stays the caller's. */
int image_boot_prepare(struct image_boot *b, const char *image, const char *append,
		       struct launch_vm *vm, struct err *e);
/*
 * For a VM from a kernel of the user's own: the built-in initrd with that kernel's modules, unless
 * vm->initrd names another, or "none" (which becomes NULL: none at all); and the command line,
 * which says where the root disk is unless `append` does.
 */
int kernel_boot_prepare(struct image_boot *b, const char *append, struct launch_vm *vm,
			struct err *e);
/* After launch_boot; accepts what was never prepared. */
void image_boot_fini(struct image_boot *b);

/* A disk as vm.json has it. NULL: out of memory. */
json_t *launch_disk_info(const struct launch_disk *d, const struct disk_files *f);
/* The part of vm.json that every VM has. NULL: out of memory. */
json_t *vm_info_base(const struct vmproc *p, const struct launch_vm *vm);

#endif
