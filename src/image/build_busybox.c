/* SPDX-License-Identifier: MIT */
/*
 * The busybox image: the smallest root file system that has an init, a shell on the console and all
 * the usual commands, for tests that boot many machines. Called by the CLI; any one thread.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "image/build.h"
#include "image/busybox.h"
#include "image/image.h"
#include "image/proc.h"
#include "image/tree.h"
#include "image/userns.h"

#define BUSYBOX "/bin/busybox"
#define BUSYBOX_SIZE MIB(16)

static const struct {
	const char *path;
	mode_t mode;
	const char *text;
} files[] = {
	{ "etc/passwd", 0644,
	  "root:x:0:0:root:/root:/bin/sh\n"
	  "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n" },
	{ "etc/group", 0644, "root:x:0:\nnogroup:x:65534:\n" },
	{ "etc/shadow", 0600, "root:*:19000:0:99999:7:::\n" },
	{ "etc/hostname", 0644, "clone\n" },
	{ "etc/hosts", 0644, "127.0.0.1\tlocalhost\n" },
	{ "etc/machine-id", 0644, "" },
	{ "etc/profile", 0644,
	  "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n" },
	{ "etc/fstab", 0644, "# The root file system is mounted by clone-init.\n" },
	{ "etc/os-release", 0644, "ID=busybox\nNAME=busybox\nPRETTY_NAME=\"busybox\"\n" },
	{ "etc/inittab", 0644,
	  "::sysinit:/etc/init.d/rcS\nttyS0::respawn:-/bin/sh\n"
	  "::respawn:/sbin/acpid -d -c /etc/acpi -p /run/acpid.pid\n"
	  "::ctrlaltdel:/sbin/reboot\n::shutdown:/bin/umount -a -r\n" },
	/* The power button, by the names busybox's acpid knows it. */
	{ "etc/acpi/PWRF/00000080", 0755, "#!/bin/sh\nexec poweroff\n" },
	{ "etc/init.d/rcS", 0755,
	  "#!/bin/sh\n"
	  "# What clone-init has not mounted yet.\n"
	  "add() { grep -q \" $2 \" /proc/mounts || { mkdir -p $2; mount -t $1 -o $3 $1 $2; }; }\n"
	  "[ -e /proc/mounts ] || mount -t proc proc /proc\n"
	  "add sysfs /sys nosuid\n"
	  "add devtmpfs /dev mode=755\n"
	  "add tmpfs /run mode=755\n"
	  "add tmpfs /tmp mode=1777\n"
	  "add devpts /dev/pts mode=620,ptmxmode=666\n"
	  "add tmpfs /dev/shm mode=1777\n"
	  "hostname -F /etc/hostname\n"
	  "ip link set lo up\n" },
};

static const char *const dirs[] = {
	"bin",	"dev", "etc", "lib",	 "mnt",	     "proc",	"root",	   "run",
	"sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var/log", "var/tmp",
};

static int put_applets(const char *root, const char *list, struct err *e)
{
	cleanup_free char *copy = strdup(list);
	char *rest = copy, *path;
	int r = copy ? 0 : err_sys(e, ENOMEM, "busybox");

	while (!r && (path = strsep(&rest, "\n"))) {
		if (!*path || strstr(path, "..") || !strcmp(path, "bin/busybox"))
			continue;
		r = tree_symlink(root, path, BUSYBOX, e);
	}
	/* Debian's busybox calls its init "linuxrc" too; ours is where every init is. */
	return r ? r : tree_symlink(root, "sbin/init", BUSYBOX, e);
}

/* As root, or as the one user of a user namespace, so that everything belongs to root. */
static int make_rootfs(void *arg, struct err *e)
{
	static const char *const list_argv[] = { BUSYBOX, "--list-full", NULL };
	struct build *b = arg;
	cleanup_free char *list = NULL;
	char root[PATH_MAX], path[PATH_MAX];
	int r = tree_path(root, sizeof(root), e, "%s/root", b->stage.dir);

	for (size_t i = 0; !r && i < ARRAY_SIZE(dirs); i++) {
		r = tree_path(path, sizeof(path), e, "%s/%s", root, dirs[i]);
		if (!r)
			r = tree_mkdirs(path, 0755, e);
	}
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s" BUSYBOX, root);
	if (!r)
		r = tree_copy_file(BUSYBOX, path, 0755, e);
	if (!r)
		r = proc_capture(list_argv, &list, e);
	if (!r)
		r = put_applets(root, list, e);
	for (size_t i = 0; !r && i < ARRAY_SIZE(files); i++)
		r = tree_write(root, files[i].path, files[i].mode, files[i].text,
			       strlen(files[i].text), e);
	if (!r)
		r = tree_write(root, BUSYBOX_DHCP_PATH, 0755, busybox_dhcp, strlen(busybox_dhcp),
			       e);
	if (!r)
		r = tree_symlink(root, BUSYBOX_DHCP_LINK, "/" BUSYBOX_DHCP_PATH, e);
	if (!r)
		r = build_put_agent(b, root, e);
	if (!r)
		r = build_mkfs(b, root, BUSYBOX_SIZE, false, e);
	return r ? r : tree_remove(root, e);
}

/* A dynamic busybox would start nowhere in this root: it holds no libraries. */
static int check_static(struct err *e)
{
	static const char *const argv[] = { "ldd", BUSYBOX, NULL };
	cleanup_free char *out = NULL;

	if (access(BUSYBOX, X_OK))
		return err_set(e, ENOENT,
			       BUSYBOX " is not installed: apt-get install busybox-static");
	if (!proc_capture(argv, &out, NULL))
		return err_set(e, ENOENT, BUSYBOX " is not static: apt-get install busybox-static");
	return 0;
}

int image_build_busybox(const struct image_build_cfg *cfg, struct err *e)
{
	struct build b;
	int r = check_static(e);

	if (r)
		return r;
	if (cfg->packages && cfg->packages[0])
		return err_set(e, EINVAL, "a busybox image has no packages");
	r = build_begin(&b, cfg, "busybox", e);
	if (!r) {
		build_phase(&b, "file system", 15, 92);
		r = userns_call(false, make_rootfs, &b, e);
	}
	return build_end(&b, r, e);
}
