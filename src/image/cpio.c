/* SPDX-License-Identifier: MIT */
/*
 * The newc writer: a header of fourteen 8-digit hexadecimal fields, the name, the data, each padded
 * to 4 bytes. Called by initrd.c; one thread.
 */
#include "image/cpio.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fd.h"
#include "base/util.h"

#define CPIO_HEADER 110
#define CPIO_TRAILER "TRAILER!!!"
#define CPIO_NAME_MAX 4096 /* PATH_MAX of the kernel that unpacks, NUL included */

void cpio_init(struct cpio *c, size_t limit)
{
	wbuf_init(&c->out, limit);
	c->ino = 0;
}

void cpio_fini(struct cpio *c)
{
	wbuf_fini(&c->out);
}

static bool path_ok(const char *path)
{
	size_t n = strlen(path);

	if (!n || n >= CPIO_NAME_MAX || path[0] == '/' || path[n - 1] == '/' ||
	    !strcmp(path, CPIO_TRAILER))
		return false;
	for (const char *p = path; p; p = strchr(p, '/') ? strchr(p, '/') + 1 : NULL) {
		size_t part = strcspn(p, "/");

		if (!part || (part == 1 && p[0] == '.') || (part == 2 && !memcmp(p, "..", 2)))
			return false;
	}
	return true;
}

static void pad4(struct wbuf *w)
{
	size_t over = w->len & 3;

	if (over)
		wbuf_reserve(w, 4 - over);
}

static int full(const struct cpio *c, const char *path, struct err *e)
{
	return err_set(e, EFBIG, "archive exceeds %zu bytes at %s", c->out.limit, path);
}

static int put_entry(struct cpio *c, const char *path, mode_t mode, size_t size, uint32_t major,
		     uint32_t minor, struct err *e)
{
	char head[CPIO_HEADER + 1];
	size_t name = strlen(path) + 1;
	bool is_dir = S_ISDIR(mode);

	if (size > UINT32_MAX)
		return err_set(e, EFBIG, "%s: %zu bytes do not fit a cpio archive", path, size);
	snprintf(head, sizeof(head), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		 c->ino++, (unsigned)mode, 0u, 0u, is_dir ? 2u : 1u, 0u, (unsigned)size, 0u, 0u,
		 major, minor, (unsigned)name, 0u);
	wbuf_bytes(&c->out, head, CPIO_HEADER);
	wbuf_bytes(&c->out, path, name);
	pad4(&c->out);
	return c->out.bad ? full(c, path, e) : 0;
}

static int put_checked(struct cpio *c, const char *path, mode_t mode, size_t size, uint32_t major,
		       uint32_t minor, struct err *e)
{
	if (!path_ok(path))
		return err_set(e, EINVAL, "'%s' cannot be a path in an initrd", path);
	return put_entry(c, path, mode, size, major, minor, e);
}

int cpio_dir(struct cpio *c, const char *path, mode_t mode, struct err *e)
{
	return put_checked(c, path, S_IFDIR | (mode & 07777), 0, 0, 0, e);
}

static int put_data(struct cpio *c, const char *path, mode_t mode, const void *data, size_t n,
		    struct err *e)
{
	int r = put_checked(c, path, mode, n, 0, 0, e);

	if (r)
		return r;
	wbuf_bytes(&c->out, data, n);
	pad4(&c->out);
	return c->out.bad ? full(c, path, e) : 0;
}

int cpio_file(struct cpio *c, const char *path, mode_t mode, const void *data, size_t n,
	      struct err *e)
{
	return put_data(c, path, S_IFREG | (mode & 07777), data, n, e);
}

int cpio_link(struct cpio *c, const char *path, const char *target, struct err *e)
{
	size_t n = strlen(target);

	if (!n || n >= CPIO_NAME_MAX)
		return err_set(e, EINVAL, "%s: a link target of %zu bytes", path, n);
	return put_data(c, path, S_IFLNK | 0777, target, n, e);
}

int cpio_chardev(struct cpio *c, const char *path, mode_t mode, uint32_t major, uint32_t minor,
		 struct err *e)
{
	return put_checked(c, path, S_IFCHR | (mode & 07777), 0, major, minor, e);
}

int cpio_add(struct cpio *c, const char *path, mode_t mode, const char *host_path, struct err *e)
{
	cleanup_close int fd = open(host_path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	void *room;
	int r;

	if (fd < 0 || fstat(fd, &st))
		return err_sys(e, errno, "%s", host_path);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "%s is not a regular file", host_path);
	r = put_checked(c, path, S_IFREG | (mode & 07777), (size_t)st.st_size, 0, 0, e);
	if (r)
		return r;
	room = wbuf_reserve(&c->out, (size_t)st.st_size);
	if (!room)
		return full(c, path, e);
	r = fd_read_full(fd, room, (size_t)st.st_size);
	if (r)
		return err_sys(e, -r, "read %s", host_path);
	pad4(&c->out);
	return c->out.bad ? full(c, path, e) : 0;
}

int cpio_end(struct cpio *c, struct err *e)
{
	c->ino = 0; /* the trailer of GNU cpio has inode 0 too: nothing is a link to it */
	return put_entry(c, CPIO_TRAILER, 0, 0, 0, 0, e);
}
