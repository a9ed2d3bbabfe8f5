/* SPDX-License-Identifier: MIT */
/*
 * bzImage by its 64-bit entry point (Linux Documentation/arch/x86/boot.rst, protocol 2.12 and up).
 * The file is hostile: every field is checked against the file and guest RAM before it is used.
 */
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/util.h"
#include "x86/boot_internal.h"
#include "x86/platform.h"

/* Offsets in the file and in the zero page alike. */
enum {
	ZP_ACPI_RSDP = 0x070,
	ZP_E820_ENTRIES = 0x1e8,
	HDR_START = 0x1f1, /* setup_sects */
	HDR_SYSSIZE = 0x1f4,
	HDR_BOOT_FLAG = 0x1fe,
	HDR_JUMP_LEN = 0x201,
	HDR_MAGIC = 0x202, /* the header ends here plus JUMP_LEN */
	HDR_VERSION = 0x206,
	HDR_LOADER = 0x210,
	HDR_LOADFLAGS = 0x211,
	HDR_RAMDISK = 0x218, /* address, size */
	HDR_CMDLINE = 0x228,
	HDR_INITRD_MAX = 0x22c,
	HDR_ALIGNMENT = 0x230,
	HDR_RELOCATABLE = 0x234,
	HDR_XLOADFLAGS = 0x236,
	HDR_CMDLINE_SIZE = 0x238,
	HDR_SETUP_DATA = 0x250,
	HDR_PREF_ADDRESS = 0x258,
	HDR_INIT_SIZE = 0x260,
	HDR_END_MAX = 0x290,
	ZP_E820 = 0x2d0,
};

#define LOADFLAGS_LOADED_HIGH 1
#define XLF_KERNEL_64 1
#define LOADER_UNDEFINED 0xff
#define ENTRY_64 0x200

struct bzimage {
	uint32_t version, header_end;
	uint64_t setup_bytes, payload_bytes;
	uint64_t load, footprint;
	uint64_t initrd_end, cmdline_max;
};

static uint32_t u8_at(const struct boot_job *j, size_t off)
{
	struct rbuf r = boot_head_at(j, off);

	return rbuf_u8(&r);
}

static uint32_t u16_at(const struct boot_job *j, size_t off)
{
	struct rbuf r = boot_head_at(j, off);

	return rbuf_u16(&r);
}

static uint32_t u32_at(const struct boot_job *j, size_t off)
{
	struct rbuf r = boot_head_at(j, off);

	return rbuf_u32(&r);
}

static uint64_t u64_at(const struct boot_job *j, size_t off)
{
	struct rbuf r = boot_head_at(j, off);

	return rbuf_u64(&r);
}

/* Is it a kernel that has the entry we use, and is the file whole? */
static int check_file(const struct boot_job *j, struct bzimage *k, struct err *e)
{
	uint32_t sects = u8_at(j, HDR_START);
	uint64_t declared;

	if (u16_at(j, HDR_BOOT_FLAG) != 0xaa55)
		return err_set(e, EINVAL, "kernel: bzImage without the boot signature");
	k->version = u16_at(j, HDR_VERSION);
	if (k->version < 0x20c)
		return err_set(e, EINVAL, "kernel: boot protocol %u.%02u, 2.12 (Linux 3.8) needed",
			       k->version >> 8, k->version & 0xff);
	if (!(u16_at(j, HDR_XLOADFLAGS) & XLF_KERNEL_64))
		return err_set(e, EINVAL, "kernel: no 64-bit entry point (a 32-bit kernel?)");
	k->header_end = HDR_MAGIC + u8_at(j, HDR_JUMP_LEN);
	if (k->header_end < HDR_INIT_SIZE + 4 || k->header_end > HDR_END_MAX)
		return err_set(e, EINVAL, "kernel: setup header ends at %#x", k->header_end);
	k->setup_bytes = ((sects ? sects : 4) + 1) * 512ull;
	declared = u32_at(j, HDR_SYSSIZE) * 16ull;
	if (k->setup_bytes >= j->file_bytes || declared > j->file_bytes - k->setup_bytes)
		return err_set(e, EINVAL, "kernel: file is cut short: %llu bytes, header says %llu",
			       (unsigned long long)j->file_bytes,
			       (unsigned long long)(k->setup_bytes + declared));
	k->payload_bytes = j->file_bytes - k->setup_bytes;
	if (k->payload_bytes <= ENTRY_64)
		return err_set(e, EINVAL, "kernel: nothing behind its setup code");
	return 0;
}

/* Where it goes. The preferred address is also the lowest that a relocatable kernel runs at. */
static int place(const struct boot_job *j, struct bzimage *k, struct err *e)
{
	uint64_t pref = u64_at(j, HDR_PREF_ADDRESS), end;
	uint32_t align = u32_at(j, HDR_ALIGNMENT);

	if (pref < PLAT_HIGH)
		return err_set(e, EINVAL, "kernel: wants to be at %#llx, below 1 MiB",
			       (unsigned long long)pref);
	if (u8_at(j, HDR_RELOCATABLE) && (!align || (align & (align - 1)) || pref % align))
		return err_set(e, EINVAL, "kernel: wants to be at %#llx, aligned to %#x",
			       (unsigned long long)pref, align);
	k->load = pref;
	k->footprint = MAX((uint64_t)u32_at(j, HDR_INIT_SIZE), k->payload_bytes);
	if (!add_u64(k->load, k->footprint, &end))
		return err_set(e, EINVAL, "kernel: wants to be at %#llx, beyond all memory",
			       (unsigned long long)pref);
	if (end > j->low_end)
		return boot_too_small(j, end, e);
	k->initrd_end = u32_at(j, HDR_INITRD_MAX) + 1ull;
	k->cmdline_max = u32_at(j, HDR_CMDLINE_SIZE);
	return 0;
}

static void put32(uint8_t *zp, size_t off, uint64_t v)
{
	le32 x = le32_put((uint32_t)v);

	memcpy(zp + off, &x, sizeof(x));
}

static void put64(uint8_t *zp, size_t off, uint64_t v)
{
	le64 x = le64_put(v);

	memcpy(zp + off, &x, sizeof(x));
}

static int put_zero_page(struct boot_job *j, const struct bzimage *k, struct err *e)
{
	struct boot_range map[BOOT_MAP_MAX];
	size_t n = boot_memory_map(j, map);
	uint8_t zp[4096] = { 0 };

	memcpy(zp + HDR_START, j->head + HDR_START, k->header_end - HDR_START);
	zp[HDR_LOADER] = LOADER_UNDEFINED;
	zp[HDR_LOADFLAGS] |= LOADFLAGS_LOADED_HIGH;
	put32(zp, HDR_RAMDISK, j->initrd_addr);
	put32(zp, HDR_RAMDISK + 4, j->initrd_bytes);
	put32(zp, HDR_CMDLINE, PLAT_CMDLINE);
	put64(zp, HDR_SETUP_DATA, 0); /* ours to set, not the file's */
	put64(zp, ZP_ACPI_RSDP, j->f->rsdp);
	zp[ZP_E820_ENTRIES] = (uint8_t)n;
	for (size_t i = 0; i < n; i++) {
		put64(zp, ZP_E820 + i * 20, map[i].addr);
		put64(zp, ZP_E820 + i * 20 + 8, map[i].size);
		put32(zp, ZP_E820 + i * 20 + 16, map[i].type);
	}
	return boot_put(j, PLAT_ZERO_PAGE, zp, sizeof(zp), "zero page", e);
}

/* The first 4 GiB mapped to themselves by 2 MiB pages: a PML4, a PDPT, four page directories. */
static int put_page_tables(struct boot_job *j, struct err *e)
{
	const uint64_t present_rw = 3, large = 0x80;
	le64 page[512];
	int r;

	memset(page, 0, sizeof(page));
	page[0] = le64_put((PLAT_PAGE_TABLES + 0x1000) | present_rw);
	r = boot_put(j, PLAT_PAGE_TABLES, page, sizeof(page), "page tables", e);
	for (uint64_t i = 0; i < 4; i++)
		page[i] = le64_put((PLAT_PAGE_TABLES + 0x2000 + i * 0x1000) | present_rw);
	if (!r)
		r = boot_put(j, PLAT_PAGE_TABLES + 0x1000, page, sizeof(page), "page tables", e);
	for (uint64_t d = 0; d < 4 && !r; d++) {
		for (uint64_t i = 0; i < 512; i++)
			page[i] = le64_put(((d * 512 + i) << 21) | present_rw | large);
		r = boot_put(j, PLAT_PAGE_TABLES + 0x2000 + d * 0x1000, page, sizeof(page),
			     "page tables", e);
	}
	return r;
}

int boot_bzimage(struct boot_job *j, struct boot_entry *out, struct err *e)
{
	struct bzimage k = { 0 };
	int r = check_file(j, &k, e);

	if (!r)
		r = place(j, &k, e);
	if (!r)
		r = boot_put_cmdline(j, k.cmdline_max, e);
	if (!r)
		r = boot_put_initrd(j, k.load + k.footprint, k.initrd_end, e);
	if (!r)
		r = boot_put_file(j, j->f->kernel_fd, k.setup_bytes, k.load, k.payload_bytes,
				  "kernel", e);
	if (!r)
		r = put_zero_page(j, &k, e);
	if (!r)
		r = put_page_tables(j, e);
	if (!r)
		*out = (struct boot_entry){ .mode = BOOT_LONG64,
					    .rip = k.load + ENTRY_64,
					    .arg = PLAT_ZERO_PAGE,
					    .cr3 = PLAT_PAGE_TABLES };
	return r;
}
