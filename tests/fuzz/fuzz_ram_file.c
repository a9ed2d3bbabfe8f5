/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: RAM files. The bytes are an index (as long as the first two say) and the file after
 * it; of what is taken for a layer, alone and over a fixed base, loading and reading say the same.
 */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "snapshot/ram.h"

#define RAM MIB(64)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* 64 KiB and a page, as a flat raw file. */
static void open_base(struct ram_layer *l)
{
	struct ram_index ix = { .size_bytes = RAM };
	int fd = memfd_create("base", MFD_CLOEXEC);
	static char some[68 << 10];
	struct err e;

	memset(some, 0x5a, sizeof(some));
	BUG_ON(ram_index_add(&ix, MIB(1) - 4096, sizeof(some), false) || ftruncate(fd, RAM) ||
	       pwrite(fd, some, sizeof(some), MIB(1) - 4096) != sizeof(some) ||
	       ram_layer_open(l, &ix, fd, &e));
}

static void load(struct ram_layer *l, size_t n)
{
	static uint8_t buf[RAM_WINDOW];
	struct gmem *gm;
	struct err e = { "" };

	BUG_ON(gmem_create(RAM, &gm, &e));
	if (ram_chain_load(l, n, gm, &e))
		BUG_ON(!e.msg[0]);
	else
		for (uint64_t at = 0; at < RAM; at += 9 * RAM_WINDOW) /* the rest is alike */
			BUG_ON(ram_chain_read(l, n, at, buf, &e) ||
			       memcmp(buf, gmem_at_offset(gm, at, RAM_WINDOW), RAM_WINDOW));
	gmem_destroy(gm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = size < 2 ? 0 : MIN((size_t)(data[0] + 256 * data[1]), size - 2);
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct ram_layer l[2];
	struct ram_index ix;
	struct err e = { "" };
	struct rbuf r;

	rbuf_init(&r, data + 2, n);
	BUG_ON(size > 2 + n && write(fd, data + 2 + n, size - 2 - n) < 0);
	if (size < 2 || ram_index_decode(&r, &ix, &e)) {
		close(fd);
	} else if (ram_layer_open(&l[1], &ix, fd, &e)) {
		BUG_ON(!e.msg[0]);
	} else {
		open_base(&l[0]);
		load(l, 2);
		load(l + 1, 1);
		ram_layer_close(&l[0]);
		ram_layer_close(&l[1]);
	}
	return 0;
}
