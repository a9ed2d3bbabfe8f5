/* SPDX-License-Identifier: MIT */
/*
 * The files that a disk is made of: an image and, when its owner allows it, the chain of files that
 * a qcow2 image says it stands on. This is the privileged side: names in an image are hostile, and
 * are followed here or nowhere. One thread.
 */
#ifndef CLONE_CLI_DISKFILES_H
#define CLONE_CLI_DISKFILES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct disk_file {
	char path[PATH_MAX]; /* absolute, without links */
	bool qcow2;
	int fd; /* read-only */
};

struct disk_files {
	struct disk_file *file; /* the topmost first */
	size_t n;
};

/*
 * Opens path, which is qcow2 or raw as the caller says, and what it stands on. backing_dir: the
 * directory under which those files must lie; NULL: an image that stands on others is refused.
 * -EBUSY: a VM writes to one of the files; -EACCES: a backing file that is not allowed; -ELOOP: the
 * chain comes back to a file of its own; -EINVAL: damaged, or a backing file whose format the image
 * does not say (it is never guessed).
 */
int disk_files_open(const char *path, bool qcow2, const char *backing_dir, struct disk_files *d,
		    struct err *e);
/* The topmost file once more, read-write (the caller's), locked: nobody else may use it as a disk
 * from now on. -EBUSY when somebody does. */
int disk_files_writable(struct disk_files *d, struct err *e);
/* And once more, read-write with O_DIRECT. -EINVAL: its file system has no such thing. */
int disk_files_direct(const struct disk_files *d, struct err *e);
/* Accepts a zeroed one. */
void disk_files_close(struct disk_files *d);

/* A file that a disk's chain has, opened read-only and locked as disk_files_open does. -EBUSY: a VM
 * writes to it. */
int disk_file_open(const char *path, struct err *e);

/* A file or block device that is not empty, read-only. "kernel" and the like for what. */
int disk_input_open(const char *what, const char *path, struct err *e);

#endif
