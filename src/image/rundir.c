/* SPDX-License-Identifier: MIT */
/*
 * The directory of running things: where it is, and making it. See rundir.h.
 */
#include "image/rundir.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

int run_path(char *buf, size_t n, struct err *e)
{
	const char *set = getenv("CLONE_RUN_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");
	int len;

	if (set && *set == '/')
		len = snprintf(buf, n, "%s", set);
	else if (set && *set)
		return err_set(e, EINVAL, "CLONE_RUN_DIR must be an absolute path");
	else if (geteuid() == 0)
		len = snprintf(buf, n, "/run/clone");
	else if (xdg && *xdg == '/')
		len = snprintf(buf, n, "%s/clone", xdg);
	else
		return err_set(e, EINVAL,
			       "no place for sockets: set XDG_RUNTIME_DIR or CLONE_RUN_DIR");
	return len < 0 || (size_t)len >= n
		       ? err_set(e, ENAMETOOLONG, "run directory: path too long")
		       : 0;
}

int run_open(struct err *e)
{
	static const char *const sub[] = { "vms", "seeds", "uids", "verified" };
	cleanup_close int fd = -1;
	char path[PATH_MAX];
	struct stat st;
	int r = run_path(path, sizeof(path), e);

	if (r)
		return r;
	if (mkdir(path, 0700) && errno != EEXIST)
		return err_sys(e, errno, "make %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", path);
	if (st.st_uid != geteuid())
		return err_set(e, EPERM, "%s belongs to uid %u: remove it or set CLONE_RUN_DIR",
			       path, (unsigned int)st.st_uid);
	for (size_t i = 0; i < ARRAY_SIZE(sub); i++)
		if (mkdirat(fd, sub[i], 0700) && errno != EEXIST)
			return err_sys(e, errno, "make %s/%s", path, sub[i]);
	return take_fd(&fd);
}

int run_open_file(const char *name, struct err *e)
{
	cleanup_close int run = run_open(e);
	int fd;

	if (run < 0)
		return run;
	fd = openat(run, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	return fd < 0 ? err_sys(e, errno, "%s", name) : fd;
}
