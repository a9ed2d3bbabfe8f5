/* SPDX-License-Identifier: MIT */
/*
 * A directory that behaves as cgroup v2 does: mkdir fills a group with the kernel's files, rmdir
 * takes them away and refuses while cgroup.procs names anybody. For a test's own program, whose
 * mkdir, rmdir and setmntent these are; include it once, after cmocka.h.
 */
#ifndef CLONE_TESTS_CGROUP_MODEL_H
#define CLONE_TESTS_CGROUP_MODEL_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/lib/scratch.h"

static char cgroup_model_root[PATH_MAX];   /* "" : none */
static char cgroup_model_mounts[PATH_MAX]; /* whatever file is asked for; "" : that one */
static bool cgroup_model_dies;		   /* cgroup.kill empties a group */
static bool cgroup_model_kills;		   /* ... when those in it, real processes, have ended */

static const char *const cgroup_model_files[][2] = {
	{ "cgroup.controllers", "cpu memory pids\n" },
	{ "cgroup.subtree_control", "" },
	{ "cgroup.procs", "" },
	{ "cgroup.kill", "" },
	{ "memory.current", "4096\n" },
	{ "memory.max", "max\n" },
	{ "memory.high", "max\n" },
	{ "memory.oom.group", "0\n" },
	{ "memory.events.local", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n" },
};
#define CGROUP_MODEL_FILES (sizeof(cgroup_model_files) / sizeof(cgroup_model_files[0]))

static inline bool cgroup_model_has(const char *path)
{
	size_t n = strlen(cgroup_model_root);

	return n && !strncmp(path, cgroup_model_root, n) && (path[n] == '/' || !path[n]);
}

static inline void cgroup_model_fill(const char *path)
{
	for (size_t i = 0; i < CGROUP_MODEL_FILES; i++)
		scratch_text(path, cgroup_model_files[i][0], cgroup_model_files[i][1]);
	/* a file of the kernel's that can be watched, and says what sethostname(2) was told */
	if (symlink("/proc/sys/kernel/hostname", scratch_path(path, "memory.events")))
		abort();
}

static inline char *cgroup_model_read(const char *path, const char *file)
{
	return scratch_sh("cat %s/%s", path, file);
}

/* Is anybody in it who has not ended? */
static inline bool cgroup_model_kill(const char *path)
{
	FILE *f = fopen(scratch_path(path, "cgroup.procs"), "re");
	bool left = false;
	int pid;

	while (f && fscanf(f, "%d", &pid) == 1) {
		char *state;

		kill(pid, SIGKILL);
		state = scratch_sh("sed 's/.*) //' /proc/%d/stat 2>/dev/null | cut -c1", pid);
		left |= *state && *state != 'Z';
		free(state);
	}
	if (f)
		fclose(f);
	return left;
}

int mkdir(const char *path, mode_t mode)
{
	int r = (int)syscall(SYS_mkdir, path, mode);

	if (!r && cgroup_model_has(path))
		cgroup_model_fill(path);
	return r;
}

int rmdir(const char *path)
{
	struct stat st;

	if (!cgroup_model_has(path))
		return (int)syscall(SYS_rmdir, path);
	if (stat(path, &st))
		return -1;
	if ((cgroup_model_dies || cgroup_model_kills) &&
	    !stat(scratch_path(path, "cgroup.kill"), &st) && st.st_size &&
	    !(cgroup_model_kills && cgroup_model_kill(path)))
		scratch_text(path, "cgroup.procs", "");
	if (!stat(scratch_path(path, "cgroup.procs"), &st) && st.st_size) {
		errno = EBUSY;
		return -1;
	}
	for (size_t i = 0; i < CGROUP_MODEL_FILES; i++)
		unlink(scratch_path(path, cgroup_model_files[i][0]));
	unlink(scratch_path(path, "memory.events"));
	unlink(scratch_path(path, "memory.swap.max"));
	return (int)syscall(SYS_rmdir, path);
}

FILE *setmntent(const char *file, const char *type)
{
	return fopen(*cgroup_model_mounts ? cgroup_model_mounts : file, type);
}

/* dir/cg is the model, and all that is mounted. */
static inline void cgroup_model_mount(const char *dir)
{
	char text[PATH_MAX + 100];

	unsetenv("CLONE_CGROUP");
	snprintf(text, sizeof(text), "cgroup2 %s/cg cgroup2 rw 0 0\n", dir);
	scratch_text(dir, "mounts", text);
	snprintf(cgroup_model_mounts, sizeof(cgroup_model_mounts), "%s/mounts", dir);
	snprintf(cgroup_model_root, sizeof(cgroup_model_root), "%s/cg", dir);
	mkdir(cgroup_model_root, 0755);
}

static inline void cgroup_model_umount(void)
{
	cgroup_model_root[0] = cgroup_model_mounts[0] = '\0';
}

/* As many groups of VMs are left, in a line. */
static inline void cgroup_model_assert_left(const char *want)
{
	char *got =
		scratch_sh("ls %s/clone 2>/dev/null | grep -c ^clone- || true", cgroup_model_root);

	assert_string_equal(got, want);
	free(got);
}

#endif
