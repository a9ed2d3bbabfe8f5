/* SPDX-License-Identifier: MIT */
/*
 * Boot, the part that all kernel formats share: which format it is, the memory map, initrd, command
 * line, GDT. See boot.h. Main thread.
 */
#include "x86/boot.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "x86/boot_internal.h"
#include "x86/platform.h"

static unsigned long long mib_up(uint64_t bytes)
{
	return (unsigned long long)((bytes >> 20) + ((bytes & 0xfffff) != 0));
}

int boot_too_small(const struct boot_job *j, uint64_t need_end, struct err *e)
{
	return err_set(e, E2BIG, "kernel needs %llu MiB, guest has %llu MiB%s", mib_up(need_end),
		       mib_up(gmem_size(j->mem)),
		       gmem_size(j->mem) > j->low_end ? " (3072 MiB of it below 4 GiB)" : "");
}

size_t boot_memory_map(const struct boot_job *j, struct boot_range out[BOOT_MAP_MAX])
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(j->mem, r), k = 0;

	out[k++] = (struct boot_range){ 0, PLAT_LOW_END, E820_RAM };
	out[k++] = (struct boot_range){ PLAT_LOW_END, PLAT_LOW_RESERVED_END - PLAT_LOW_END,
					E820_RESERVED };
	out[k++] = (struct boot_range){ PLAT_ACPI, PLAT_ACPI_END - PLAT_ACPI, E820_ACPI };
	out[k++] = (struct boot_range){ PLAT_HIGH, j->low_end - PLAT_HIGH, E820_RAM };
	out[k++] = (struct boot_range){ PLAT_ECAM_BASE, PLAT_ECAM_SIZE, E820_RESERVED };
	for (size_t i = 1; i < n; i++)
		out[k++] = (struct boot_range){ r[i].gpa, r[i].size_bytes, E820_RAM };
	return k;
}

int boot_put(struct boot_job *j, uint64_t gpa, const void *data, size_t n, const char *what,
	     struct err *e)
{
	if (gmem_write(j->mem, gpa, data, n))
		return err_set(e, EFAULT, "%s at %#llx is not RAM", what, (unsigned long long)gpa);
	return 0;
}

int boot_put_file(struct boot_job *j, int fd, uint64_t off, uint64_t gpa, uint64_t n,
		  const char *what, struct err *e)
{
	void *p;
	int r;

	if (!n)
		return 0;
	p = gmem_pin(j->mem, gpa, (size_t)n, true);
	if (!p)
		return err_set(e, EFAULT, "%s at %#llx is not RAM", what, (unsigned long long)gpa);
	r = fd_pread_full(fd, p, (size_t)n, off);
	gmem_unpin(j->mem, gpa, (size_t)n, true);
	if (r == -EPIPE)
		return err_set(e, EINVAL, "%s became shorter while it was read", what);
	return r ? err_sys(e, -r, "read %s", what) : 0;
}

static int file_size(int fd, const char *what, uint64_t *out, struct err *e)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(e, errno, "%s", what);
	if (!S_ISREG(st.st_mode))
		return err_set(e, EINVAL, "%s is not a regular file", what);
	if (st.st_size == 0)
		return err_set(e, EINVAL, "%s is an empty file", what);
	*out = (uint64_t)st.st_size;
	return 0;
}

int boot_put_initrd(struct boot_job *j, uint64_t floor, uint64_t ceiling, struct err *e)
{
	uint64_t end = ROUND_DOWN(MIN(ceiling, j->low_end), GMEM_PAGE), addr;
	int r;

	if (j->f->initrd_fd < 0)
		return 0;
	r = file_size(j->f->initrd_fd, "initrd", &j->initrd_bytes, e);
	if (r)
		return r;
	if (j->initrd_bytes > end || ROUND_DOWN(end - j->initrd_bytes, GMEM_PAGE) < floor)
		return err_set(e, E2BIG,
			       "initrd of %llu MiB does not fit beside the kernel, which needs "
			       "%llu MiB; guest has %llu MiB",
			       mib_up(j->initrd_bytes), mib_up(floor), mib_up(gmem_size(j->mem)));
	addr = ROUND_DOWN(end - j->initrd_bytes, GMEM_PAGE);
	r = boot_put_file(j, j->f->initrd_fd, 0, addr, j->initrd_bytes, "initrd", e);
	if (!r)
		j->initrd_addr = addr;
	return r;
}

int boot_put_cmdline(struct boot_job *j, uint64_t max, struct err *e)
{
	size_t n = strlen(j->f->cmdline);

	max = MIN(max, PLAT_CMDLINE_MAX - 1);
	if (n > max)
		return err_set(e, E2BIG, "command line is %zu bytes, this kernel takes %llu", n,
			       (unsigned long long)max);
	return boot_put(j, PLAT_CMDLINE, j->f->cmdline, n + 1, "command line", e);
}

/* Selectors as boot_regs uses them; the descriptors matter only to a kernel that reloads one. */
static int put_gdt(struct boot_job *j, struct boot_entry *b, struct err *e)
{
	const le64 gdt[] = {
		le64_put(0),
		le64_put(0),
		le64_put(b->mode == BOOT_LONG64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff),
		le64_put(0x00cf93000000ffff),
		le64_put(0x00008b0000000067),
		le64_put(0),
	};

	b->gdt = PLAT_GDT;
	b->gdt_limit = sizeof(gdt) - 1;
	return boot_put(j, PLAT_GDT, gdt, sizeof(gdt), "GDT", e);
}

/*
 * All that there is of a BIOS. Linux 6.1 and others take "hardware-reduced" to mean that there is
 * EFI to reboot with, and where there is none they go to real mode and jump here.
 */
static int put_reset_vector(struct boot_job *j, struct err *e)
{
	static const uint8_t code[] = {
		0xba,
		PLAT_RESET_PORT & 0xff,
		PLAT_RESET_PORT >> 8, /* mov $PLAT_RESET_PORT, %dx */
		0xb0,
		PLAT_RESET_VALUE, /* mov $PLAT_RESET_VALUE, %al */
		0xee,		  /* out %al, %dx */
		0xf4,		  /* again: hlt */
		0xeb,
		0xfd, /* jmp again */
	};

	_Static_assert(PLAT_RESET_VECTOR + sizeof(code) <= PLAT_ACPI_END, "fits below 1 MiB");
	return boot_put(j, PLAT_RESET_VECTOR, code, sizeof(code), "reset vector", e);
}

int boot_load(struct gmem *mem, const struct boot_files *f, struct boot_entry *out, struct err *e)
{
	struct gmem_region regions[GMEM_MAX_REGIONS];
	struct boot_job j = { .mem = mem, .f = f };
	struct boot_entry entry = { 0 };
	int r = file_size(f->kernel_fd, "kernel", &j.file_bytes, e);

	if (r)
		return r;
	BUG_ON(gmem_regions(mem, regions) < 1 || regions[0].gpa != 0);
	j.low_end = regions[0].size_bytes;
	j.head_bytes = (size_t)MIN(j.file_bytes, sizeof(j.head));
	r = fd_pread_full(f->kernel_fd, j.head, j.head_bytes, 0);
	if (r)
		return err_sys(e, -r, "read kernel");
	if (!memcmp(j.head, "\177ELF", 4))
		r = boot_pvh(&j, &entry, e);
	else if (!memcmp(j.head + 0x202, "HdrS", 4))
		r = boot_bzimage(&j, &entry, e);
	else
		r = err_set(e, EINVAL,
			    "kernel: not a bzImage or ELF file (first bytes %02x %02x %02x %02x)",
			    j.head[0], j.head[1], j.head[2], j.head[3]);
	if (!r)
		r = put_gdt(&j, &entry, e);
	if (!r)
		r = put_reset_vector(&j, e);
	if (!r)
		*out = entry;
	return r;
}
