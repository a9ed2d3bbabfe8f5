/* SPDX-License-Identifier: MIT */
/*
 * See userdata.h.
 */
#include "cli/userdata.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/agent.h"
#include "base/util.h"

/* Up to n bytes, to the file's end: how many. */
static ssize_t read_all(int fd, char *buf, size_t n)
{
	size_t have = 0;

	while (have < n) {
		ssize_t got = read(fd, buf + have, n - have);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return got;
		if (!got)
			break;
		have += (size_t)got;
	}
	return (ssize_t)have;
}

int userdata_open(const char *path, struct err *e)
{
	bool std = !strcmp(path, "-");
	cleanup_close int file = std ? -1 : open(path, O_RDONLY | O_CLOEXEC);
	cleanup_close int fd = -1;
	char buf[PROTO_MAX_USERDATA + 1];
	ssize_t n;

	if (!std && file < 0)
		return err_sys(e, errno, "user data: %s", path);
	n = read_all(std ? STDIN_FILENO : file, buf, sizeof(buf));
	if (n < 0)
		return err_sys(e, errno, "user data: %s", path);
	if (n > (ssize_t)PROTO_MAX_USERDATA)
		return err_set(e, EFBIG, "user data: %s: at most %u bytes are taken", path,
			       PROTO_MAX_USERDATA);
	fd = memfd_create("clone-userdata", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || write(fd, buf, (size_t)n) != n ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL))
		return err_sys(e, errno, "user data: memfd");
	return take_fd(&fd);
}
