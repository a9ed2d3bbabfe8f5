/* SPDX-License-Identifier: MIT */
/*
 * Writes a "newc" cpio archive, the format of an initrd (Documentation/driver-api/early-userspace/
 * buffer-format.rst of the kernel), into a growing buffer. Parents must be added before what is in
 * them: the kernel creates nothing on its own. All entries belong to root and are dated zero, so
 * the same input makes the same bytes. One thread.
 */
#ifndef CLONE_IMAGE_CPIO_H
#define CLONE_IMAGE_CPIO_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"

struct cpio {
	struct wbuf out;
	uint32_t ino; /* of the last entry: every entry is a file of its own */
};

/* limit: the archive may not grow beyond this many bytes. */
void cpio_init(struct cpio *c, size_t limit);
void cpio_fini(struct cpio *c);

/*
 * Each adds one entry; path is relative, without a leading slash. mode: permission bits only.
 * -EINVAL for a path the kernel would misread (empty, absolute, "..", longer than it takes, the
 * name of the trailer), -EFBIG beyond the limit or for data of 4 GiB or more, -ENOMEM.
 */
int cpio_dir(struct cpio *c, const char *path, mode_t mode, struct err *e);
int cpio_file(struct cpio *c, const char *path, mode_t mode, const void *data, size_t n,
	      struct err *e);
int cpio_link(struct cpio *c, const char *path, const char *target, struct err *e);
int cpio_chardev(struct cpio *c, const char *path, mode_t mode, uint32_t major, uint32_t minor,
		 struct err *e);

/* Adds the regular file at host_path as cpio_file does; also any errno of open and read. */
int cpio_add(struct cpio *c, const char *path, mode_t mode, const char *host_path, struct err *e);

/* Ends the archive; c->out.data, c->out.len are then the whole of it. */
int cpio_end(struct cpio *c, struct err *e);

#endif
