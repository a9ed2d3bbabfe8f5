/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target: the boot loader given any ELF file. The first bytes are made those of a 64-bit ELF,
 * so that mutations reach program headers and notes. What it accepts must enter RAM above 1 MiB.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "x86/boot.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int kernel = -1, initrd;
	static struct gmem *mem;
	struct boot_files f = { .cmdline = "console=ttyS0 quiet", .rsdp = 0xe0000 };
	struct boot_entry entry;
	struct err e = { "" };

	if (kernel < 0) {
		kernel = memfd_create("kernel", MFD_CLOEXEC);
		initrd = memfd_create("initrd", MFD_CLOEXEC);
		BUG_ON(write(initrd, "initrd", 6) != 6);
		BUG_ON(gmem_create(GMEM_MIN_BYTES, &mem, NULL));
	}
	BUG_ON(ftruncate(kernel, 0) || pwrite(kernel, data, size, 0) != (ssize_t)size);
	BUG_ON(pwrite(kernel, "\177ELF\2\1", 6, 0) != 6);
	f.kernel_fd = kernel;
	f.initrd_fd = size % 2 ? initrd : -1;
	if (boot_load(mem, &f, &entry, &e) == 0)
		BUG_ON(!gmem_valid(mem, entry.rip, 1) || entry.rip < MIB(1));
	else
		BUG_ON(!e.msg[0] || strchr(e.msg, '\n'));
	BUG_ON(gmem_pins(mem));
	return 0;
}
