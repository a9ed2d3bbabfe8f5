/* SPDX-License-Identifier: MIT */
/*
 * A disk's io_uring, used by the request engine (blk.c, request.c) on main, or on the vCPU thread
 * that resets the device, always under the device lock. That is why it is not a single-issuer ring.
 *
 * The ring belongs to the process that made it: its memory is MADV_DONTFORK, because a child's
 * mapping would keep the parent's ring alive, and its descriptor is closed by the fd table. It is
 * restricted before it is enabled: only READV, WRITEV, FALLOCATE and FSYNC, no flags, and no
 * further registration, since a ring would otherwise be a way around the seccomp filter.
 */
#include "block/uring.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/util.h"

struct uring {
	struct io_uring ring;
	int efd;
};

static const uint8_t allowed[] = { IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FALLOCATE,
				   IORING_OP_FSYNC };

/* By number: liburing 2.3 as Debian ships it does not export the two named helpers. */
static int restrict_and_enable(struct io_uring *ring)
{
	struct io_uring_restriction res[ARRAY_SIZE(allowed)];
	int r;

	memset(res, 0, sizeof(res));
	for (unsigned int i = 0; i < ARRAY_SIZE(allowed); i++) {
		res[i].opcode = IORING_RESTRICTION_SQE_OP;
		res[i].sqe_op = allowed[i];
	}
	r = io_uring_register((unsigned int)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, res,
			      ARRAY_SIZE(res));
	if (r < 0)
		return r;
	r = io_uring_register((unsigned int)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	return r < 0 ? r : 0;
}

int uring_create(unsigned int depth, struct uring **out, struct err *e)
{
	/* never more answers than questions: without this the kernel makes room for twice as many
	 */
	struct io_uring_params p = { .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE,
				     .cq_entries = depth };
	cleanup_free struct uring *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return err_set(e, ENOMEM, "no memory for a ring");
	u->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (u->efd < 0)
		return err_sys(e, errno, "eventfd");
	r = io_uring_queue_init_params(depth, &u->ring, &p);
	if (r < 0) {
		close(u->efd);
		return err_sys(e, -r,
			       "io_uring_setup (kernel 5.10 or later, sysctl "
			       "kernel.io_uring_disabled=0 and a seccomp policy that allows it "
			       "are needed)");
	}
	r = io_uring_ring_dontfork(&u->ring);
	if (!r)
		r = io_uring_register_eventfd(&u->ring, u->efd);
	if (!r)
		r = restrict_and_enable(&u->ring);
	if (r) {
		io_uring_queue_exit(&u->ring);
		close(u->efd);
		return err_sys(e, -r, "io_uring_register");
	}
	*out = take_ptr(u);
	return 0;
}

void uring_destroy(struct uring *u)
{
	if (!u)
		return;
	io_uring_queue_exit(&u->ring);
	close(u->efd);
	free(u);
}

void uring_forget(struct uring *u)
{
	free(u);
}

int uring_fd(const struct uring *u)
{
	return u->ring.ring_fd;
}

int uring_eventfd(const struct uring *u)
{
	return u->efd;
}

void uring_push(struct uring *u, enum uring_op op, int fd, uint64_t off, const struct iovec *iov,
		unsigned int niov, uint64_t len, uint32_t tag)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	BUG_ON(!sqe); /* the caller keeps to `depth` */
	switch (op) {
	case URING_READ:
		io_uring_prep_readv(sqe, fd, iov, niov, off);
		break;
	case URING_WRITE:
		io_uring_prep_writev(sqe, fd, iov, niov, off);
		break;
	case URING_PUNCH:
		io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, fd, (const void *)(uintptr_t)len,
				 FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off);
		break;
	case URING_SYNC:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	}
	io_uring_sqe_set_data64(sqe, tag);
}

void uring_submit(struct uring *u)
{
	uint64_t one = 1;
	ssize_t n;
	int r;

	if (!io_uring_sq_ready(&u->ring))
		return;
	do {
		r = io_uring_submit(&u->ring);
	} while (r == -EINTR);
	if (io_uring_sq_ready(&u->ring)) {
		/* Out of memory for the moment: come back by way of the loop. */
		n = write(u->efd, &one, sizeof(one));
		(void)n; /* it is full: readable, which is all we want */
	}
}

void uring_wait(struct uring *u)
{
	io_uring_submit_and_wait(&u->ring, 1);
}

int uring_reap(struct uring *u, uint32_t *tag, int *result)
{
	struct io_uring_cqe *cqe;

	if (io_uring_peek_cqe(&u->ring, &cqe) || !cqe)
		return 0;
	*tag = (uint32_t)io_uring_cqe_get_data64(cqe);
	*result = cqe->res;
	io_uring_cqe_seen(&u->ring, cqe);
	return 1;
}

void uring_drain_eventfd(struct uring *u)
{
	uint64_t v;
	ssize_t n = read(u->efd, &v, sizeof(v));

	(void)n; /* nothing there is fine */
}
