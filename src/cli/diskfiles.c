/* SPDX-License-Identifier: MIT */
/*
 * Opening a disk's image and its backing chain: see diskfiles.h. Used by the commands that start
 * VMs and by `clone disk`.
 */
#include "cli/diskfiles.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "block/blk.h"
#include "block/qcow2.h"
#include "block/source.h"

#define LOCK_BYTE (1ll << 62)

int disk_input_open(const char *what, const char *path, struct err *e)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s %s", what, path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(e, EINVAL, "%s %s: is neither a file nor a block device", what,
			       path);
	if (S_ISREG(st.st_mode) && !st.st_size)
		return err_set(e, EINVAL, "%s %s: is empty", what, path);
	fcntl(fd, F_SETFL, 0);
	return take_fd(&fd);
}

void disk_files_close(struct disk_files *d)
{
	for (size_t i = 0; i < d->n; i++)
		if (d->file[i].fd >= 0)
			close(d->file[i].fd);
	free(d->file);
	*d = (struct disk_files){ 0 };
}

/* Where an open file is, as the kernel says: no link in the name can be changed afterwards. */
static int path_of(int fd, char *path, struct err *e)
{
	char link[40];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, PATH_MAX - 1);
	if (n <= 0 || path[0] != '/')
		return err_sys(e, n < 0 ? errno : EIO, "disk: where is it");
	path[n] = '\0';
	return 0;
}

static bool same_file(int a, int b)
{
	struct stat x, y;

	return !fstat(a, &x) && !fstat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/*
 * Who uses a file as a disk holds a lock on one byte of it far behind its end, shared, or alone to
 * write to it. It belongs to the open file, which the VM process has from us: it ends with its last
 * holder. Advisory, and where a file system has no locks there are none.
 *
 * Forks of a VM that writes to a file have only what it reads by. By that is held, shared, the next
 * byte: while anybody has it, nobody may begin to write.
 */
static int lock(int fd, const char *path, bool alone, struct err *e)
{
	struct flock l = { .l_type = alone ? F_WRLCK : F_RDLCK,
			   .l_whence = SEEK_SET,
			   .l_start = LOCK_BYTE,
			   .l_len = 1 };

	if (!fcntl(fd, F_OFD_SETLK, &l) || (errno != EAGAIN && errno != EACCES))
		return 0;
	return alone ? err_set(e, EBUSY, "disk %s is in use by another VM or command", path)
		     : err_set(e, EBUSY, "disk %s is being written to by another VM (persistent)",
			       path);
}

int disk_file_open(const char *path, struct err *e)
{
	int fd = disk_input_open("disk", path, e);
	int r = fd < 0 ? fd : lock(fd, path, false, e);

	if (r && fd >= 0)
		close(fd);
	return r ? r : fd;
}

/* reader: what forks will have; writer: another opening of the same file, which has its lock. */
static int lock_for_forks(int reader, int writer, const char *path, struct err *e)
{
	struct flock l = {
		.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE + 1, .l_len = 1
	};

	if (!fcntl(writer, F_OFD_GETLK, &l) && l.l_type != F_UNLCK)
		return err_set(e, EBUSY, "disk %s is still read by forks of a VM that wrote to it",
			       path);
	l.l_type = F_RDLCK;
	fcntl(reader, F_OFD_SETLK, &l);
	return 0;
}

static bool below(const char *path, const char *dir)
{
	size_t n = strlen(dir);

	return !strcmp(dir, "/") || (!strncmp(path, dir, n) && path[n] == '/');
}

/* Adds an open file (owned). */
static int add(struct disk_files *d, int fd, bool qcow2, struct err *e)
{
	struct disk_file *f = reallocarray(d->file, d->n + 1, sizeof(*f));
	int r;

	if (!f) {
		close(fd);
		return err_set(e, ENOMEM, "no memory for a disk's files");
	}
	d->file = f;
	f = &d->file[d->n++];
	*f = (struct disk_file){ .fd = fd, .qcow2 = qcow2 };
	r = path_of(fd, f->path, e);
	if (!r)
		r = lock(fd, f->path, false, e);
	for (size_t i = 0; i + 1 < d->n && !r; i++)
		if (same_file(d->file[i].fd, fd))
			r = err_set(e, ELOOP,
				    "disk %s: its chain of backing files comes back to %s",
				    d->file[0].path, f->path);
	return r;
}

/* The name that `file` gives for what it stands on, as a path. */
static int backing_path(const struct disk_file *file, const char *name, char *path, struct err *e)
{
	const char *slash = strchr(name, '/'), *colon = strchr(name, ':');
	char dir[PATH_MAX];
	int n;

	if (colon && (!slash || colon < slash))
		return err_set(e, EACCES, "disk %s: its backing file '%s' is no file's name",
			       file->path, name);
	snprintf(dir, sizeof(dir), "%s", file->path);
	n = name[0] == '/' ? snprintf(path, PATH_MAX, "%s", name)
			   : snprintf(path, PATH_MAX, "%s/%s", dirname(dir), name);
	return n < PATH_MAX
		       ? 0
		       : err_set(e, ENAMETOOLONG, "disk %s: backing file '%s'", file->path, name);
}

/* Adds what the last file of the chain stands on: 1; 0 when that is nothing. */
static int add_backing(struct disk_files *d, const char *dir, struct err *e)
{
	const struct disk_file *file = &d->file[d->n - 1];
	uint64_t bytes = 0;
	struct qcow2_head h;
	char path[PATH_MAX];
	int fd, r;

	r = blk_base_bytes(file->fd, &bytes, e);
	if (!r)
		r = qcow2_read_head(file->fd, bytes, &h, e);
	if (r)
		return err_wrap(e, r, "disk %s", file->path);
	if (!h.backing[0])
		return 0;
	if (!dir)
		return err_set(e, EACCES,
			       "disk %s stands on backing file '%s'; if that may be opened, say "
			       "under which directory: backing=DIR",
			       file->path, h.backing);
	if (strcmp(h.backing_format, "raw") && strcmp(h.backing_format, "qcow2"))
		return err_set(e, EINVAL,
			       "disk %s: the format of its backing file is '%s', must be raw or "
			       "qcow2; set it: qemu-img rebase -u -b %s -F FORMAT %s",
			       file->path, h.backing_format, h.backing, file->path);
	if (d->n == SOURCE_FILES)
		return err_set(e, EINVAL, "disk %s: a chain of more than %d files", d->file[0].path,
			       SOURCE_FILES);
	r = backing_path(file, h.backing, path, e);
	if (r)
		return r;
	fd = disk_input_open("backing file", path, e);
	if (fd < 0)
		return err_wrap(e, fd, "disk %s", file->path);
	r = add(d, fd, !strcmp(h.backing_format, "qcow2"), e);
	if (r)
		return r;
	file = &d->file[d->n - 1];
	return below(file->path, dir)
		       ? 1
		       : err_set(e, EACCES,
				 "disk %s: its backing file %s is not under %s, as backing= says",
				 d->file[0].path, file->path, dir);
}

int disk_files_writable(struct disk_files *d, struct err *e)
{
	char again[40];
	cleanup_close int fd = -1;
	struct flock un = {
		.l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = LOCK_BYTE, .l_len = 1
	};
	int r;

	snprintf(again, sizeof(again), "/proc/self/fd/%d", d->file[0].fd);
	fd = open(again, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return err_sys(e, errno, "disk %s: open it for writing", d->file[0].path);
	/* our own shared lock would be in the way */
	fcntl(d->file[0].fd, F_OFD_SETLK, &un);
	r = lock(fd, d->file[0].path, true, e);
	if (!r)
		r = lock_for_forks(d->file[0].fd, fd, d->file[0].path, e);
	return r ? r : take_fd(&fd);
}

int disk_files_direct(const struct disk_files *d, struct err *e)
{
	char again[40];
	int fd;

	snprintf(again, sizeof(again), "/proc/self/fd/%d", d->file[0].fd);
	fd = open(again, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	return errno == EINVAL
		       ? err_set(e, EINVAL, "disk %s: direct: its file system has no direct I/O",
				 d->file[0].path)
		       : err_sys(e, errno, "disk %s: open it for direct I/O", d->file[0].path);
}

int disk_files_open(const char *path, bool qcow2, const char *backing_dir, struct disk_files *out,
		    struct err *e)
{
	cleanup_free char *dir = backing_dir ? realpath(backing_dir, NULL) : NULL;
	struct disk_files d = { 0 };
	int fd, r;

	if (backing_dir && !dir)
		return err_sys(e, errno, "backing=%s", backing_dir);
	fd = disk_input_open("disk", path, e);
	if (fd < 0)
		return fd;
	r = add(&d, fd, qcow2, e);
	if (!r)
		r = 1;
	while (r == 1 && d.file[d.n - 1].qcow2)
		r = add_backing(&d, dir, e);
	if (r < 0) {
		disk_files_close(&d);
		return r;
	}
	*out = d;
	return 0;
}
