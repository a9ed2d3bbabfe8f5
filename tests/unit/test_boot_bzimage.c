/* SPDX-License-Identifier: MIT */
/*
 * Loading of bzImages: what lands where in guest RAM, and what is said of broken ones. The images
 * are made here, field by field.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "pci/pci.h"
#include "x86/boot.h"
#include "x86/platform.h"

#define SETUP_BYTES 1024u
#define PAYLOAD_BYTES 40000u
#define PREF 0x1000000u
#define INIT_SIZE 0x2000000u

static uint8_t image[SETUP_BYTES + PAYLOAD_BYTES];

static void put(size_t off, uint64_t v, size_t n)
{
	memcpy(image + off, &v, n);
}

static void image_make(void)
{
	for (size_t i = 0; i < PAYLOAD_BYTES; i++)
		image[SETUP_BYTES + i] = (uint8_t)(i * 7 + i / 251);
	memset(image, 0, SETUP_BYTES);
	put(0x1f1, 1, 1);
	put(0x1f4, PAYLOAD_BYTES / 16, 4);
	put(0x1fe, 0xaa55, 2);
	put(0x201, 0x6a, 1);
	memcpy(image + 0x202, "HdrS", 4);
	put(0x206, 0x20f, 2);
	put(0x211, 0x01, 1);
	put(0x22c, 0x7fffffff, 4);
	put(0x230, 0x200000, 4);
	put(0x234, 1, 1);
	put(0x236, 0x3, 2);
	put(0x238, 2047, 4);
	put(0x250, 0xdeadbeef, 8); /* setup_data of a liar */
	put(0x258, PREF, 8);
	put(0x260, INIT_SIZE, 4);
}

static int file_of(const void *data, size_t n)
{
	int fd = memfd_create("kernel", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, n), (ssize_t)n);
	return fd;
}

struct trial {
	struct gmem *mem;
	struct boot_entry entry;
	struct err e;
	int ret;
};

static struct trial load(uint64_t mib, size_t image_bytes, const void *initrd, size_t initrd_bytes,
			 const char *cmdline)
{
	struct trial t = { .ret = 0 };
	struct boot_files f = { .kernel_fd = file_of(image, image_bytes),
				.initrd_fd = initrd ? file_of(initrd, initrd_bytes) : -1,
				.cmdline = cmdline,
				.rsdp = PLAT_ACPI };

	assert_int_equal(gmem_create(MIB(mib), &t.mem, &t.e), 0);
	t.ret = boot_load(t.mem, &f, &t.entry, &t.e);
	close(f.kernel_fd);
	if (f.initrd_fd >= 0)
		close(f.initrd_fd);
	return t;
}

static void assert_refused(uint64_t mib, size_t image_bytes, int ret, const char *msg)
{
	struct trial t = load(mib, image_bytes, NULL, 0, "");

	assert_int_equal(t.ret, ret);
	assert_string_equal(t.e.msg, msg);
	gmem_destroy(t.mem);
}

static uint64_t peek(struct trial *t, gpa_t gpa, size_t n)
{
	uint64_t v = 0;

	assert_int_equal(gmem_read(t->mem, gpa, &v, n), 0);
	return v;
}

static void test_bzimage__lands_where_its_header_says(void **st)
{
	static const char initrd[5000] = "the initrd";
	uint8_t back[PAYLOAD_BYTES];
	struct trial t;
	char text[32];

	(void)st;
	image_make();
	t = load(128, sizeof(image), initrd, sizeof(initrd), "console=ttyS0");
	assert_int_equal(t.ret, 0);
	assert_int_equal(t.entry.mode, BOOT_LONG64);
	assert_int_equal(t.entry.rip, PREF + 0x200);
	assert_int_equal(t.entry.arg, PLAT_ZERO_PAGE);
	assert_int_equal(gmem_read(t.mem, PREF, back, sizeof(back)), 0);
	assert_memory_equal(back, image + SETUP_BYTES, sizeof(back));
	/* The header is copied, what a boot loader sets is set. */
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x202, 4), 0x53726448);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x210, 1), 0xff);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x218, 4), MIB(128) - 8192);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x21c, 4), sizeof(initrd));
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x228, 4), PLAT_CMDLINE);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x250, 8), 0);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x070, 8), PLAT_ACPI);
	assert_int_equal(gmem_read(t.mem, MIB(128) - 8192, text, 11), 0);
	assert_string_equal(text, "the initrd");
	assert_int_equal(gmem_read(t.mem, PLAT_CMDLINE, text, 14), 0);
	assert_string_equal(text, "console=ttyS0");
	assert_int_equal(gmem_pins(t.mem), 0);
	/* Where a kernel jumps that looks for a BIOS to reboot with. */
	assert_int_equal(peek(&t, PLAT_RESET_VECTOR, 8), 0xebf4ee00b00000ba | PLAT_RESET_PORT << 8 |
								 (uint64_t)PLAT_RESET_VALUE << 32);
	assert_int_equal(peek(&t, PLAT_RESET_VECTOR + 8, 1), 0xfd);
	gmem_destroy(t.mem);
}

struct e820 {
	uint64_t addr, size, type;
};

static size_t e820_of(struct trial *t, struct e820 out[16])
{
	size_t n = (size_t)peek(t, PLAT_ZERO_PAGE + 0x1e8, 1);

	assert_true(n <= 16);
	for (size_t i = 0; i < n; i++) {
		out[i].addr = peek(t, PLAT_ZERO_PAGE + 0x2d0 + i * 20, 8);
		out[i].size = peek(t, PLAT_ZERO_PAGE + 0x2d8 + i * 20, 8);
		out[i].type = peek(t, PLAT_ZERO_PAGE + 0x2e0 + i * 20, 4);
	}
	return n;
}

static void test_e820__ram_around_the_hole_and_nothing_twice(void **st)
{
	static const uint64_t mibs[] = { 64, 128, 3072, 3074, 5120, 65536 };
	struct e820 m[16];

	(void)st;
	image_make();
	put(0x260, 0x100000, 4);
	for (size_t s = 0; s < ARRAY_SIZE(mibs); s++) {
		struct trial t = load(mibs[s], sizeof(image), NULL, 0, "");
		uint64_t ram = 0;
		size_t n;

		assert_int_equal(t.ret, 0);
		n = e820_of(&t, m);
		for (size_t i = 0; i < n; i++) {
			if (i)
				assert_true(m[i].addr >= m[i - 1].addr + m[i - 1].size);
			if (m[i].type != 1)
				continue;
			ram += m[i].size;
			assert_true(gmem_valid(t.mem, m[i].addr, m[i].size));
			assert_false(PLAT_VMGENID >= m[i].addr &&
				     PLAT_VMGENID < m[i].addr + m[i].size);
		}
		/* All but the VMGENID page and the 384 KiB of legacy area. */
		assert_int_equal(ram, MIB(mibs[s]) - 0x61000);
		gmem_destroy(t.mem);
	}
}

/* The CPU's own walk: every address of the first 4 GiB maps to itself. */
static void test_page_tables__map_the_first_4_gib_to_themselves(void **st)
{
	struct trial t;

	(void)st;
	image_make();
	t = load(128, sizeof(image), NULL, 0, "");
	assert_int_equal(t.ret, 0);
	for (uint64_t a = 0; a < GIB(4); a += MIB(2)) {
		uint64_t e = peek(&t, t.entry.cr3 + 8 * (a >> 39), 8);

		assert_int_equal(e & 3, 3);
		e = peek(&t, (e & ~0xfffull) + 8 * ((a >> 30) & 511), 8);
		assert_int_equal(e & 0x83, 3);
		e = peek(&t, (e & ~0xfffull) + 8 * ((a >> 21) & 511), 8);
		assert_int_equal(e, a | 0x83);
	}
	assert_int_equal(peek(&t, t.entry.gdt + 0x10, 8), 0x00af9b000000ffff);
	assert_int_equal(peek(&t, t.entry.gdt + 0x18, 8), 0x00cf93000000ffff);
	gmem_destroy(t.mem);
}

static void test_initrd__stays_below_what_the_kernel_can_reach(void **st)
{
	static const char initrd[4096] = "x";
	struct trial t;

	(void)st;
	image_make();
	put(0x22c, 0x37ffffff, 4);
	t = load(2048, sizeof(image), initrd, sizeof(initrd), "");
	assert_int_equal(t.ret, 0);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE + 0x218, 4), 0x38000000 - 4096);
	gmem_destroy(t.mem);
}

static void test_bzimage__what_does_not_fit_is_said_in_mib(void **st)
{
	static char initrd[MIB(20)];
	struct trial t;

	(void)st;
	image_make();
	put(0x260, 0x4400000, 4);
	assert_refused(64, sizeof(image), -E2BIG, "kernel needs 84 MiB, guest has 64 MiB");
	put(0x258, 0xc0000000, 8);
	assert_refused(4096, sizeof(image), -E2BIG,
		       "kernel needs 3140 MiB, guest has 4096 MiB (3072 MiB of it below 4 GiB)");
	image_make();
	memset(initrd, 1, sizeof(initrd));
	t = load(64, sizeof(image), initrd, sizeof(initrd), "");
	assert_int_equal(t.ret, -E2BIG);
	assert_string_equal(t.e.msg, "initrd of 20 MiB does not fit beside the kernel, which needs "
				     "48 MiB; guest has 64 MiB");
	gmem_destroy(t.mem);
	t = load(68, sizeof(image), initrd, sizeof(initrd), "");
	assert_int_equal(t.ret, 0);
	gmem_destroy(t.mem);
}

static void test_cmdline__longer_than_the_kernel_takes(void **st)
{
	char line[101];
	struct trial t;

	(void)st;
	image_make();
	put(0x238, 99, 4);
	memset(line, 'a', 100);
	line[100] = '\0';
	t = load(64, sizeof(image), NULL, 0, line);
	assert_int_equal(t.ret, -E2BIG);
	assert_string_equal(t.e.msg, "command line is 100 bytes, this kernel takes 99");
	gmem_destroy(t.mem);
	t = load(64, sizeof(image), NULL, 0, line + 1);
	assert_int_equal(t.ret, 0);
	gmem_destroy(t.mem);
}

static void test_bzimage__broken_ones_are_told_apart(void **st)
{
	char msg[200];

	(void)st;
	image_make();
	put(0x202, 0, 4);
	put(0, 0x088b1f, 4);
	assert_refused(64, sizeof(image), -EINVAL,
		       "kernel: not a bzImage or ELF file (first bytes 1f 8b 08 00)");
	assert_refused(64, 3, -EINVAL,
		       "kernel: not a bzImage or ELF file (first bytes 1f 8b 08 00)");
	assert_refused(64, 0, -EINVAL, "kernel is an empty file");
	image_make();
	put(0x1fe, 0, 2);
	assert_refused(64, sizeof(image), -EINVAL, "kernel: bzImage without the boot signature");
	image_make();
	put(0x206, 0x20a, 2);
	assert_refused(64, sizeof(image), -EINVAL,
		       "kernel: boot protocol 2.10, 2.12 (Linux 3.8) needed");
	image_make();
	put(0x236, 0, 2);
	assert_refused(64, sizeof(image), -EINVAL,
		       "kernel: no 64-bit entry point (a 32-bit kernel?)");
	image_make();
	put(0x201, 0x10, 1);
	assert_refused(64, sizeof(image), -EINVAL, "kernel: setup header ends at 0x212");
	put(0x201, 0xff, 1);
	assert_refused(64, sizeof(image), -EINVAL, "kernel: setup header ends at 0x301");
	image_make();
	snprintf(msg, sizeof(msg), "kernel: file is cut short: %zu bytes, header says %zu",
		 sizeof(image) - 1, sizeof(image));
	assert_refused(64, sizeof(image) - 1, -EINVAL, msg);
	put(0x1f1, 255, 1);
	snprintf(msg, sizeof(msg), "kernel: file is cut short: %zu bytes, header says %u",
		 sizeof(image), 256 * 512 + PAYLOAD_BYTES);
	assert_refused(64, sizeof(image), -EINVAL, msg);
	image_make();
	put(0x258, 0x1000, 8);
	assert_refused(64, sizeof(image), -EINVAL, "kernel: wants to be at 0x1000, below 1 MiB");
	put(0x258, PREF + 4096, 8);
	assert_refused(64, sizeof(image), -EINVAL,
		       "kernel: wants to be at 0x1001000, aligned to 0x200000");
	put(0x258, 0xfffffffffffff000, 8);
	put(0x234, 0, 1);
	assert_refused(64, sizeof(image), -EINVAL,
		       "kernel: wants to be at 0xfffffffffffff000, beyond all memory");
}

static void test_platform__agrees_with_the_pci_bus_and_ram(void **st)
{
	(void)st;
	assert_int_equal(PLAT_PCI_MMIO_BASE, PCI_MMIO32_BASE);
	assert_int_equal(PLAT_PCI_MMIO_SIZE, PCI_MMIO32_SIZE);
	assert_int_equal(PLAT_ECAM_BASE, PCI_ECAM_BASE);
	assert_int_equal(PLAT_ECAM_SIZE, PCI_ECAM_SIZE);
	assert_true(PLAT_PCI_MMIO_BASE >= GMEM_HOLE_START);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bzimage__lands_where_its_header_says),
		cmocka_unit_test(test_e820__ram_around_the_hole_and_nothing_twice),
		cmocka_unit_test(test_page_tables__map_the_first_4_gib_to_themselves),
		cmocka_unit_test(test_initrd__stays_below_what_the_kernel_can_reach),
		cmocka_unit_test(test_bzimage__what_does_not_fit_is_said_in_mib),
		cmocka_unit_test(test_cmdline__longer_than_the_kernel_takes),
		cmocka_unit_test(test_bzimage__broken_ones_are_told_apart),
		cmocka_unit_test(test_platform__agrees_with_the_pci_bus_and_ram),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
