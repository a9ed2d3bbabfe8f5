/* SPDX-License-Identifier: MIT */
/*
 * What boot.c, boot_bzimage.c and boot_pvh.c share.
 */
#ifndef CLONE_X86_BOOT_INTERNAL_H
#define CLONE_X86_BOOT_INTERNAL_H

#include "base/buf.h"
#include "x86/boot.h"

#define BOOT_HEAD_BYTES 4096 /* of the kernel file, read once */
#define BOOT_MAP_MAX 8

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3 };

struct boot_range {
	uint64_t addr, size;
	uint32_t type; /* enum e820_type; PVH's numbers are the same */
};

/* A kernel that is being loaded. */
struct boot_job {
	struct gmem *mem;
	const struct boot_files *f;
	uint64_t low_end; /* RAM from 0 to here */
	uint64_t file_bytes;
	uint8_t head[BOOT_HEAD_BYTES]; /* the file's first bytes, zeroes behind its end */
	size_t head_bytes;
	/* what boot_put_initrd found out */
	uint64_t initrd_addr, initrd_bytes;
};

/* Reads at an offset of head, zero beyond its end. */
static inline struct rbuf boot_head_at(const struct boot_job *j, size_t off)
{
	struct rbuf r;

	rbuf_init(&r, j->head, sizeof(j->head));
	(void)rbuf_view(&r, off);
	return r;
}

size_t boot_memory_map(const struct boot_job *j, struct boot_range out[BOOT_MAP_MAX]);
/* Reads n bytes of fd at off to gpa. `what` for the error. */
int boot_put_file(struct boot_job *j, int fd, uint64_t off, uint64_t gpa, uint64_t n,
		  const char *what, struct err *e);
/* As high as it may end (exclusive) but above floor; nothing without an initrd. */
int boot_put_initrd(struct boot_job *j, uint64_t floor, uint64_t ceiling, struct err *e);
/* max is the kernel's limit, without the NUL. */
int boot_put_cmdline(struct boot_job *j, uint64_t max, struct err *e);
int boot_put(struct boot_job *j, uint64_t gpa, const void *data, size_t n, const char *what,
	     struct err *e);
int boot_too_small(const struct boot_job *j, uint64_t need_end, struct err *e);

int boot_bzimage(struct boot_job *j, struct boot_entry *out, struct err *e);
int boot_pvh(struct boot_job *j, struct boot_entry *out, struct err *e);

#endif
