/* SPDX-License-Identifier: MIT */
/*
 * The built-in initrd: clone-init, clone-agent and the modules that the given kernel needs to reach
 * its root disk and its host, in load order. Composed in memory for each cold boot by the
 * privileged side (CLI), which passes the memfd on to the VM process. Blocks; any one thread.
 *
 * In the archive: /init, /clone-agent, /modules/NNN-name.ko, /modules/list (one file name a line,
 * in the order to load them), /dev/console, empty /dev /proc /sys /run /sysroot.
 */
#ifndef CLONE_IMAGE_INITRD_H
#define CLONE_IMAGE_INITRD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct initrd_cfg {
	const char *kernel;	 /* path of the bzImage or ELF vmlinux */
	const char *modules_dir; /* holds lib/modules/VERSION, or is it; NULL: look beside kernel */
	const char *init;	 /* path of clone-init; NULL: guest_program_path() */
	const char *agent;	 /* path of clone-agent; NULL: guest_program_path() */
	const char *const *wanted; /* more modules ("virtiofs"), NULL-terminated; each must exist */
	const char *root_fstype;   /* "ext4", "xfs", "btrfs": its module too; NULL: "ext4" */
	const char *busybox;	   /* a static busybox: a guest that needs no disk; NULL: none */
	bool no_modules; /* everything is built in: no directory of modules is looked for */
};

/*
 * Composes the initrd into a sealed memfd (close-on-exec, the caller's). -ENOENT when a file is
 * missing: the kernel, a guest program, the modules directory (names those searched) or a module
 * that is not built in either (names it and the directory); -EBADMSG for a malformed kernel,
 * modules.dep or compressed module.
 */
int initrd_compose(const struct initrd_cfg *cfg, int *memfd_out, struct err *e);

/*
 * Writes the version of a kernel image, as uname -r says it, into buf: from a bzImage's header, or
 * from the banner of an ELF vmlinux. -EBADMSG when it is neither. fd is read with pread.
 */
int kernel_version(int fd, char *buf, size_t n, struct err *e);

/*
 * Where the guest program `name` ("clone-init", "clone-agent") is: $CLONE_LIBDIR, the directory of
 * the running executable, ../guest of it (a build tree), ../lib/clone of it (where it was
 * installed), PREFIX/lib/clone. -ENOENT says where it was looked for.
 */
int guest_program_path(const char *name, char *buf, size_t n, struct err *e);

#endif
