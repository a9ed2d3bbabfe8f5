/* SPDX-License-Identifier: MIT */
/*
 * A disk beside its model. See disk.h. Main thread.
 */
#include "disk.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/source.h"

#define STORM_MAX 64
#define PIECES 120
#define REQUEST_MAX KIB(192)

/* One request of a storm: buf is what goes in or came out, want what a read must give. */
struct shot {
	struct blk_req r;
	struct iovec iov[PIECES];
	uint8_t *buf, *want;
	bool done;
	int result;
};

int disk_file(void)
{
	const char *dir = getenv("TMPDIR");
	int fd = open(dir ? dir : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	BUG_ON(fd < 0);
	return fd;
}

int disk_reopen(int fd)
{
	char path[64];
	int r;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	r = open(path, O_RDONLY | O_CLOEXEC);
	BUG_ON(r < 0);
	return r;
}

/* xorshift64*: the tests' random numbers must be repeatable. */
uint64_t disk_random(struct disk *d, uint64_t below)
{
	d->rng ^= d->rng >> 12;
	d->rng ^= d->rng << 25;
	d->rng ^= d->rng >> 27;
	return (d->rng * 2685821657736338717ull >> 16) % below;
}

static void fill(struct disk *d, uint8_t *p, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		p[i] = (uint8_t)disk_random(d, 256);
}

struct source *disk_base(int fd)
{
	struct source_file file = { .fd = fd, .format = SOURCE_RAW };
	struct source *s = NULL;
	struct err e = { "" };

	if (fd >= 0 && source_open(&file, 1, &s, &e)) {
		fprintf(stderr, "source_open: %s\n", e.msg);
		abort();
	}
	return s;
}

static void init(struct disk *d, uint64_t size, uint64_t base_size, uint64_t seed)
{
	struct err e;

	*d = (struct disk){
		.size = size, .base_size = base_size, .rng = seed, .base_fd = -1, .unit = BLK_BLOCK
	};
	pthread_mutex_init(&d->lock, NULL);
	BUG_ON(loop_create(&d->lock, &d->loop, &e));
	BUG_ON(fdtab_create(&d->fds, &e));
	d->model = calloc(1, size);
	BUG_ON(!d->model);
}

static void make(struct disk *d, struct source *base)
{
	struct blk_cfg cfg = { .size_bytes = d->size };
	struct err e = { "" };

	if (blk_create(&cfg, base, disk_file(), &d->blk, &e)) {
		fprintf(stderr, "blk_create: %s\n", e.msg);
		abort();
	}
}

void disk_adopt(struct disk *d)
{
	struct err e = { "" };

	if (blk_adopt(d->blk, d->loop, d->fds, -1, &e)) {
		fprintf(stderr, "blk_adopt: %s\n", e.msg);
		abort();
	}
}

void disk_open(struct disk *d, uint64_t size, uint64_t base_size, uint64_t seed)
{
	init(d, size, base_size, seed);
	if (base_size) {
		uint8_t *base = calloc(1, base_size);

		BUG_ON(!base);
		fill(d, base, base_size);
		d->base_fd = disk_file();
		BUG_ON(fd_pwrite_full(d->base_fd, base, base_size, 0));
		memcpy(d->model, base, MIN(base_size, size));
		free(base);
		fdtab_add(d->fds, d->base_fd, FD_KEEP, "test base");
	}
	make(d, disk_base(d->base_fd < 0 ? -1 : disk_reopen(d->base_fd)));
	disk_adopt(d);
}

void disk_open_over(struct disk *d, struct source *base, const char *content, uint64_t seed)
{
	int fd = open(content, O_RDONLY);

	init(d, source_bytes(base), source_bytes(base), seed);
	BUG_ON(fd < 0 || fd_pread_full(fd, d->model, d->size, 0));
	close(fd);
	make(d, base);
	disk_adopt(d);
}

void disk_open_in(struct disk *d, enum blk_writes writes, struct source *base, int data_fd,
		  const char *content, uint64_t unit, uint64_t seed)
{
	struct blk_cfg cfg = { .writes = writes };
	int fd = open(content, O_RDONLY);
	struct err e = { "" };
	struct stat st;

	BUG_ON(fd < 0 || fstat(fd, &st));
	init(d, (uint64_t)st.st_size, (uint64_t)st.st_size, seed);
	d->unit = unit;
	BUG_ON(fd_pread_full(fd, d->model, d->size, 0));
	close(fd);
	if (blk_create(&cfg, base, data_fd, &d->blk, &e)) {
		fprintf(stderr, "blk_create: %s\n", e.msg);
		abort();
	}
	BUG_ON(blk_size(d->blk) != d->size);
	disk_adopt(d);
}

void disk_open_again(struct disk *d, const struct disk *other)
{
	init(d, other->size, other->base_size, other->rng + 1);
	if (other->base_fd >= 0) {
		d->base_fd = disk_reopen(other->base_fd);
		BUG_ON(fd_pread_full(d->base_fd, d->model, MIN(d->base_size, d->size), 0));
		fdtab_add(d->fds, d->base_fd, FD_KEEP, "test base");
	}
	make(d, disk_base(d->base_fd < 0 ? -1 : disk_reopen(d->base_fd)));
}

void disk_close(struct disk *d)
{
	blk_destroy(d->blk);
	loop_destroy(d->loop);
	fdtab_destroy(d->fds);
	if (d->base_fd >= 0)
		close(d->base_fd);
	free(d->model);
	pthread_mutex_destroy(&d->lock);
}

static void shot_done(struct blk_req *r, int result)
{
	struct shot *s = container_of(r, struct shot, r);

	BUG_ON(s->done);
	s->done = true;
	s->result = result;
}

/* Guest memory comes in pieces of any length: many small ones, or a few of all sizes. */
static void cut(struct disk *d, struct shot *s)
{
	uint64_t most = disk_random(d, 3) ? s->r.len : 100 + disk_random(d, 3000);
	uint64_t at = 0;

	s->r.iov = s->iov;
	s->r.niov = 0;
	while (at < s->r.len) {
		uint64_t left = s->r.len - at, n = 1 + disk_random(d, most);

		if (n > left || s->r.niov + 1 == PIECES)
			n = left;
		s->iov[s->r.niov++] = (struct iovec){ s->buf + at, n };
		at += n;
	}
}

static void shoot(struct shot *s, enum blk_op op, uint64_t off, uint64_t len)
{
	*s = (struct shot){ .r = { .op = op, .offset_bytes = off, .len = len, .done = shot_done } };
	s->buf = malloc(len + 1);
	s->want = malloc(len + 1);
	BUG_ON(!s->buf || !s->want);
}

static void aim(struct disk *d, enum blk_op op, uint64_t *off, uint64_t *len)
{
	uint64_t sectors = d->size / BLK_SECTOR, at = disk_random(d, sectors);
	uint64_t most = op == BLK_READ || op == BLK_WRITE ? REQUEST_MAX / BLK_SECTOR
							  : MAX(1ull, sectors / 3);
	uint64_t n;

	switch (disk_random(d, 4)) {
	case 0: /* few sectors, anywhere */
		n = 1 + disk_random(d, 12);
		break;
	case 1: /* whole blocks */
		at = ROUND_DOWN(at, 8u);
		n = 8 + 8 * disk_random(d, 8);
		break;
	case 2: /* the end of the disk */
		n = 1 + disk_random(d, 20);
		at = sectors - MIN(n, sectors);
		break;
	default:
		n = 1 + disk_random(d, most);
		break;
	}
	*off = at * BLK_SECTOR;
	*len = MIN(n, sectors - at) * BLK_SECTOR;
}

/* What the model says of a discard: whole blocks inside become zero. */
static void model_zero(struct disk *d, uint64_t off, uint64_t len, bool whole)
{
	uint64_t end = off + len;

	if (whole) {
		off = ROUND_UP(off, d->unit);
		if (end != d->size)
			end = ROUND_DOWN(end, d->unit);
	}
	if (off < end)
		memset(d->model + off, 0, end - off);
}

static void fire(struct disk *d, struct shot *s)
{
	static const enum blk_op ops[] = { BLK_READ,  BLK_READ, BLK_READ,    BLK_WRITE, BLK_WRITE,
					   BLK_WRITE, BLK_ZERO, BLK_DISCARD, BLK_FLUSH };
	enum blk_op op = ops[disk_random(d, ARRAY_SIZE(ops))];
	uint64_t off, len;

	aim(d, op, &off, &len);
	if (op == BLK_FLUSH)
		off = len = 0;
	shoot(s, op, off, len);
	if (op == BLK_READ || op == BLK_WRITE)
		cut(d, s);
	if (op == BLK_READ) {
		memcpy(s->want, d->model + off, len);
		memset(s->buf, 0xa5, len);
	} else if (op == BLK_WRITE) {
		fill(d, s->buf, len);
		memcpy(d->model + off, s->buf, len);
	} else if (op != BLK_FLUSH) {
		model_zero(d, off, len, op == BLK_DISCARD);
	}
	BUG_ON(blk_submit(d->blk, &s->r));
	if (!disk_random(d, 4))
		blk_kick(d->blk);
}

static bool check_shot(const struct shot *s)
{
	if (!s->done || s->result) {
		fprintf(stderr, "op %d at %llu+%llu: %s %d\n", s->r.op,
			(unsigned long long)s->r.offset_bytes, (unsigned long long)s->r.len,
			s->done ? "result" : "not done", s->result);
		return false;
	}
	for (uint64_t i = 0; s->r.op == BLK_READ && i < s->r.len; i++)
		if (s->buf[i] != s->want[i]) {
			fprintf(stderr, "read %llu+%llu: byte %llu is %#x, not %#x\n",
				(unsigned long long)s->r.offset_bytes, (unsigned long long)s->r.len,
				(unsigned long long)i, s->buf[i], s->want[i]);
			return false;
		}
	return true;
}

bool disk_storm(struct disk *d, unsigned int n)
{
	struct shot *s = calloc(STORM_MAX, sizeof(*s));
	bool ok = true;

	BUG_ON(!s || n > STORM_MAX);
	for (unsigned int i = 0; i < n; i++)
		fire(d, &s[i]);
	blk_quiesce(d->blk);
	for (unsigned int i = 0; i < n; i++) {
		ok = check_shot(&s[i]) && ok;
		free(s[i].buf);
		free(s[i].want);
	}
	free(s);
	return ok;
}

int disk_do(struct disk *d, enum blk_op op, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };
	struct shot s = { .r = { .op = op,
				 .offset_bytes = off,
				 .len = len,
				 .iov = &iov,
				 .niov = buf ? 1 : 0,
				 .done = shot_done } };

	BUG_ON(blk_submit(d->blk, &s.r));
	blk_quiesce(d->blk);
	BUG_ON(!s.done);
	return s.result;
}

int disk_grow(struct disk *d, uint64_t size)
{
	struct err e = { "" };
	int r = blk_grow(d->blk, size, &e);

	if (r)
		return r;
	d->model = realloc(d->model, size);
	BUG_ON(!d->model);
	memset(d->model + d->size, 0, size - d->size);
	d->size = size;
	BUG_ON(blk_size(d->blk) != size);
	return 0;
}

bool disk_matches(struct disk *d)
{
	uint8_t *buf = malloc(d->size);
	bool ok;
	int r;

	BUG_ON(!buf);
	r = disk_do(d, BLK_READ, 0, buf, d->size);
	ok = !r && !memcmp(buf, d->model, d->size);
	for (uint64_t i = 0; !r && !ok && i < d->size; i++)
		if (buf[i] != d->model[i]) {
			fprintf(stderr, "disk differs at %llu: %#x, not %#x\n",
				(unsigned long long)i, buf[i], d->model[i]);
			break;
		}
	if (r)
		fprintf(stderr, "whole read: %d\n", r);
	free(buf);
	return ok;
}

bool disk_child(struct disk *d)
{
	struct err e = { "" };

	fdtab_child(d->fds);
	if (loop_create(&d->lock, &d->loop, &e) ||
	    blk_adopt(d->blk, d->loop, d->fds, disk_file(), &e)) {
		fprintf(stderr, "child: %s\n", e.msg);
		return false;
	}
	return true;
}
