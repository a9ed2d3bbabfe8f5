/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a qcow2 file as the only one of a chain, and the same over a raw one. Whatever is
 * opened must answer every read, with bytes or with an error.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/util.h"
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
	close(fd);
	close(base);
	return 0;
}
