/* SPDX-License-Identifier: MIT */
/*
 * From the initramfs to the root disk. The initramfs cannot be unmounted, so its files are removed:
 * otherwise every guest, and every template, would carry them for ever.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "init.h"

/* Removes what is below the directory, staying on its file system. Takes fd over. */
static void empty(int fd, dev_t dev, int depth)
{
	DIR *d = fdopendir(fd);
	struct dirent *e;
	struct stat st;

	if (!d) {
		close(fd);
		return;
	}
	while (depth < 32 && (e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) || st.st_dev != dev)
			continue;
		if (S_ISDIR(st.st_mode)) {
			int sub = openat(fd, e->d_name,
					 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (sub >= 0)
				empty(sub, dev, depth + 1);
			unlinkat(fd, e->d_name, AT_REMOVEDIR);
		} else {
			unlinkat(fd, e->d_name, 0);
		}
	}
	closedir(d);
}

/* Only a file system in memory is ever emptied, whatever we were started on. */
static void initramfs_empty(int fd)
{
	struct statfs fs;
	struct stat st;

	if (fd < 0)
		return;
	if (fstatfs(fd, &fs) || fstat(fd, &st) ||
	    (fs.f_type != RAMFS_MAGIC && fs.f_type != TMPFS_MAGIC)) {
		close(fd);
		return;
	}
	empty(fd, st.st_dev, 0);
}

static void move(const char *from, const char *to, bool needed)
{
	mkdir(to, 0755); /* it is there, or can be made, or the next line says so */
	if (!mount(from, to, NULL, MS_MOVE, NULL))
		return;
	if (needed)
		fatal("move %s to the root disk (read-only and without that directory?)", from);
	say("%s: cannot be moved to the root disk: %s", from, strerror(errno));
	umount2(from, MNT_DETACH);
}

void root_switch(void)
{
	int old = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	move("/dev", NEW_ROOT "/dev", true);
	move("/proc", NEW_ROOT "/proc", true);
	move("/run", NEW_ROOT "/run", false);
	move("/sys", NEW_ROOT "/sys", false);
	if (chdir(NEW_ROOT))
		fatal("enter the root disk");
	if (mount(".", "/", NULL, MS_MOVE, NULL))
		fatal("move the root disk to /");
	if (chroot(".") || chdir("/"))
		fatal("change root");
	initramfs_empty(old);
}
