/* SPDX-License-Identifier: MIT */
/*
 * What tools do with qcow2 files that no VM uses: make, check, repair and fill them. All wait for
 * their I/O; one thread. Descriptors stay the caller's.
 */
#ifndef CLONE_BLOCK_QCOW2_TOOLS_H
#define CLONE_BLOCK_QCOW2_TOOLS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "block/source.h"

struct qcow2_new {
	uint64_t size_bytes;	    /* whole sectors */
	unsigned int cluster_bits;  /* 0: 16 */
	const char *backing;	    /* name as it is to stand in the file; NULL: none */
	const char *backing_format; /* raw or qcow2; with backing */
};

/* Makes an empty image, version 3, in an empty file opened read-write, and makes it durable.
 * -EINVAL: a size or name that no image can have. */
int qcow2_create(int fd, const struct qcow2_new *n, struct err *e);

struct qcow2_report {
	uint64_t clusters;	 /* of the file */
	uint64_t data, packed;	 /* clusters of the disk that are in it, plain and compressed */
	uint64_t leaks;		 /* clusters that are counted more often than used: lost space */
	uint64_t errors;	 /* everything else that is wrong */
	char first[ERR_MSG_MAX]; /* the first error, or "" */
	bool dirty;		 /* was not closed cleanly: its refcounts are not to be believed */
	bool repaired;
};

/*
 * Compares the refcounts with what the tables refer to. repair (fd opened read-write): makes leaked
 * clusters free and counts right, when nothing is wrong with the tables themselves. -EINVAL,
 * -ENOTSUP: it is no image, or one that cannot be checked; what is wrong with one that can be is in
 * the report.
 */
int qcow2_check(int fd, bool repair, struct qcow2_report *out, struct err *e);

/*
 * Copies all that a source reads, but zeroes, into an image made by qcow2_create of the same size
 * and without a backing file. step: called now and then with the bytes that are done; it may be
 * NULL; true ends it with -ECANCELED.
 */
int qcow2_fill(int fd, struct source *s, bool (*step)(void *arg, uint64_t done), void *arg,
	       struct err *e);

#endif
