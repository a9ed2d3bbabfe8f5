/* SPDX-License-Identifier: MIT */
/*
 * See procfs.h. procfs_write is also called between vfork and execve: it may make system calls and
 * nothing else. Agent's thread.
 */
#include "procfs.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool procfs_read(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	buf[0] = '\0';
	if (fd < 0)
		return false;
	n = read(fd, buf, cap - 1);
	close(fd);
	if (n < 0)
		return false;
	buf[n] = '\0';
	return true;
}

bool procfs_write(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n;

	if (fd < 0)
		return false;
	n = write(fd, value, strlen(value));
	close(fd);
	return n >= 0;
}

/* The whole file, as much as fits: the kernel gives long ones in pieces. */
static bool read_all(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t n = 0;
	size_t at = 0;

	if (fd < 0)
		return false;
	while (at < cap - 1 && (n = read(fd, buf + at, cap - 1 - at)) > 0)
		at += (size_t)n;
	close(fd);
	buf[at] = '\0';
	return n >= 0;
}

bool procfs_numbers(const char *path, const struct procfs_want *want, size_t n)
{
	char buf[16384], *p = buf;

	if (!read_all(path, buf, sizeof(buf)))
		return false;
	for (; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		for (size_t i = 0; i < n; i++) {
			size_t len = strlen(want[i].key);

			if (!strncmp(p, want[i].key, len) && (p[len] == ':' || p[len] == ' '))
				*want[i].value += strtoull(p + len + 1, NULL, 10);
		}
	}
	return true;
}

uint64_t procfs_mem(const char *key)
{
	uint64_t kib = 0;

	procfs_numbers("/proc/meminfo", &(struct procfs_want){ key, &kib }, 1);
	return kib * 1024;
}

bool procfs_cpu(uint64_t *total, uint64_t *idle)
{
	char buf[4096], *p;

	if (!procfs_read("/proc/stat", buf, sizeof(buf)) || strncmp(buf, "cpu ", 4))
		return false;
	p = buf + 4;
	*total = *idle = 0;
	for (int i = 0; i < 7; i++) { /* user nice system idle iowait irq softirq */
		uint64_t v = strtoull(p, &p, 10);

		*total += v;
		if (i == 3)
			*idle += v;
	}
	return true;
}
