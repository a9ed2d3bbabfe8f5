/* SPDX-License-Identifier: MIT */
/*
 * Copying disks: see diskcopy.h. For `clone disk`.
 */
#include "cli/diskcopy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/blk.h"
#include "block/qcow2_tools.h"
#include "cli/cli.h"
#include "cli/progress.h"

int disk_new_file(const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	return fd < 0 ? err_sys(e, errno, "%s", path) : fd;
}

struct copying {
	struct progress bar;
	uint64_t total;
	int signals;
	bool quiet;
};

static bool on_step(void *arg, uint64_t done)
{
	struct copying *c = arg;

	if (!c->quiet)
		progress_show(&c->bar, done, c->total);
	return cli_signal_of(c->signals) != 0;
}

/* A raw copy, with holes where there are zeroes. */
static int copy_raw(int fd, struct source *s, struct copying *c, struct err *e)
{
	const uint64_t piece = MIB(1), hole = 4096;
	cleanup_free uint8_t *buf = malloc(piece);
	int r = buf ? 0 : err_set(e, ENOMEM, "no memory to copy");

	if (!r && ftruncate(fd, (off_t)source_bytes(s)))
		return err_sys(e, errno, "make it as long as the disk");
	for (uint64_t off = 0; off < source_bytes(s) && !r; off += piece) {
		uint64_t n = MIN(piece, source_bytes(s) - off);

		r = source_pread(s, buf, n, off);
		if (r)
			return err_sys(e, -r, "read at %llu", (unsigned long long)off);
		for (uint64_t at = 0; at < n && !r; at += hole) {
			size_t len = (size_t)MIN(hole, n - at);

			if (!bytes_are_zero(buf + at, len))
				r = fd_pwrite_full(fd, buf + at, len, off + at);
		}
		if (r)
			return err_sys(e, -r, "write");
		if (on_step(c, off + n))
			r = err_set(e, ECANCELED, "interrupted");
	}
	if (!r && fdatasync(fd))
		r = err_sys(e, errno, "sync");
	return r;
}

int disk_copy(struct source *s, const char *path, const struct disk_copy *a, struct err *e)
{
	struct qcow2_new n = { .size_bytes = ROUND_UP(source_bytes(s), (uint64_t)BLK_SECTOR),
			       .cluster_bits = a->cluster_bits };
	struct copying c = { .total = source_bytes(s), .signals = a->signals, .quiet = a->quiet };
	int fd = disk_new_file(path, e), r;

	if (fd < 0)
		return fd;
	progress_begin(&c.bar, "copying");
	r = a->raw ? copy_raw(fd, s, &c, e) : qcow2_create(fd, &n, e);
	if (!r && !a->raw)
		r = qcow2_fill(fd, s, on_step, &c, e);
	progress_end(&c.bar);
	close(fd);
	if (r) {
		unlink(path);
		err_wrap(e, r, "%s", path);
	}
	return r;
}
