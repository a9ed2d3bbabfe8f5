/* SPDX-License-Identifier: MIT */
/*
 * Unix sockets by directory descriptor. See sock.h.
 */
#include "control/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"

#define CONNECT_NS (5 * NS_PER_SEC) /* for a process that has much to do */
#define CONNECT_POLL_US 5000

static int sock_addr(int dirfd, const char *name, struct sockaddr_un *sun)
{
	int n;

	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	n = snprintf(sun->sun_path, sizeof(sun->sun_path), "/proc/self/fd/%d/%s", dirfd, name);
	return n < 0 || (size_t)n >= sizeof(sun->sun_path) ? -ENAMETOOLONG : 0;
}

int sock_listen(int dirfd, const char *name, int type, struct err *e)
{
	cleanup_close int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	struct sockaddr_un sun;

	if (fd < 0)
		return err_sys(e, errno, "socket");
	if (sock_addr(dirfd, name, &sun))
		return err_set(e, ENAMETOOLONG, "%s: the name is too long for a socket", name);
	if (bind(fd, (const struct sockaddr *)&sun, sizeof(sun)) || listen(fd, 64))
		return err_sys(e, errno, "%s", name);
	return take_fd(&fd);
}

int sock_connect(int dirfd, const char *name, int type, struct err *e)
{
	cleanup_close int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	uint64_t deadline = time_mono_ns() + CONNECT_NS;
	struct sockaddr_un sun;

	if (fd < 0)
		return err_sys(e, errno, "socket");
	if (sock_addr(dirfd, name, &sun))
		return err_set(e, ENAMETOOLONG, "%s: the name is too long for a socket", name);
	while (connect(fd, (const struct sockaddr *)&sun, sizeof(sun))) {
		if (errno != EINTR && errno != EAGAIN)
			return err_sys(e, errno, "%s", name);
		/* a full backlog, of which nothing tells when it is not; blocking would be for ever
		 */
		if (errno == EAGAIN && time_mono_ns() >= deadline)
			return err_set(e, ETIMEDOUT, "%s: nobody accepts connections there", name);
		if (errno == EAGAIN)
			usleep(CONNECT_POLL_US);
	}
	if (fcntl(fd, F_SETFL, 0))
		return err_sys(e, errno, "%s", name);
	return take_fd(&fd);
}

int sock_wait(int fd, short events, uint64_t deadline_ns, int cancel_fd)
{
	return sock_wait_also(fd, events, -1, deadline_ns, cancel_fd);
}

int sock_wait_also(int fd, short events, int also, uint64_t deadline_ns, int cancel_fd)
{
	struct pollfd p[] = { { .fd = fd, .events = events },
			      { .fd = cancel_fd, .events = POLLIN },
			      { .fd = also, .events = POLLIN } };

	for (;;) {
		uint64_t now = time_mono_ns();
		struct timespec ts = { 0 };
		int r;

		if (deadline_ns && now < deadline_ns) {
			ts.tv_sec = (time_t)((deadline_ns - now) / NS_PER_SEC);
			ts.tv_nsec = (long)((deadline_ns - now) % NS_PER_SEC);
		}
		r = ppoll(p, ARRAY_SIZE(p), deadline_ns ? &ts : NULL, NULL);
		if (r < 0 && errno != EINTR)
			return -errno;
		if (r > 0 && p[1].revents)
			return -EINTR;
		if (r > 0)
			return p[2].revents ? 1 : 0;
		if (r == 0 && deadline_ns && time_mono_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}
