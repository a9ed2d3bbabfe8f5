/* SPDX-License-Identifier: MIT */
/*
 * Files and directory trees. Called by the store, the builds and the initrd composer on the
 * privileged side; any one thread.
 */
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <nettle/sha2.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/util.h"

#define COPY_CHUNK KIB(256)
#define WALK_FDS 32

int tree_path(char *buf, size_t n, struct err *e, const char *fmt, ...)
{
	va_list ap;
	int len;

	va_start(ap, fmt);
	len = vsnprintf(buf, n, fmt, ap);
	va_end(ap);
	if (len < 0 || (size_t)len >= n)
		return err_set(e, ENAMETOOLONG, "path too long: %.100s...", buf);
	return 0;
}

int tree_read_text(const char *path, size_t max, char **out, struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	cleanup_free char *buf = NULL;
	struct stat st;
	size_t n;
	int r;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EBADMSG, "%s is not a regular file", path);
	if ((uint64_t)st.st_size > max)
		return err_set(e, EFBIG, "%s has %lld bytes, more than %zu", path,
			       (long long)st.st_size, max);
	n = (size_t)st.st_size;
	buf = malloc(n + 1);
	if (!buf)
		return err_sys(e, ENOMEM, "%s", path);
	r = fd_read_full(fd, buf, n);
	if (r)
		return err_sys(e, -r, "read %s", path);
	buf[n] = '\0';
	if (memchr(buf, '\0', n))
		return err_set(e, EBADMSG, "%s: not a text file (a NUL at byte %zu)", path,
			       strlen(buf));
	*out = take_ptr(buf);
	return 0;
}

int tree_mkdirs(const char *path, mode_t mode, struct err *e)
{
	char buf[PATH_MAX];
	int r = tree_path(buf, sizeof(buf), e, "%s", path);

	if (r)
		return r;
	for (char *p = buf + 1;; p++) {
		char c = *p;

		if (c != '/' && c)
			continue;
		*p = '\0';
		if (mkdir(buf, mode) && errno != EEXIST)
			return err_sys(e, errno, "make directory %s", buf);
		if (!c)
			break;
		*p = c;
	}
	return 0;
}

/* root/path in full, its parent made and whatever was there removed. */
static int make_room(const char *root, const char *path, char *full, size_t n, struct err *e)
{
	char *slash;
	int r = tree_path(full, n, e, "%s/%s", root, path);

	if (r)
		return r;
	slash = strrchr(full, '/');
	*slash = '\0';
	r = tree_mkdirs(full, 0755, e);
	*slash = '/';
	if (!r && unlink(full) && errno != ENOENT)
		r = err_sys(e, errno, "replace %s", full);
	return r;
}

int tree_write(const char *root, const char *path, mode_t mode, const void *data, size_t n,
	       struct err *e)
{
	cleanup_close int fd = -1;
	char full[PATH_MAX];
	int r = make_room(root, path, full, sizeof(full), e);

	if (r)
		return r;
	fd = open(full, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (fd < 0)
		return err_sys(e, errno, "create %s", full);
	r = fd_write_full(fd, data, n);
	if (r)
		return err_sys(e, -r, "write %s", full);
	if (fchmod(fd, mode)) /* whatever the umask */
		return err_sys(e, errno, "%s", full);
	return 0;
}

int tree_symlink(const char *root, const char *path, const char *target, struct err *e)
{
	char full[PATH_MAX];
	int r = make_room(root, path, full, sizeof(full), e);

	if (!r && symlink(target, full))
		r = err_sys(e, errno, "create %s", full);
	return r;
}

int tree_copy_file(const char *from, const char *to, mode_t mode, struct err *e)
{
	cleanup_close int in = open(from, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), out = -1;
	cleanup_free char *buf = malloc(COPY_CHUNK);
	struct stat st;
	ssize_t n;
	int r = 0;

	if (!buf)
		return err_sys(e, ENOMEM, "copy %s", from);
	if (in < 0 || fstat(in, &st))
		return err_sys(e, errno, "%s", from);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "%s is not a regular file", from);
	out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
	if (out < 0)
		return err_sys(e, errno, "create %s", to);
	while (!r && (n = read(in, buf, COPY_CHUNK)) != 0) {
		if (n > 0)
			r = fd_write_full(out, buf, (size_t)n);
		else if (errno != EINTR)
			return err_sys(e, errno, "read %s", from);
	}
	if (!r && fchmod(out, mode))
		r = -errno;
	return r ? err_sys(e, -r, "write %s", to) : 0;
}

/* nftw has no argument for its callback: one walk at a time per thread. */
static _Thread_local struct {
	const char *from, *to;
	bool link;
	uint64_t bytes;
	int ret;
	struct err *e;
} walk;

static int clone_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	char to[PATH_MAX], target[PATH_MAX];
	ssize_t n;

	(void)ftw;
	walk.ret = tree_path(to, sizeof(to), walk.e, "%s%s", walk.to, path + strlen(walk.from));
	if (walk.ret)
		return 1;
	if (type == FTW_D) {
		if (mkdir(to, st->st_mode & 07777))
			walk.ret = err_sys(walk.e, errno, "create %s", to);
	} else if (type == FTW_SL) {
		n = readlink(path, target, sizeof(target) - 1);
		if (n >= 0)
			target[n] = '\0';
		if (n < 0 || symlink(target, to))
			walk.ret = err_sys(walk.e, errno, "create %s", to);
	} else if (type == FTW_F && S_ISREG(st->st_mode)) {
		if (!walk.link || link(path, to))
			walk.ret = tree_copy_file(path, to, st->st_mode & 0777, walk.e);
	} else {
		walk.ret = err_set(walk.e, EINVAL, "%s cannot be copied", path);
	}
	return walk.ret != 0;
}

/* Runs one walk; walk.e was set, ret is what the callback left. */
static int run_walk(const char *path,
		    int (*fn)(const char *, const struct stat *, int, struct FTW *), int flags,
		    struct err *e)
{
	walk.ret = 0;
	walk.e = e;
	if (nftw(path, fn, WALK_FDS, flags) && !walk.ret)
		walk.ret = err_sys(e, errno, "%s", path);
	return walk.ret;
}

int tree_clone(const char *from, const char *to, bool link, struct err *e)
{
	walk.from = from;
	walk.to = to;
	walk.link = link;
	return run_walk(from, clone_one, FTW_PHYS, e);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	if (remove(path) && errno != ENOENT)
		walk.ret = err_sys(walk.e, errno, "remove %s", path);
	return walk.ret != 0;
}

int tree_remove(const char *path, struct err *e)
{
	struct stat st;

	if (lstat(path, &st))
		return errno == ENOENT ? 0 : err_sys(e, errno, "%s", path);
	return run_walk(path, remove_one, FTW_DEPTH | FTW_PHYS | FTW_MOUNT, e);
}

static int count_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)path;
	(void)type;
	(void)ftw;
	walk.bytes += (uint64_t)st->st_blocks * 512;
	return 0;
}

int tree_disk_usage(const char *path, uint64_t *bytes, struct err *e)
{
	int r;

	walk.bytes = 0;
	r = run_walk(path, count_one, FTW_PHYS | FTW_MOUNT, e);
	if (!r)
		*bytes = walk.bytes;
	return r;
}

/* Feeds the file to the hash; what is a hole is not read but fed as zeros. */
static int hash_file(struct sha256_ctx *ctx, int fd, uint64_t size, char *buf)
{
	uint64_t off = 0, data = 0, end = 0;
	int r;

	while (off < size) {
		size_t n;

		if (off >= end) {
			off_t d = lseek(fd, (off_t)off, SEEK_DATA), h;

			data = d < 0 ? size : (uint64_t)d;
			h = d < 0 ? d : lseek(fd, d, SEEK_HOLE);
			end = h < 0 ? size : (uint64_t)h;
			if (d < 0 && errno != ENXIO)
				data = off; /* not every file system knows holes */
		}
		n = (size_t)MIN(COPY_CHUNK, (off < data ? MIN(data, size) : MIN(end, size)) - off);
		r = 0;
		if (off < data)
			memset(buf, 0, n);
		else
			r = fd_pread_full(fd, buf, n, off);
		if (r)
			return r;
		sha256_update(ctx, n, (const uint8_t *)buf);
		off += n;
	}
	return 0;
}

int tree_sha256(const char *path, char hex[65], struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	cleanup_free char *buf = malloc(COPY_CHUNK);
	uint8_t sum[SHA256_DIGEST_SIZE];
	struct sha256_ctx ctx;
	struct stat st;
	int r = -ENOMEM;

	sha256_init(&ctx);

	if (fd < 0 || fstat(fd, &st))
		r = -errno;
	else if (buf)
		r = hash_file(&ctx, fd, (uint64_t)st.st_size, buf);
	if (r)
		return err_sys(e, -r, "hash %s", path);
	sha256_digest(&ctx, sizeof(sum), sum);
	for (size_t i = 0; i < sizeof(sum); i++)
		snprintf(hex + i * 2, 3, "%02x", sum[i]);
	return 0;
}
