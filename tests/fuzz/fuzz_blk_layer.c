/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: a disk's snapshot layer. The input's checksums, sizes and length are made right, so
 * that mutations reach the table's own checks; an accepted layer must be readable to its last
 * block.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "tests/lib/disk.h"

#define SIZE (KIB(512) + 512)
#define BLOCKS_MAX 256u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put32(uint8_t *p, uint32_t v)
{
	le32 x = le32_put(v);

	memcpy(p, &x, sizeof(x));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t table = size > 56 ? (size - 56) / 20 * 20 : 0, len = 4096 + ROUND_UP(table, 4096ul);
	struct blk_cfg cfg = { .size_bytes = SIZE };
	uint8_t *raw = calloc(1, len);
	static int base = -1;
	struct blk *b = NULL;
	struct err e;
	le64 blocks;
	int fd, out;

	if (base < 0)
		base = memfd_create("base", 0);
	BUG_ON(!raw || ftruncate(base, SIZE / 2));
	if (size)
		memcpy(raw, data, MIN(size, 56));
	if (table)
		memcpy(raw + 4096, data + 56, table);
	put32(raw + 32, (uint32_t)(table / 20));
	memset(raw + 36, 0, 4);
	put32(raw + 48, crc32c(0, raw + 4096, table));
	put32(raw + 52, crc32c(0, raw, 52));
	memcpy(&blocks, raw + 40, sizeof(blocks));
	fd = memfd_create("layer", 0);
	out = memfd_create("again", 0);
	BUG_ON(fd_pwrite_full(fd, raw, len, 0));
	if (le64_get(blocks) <= BLOCKS_MAX)
		BUG_ON(ftruncate(fd, (off_t)(len + le64_get(blocks) * BLK_BLOCK)));
	BUG_ON(blk_create(&cfg, disk_base(disk_reopen(base)), -1, &b, &e));
	if (!blk_load_layer(b, disk_reopen(fd), &e))
		BUG_ON(blk_save_layer(b, out, &e));
	blk_destroy(b);
	close(fd);
	close(out);
	free(raw);
	return 0;
}
