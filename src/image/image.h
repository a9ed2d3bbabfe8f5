/* SPDX-License-Identifier: MIT */
/*
 * Images: a root file system, a kernel and that kernel's modules under one name, made once and
 * never changed. Called by the privileged side (CLI, later the host daemon), never inside a VM
 * process. Everything here blocks and may be called on any one thread; two processes may use the
 * same store at once.
 *
 * A store is a directory: $CLONE_STATE_DIR/images, else /var/lib/clone/images for root and
 * $XDG_DATA_HOME/clone/images (~/.local/share) for others. In it, per image:
 *     NAME/image.json      the manifest (manifest.c is its description)
 *     NAME/rootfs.ext4     sparse, read-only to everybody who uses it
 *     NAME/vmlinuz
 *     NAME/modules/lib/modules/VERSION
 *     .build-NAME/         a build under way (locked), or what a killed one left (not locked)
 */
#ifndef CLONE_IMAGE_IMAGE_H
#define CLONE_IMAGE_IMAGE_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define IMAGE_NAME_MAX 64
#define IMAGE_DIGEST_LEN 64 /* SHA-256 in lower-case hex */

struct image {
	char name[IMAGE_NAME_MAX + 1];
	char distribution[32];	 /* "debian", "busybox" */
	char release[32];	 /* "bookworm"; what the distribution calls it */
	char created[32];	 /* UTC, "2025-06-01T12:00:00Z" */
	char kernel_version[65]; /* as uname -r says it */
	char cmdline[512];	 /* complete: "console=ttyS0 root=/dev/vda ..."; more may follow */
	char root_device[64];	 /* "/dev/vda": the first disk */
	char root_fstype[16];	 /* "ext4" */
	char init[64];		 /* absolute path in the root file system */
	uint64_t size_bytes;	 /* of the disk as the guest sees it */
	uint64_t used_bytes;	 /* what the image takes on the host, holes not counted */
	char rootfs_sha256[IMAGE_DIGEST_LEN + 1];
	char kernel_sha256[IMAGE_DIGEST_LEN + 1];

	/* Absolute paths of the parts; not stored in the manifest. */
	char dir[PATH_MAX];
	char rootfs[PATH_MAX];
	char kernel[PATH_MAX];
	char modules[PATH_MAX]; /* what initrd_cfg.modules_dir wants */
};

/* true for [A-Za-z0-9][A-Za-z0-9_.-]{0,63}. Every function below refuses other names (EINVAL). */
bool image_name_ok(const char *name);

/*
 * Writes the state directory (the parent of images/) into buf. 0, or -ENAMETOOLONG, or -EINVAL when
 * neither CLONE_STATE_DIR nor HOME says where it is or what they say is not absolute.
 */
int image_state_dir(char *buf, size_t n, struct err *e);

/*
 * Reads and checks the manifest of one image. -ENOENT when there is none of that name, -EBADMSG
 * when the manifest or a part is missing or makes no sense (says which).
 */
int image_open(const char *name, struct image *img, struct err *e);

/*
 * All images, by name, in an array that the caller frees (NULL and 0 when there are none). A
 * directory whose manifest cannot be read is left out and logged. Removes what killed builds left.
 */
int image_list(struct image **out, size_t *count, struct err *e);

/*
 * Removes an image. -ENOENT when there is none. Whoever has its files open keeps them. Works on a
 * damaged image too.
 */
int image_rm(const char *name, struct err *e);

/* Reads everything again and compares the digests: -EBADMSG names the part that differs. */
int image_verify(const struct image *img, struct err *e);

/*
 * Told about a build as it goes: the phase ("kernel", "packages", "file system", ...), percent of
 * the whole (0 to 100, never falling), and the line of output that was the reason or "".
 */
typedef void image_progress_fn(void *arg, const char *phase, int percent, const char *line);

enum image_kernel {
	IMAGE_KERNEL_CLOUD, /* Debian's linux-image-cloud-amd64: small, all that a guest needs */
	IMAGE_KERNEL_FULL,  /* linux-image-amd64: every driver; for passthrough, nested KVM */
};

enum image_init { /* process 1 of a Debian image */
		  IMAGE_INIT_SYSTEMD,
		  IMAGE_INIT_OPENRC, /* under sysvinit's process 1, as Debian has it */
		  IMAGE_INIT_RUNIT,
};

struct image_build_cfg {
	const char *name;    /* required */
	const char *release; /* NULL: "bookworm" */
	const char *mirror;  /* NULL: the one this host uses, else deb.debian.org */
	enum image_kernel kernel;
	enum image_init init;	     /* Debian only */
	uint64_t size_bytes;	     /* 0: 2 GiB for Debian, 16 MiB for busybox */
	const char *const *packages; /* more packages (Debian only), NULL-terminated; NULL: none */
	const char *agent;	     /* clone-agent to put inside; NULL: guest_program_path() */
	image_progress_fn *progress; /* NULL: silent */
	void *progress_arg;
};

/*
 * Builds an image and publishes it in one step: it is either there, whole and on disk, or it is
 * not. -EEXIST when the name is taken, -EBUSY when it is being built right now, -ENOENT when a
 * program or file the build needs is not installed (says which package has it), -EIO when a
 * program failed (the last lines of its output are in the story). Needs root, or for Debian an
 * /etc/subuid range and unprivileged user namespaces.
 *
 * Debian: an init system, iproute2, procps, kmod and apt, with systemd dbus and udev, nothing else;
 * root has no password and is logged in on ttyS0 without being asked: whoever holds the console
 * owns the machine anyway.
 */
int image_build_debian(const struct image_build_cfg *cfg, struct err *e);

/* One static busybox with its applets, its init, a shell on ttyS0; Debian's kernel. For tests. */
int image_build_busybox(const struct image_build_cfg *cfg, struct err *e);

#endif
