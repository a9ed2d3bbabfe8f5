/* SPDX-License-Identifier: MIT */
/*
 * Loading of ELF kernels with a PVH note: segments, start info, and what is said of broken files.
 */
#include <elf.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/util.h"
#include "mem/gmem.h"
#include "x86/boot.h"
#include "x86/platform.h"

#define TEXT 0x1000000u
#define DATA 0x1400000u

/* One file: header, four program headers, notes, two segments' bytes. */
static struct {
	Elf64_Ehdr eh;
	Elf64_Phdr ph[4];
	struct {
		Elf64_Nhdr h;
		char name[8];
		uint32_t desc[2];
	} notes[2];
	uint8_t text[300], data[100];
} elf;

static void elf_make(void)
{
	memset(&elf, 0, sizeof(elf));
	memcpy(elf.eh.e_ident, ELFMAG, 4);
	elf.eh.e_ident[EI_CLASS] = ELFCLASS64;
	elf.eh.e_ident[EI_DATA] = ELFDATA2LSB;
	elf.eh.e_machine = EM_X86_64;
	elf.eh.e_phoff = offsetof(__typeof__(elf), ph);
	elf.eh.e_phentsize = sizeof(elf.ph[0]);
	elf.eh.e_phnum = 3;
	elf.ph[0] = (Elf64_Phdr){ .p_type = PT_LOAD,
				  .p_offset = offsetof(__typeof__(elf), text),
				  .p_paddr = TEXT,
				  .p_vaddr = 0xffffffff81000000,
				  .p_filesz = sizeof(elf.text),
				  .p_memsz = sizeof(elf.text) };
	elf.ph[1] = (Elf64_Phdr){ .p_type = PT_LOAD,
				  .p_offset = offsetof(__typeof__(elf), data),
				  .p_paddr = DATA,
				  .p_filesz = sizeof(elf.data),
				  .p_memsz = 0x100000 };
	elf.ph[2] = (Elf64_Phdr){ .p_type = PT_NOTE,
				  .p_offset = offsetof(__typeof__(elf), notes),
				  .p_filesz = sizeof(elf.notes),
				  .p_memsz = sizeof(elf.notes),
				  .p_align = 4 };
	/* One of somebody else first, with the same type number. */
	elf.notes[0].h = (Elf64_Nhdr){ .n_namesz = 6, .n_descsz = 8, .n_type = 18 };
	memcpy(elf.notes[0].name, "Linux", 6);
	elf.notes[0].desc[0] = 0x123;
	elf.notes[1].h = (Elf64_Nhdr){ .n_namesz = 4, .n_descsz = 8, .n_type = 18 };
	memcpy(elf.notes[1].name, "Xen\0\x10\0\0\1", 8); /* the name, then TEXT + 16 */
	memset(elf.text, 0x90, sizeof(elf.text));
	memset(elf.data, 0xdd, sizeof(elf.data));
}

static struct trial {
	struct gmem *mem;
	struct boot_entry entry;
	struct err e;
	int ret;
} load(size_t bytes, const char *initrd)
{
	struct trial t = { .ret = 0 };
	struct boot_files f = { .initrd_fd = -1, .cmdline = "quiet", .rsdp = 0xe0000 };

	f.kernel_fd = memfd_create("vmlinux", MFD_CLOEXEC);
	assert_int_equal(write(f.kernel_fd, &elf, bytes), (ssize_t)bytes);
	if (initrd) {
		f.initrd_fd = memfd_create("initrd", MFD_CLOEXEC);
		assert_int_equal(write(f.initrd_fd, initrd, strlen(initrd)),
				 (ssize_t)strlen(initrd));
	}
	assert_int_equal(gmem_create(MIB(64), &t.mem, &t.e), 0);
	t.ret = boot_load(t.mem, &f, &t.entry, &t.e);
	close(f.kernel_fd);
	if (initrd)
		close(f.initrd_fd);
	return t;
}

static void assert_refused(int ret, const char *msg)
{
	struct trial t = load(sizeof(elf), NULL);

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

static void test_pvh__segments_and_start_info(void **st)
{
	uint64_t map, ram = 0;
	struct trial t;

	(void)st;
	elf_make();
	t = load(sizeof(elf), "initial");
	assert_int_equal(t.ret, 0);
	assert_int_equal(t.entry.mode, BOOT_PVH);
	assert_int_equal(t.entry.rip, TEXT + 16);
	assert_int_equal(peek(&t, TEXT + 299, 1), 0x90);
	assert_int_equal(peek(&t, DATA + 99, 2), 0x00dd); /* the rest is zero */
	assert_int_equal(t.entry.arg, PLAT_PVH_INFO);
	assert_int_equal(peek(&t, PLAT_PVH_INFO, 4), 0x336ec578);
	assert_int_equal(peek(&t, PLAT_PVH_INFO + 4, 4), 1);
	assert_int_equal(peek(&t, PLAT_PVH_INFO + 12, 4), 1); /* modules */
	assert_int_equal(peek(&t, peek(&t, PLAT_PVH_INFO + 16, 8), 8), MIB(64) - 4096);
	assert_int_equal(peek(&t, peek(&t, PLAT_PVH_INFO + 16, 8) + 8, 8), 7);
	assert_int_equal(peek(&t, MIB(64) - 4096, 7), 0x6c616974696e69);
	assert_int_equal(peek(&t, peek(&t, PLAT_PVH_INFO + 24, 8), 6), 0x7465697571);
	assert_int_equal(peek(&t, PLAT_PVH_INFO + 32, 8), 0xe0000);
	map = peek(&t, PLAT_PVH_INFO + 40, 8);
	for (uint64_t i = 0; i < peek(&t, PLAT_PVH_INFO + 48, 4); i++)
		if (peek(&t, map + i * 24 + 16, 4) == 1)
			ram += peek(&t, map + i * 24 + 8, 8);
	assert_int_equal(ram, MIB(64) - 0x61000);
	gmem_destroy(t.mem);
}

static void test_pvh__entry_may_be_four_bytes(void **st)
{
	struct trial t;

	(void)st;
	elf_make();
	elf.notes[1].h.n_descsz = 4;
	t = load(sizeof(elf), NULL);
	assert_int_equal(t.ret, 0);
	assert_int_equal(t.entry.rip, TEXT + 16);
	assert_int_equal(peek(&t, PLAT_PVH_INFO + 12, 4), 0);
	gmem_destroy(t.mem);
}

static void test_pvh__broken_files_are_told_apart(void **st)
{
	(void)st;
	elf_make();
	elf.eh.e_ident[EI_CLASS] = ELFCLASS32;
	assert_refused(-EINVAL, "kernel: ELF file is not 64-bit little-endian");
	elf_make();
	elf.eh.e_machine = EM_AARCH64;
	assert_refused(-EINVAL, "kernel: ELF file for machine 183, not x86-64");
	elf_make();
	elf.eh.e_phnum = 0;
	assert_refused(-EINVAL, "kernel: ELF file with 0 program headers of 56 bytes");
	elf.eh.e_phnum = 65;
	assert_refused(-EINVAL, "kernel: ELF file with 65 program headers of 56 bytes");
	elf_make();
	elf.eh.e_phoff = UINT64_MAX - 10;
	assert_refused(-EINVAL, "kernel: ELF program headers lie outside the file");
	elf_make();
	elf.ph[1].p_offset = UINT64_MAX - 50;
	assert_refused(-EINVAL, "kernel: file is cut short: segment 1 ends beyond it");
	elf_make();
	elf.ph[1].p_memsz = 99;
	assert_refused(-EINVAL, "kernel: segment 1 has impossible sizes");
	elf_make();
	elf.ph[1].p_paddr = UINT64_MAX - 100;
	assert_refused(-EINVAL, "kernel: segment 1 has impossible sizes");
	elf_make();
	elf.ph[0].p_paddr = 0x1000;
	assert_refused(-EINVAL, "kernel: segment 0 lies at 0x1000, below 1 MiB");
	elf_make();
	elf.ph[1].p_paddr = TEXT + 100;
	assert_refused(-EINVAL, "kernel: segments 0 and 1 overlap");
	elf_make();
	elf.ph[1].p_memsz = MIB(64);
	assert_refused(-E2BIG, "kernel needs 84 MiB, guest has 64 MiB");
}

static void test_pvh__broken_notes_are_told_apart(void **st)
{
	(void)st;
	elf_make();
	elf.eh.e_phnum = 2;
	assert_refused(-EINVAL, "kernel: ELF file without a PVH entry point (needs CONFIG_PVH)");
	elf_make();
	elf.notes[1].h.n_namesz = 0xfffffff0;
	assert_refused(-EINVAL, "kernel: broken ELF notes");
	elf_make();
	elf.notes[1].h.n_descsz = 0xffffffff;
	assert_refused(-EINVAL, "kernel: broken ELF notes");
	elf_make();
	elf.notes[1].h.n_descsz = 2;
	assert_refused(-EINVAL, "kernel: PVH note of 2 bytes");
	elf_make();
	elf.ph[2].p_filesz = 1 << 20;
	assert_refused(-EINVAL, "kernel: ELF notes of 1048576 bytes lie outside the file");
	elf_make();
	elf.notes[1].desc[0] = 0; /* the high half of the name's second word */
	memcpy(elf.notes[1].name, "Xen\0\0\0\0\x3f", 8);
	assert_refused(-EINVAL, "kernel: PVH entry point 0x3f000000 is in no segment");
}

/* A segment that takes no memory must not be written either. */
static void test_pvh__empty_segment_with_bytes_writes_nothing(void **st)
{
	struct trial t;

	(void)st;
	elf_make();
	elf.eh.e_phnum = 4;
	elf.ph[3] = elf.ph[1];
	elf.ph[3].p_paddr = PLAT_ZERO_PAGE;
	elf.ph[3].p_memsz = 0;
	t = load(sizeof(elf), NULL);
	assert_int_equal(t.ret, 0);
	assert_int_equal(peek(&t, PLAT_ZERO_PAGE, 8), 0);
	gmem_destroy(t.mem);
	/* nor be where the entry is */
	elf.ph[3].p_paddr = 0x20000000;
	memcpy(elf.notes[1].name, "Xen\0\x10\0\0\x20", 8);
	assert_refused(-EINVAL, "kernel: PVH entry point 0x20000010 is in no segment");
}

/* Every truncation is refused, none crashes. */
static void test_pvh__every_truncation_is_refused(void **st)
{
	(void)st;
	elf_make();
	for (size_t n = 1; n < sizeof(elf); n++) {
		struct trial t = load(n, NULL);

		assert_true(t.ret < 0);
		assert_true(t.e.msg[0]);
		gmem_destroy(t.mem);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvh__segments_and_start_info),
		cmocka_unit_test(test_pvh__entry_may_be_four_bytes),
		cmocka_unit_test(test_pvh__broken_files_are_told_apart),
		cmocka_unit_test(test_pvh__broken_notes_are_told_apart),
		cmocka_unit_test(test_pvh__empty_segment_with_bytes_writes_nothing),
		cmocka_unit_test(test_pvh__every_truncation_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
