/* SPDX-License-Identifier: MIT */
/*
 * How a build becomes an image in one step. Two locks: STORE/.lock, held briefly by whoever
 * creates, sweeps or renames entries; .build-NAME/lock, held by a build as long as it lives, so
 * that a stage without a holder is known to be left over. Called by the builds and store.c; any one
 * thread.
 */
#include "image/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "base/log.h"
#include "base/util.h"
#include "image/tree.h"
#include "image/userns.h"

int store_lock_file(const char *path, bool wait, int *out, struct err *e)
{
	cleanup_close int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(e, errno, "lock %s", path);
	while (flock(fd, wait ? LOCK_EX : LOCK_EX | LOCK_NB))
		if (errno != EINTR)
			return err_sys(e, errno, "lock %s", path);
	*out = take_fd(&fd);
	return 0;
}

int store_lock(const char *store, int *out, struct err *e)
{
	char path[PATH_MAX];
	int r = tree_path(path, sizeof(path), e, "%s/.lock", store);

	return r ? r : store_lock_file(path, true, out, e);
}

/* Unlocked leftovers only; the store is locked, so nobody is about to lock one. */
static void sweep_one(const char *store, const char *entry)
{
	cleanup_close int lock = -1;
	char path[PATH_MAX], file[PATH_MAX];
	struct err e;

	if (tree_path(path, sizeof(path), NULL, "%s/%s", store, entry) ||
	    tree_path(file, sizeof(file), NULL, "%s/lock", path))
		return;
	if (!strncmp(entry, STORE_BUILD_PREFIX, strlen(STORE_BUILD_PREFIX)) &&
	    store_lock_file(file, false, &lock, NULL) == -EWOULDBLOCK)
		return;
	if (userns_remove(path, &e))
		log_warn("cannot clean up: %s", e.msg);
}

void store_sweep(const char *store)
{
	DIR *d = opendir(store);
	struct dirent *de;

	while (d && (de = readdir(d)))
		if (!strncmp(de->d_name, STORE_BUILD_PREFIX, strlen(STORE_BUILD_PREFIX)) ||
		    !strncmp(de->d_name, STORE_RM_PREFIX, strlen(STORE_RM_PREFIX)))
			sweep_one(store, de->d_name);
	if (d)
		closedir(d);
}

static int log_path(const struct stage *s, char *buf, size_t n)
{
	return tree_path(buf, n, NULL, "%s/.failed-%s.log", s->store, s->name);
}

/* With the store locked: makes the stage's directory and takes its lock. */
static int claim(struct stage *s, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;
	int r = tree_path(path, sizeof(path), e, "%s/%s", s->store, s->name);

	if (r)
		return r;
	if (!lstat(path, &st))
		return err_set(e, EEXIST, "the name is taken: clone image rm %s removes it",
			       s->name);
	if (mkdir(s->dir, 0755))
		return errno == EEXIST ? err_set(e, EBUSY, "is being built right now")
				       : err_sys(e, errno, "%s", s->dir);
	if (!log_path(s, path, sizeof(path)))
		unlink(path);
	r = tree_path(path, sizeof(path), e, "%s/lock", s->dir);
	if (!r)
		r = store_lock_file(path, false, &s->lock, e);
	if (!r)
		r = tree_mkdirs(s->image, 0755, e);
	if (!r)
		r = tree_path(path, sizeof(path), e, "%s/build.log", s->image);
	if (r)
		return r;
	s->log = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0644);
	return s->log < 0 ? err_sys(e, errno, "%s", path) : 0;
}

int stage_begin(const char *name, struct stage *s, struct err *e)
{
	cleanup_close int lock = -1;
	int r = image_check_name(name, e);

	*s = (struct stage){ .lock = -1, .log = -1 };
	if (r)
		return r;
	snprintf(s->name, sizeof(s->name), "%s", name);
	r = store_dir(s->store, sizeof(s->store), e);
	if (!r)
		r = tree_path(s->dir, sizeof(s->dir), e, "%s/%s%s", s->store, STORE_BUILD_PREFIX,
			      name);
	if (!r)
		r = tree_path(s->image, sizeof(s->image), e, "%s/image", s->dir);
	if (!r)
		r = tree_mkdirs(s->store, 0755, e);
	if (!r)
		r = store_lock(s->store, &lock, e);
	if (r)
		return r;
	store_sweep(s->store);
	r = claim(s, e);
	if (r && s->lock >= 0) {
		close(s->lock);
		store_sweep(s->store);
	}
	return r;
}

/* rename(2) that never replaces, with everything below `from` on disk before. */
static int publish_dir(const struct stage *s, const char *to, struct err *e)
{
	cleanup_close int lock = -1, dir = open(s->store, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r;

	if (dir < 0 || syncfs(dir))
		return err_sys(e, errno, "sync %s", s->store);
	r = store_lock(s->store, &lock, e);
	if (r)
		return r;
	if (renameat2(AT_FDCWD, s->image, AT_FDCWD, to, RENAME_NOREPLACE))
		return errno == EEXIST ? err_set(e, EEXIST, "the name is taken")
				       : err_sys(e, errno, "publish %s", to);
	return fsync(dir) ? err_sys(e, errno, "sync %s", s->store) : 0;
}

int stage_publish(struct stage *s, struct image *img, struct err *e)
{
	time_t now = time(NULL);
	struct tm tm;
	struct stat st;
	int r = image_set_paths(img, s->dir, "image", e);

	if (r)
		return r;
	if (stat(img->rootfs, &st))
		return err_sys(e, errno, "%s", img->rootfs);
	img->size_bytes = (uint64_t)st.st_size;
	memcpy(img->name, s->name, sizeof(img->name));
	strftime(img->created, sizeof(img->created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	r = tree_sha256(img->rootfs, img->rootfs_sha256, e);
	if (!r)
		r = tree_sha256(img->kernel, img->kernel_sha256, e);
	if (!r)
		r = tree_disk_usage(img->dir, &img->used_bytes, e);
	if (!r)
		r = manifest_write(img->dir, img, e);
	if (!r)
		r = image_set_paths(img, s->store, s->name, e);
	return r ? r : publish_dir(s, img->dir, e);
}

int stage_end(struct stage *s, int ret, struct err *e)
{
	char from[PATH_MAX], to[PATH_MAX], note[ERR_MSG_MAX / 2];
	struct stat st;
	struct err why;

	if (ret && s->log >= 0 && !fstat(s->log, &st) && st.st_size > 0 &&
	    !tree_path(from, sizeof(from), NULL, "%s/build.log", s->image) &&
	    !log_path(s, to, sizeof(to)) && !rename(from, to) && e) {
		int n = snprintf(note, sizeof(note), " (log: %.200s)", to);
		size_t used = MIN(strlen(e->msg), sizeof(e->msg) - 1 - (size_t)n);

		memcpy(e->msg + used, note, (size_t)n + 1);
	}
	if (s->lock >= 0 && userns_remove(s->dir, &why))
		log_warn("cannot clean up: %s", why.msg);
	if (s->log >= 0)
		close(s->log);
	if (s->lock >= 0)
		close(s->lock);
	s->log = s->lock = -1;
	return ret;
}
