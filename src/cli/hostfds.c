/* SPDX-License-Identifier: MIT */
/*
 * What a VM needs opened for it on the host: sockets and files of its directory, /dev/kvm, the
 * overlay's data file. See launch.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "cli/launch.h"
#include "control/sock.h"
#include "image/image.h"

/* As vm/vm.h and doc/control.md call them; "log" is where the process's own words go. */
const char *const host_fd_names[HOST_FDS] = { "api",	     "fd",   "console", "vsock",
					      "console-log", "exit", "log" };

void host_fds_close(struct host_fds *h)
{
	for (size_t i = 0; i < HOST_FDS; i++)
		if (h->fd[i] >= 0)
			close(take_fd(&h->fd[i]));
}

int host_fds_open(const struct vmdir *d, struct host_fds *h, struct err *e)
{
	static const struct {
		const char *name;
		int type; /* 0: a file */
	} at[HOST_FDS] = {
		{ "api.sock", SOCK_STREAM },
		{ "fd.sock", SOCK_SEQPACKET },
		{ "console.sock", SOCK_STREAM },
		{ "vsock.sock", SOCK_STREAM },
		{ "console.log", 0 },
		{ "exit.json", 0 },
		{ "vmm.log", 0 },
	};

	for (size_t i = 0; i < HOST_FDS; i++)
		h->fd[i] = -1;
	for (size_t i = 0; i < HOST_FDS; i++) {
		if (at[i].type)
			h->fd[i] = sock_listen(d->fd, at[i].name, at[i].type, e);
		else
			h->fd[i] = openat(d->fd, at[i].name,
					  O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (h->fd[i] < 0) {
			int r = at[i].type ? h->fd[i] : err_sys(e, errno, "%s", at[i].name);

			host_fds_close(h);
			return err_wrap(e, r, "%s", d->name);
		}
	}
	return 0;
}

int launch_kvm(struct err *e)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd >= 0)
		return fd;
	if (errno == ENOENT || errno == ENODEV || errno == ENXIO)
		return err_set(
			e, errno,
			"no /dev/kvm here: turn on virtualisation and load kvm_intel or kvm_amd "
			"(see `clone doctor`)");
	if (errno == EACCES || errno == EPERM)
		return err_set(e, errno,
			       "no permission to open /dev/kvm: run as root or join the group kvm");
	return err_sys(e, errno, "/dev/kvm");
}

int launch_overlay_reader(int overlay, struct err *e)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", overlay);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? err_sys(e, errno, "overlay file, for reading") : fd;
}

int launch_grant_overlay(int fdsock, const char *prefix, const char *id, struct err *e)
{
	cleanup_close int data = launch_overlay(e);
	cleanup_close int reader = data < 0 ? -1 : launch_overlay_reader(data, e);
	char name[2][96];
	const char *const names[] = { name[0], name[1] };

	if (reader < 0)
		return data < 0 ? data : reader;
	snprintf(name[0], sizeof(name[0]), "%sdisk/%.32s/data", prefix, id);
	snprintf(name[1], sizeof(name[1]), "%sdisk/%.32s/data-ro", prefix, id);
	return client_grant(fdsock, names, (const int[]){ data, reader }, 2, e);
}

/* A file that has had a name for a moment: overlayfs had no others before Linux 6.6. */
static int nameless(char *path, size_t cap)
{
	size_t n = strlen(path);
	int fd;

	snprintf(path + n, cap - n, "/XXXXXX");
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	path[n] = '\0';
	return fd;
}

int launch_unnamed(const char *folder, bool memory_will_do, struct err *e)
{
	char path[PATH_MAX];
	size_t n;
	int fd, r = image_state_dir(path, sizeof(path) - 2 * NAME_MAX, e);

	if (r)
		return r;
	mkdir(path, 0755);
	n = strlen(path);
	snprintf(path + n, sizeof(path) - n, "/%s", folder);
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_sys(e, errno, "make %s", path);
	fd = open(path, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
		fd = memory_will_do ? memfd_create("clone-overlay", MFD_CLOEXEC)
				    : nameless(path, sizeof(path));
	return fd < 0 ? err_sys(e, errno, "a file in %s", path) : fd;
}

int launch_overlay(struct err *e)
{
	return launch_unnamed("overlay", true, e);
}
