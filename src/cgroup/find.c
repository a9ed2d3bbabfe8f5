/* SPDX-License-Identifier: MIT */
/*
 * Where groups can be made: the mount, the controller, a group of our own under which VMs' are.
 * See cgroup.h. Privileged caller; any one thread.
 */
#include "cgroup/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"

#define OURS "clone"

const struct cgroup_files cgroup_host_files = { "/proc/self/mounts", "/proc/self/cgroup" };

static int too_long(struct err *e)
{
	return err_set(e, ENAMETOOLONG, "cgroup: path too long");
}

int cgroup_mount(const struct cgroup_files *files, char mount[PATH_MAX], struct err *e)
{
	FILE *f = setmntent(files->mounts, "re");
	char line[4096];
	struct mntent m;
	bool found = false;
	int len = 0;

	if (!f)
		return err_sys(e, errno, "cgroup: %s", files->mounts);
	while (!found && getmntent_r(f, &m, line, sizeof(line))) {
		found = !strcmp(m.mnt_type, "cgroup2");
		if (found)
			len = snprintf(mount, PATH_MAX, "%s", m.mnt_dir);
	}
	endmntent(f);
	if (!found)
		return err_set(e, ENOTSUP,
			       "this host has no cgroup v2: boot it with "
			       "systemd.unified_cgroup_hierarchy=1, or mount -t cgroup2");
	return len < PATH_MAX ? 0 : too_long(e);
}

/* Is word in the file of words at path/file? */
static bool has_word(const char *path, const char *file, const char *word)
{
	cleanup_close int fd = cgroup_open(path, file, O_RDONLY, NULL);
	char text[1024], *save = NULL;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	for (char *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save))
		if (!strcmp(w, word))
			return true;
	return false;
}

bool cgroup_of(FILE *self, const char *mount, char path[PATH_MAX])
{
	char line[PATH_MAX];
	bool found = false;

	while (self && !found && fgets(line, sizeof(line), self)) {
		line[strcspn(line, "\n")] = '\0';
		/* "/..": it is not below the root of our namespace */
		found = !strncmp(line, "0::/", 4) && line[4] && !strstr(line, "/..") &&
			snprintf(path, PATH_MAX, "%s%s", mount, line + 3) < PATH_MAX;
	}
	return found;
}

/* The group above our own, below the mount. False: we are at the top, or it cannot be told. */
static bool beside_us(const char *self, const char *mount, char *path)
{
	FILE *f = fopen(self, "re");
	bool ours = cgroup_of(f, mount, path);

	if (f)
		fclose(f);
	if (ours)
		*strrchr(path, '/') = '\0';
	return ours;
}

/* $CLONE_CGROUP. */
static int named(const char *set, const char *mount, char *base, struct err *e)
{
	if (*set != '/' || !set[1] || strstr(set, "/.."))
		return err_set(e, EINVAL,
			       "CLONE_CGROUP: '%s' is no path below %s that begins with /", set,
			       mount);
	return snprintf(base, PATH_MAX, "%s%s", mount, set) < PATH_MAX ? 0 : too_long(e);
}

int cgroup_find(const struct cgroup_files *files, char base[PATH_MAX], struct err *e)
{
	char mount[PATH_MAX], above[PATH_MAX];
	const char *set = getenv("CLONE_CGROUP");
	int r = cgroup_mount(files, mount, e);

	if (r)
		return r;
	if (!has_word(mount, "cgroup.controllers", "memory"))
		return err_set(e, ENOTSUP,
			       "cgroup v2 at %s has no memory controller (cgroup v1 has it): boot "
			       "with systemd.unified_cgroup_hierarchy=1, and without "
			       "cgroup_disable=memory",
			       mount);
	if (set && *set)
		return named(set, mount, base, e);
	if (snprintf(base, PATH_MAX, "%s/" OURS, mount) >= PATH_MAX)
		return too_long(e);
	if (!access(base, F_OK) ? !access(base, W_OK) : !access(mount, W_OK))
		return 0;
	if (beside_us(files->self, mount, above) && !access(above, W_OK))
		return snprintf(base, PATH_MAX, "%s/" OURS, above) < PATH_MAX ? 0 : too_long(e);
	if (access(mount, W_OK) && errno == EROFS)
		return err_set(
			e, ENOTSUP,
			"cgroup v2 at %s is mounted read-only, as in containers: no groups "
			"can be made there until it is writable (mount -o remount,rw %s, or a "
			"container with a writable one)",
			mount, mount);
	return err_set(e, ENOTSUP,
		       "no permission to make groups in %s: run as root, or in a delegated group "
		       "(systemd-run --user --scope -p Delegate=yes)",
		       mount);
}

bool cgroup_prepared(const char *base)
{
	return has_word(base, "cgroup.subtree_control", "memory");
}

static int busy_text(const char *path, struct err *e)
{
	return err_set(e, ENOTSUP,
		       "cgroup %s has processes of its own, so the groups below it cannot have "
		       "limits: move them into one below it, or name another group by "
		       "CLONE_CGROUP",
		       path);
}

static int none_text(const char *path, struct err *e)
{
	return err_set(e, ENOTSUP,
		       "cgroup %s has no memory controller to give to the groups below it: echo "
		       "+memory > cgroup.subtree_control in each group above it, beginning at the "
		       "top, or name another group by CLONE_CGROUP",
		       path);
}

/* Memory for the children of path. */
static int give_memory(const char *path, struct err *e)
{
	cleanup_close int fd = -1;
	int r;

	if (has_word(path, "cgroup.subtree_control", "memory"))
		return 0;
	fd = cgroup_open(path, "cgroup.subtree_control", O_WRONLY, e);
	if (fd < 0)
		return fd;
	r = fd_write_full(fd, "+memory", 7);
	if (r == -EBUSY)
		return busy_text(path, e);
	if (r == -ENOENT)
		return none_text(path, e);
	return r ? err_sys(e, -r, "cgroup %s: giving memory to its children", path) : 0;
}

/* Only the host's root may have both, which has no cgroup.type. */
static int no_processes(const char *path, struct err *e)
{
	cleanup_close int type = cgroup_open(path, "cgroup.type", O_RDONLY, NULL);
	cleanup_close int procs = cgroup_open(path, "cgroup.procs", O_RDONLY, NULL);
	char c;

	return type >= 0 && procs >= 0 && read(procs, &c, 1) == 1 ? busy_text(path, e) : 0;
}

/* Would give_memory succeed, as far as can be seen? */
static int can_give(const char *path, struct err *e)
{
	cleanup_close int fd = -1;

	if (has_word(path, "cgroup.subtree_control", "memory"))
		return 0;
	fd = cgroup_open(path, "cgroup.subtree_control", O_WRONLY, e);
	if (fd < 0)
		return fd;
	if (!has_word(path, "cgroup.controllers", "memory"))
		return none_text(path, e);
	return no_processes(path, e);
}

static int parent_of(const char *base, char above[PATH_MAX], struct err *e)
{
	char *slash;

	snprintf(above, PATH_MAX, "%s", base);
	slash = strrchr(above, '/');
	if (!slash || slash == above)
		return err_set(e, EINVAL, "cgroup: %s is no group", base);
	*slash = '\0';
	return 0;
}

int cgroup_can_prepare(const char *base, struct err *e)
{
	bool there = !access(base, F_OK);
	char above[PATH_MAX];
	int r = parent_of(base, above, e);

	if (r)
		return r;
	if (access(there ? base : above, W_OK))
		return err_sys(e, errno, "make groups in %s", there ? base : above);
	if (there && has_word(base, "cgroup.controllers", "memory"))
		return can_give(base, e);
	r = can_give(above, e);
	return r || !there ? r : no_processes(base, e);
}

int cgroup_prepare(const char *base, struct err *e)
{
	char above[PATH_MAX];
	bool made = false;
	int r = 0;

	if (cgroup_prepared(base))
		return 0;
	r = parent_of(base, above, e);
	if (r)
		return r;
	made = !mkdir(base, 0755);
	if (!made && errno != EEXIST)
		return err_sys(e, errno, "make cgroup %s", base);
	if (!has_word(base, "cgroup.controllers", "memory"))
		r = give_memory(above, e);
	if (!r)
		r = give_memory(base, e);
	if (r && made)
		rmdir(base);
	return r;
}
