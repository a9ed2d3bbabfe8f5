/* SPDX-License-Identifier: MIT */
/*
 * What else the kernel says of a process: page tables, its control group, the page cache of a file
 * that it maps. Called by proc.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "account/proc_int.h"
#include "base/fd.h"
#include "base/pagecache.h"
#include "base/util.h"
#include "cgroup/cgroup.h"
#include "mem/gmem.h"

uint64_t proc_kb(const struct account_proc *p, const char *name, const char *key)
{
	FILE *f = fd_fopenat(p->dir, name);
	uint64_t v = ACCOUNT_UNKNOWN;
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (account_kb(line, key, &v))
			break;
	if (f)
		fclose(f);
	return v;
}

static bool group_of(const struct account_proc *p, char path[PATH_MAX])
{
	FILE *f = fd_fopenat(p->dir, "cgroup");
	char mount[PATH_MAX];
	bool found = !cgroup_mount(&cgroup_host_files, mount, NULL) && cgroup_of(f, mount, path);

	if (f)
		fclose(f);
	return found;
}

static FILE *group_file(const char *group, const char *name)
{
	char path[PATH_MAX + 32];

	snprintf(path, sizeof(path), "%s/%s", group, name);
	return fopen(path, "re");
}

/* Kernel threads have no program. Before Linux 6.4 vhost's is in the group of the VM that it
 * serves. */
static bool is_kernel_thread(long pid)
{
	char path[32], to[8];

	snprintf(path, sizeof(path), "/proc/%ld/exe", pid);
	return readlink(path, to, sizeof(to)) < 0 && errno == ENOENT;
}

static bool is_alone(const char *group, pid_t pid)
{
	FILE *f = group_file(group, "cgroup.procs");
	bool found = false, others = false;
	long one;

	while (f && !others && fscanf(f, "%ld", &one) == 1) {
		found |= one == pid;
		others = one != pid && !is_kernel_thread(one);
	}
	if (f)
		fclose(f);
	return found && !others;
}

uint64_t proc_cgroup_kernel(const struct account_proc *p)
{
	uint64_t v, kernel = ACCOUNT_UNKNOWN, tables = 0;
	char group[PATH_MAX], line[256];
	FILE *f;

	if (!group_of(p, group) || !is_alone(group, p->pid))
		return ACCOUNT_UNKNOWN;
	f = group_file(group, "memory.stat");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "kernel %" SCNu64, &v) == 1)
			kernel = v;
		else if (sscanf(line, "pagetables %" SCNu64, &v) == 1)
			tables = v;
	if (f)
		fclose(f);
	/* those are in VmPTE, which has a figure of its own */
	return kernel == ACCOUNT_UNKNOWN ? kernel : kernel - MIN(tables, kernel);
}

/* By what p has mapped, whatever its name leads to now; or, when that is not allowed, by its name
 * if that is still the same file: never as root, whom a VM could lead to any device by a name. */
static int open_file(const struct account_proc *p, const struct account_file *f)
{
	char name[80];
	struct stat st;
	int fd;

	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, f->from, f->to);
	fd = openat(p->dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && (errno == EPERM || errno == EACCES))
		fd = open(f->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_ino != f->inode)) {
		close(fd);
		return -1;
	}
	return fd;
}

uint64_t proc_cached(struct account_proc *p, const struct account_file *f)
{
	cleanup_close int fd = open_file(p, f);
	uint64_t bytes, end;
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return ACCOUNT_UNKNOWN;
	end = MIN(f->end, (uint64_t)st.st_size);
	if (f->begin >= end)
		return 0;
	/* no machine has more, in all of its files: a file may be as large as its owner says */
	if (!range_ok(p->looked, end - f->begin, GMEM_MAX_BYTES))
		return ACCOUNT_UNKNOWN;
	p->looked += end - f->begin;
	return pagecache_bytes(fd, f->begin, end, &bytes) ? ACCOUNT_UNKNOWN : bytes;
}
