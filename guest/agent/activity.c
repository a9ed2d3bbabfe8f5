/* SPDX-License-Identifier: MIT */
/*
 * ACTIVITY: how busy the guest is, so that the host can tell an idle one. Agent's thread.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "procfs.h"

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

uint64_t procfs_mem(const char *key)
{
	char buf[4096], *p = buf;
	size_t n = strlen(key);

	if (!procfs_read("/proc/meminfo", buf, sizeof(buf)))
		return 0;
	for (; p; p = strchr(p, '\n')) {
		p += *p == '\n';
		if (!strncmp(p, key, n) && p[n] == ':')
			return strtoull(p + n + 1, NULL, 10) * 1024;
	}
	return 0;
}

void activity_report(struct agent *a, struct proto_report *p)
{
	struct sysinfo si = { 0 };
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	sysinfo(&si);
	p->uptime_ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
	p->load1_x100 = (uint32_t)(si.loads[0] * 100 / 65536);
	p->procs = si.procs;
	p->sessions = a->sessions;
	p->exec_count = a->exec_count;
	p->last_exec_ms = a->last_exec_ms ? loop_now_ms() - a->last_exec_ms : UINT64_MAX;
	p->mem_total_bytes = (uint64_t)si.totalram * si.mem_unit;
	p->mem_available_bytes = procfs_mem("MemAvailable");
}
