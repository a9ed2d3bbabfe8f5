/* SPDX-License-Identifier: MIT */
/*
 * Non-blocking output to descriptors that others share. See execio.h.
 */
#include "cli/execio.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

#define SURE_BYTES 4096u /* PIPE_BUF: what a pipe that polls writable takes without blocking */

void outfd_open(struct outfd *o, int fd)
{
	char path[32];
	struct stat st;

	*o = (struct outfd){ .fd = fd, .nb = -1 };
	if (fd < 0 || fstat(fd, &st))
		return;
	o->file = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode);
	o->sock = S_ISSOCK(st.st_mode);
	if (o->file || o->sock)
		return;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	o->nb = open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

void outfd_close(struct outfd *o)
{
	if (o->nb >= 0)
		close(take_fd(&o->nb));
}

int outfd_poll(const struct outfd *o)
{
	return o->nb >= 0 ? o->nb : o->fd;
}

ssize_t outfd_write(struct outfd *o, const void *p, size_t n)
{
	ssize_t w;

	if (o->fd < 0 || o->gone)
		return (ssize_t)n;
	do {
		if (o->sock) {
			w = send(o->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		} else if (o->nb >= 0 || o->file) {
			w = write(outfd_poll(o), p, n);
		} else {
			struct pollfd pfd = { .fd = o->fd, .events = POLLOUT };

			if (poll(&pfd, 1, 0) <= 0)
				return 0;
			w = write(o->fd, p, MIN(n, (size_t)SURE_BYTES));
		}
	} while (w < 0 && errno == EINTR);
	if (w >= 0)
		return w;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return 0;
	o->gone = true;
	return -errno;
}
