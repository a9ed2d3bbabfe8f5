/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a qcow2 file as the only one of a chain, and the same over a raw one. Whatever is
 * opened must answer every read, with bytes or with an error. Then the file is checked, repaired
 * and written to, as far as it can be: what a writer was given must stay what it is.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
#include "block/qcow2_tools.h"
#include "block/qcow2_write.h"
#include "block/source.h"
#include "tests/lib/disk.h"

#define MOST KIB(256)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(struct source *s)
{
	static uint8_t buf[MOST];
	uint64_t bytes = source_bytes(s), n = MIN(bytes, MOST);

	source_pread(s, buf, n, 0);
	source_pread(s, buf, n, bytes - n);
	for (uint64_t at = 0; at < n; at += 3333)
		source_pread(s, buf, MIN(n - at, 700ul), at);
}

static uint64_t entry_of(void *arg, uint64_t cluster)
{
	(void)arg;
	(void)cluster;
	return QWRITER_ZERO;
}

static uint64_t file_bytes(int fd)
{
	struct stat st;

	BUG_ON(fstat(fd, &st));
	return (uint64_t)st.st_size;
}

/* Marks clusters here and there as zero, in several flushes. */
static void write_some(int fd)
{
	struct qcow2_head h;
	struct qwriter w;
	uint64_t n, start;
	struct err e;

	if (qcow2_read_head(fd, file_bytes(fd), &h, &e) ||
	    qwriter_open(&w, fd, file_bytes(fd), &h, &e))
		return;
	w.entry = entry_of;
	n = (h.size_bytes - 1) / qcow2_cluster_bytes(&h) + 1;
	for (unsigned int i = 0; i < 4; i++) {
		uint64_t at = i * (n / 4);

		if (qwriter_prepare(&w, at, 1))
			break;
		qwriter_dirty(&w, at, 1);
		if (!qrefs_alloc(&w.refs, 3, &start)) {
			qrefs_release(&w.refs, start, 1);
			qrefs_unalloc(&w.refs, start + 1, 2);
		}
		if (qwriter_sync(&w, fd, i == 3))
			break;
	}
	qwriter_fini(&w);
}

static void check_and_write(int fd)
{
	struct qcow2_report rep, then;
	struct err e;

	if (file_bytes(fd) > MOST)
		return; /* what it says to be is written out: keep memory small */
	if (!qcow2_check(fd, true, &rep, &e) && !rep.errors) {
		BUG_ON(qcow2_check(fd, false, &then, &e));
		BUG_ON(then.errors || then.leaks || then.dirty);
	}
	write_some(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("image", 0), base = memfd_create("base", 0);
	struct source_file files[2];
	struct err e;

	BUG_ON(fd < 0 || base < 0 || ftruncate(base, MOST / 2));
	if (size)
		BUG_ON(fd_pwrite_full(fd, data, size, 0));
	for (unsigned int n = 1; n <= 2; n++) {
		struct source *s = NULL;

		files[0] = (struct source_file){ disk_reopen(fd), SOURCE_QCOW2 };
		files[1] = (struct source_file){ n == 2 ? disk_reopen(base) : -1, SOURCE_RAW };
		if (!source_open(files, n, &s, &e))
			read_all(s);
		source_close(s, NULL);
	}
	check_and_write(fd);
	close(fd);
	close(base);
	return 0;
}
