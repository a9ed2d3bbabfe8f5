/* SPDX-License-Identifier: MIT */
/*
 * Images by QEMU's tools: see qcow2.h.
 */
#include "qcow2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/source.h"
#include "disk.h"
#include "scratch.h"

#define sh(...) free(scratch_sh(__VA_ARGS__))

static uint64_t rng = 88172645463325252ull;

uint64_t qcow2_random(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

void qcow2_make_raw(const char *dir, const char *name, uint64_t bytes)
{
	int fd = open(scratch_path(dir, name), O_CREAT | O_TRUNC | O_RDWR, 0600);
	uint8_t *buf = malloc(MIB(1));
	uint64_t at = 0;

	assert_true(fd >= 0 && buf);
	assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
	while (at < bytes) {
		uint64_t n = MIN(bytes - at, 512 * (1 + qcow2_random(qcow2_random(2) ? 8 : 600)));
		uint64_t kind = qcow2_random(3);

		for (uint64_t i = 0; i < n && kind; i++)
			buf[i] = kind == 1 ? (uint8_t)qcow2_random(256) : (uint8_t)(at >> 9);
		if (kind)
			assert_int_equal(fd_pwrite_full(fd, buf, n, at), 0);
		at += n;
	}
	free(buf);
	close(fd);
}

void qcow2_scribble(const char *path, uint64_t bytes, unsigned int times)
{
	char cmd[1500];
	size_t n = 0;

	for (unsigned int i = 0; i < times; i++) {
		static const char *const what[] = { "write -P 1", "write -P 2", "write -z",
						    "write -z -u", "discard" };
		uint64_t off = qcow2_random(bytes / 512) * 512;
		uint64_t len = 512 * (1 + qcow2_random(MIN((bytes - off) / 512, (uint64_t)400)));
		n += (size_t)snprintf(cmd + n, sizeof(cmd) - n, " -c '%s %llu %llu'",
				      what[qcow2_random(ARRAY_SIZE(what))], (unsigned long long)off,
				      (unsigned long long)len);
	}
	sh("qemu-io -d unmap -f qcow2 %s %s >/dev/null", cmd, path);
}

void qcow2_chain_make(const char *dir, bool packed)
{
	static const struct {
		uint64_t bytes; /* 0: as long as what it stands on */
		const char *options;
	} link[QCOW2_CHAIN - 1] = {
		{ 0, "cluster_size=65536" },
		{ MIB(3) + 512, "cluster_size=4096" }, /* shorter: what is behind it is zero */
		{ MIB(8) + 512 * 9, "cluster_size=2097152" },
		{ MIB(7), "cluster_size=512,compat=0.10" },
		{ 0, "cluster_size=16384,compression_type=zstd" },
	};
	uint64_t bytes = MIB(5) + 512 * 5;

	qcow2_make_raw(dir, "0", bytes);
	if (packed)
		sh("qemu-img convert -c -f raw -O qcow2 -o cluster_size=2M %s/0 %s/z && mv %s/z "
		   "%s/0",
		   dir, dir, dir, dir);
	for (unsigned int i = 0; i < QCOW2_CHAIN - 1; i++) {
		char name[16];

		bytes = link[i].bytes ? link[i].bytes : bytes;
		sh("qemu-img create -q -f qcow2 -o %s -b %u -F %s %s/%u %llu", link[i].options, i,
		   i || packed ? "qcow2" : "raw", dir, i + 1, (unsigned long long)bytes);
		snprintf(name, sizeof(name), "%u", i + 1);
		qcow2_scribble(scratch_path(dir, name), bytes, 16);
	}
}

/* The format by its first byte: these are our own files. */
static enum source_format format_of(int fd)
{
	uint8_t magic = 0;

	assert_int_equal(fd_pread_full(fd, &magic, 1, 0), 0);
	return magic == 'Q' ? SOURCE_QCOW2 : SOURCE_RAW;
}

struct source *qcow2_chain_open(const char *dir, unsigned int n)
{
	struct source_file files[QCOW2_CHAIN];
	struct source *s = NULL;
	struct err e;

	for (unsigned int i = 0; i < n; i++) {
		char name[16];

		snprintf(name, sizeof(name), "%u", n - 1 - i);
		files[i].fd = open(scratch_path(dir, name), O_RDONLY | O_CLOEXEC);
		assert_true(files[i].fd >= 0);
		files[i].format = i < n - 1 ? SOURCE_QCOW2 : format_of(files[i].fd);
	}
	if (source_open(files, n, &s, &e))
		fail_msg("%u files: %s", n, e.msg);
	return s;
}

void qcow2_chain_content(const char *dir, unsigned int n, const char *name)
{
	if (n > 1)
		sh("qemu-img convert -f qcow2 -O raw %s/%u %s/%s", dir, n - 1, dir, name);
	else
		sh("f=raw; head -c 3 %s/0 | grep -q QFI && f=qcow2; "
		   "qemu-img convert -f $f -O raw %s/0 %s/%s",
		   dir, dir, dir, name);
}

void qcow2_top_open(struct disk *d, const char *dir, bool below, uint64_t unit, uint64_t seed)
{
	struct source_file files[2];
	struct source *s = NULL;
	struct err e;

	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	files[0] = (struct source_file){ open(scratch_path(dir, "top"), O_RDONLY | O_CLOEXEC),
					 SOURCE_QCOW2 };
	if (below)
		files[1] = (struct source_file){
			open(scratch_path(dir, "below"), O_RDONLY | O_CLOEXEC), SOURCE_RAW
		};
	if (source_open(files, below ? 2 : 1, &s, &e))
		fail_msg("%s", e.msg);
	disk_open_in(d, BLK_IN_QCOW2, s, open(scratch_path(dir, "top"), O_RDWR | O_CLOEXEC),
		     scratch_path(dir, "all"), unit, seed);
}

void qcow2_top_close(struct disk *d, const char *dir)
{
	uint8_t *got = malloc(d->size);
	int fd;

	blk_destroy(d->blk);
	d->blk = NULL;
	sh("qemu-img check -q -f qcow2 %s/top", dir);
	sh("qemu-img convert -f qcow2 -O raw %s/top %s/all", dir, dir);
	fd = open(scratch_path(dir, "all"), O_RDONLY | O_CLOEXEC);
	assert_non_null(got);
	assert_int_equal(fd_pread_full(fd, got, d->size, 0), 0);
	for (uint64_t i = 0; i < d->size; i++)
		if (got[i] != d->model[i])
			fail_msg("byte %llu: QEMU reads %#x, not %#x", (unsigned long long)i,
				 got[i], d->model[i]);
	free(got);
	close(fd);
	disk_close(d);
}
