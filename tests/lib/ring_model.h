/* SPDX-License-Identifier: MIT */
/*
 * A model of the ring (block/uring.h), for tests that include it in one file: operations complete
 * in any order, a write reaches the medium when a sync that was issued after its completion
 * completes. One file is written, world.fd; it and the medium are FILE_MAX long at most. Single
 * thread.
 */
#ifndef CLONE_TESTS_LIB_RING_MODEL_H
#define CLONE_TESTS_LIB_RING_MODEL_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/uring.h"
#include "tests/lib/qcow2.h"

#define FILE_MAX MIB(24)
#define OPS 256u

struct model_op {
	enum uring_op op;
	int fd;
	uint64_t off, len, issued; /* issued: the clock when it was handed over */
	const struct iovec *iov;
	unsigned int niov;
	uint32_t tag;
	bool live;
};

struct dirt {
	uint64_t off, len, completed;
	uint8_t *data;
};

static struct {
	int fd; /* what the disk reads: all completed writes are in it */
	struct stat st;
	uint8_t *medium; /* what is there after a cut */
	struct model_op op[OPS];
	struct dirt *dirt;
	size_t nr_dirt;
	uint64_t clock, end, synced_end; /* end: of the file, now and when it was last synced */
	unsigned int fail_syncs, failed; /* so many syncs are to fail; have failed */
	int efd, ring;			 /* ring: only a descriptor */
} world;

struct uring {
	int none;
};

static bool is_file(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && st.st_dev == world.st.st_dev && st.st_ino == world.st.st_ino;
}

static void pour(const struct model_op *op, uint8_t *flat)
{
	for (unsigned int i = 0; i < op->niov; i++) {
		memcpy(flat, op->iov[i].iov_base, op->iov[i].iov_len);
		flat += op->iov[i].iov_len;
	}
}

/* What was completed before the sync was issued is on the medium now. */
static void settle(uint64_t before)
{
	size_t kept = 0;

	for (size_t i = 0; i < world.nr_dirt; i++) {
		struct dirt *d = &world.dirt[i];

		if (d->completed < before) {
			memcpy(world.medium + d->off, d->data, d->len);
			world.synced_end = MAX(world.synced_end, d->off + d->len);
			free(d->data);
		} else {
			world.dirt[kept++] = *d;
		}
	}
	world.nr_dirt = kept;
}

static void add_dirt(uint64_t off, uint64_t len, uint8_t *data)
{
	world.dirt = reallocarray(world.dirt, world.nr_dirt + 1, sizeof(*world.dirt));
	BUG_ON(!world.dirt || off + len > FILE_MAX);
	world.end = MAX(world.end, off + len);
	world.dirt[world.nr_dirt++] = (struct dirt){ off, len, ++world.clock, data };
}

static int complete(const struct model_op *op)
{
	uint8_t *data;
	ssize_t n;

	switch (op->op) {
	case URING_READ:
		n = preadv(op->fd, op->iov, (int)op->niov, (off_t)op->off);
		return n < 0 ? -errno : (int)n;
	case URING_WRITE:
		BUG_ON(!is_file(op->fd));
		data = malloc(op->len);
		pour(op, data);
		BUG_ON(fd_pwrite_full(op->fd, data, op->len, op->off));
		add_dirt(op->off, op->len, data);
		return (int)op->len;
	case URING_PUNCH:
		data = calloc(1, op->len);
		BUG_ON(fd_pwrite_full(op->fd, data, op->len, op->off));
		add_dirt(op->off, op->len, data);
		return 0;
	case URING_SYNC:
		if (world.fail_syncs) {
			world.fail_syncs--;
			world.failed++;
			return -EIO;
		}
		settle(op->issued);
		return 0;
	}
	return -EINVAL;
}

int uring_create(unsigned int depth, struct uring **out, struct err *e)
{
	(void)depth;
	(void)e;
	*out = calloc(1, sizeof(**out));
	world.efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	world.ring = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return 0;
}

void uring_destroy(struct uring *u)
{
	free(u);
	close(world.efd);
	close(world.ring);
}

void uring_forget(struct uring *u)
{
	free(u);
}

int uring_fd(const struct uring *u)
{
	(void)u;
	return world.ring;
}

int uring_eventfd(const struct uring *u)
{
	(void)u;
	return world.efd;
}

void uring_push(struct uring *u, enum uring_op op, int fd, uint64_t off, const struct iovec *iov,
		unsigned int niov, uint64_t len, uint32_t tag)
{
	(void)u;
	for (unsigned int i = 0; i < OPS; i++) {
		if (world.op[i].live)
			continue;
		world.op[i] =
			(struct model_op){ op, fd, off, len, ++world.clock, iov, niov, tag, true };
		if (op != URING_PUNCH && op != URING_SYNC)
			for (world.op[i].len = 0, len = 0; len < niov; len++)
				world.op[i].len += iov[len].iov_len;
		return;
	}
	BUG_ON(true);
}

void uring_submit(struct uring *u)
{
	(void)u;
}

void uring_wait(struct uring *u)
{
	(void)u;
}

int uring_reap(struct uring *u, uint32_t *tag, int *result)
{
	unsigned int first = (unsigned int)qcow2_random(OPS);

	(void)u;
	if (!qcow2_random(6))
		return 0; /* later */
	for (unsigned int k = 0; k < OPS; k++) {
		struct model_op *op = &world.op[(first + k) % OPS];

		if (!op->live)
			continue;
		*result = complete(op);
		*tag = op->tag;
		op->live = false;
		return 1;
	}
	return 0;
}

void uring_drain_eventfd(struct uring *u)
{
	(void)u;
}

/* ---- the world ---- */

/* Before a disk is made. */
static void model_begin(void)
{
	memset(&world, 0, sizeof(world));
	world.medium = calloc(1, FILE_MAX);
	BUG_ON(!world.medium);
}

/* What world.fd holds now is on the medium. */
static void model_settled(void)
{
	BUG_ON(fstat(world.fd, &world.st));
	world.end = world.synced_end = (uint64_t)world.st.st_size;
	BUG_ON(fd_pread_full(world.fd, world.medium, world.end, 0));
}

/* After the disk was closed. */
static void model_end(void)
{
	for (size_t i = 0; i < world.nr_dirt; i++)
		free(world.dirt[i].data);
	free(world.dirt);
	free(world.medium);
}

#endif
