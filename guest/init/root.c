/* SPDX-License-Identifier: MIT */
/*
 * The root disk: waits for its device, which the kernel announces, and mounts it at NEW_ROOT, if
 * asked read-only under a tmpfs that takes the writes. All failures are fatal.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define LOWER "/overlay.lower"
#define UPPER "/overlay.upper"

int uevents_open(void)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = 1 };
	int fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
			NETLINK_KOBJECT_UEVENT);

	if (fd >= 0 && bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

static bool is_block(const char *path)
{
	struct stat st;

	return !stat(path, &st) && S_ISBLK(st.st_mode);
}

/*
 * The socket was open before the first look, and the kernel makes the node before it sends the
 * event, so nothing is missed; what the events say does not matter.
 */
static void root_wait(const struct cmdline *c, int uevents)
{
	long long end = now_ms() + c->root_wait_s * 1000LL;
	char buf[8192];

	while (!is_block(c->root)) {
		struct pollfd p = { .fd = uevents, .events = POLLIN };
		long long left = end - now_ms();

		if (left <= 0) {
			errno = 0;
			fatal("root=%s: no such disk within %u s", c->root, c->root_wait_s);
		}
		/* Without the socket this is a slow loop rather than none. */
		poll(&p, 1, uevents < 0 && left > 50 ? 50 : (int)left);
		while (uevents >= 0 && recv(uevents, buf, sizeof(buf), 0) > 0)
			;
	}
}

/* Options that are the mount's and not the file system's; removes them from the list. */
static unsigned long take_flags(char *options)
{
	static const struct {
		const char *name;
		unsigned long flag;
	} known[] = {
		{ "noatime", MS_NOATIME },   { "nodiratime", MS_NODIRATIME },
		{ "relatime", MS_RELATIME }, { "strictatime", MS_STRICTATIME },
		{ "lazytime", MS_LAZYTIME }, { "sync", MS_SYNCHRONOUS },
		{ "nosuid", MS_NOSUID },     { "nodev", MS_NODEV },
		{ "noexec", MS_NOEXEC },
	};
	const size_t nknown = sizeof(known) / sizeof(known[0]);
	unsigned long flags = 0;
	char *save = NULL, *to = options;

	for (char *o = strtok_r(options, ",", &save); o; o = strtok_r(NULL, ",", &save)) {
		size_t i = 0, n = strlen(o);

		while (i < nknown && strcmp(known[i].name, o) != 0)
			i++;
		if (i < nknown) {
			flags |= known[i].flag;
			continue;
		}
		if (to != options)
			*to++ = ',';
		memmove(to, o, n);
		to += n;
	}
	*to = '\0';
	return flags;
}

/* Returns 0 or errno. A disk that is read-only itself is mounted so, as the kernel would. */
static int mount_as(const struct cmdline *c, const char *where, const char *type)
{
	unsigned long flags = c->rw && !c->overlay ? 0 : MS_RDONLY;
	char options[512];

	snprintf(options, sizeof(options), "%s", c->rootflags ? c->rootflags : "");
	flags |= take_flags(options);
	if (!mount(c->root, where, type, flags, options))
		return 0;
	if ((errno == EACCES || errno == EROFS) && !(flags & MS_RDONLY) &&
	    !mount(c->root, where, type, flags | MS_RDONLY, options)) {
		say("%s is read-only", c->root);
		return 0;
	}
	return errno;
}

/*
 * Every type that the kernel knows and that lives on a disk, the likely one first: the others of
 * its family complain about it in the log. Returns 0 or the last errno.
 */
static int mount_any(const struct cmdline *c, const char *where)
{
	FILE *f = fopen("/proc/filesystems", "re");
	char line[128], type[64];
	int err = mount_as(c, where, "ext4");

	while (f && err && fgets(line, sizeof(line), f))
		if (line[0] == '\t' && sscanf(line, " %63s", type) == 1)
			err = mount_as(c, where, type);
	if (f)
		fclose(f);
	return err;
}

static void disk_mount(const struct cmdline *c, const char *where)
{
	char types[128], *save = NULL;
	int err = ENODEV;

	snprintf(types, sizeof(types), "%s", c->rootfstype ? c->rootfstype : "");
	for (char *t = strtok_r(types, ",", &save); t && err; t = strtok_r(NULL, ",", &save))
		err = mount_as(c, where, t);
	if (!c->rootfstype)
		err = mount_any(c, where);
	if (!err)
		return;
	errno = err;
	fatal("mount %s as %s%s%s", c->root, c->rootfstype ? c->rootfstype : "any type",
	      c->rootflags ? " with " : "", c->rootflags ? c->rootflags : "");
}

static void overlay_mount(const struct cmdline *c)
{
	char size[64];

	mkdir(LOWER, 0755);
	mkdir(UPPER, 0755);
	disk_mount(c, LOWER);
	snprintf(size, sizeof(size), "mode=0755%s%s", c->overlay_size ? ",size=" : "",
		 c->overlay_size ? c->overlay_size : "");
	if (mount("overlay", UPPER, "tmpfs", 0, size))
		fatal("mount tmpfs for clone.overlay (%s)", size);
	if (mkdir(UPPER "/upper", 0755) || mkdir(UPPER "/work", 0755))
		fatal("make the overlay's directories");
	if (mount("overlay", NEW_ROOT, "overlay", 0,
		  "lowerdir=" LOWER ",upperdir=" UPPER "/upper,workdir=" UPPER "/work"))
		fatal("mount overlay over %s", c->root);
	/* The overlay holds both by itself; without these names nobody can reach behind it. */
	umount2(LOWER, MNT_DETACH);
	umount2(UPPER, MNT_DETACH);
}

void root_mount(const struct cmdline *c, int uevents)
{
	root_wait(c, uevents);
	mkdir(NEW_ROOT, 0755);
	if (c->overlay)
		overlay_mount(c);
	else
		disk_mount(c, NEW_ROOT);
}
