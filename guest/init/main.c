/* SPDX-License-Identifier: MIT */
/*
 * clone-init: process 1 of the built-in initrd, as /init. Loads the modules of the initrd, mounts
 * the root disk, starts the agent in it, and becomes the distribution's init; without a disk, or
 * without an init on it, it is the init itself. It is in the way of every cold boot: nothing here
 * sleeps.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

static void mount_on(const char *type, const char *where, unsigned long flags, const char *options)
{
	mkdir(where, 0755);
	if (mount(type, where, type, flags, options) && errno != EBUSY)
		say("mount %s: %s", where, strerror(errno));
}

/*
 * With the options that systemd uses: it keeps what is mounted already. /run too, because the agent
 * may be told its user data before the distribution's init would mount it.
 */
static void mount_kernel_dirs(void)
{
	mount_on("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
	mount_on("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_on("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_on("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
	mount_on("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5");
}

static void write_setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return; /* a kernel without it has nothing to calm */
	if (write(fd, value, strlen(value)) < 0)
		say("%s: %s", path, strerror(errno));
	close(fd);
}

/*
 * A machine at rest should rest: most of them share a host with many. Compaction ahead of need also
 * moves pages that forks share, which makes copies of them. A distribution's own settings come
 * later.
 */
static void kernel_calm(void)
{
	write_setting("/proc/sys/vm/compaction_proactiveness", "0");
	write_setting("/proc/sys/vm/stat_interval", "10");
}

/* The kernel gives us none if the initrd has no /dev/console, or there is no console at all. */
static void standard_fds(void)
{
	int fd;

	if (fcntl(0, F_GETFD) >= 0 && fcntl(1, F_GETFD) >= 0 && fcntl(2, F_GETFD) >= 0)
		return;
	fd = open("/dev/console", O_RDWR | O_NOCTTY);
	if (fd < 0)
		fd = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3 && fd >= 0; i++)
		if (fd != i)
			dup2(fd, i);
	if (fd > 2)
		close(fd);
}

/* Words of the command line that the kernel did not know came to us as arguments: they go on. */
static void become(char *path, char **argv)
{
	argv[0] = path;
	execv(path, argv);
}

/* Returns if the disk has none. */
static void become_init(const struct cmdline *c, char **argv)
{
	static const char *const paths[] = { "/sbin/init", "/usr/lib/systemd/systemd",
					     "/lib/systemd/systemd", "/etc/init", "/bin/init" };

	if (c->init) {
		become((char *)c->init, argv);
		fatal("init=%s", c->init);
	}
	for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		become((char *)paths[i], argv);
		if (errno != ENOENT && errno != ENOTDIR)
			say("%s: %s", paths[i], strerror(errno));
	}
}

int main(int argc, char **argv)
{
	static char *none[] = { "init", NULL };
	static struct cmdline c;
	int uevents, agent;

	if (getpid() != 1) {
		errno = 0;
		static const char text[] = "clone-init: only as process 1 of an initrd\n";

		return write(2, text, sizeof(text) - 1) < 0 ? 2 : 1;
	}
	umask(022);
	mount_kernel_dirs();
	standard_fds();
	kernel_calm();
	cmdline_read(&c);
	uevents = c.root ? uevents_open() : -1;
	modules_load(&c);
	agent = c.noagent ? -1 : agent_find();
	if (!c.root) {
		busybox_install();
		agent_start(agent);
		if (c.init)
			become_init(&c, argc > 0 ? argv : none);
		bare_run();
	}
	root_mount(&c, uevents);
	if (uevents >= 0)
		close(uevents);
	root_switch();
	if (c.init && access(c.init, X_OK))
		fatal("init=%s", c.init); /* before the agent tells the host that all is well */
	agent_start(agent);
	become_init(&c, argc > 0 ? argv : none);
	say("the root disk has no init: clone-init stays");
	bare_run();
}
