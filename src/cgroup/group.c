/* SPDX-License-Identifier: MIT */
/*
 * One group: made with its limits, joined, watched, removed. See cgroup.h. Making and removing:
 * privileged caller; events: main of a VM process, which has the descriptor and no path.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/time.h"
#include "base/util.h"
#include "cgroup/cgroup.h"

/* The process's own heap and stacks, KVM's objects, sockets' buffers: a few MiB each. */
#define ROOM_BYTES MIB(16)
/* Page tables: 8 bytes a page of 4 KiB in the host's and again in KVM's are 1/256 of the guest's
 * memory; twice that, because KVM keeps some that it does not use. */
#define ROOM_SHARE 128
/* In the last 1/16 the kernel makes it wait, longer the nearer it is: some seconds in all, in which
 * its owner can see the event and act. */
#define SLOW_SHARE 16
#define REMOVE_NS (20 * NS_PER_SEC) /* a VM of many GiB is a while in dying */

uint64_t cgroup_max_bytes(uint64_t quota_bytes, uint64_t guest_bytes)
{
	uint64_t max = UINT64_MAX;

	return add_u64(quota_bytes, ROOM_BYTES + guest_bytes / ROOM_SHARE, &max)
		       ? ROUND_DOWN(max, KIB(4))
		       : UINT64_MAX;
}

uint64_t cgroup_high_bytes(uint64_t max_bytes)
{
	return ROUND_DOWN(max_bytes - max_bytes / SLOW_SHARE, KIB(4));
}

int cgroup_open(const char *path, const char *file, int flags, struct err *e)
{
	char full[PATH_MAX];
	int fd;

	if (snprintf(full, sizeof(full), "%s/%s", path, file) >= (int)sizeof(full))
		return err_set(e, ENAMETOOLONG, "cgroup: path too long");
	fd = open(full, flags | O_CLOEXEC);
	return fd < 0 ? err_sys(e, errno, "cgroup %s", full) : fd;
}

static int put(const char *path, const char *file, const char *text, struct err *e)
{
	cleanup_close int fd = cgroup_open(path, file, O_WRONLY, e);
	int r = fd < 0 ? fd : fd_write_full(fd, text, strlen(text));

	return fd < 0 || !r ? r : err_sys(e, -r, "cgroup %s/%s: writing %s", path, file, text);
}

static int put_number(const char *path, const char *file, uint64_t n, struct err *e)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, n);
	return put(path, file, text, e);
}

static int limit(const char *path, uint64_t quota, uint64_t guest, struct err *e)
{
	uint64_t max = cgroup_max_bytes(quota, guest);
	int r = put_number(path, "memory.max", max, e);

	if (!r)
		r = put_number(path, "memory.high", cgroup_high_bytes(max), e);
	/* half a VM is none: its snapshot's writer goes with it */
	if (!r)
		r = put(path, "memory.oom.group", "1", e);
	/* what it may cost is this, in memory or on the disk that others swap to; a kernel without
	 * swap has no such file */
	if (!r)
		(void)put(path, "memory.swap.max", "0", NULL);
	return r;
}

int cgroup_create(const char *path, uint64_t quota_bytes, uint64_t guest_bytes, struct err *e)
{
	int r;

	if (mkdir(path, 0755))
		return err_sys(e, errno, "make cgroup %s", path);
	r = quota_bytes ? limit(path, quota_bytes, guest_bytes, e) : 0;
	if (r)
		(void)cgroup_remove(path, NULL);
	return r;
}

int cgroup_remove(const char *path, struct err *e)
{
	uint64_t until = time_mono_ns() + REMOVE_NS;
	bool killed = false;

	/* the dying are in it for a while after they let go of their files */
	while (rmdir(path)) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY)
			return err_sys(e, errno, "remove cgroup %s", path);
		if (!killed)
			(void)put(path, "cgroup.kill", "1", NULL);
		killed = true;
		if (time_mono_ns() >= until)
			return err_set(e, EBUSY, "cgroup %s: what is in it does not end", path);
		usleep(2000);
	}
	return 0;
}

int cgroup_add(const char *path, pid_t pid, struct err *e)
{
	return put_number(path, "cgroup.procs", (uint64_t)pid, e);
}

bool cgroup_number(const char *path, const char *file, uint64_t *out)
{
	cleanup_close int fd = cgroup_open(path, file, O_RDONLY, NULL);
	char text[32], *end;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	*out = strncmp(text, "max", 3) ? strtoull(text, &end, 10) : UINT64_MAX;
	return *out == UINT64_MAX || (end != text && (*end == '\n' || !*end));
}

int cgroup_events_read(int fd, struct cgroup_events *out)
{
	struct cgroup_events ev = { 0 };
	const struct {
		const char *name;
		uint64_t *n;
	} want[] = { { "high", &ev.high },
		     { "max", &ev.max },
		     { "oom", &ev.oom },
		     { "oom_kill", &ev.oom_kill } };
	char text[1024], *save = NULL;
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n < 0)
		return -errno;
	text[n] = '\0';
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		char *space = strchr(l, ' ');

		if (!space)
			continue;
		*space = '\0';
		for (size_t i = 0; i < ARRAY_SIZE(want); i++)
			if (!strcmp(l, want[i].name))
				*want[i].n = strtoull(space + 1, NULL, 10);
	}
	*out = ev;
	return 0;
}

int cgroup_watch(int fd, struct err *e)
{
	struct epoll_event ev = { .events = EPOLLPRI };
	cleanup_close int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev))
		return err_sys(e, errno, "cgroup: watching its events");
	return take_fd(&ep);
}
