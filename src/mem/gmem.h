/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM. The only module that turns a guest physical address into a pointer; all others copy
 * (gmem_read, gmem_write) or borrow (gmem_pin ... gmem_unpin). RAM is private memory of this
 * process, anonymous or a template file mapped MAP_PRIVATE, so that fork(2) shares it
 * copy-on-write.
 *
 * Layout: RAM below GMEM_HOLE_START, the rest from GMEM_HOLE_END (4 GiB) up. "Offset" below means
 * the offset into RAM as if the hole were not there: it is the offset in a template's RAM file.
 *
 * Threads: any thread may read, write and pin; mapping calls are main's, with vCPUs not running.
 */
#ifndef CLONE_MEM_GMEM_H
#define CLONE_MEM_GMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

typedef uint64_t gpa_t; /* an address in the guest, never dereferenced */

#define GMEM_PAGE 4096u
#define GMEM_HOLE_START 0xC0000000ull /* 3 GiB: PCI, ECAM, IOAPIC, LAPIC live above */
#define GMEM_HOLE_END 0x100000000ull
#define GMEM_MAX_REGIONS 3
#define GMEM_MIN_BYTES (64ull << 20)
#define GMEM_MAX_BYTES (1ull << 40)

struct gmem;

struct gmem_region {
	gpa_t gpa;
	uint64_t size_bytes;
	void *hva;	 /* for KVM memslots only */
	uint64_t offset; /* of its first byte in RAM */
};

/* A range of RAM offsets, page aligned. */
struct gmem_extent {
	uint64_t offset, len;
};

/*
 * Reserves size_bytes (a multiple of 2 MiB, GMEM_MIN_BYTES..GMEM_MAX_BYTES) of zero RAM.
 * -EINVAL on a bad size, -ENOMEM (with what to do about overcommit) when the host refuses.
 */
int gmem_create(uint64_t size_bytes, struct gmem **out, struct err *e);
void gmem_destroy(struct gmem *gm);

uint64_t gmem_size(const struct gmem *gm);
size_t gmem_regions(const struct gmem *gm, struct gmem_region out[GMEM_MAX_REGIONS]);

/* Copies; -EFAULT when any byte is not RAM (nothing is copied then). A copy may cross regions
 * only if they are adjacent, which ours never are. */
int gmem_read(struct gmem *gm, gpa_t gpa, void *dst, size_t n);
int gmem_write(struct gmem *gm, gpa_t gpa, const void *src, size_t n);

/* Single-copy-atomic 16-bit access for ring indices: acquire load, release store. gpa must be
 * 2-aligned RAM, else -EFAULT. */
int gmem_load16(struct gmem *gm, gpa_t gpa, uint16_t *out);
int gmem_store16(struct gmem *gm, gpa_t gpa, uint16_t v);

/*
 * Borrows [gpa, gpa+n) as a pointer, NULL when any byte is not RAM. `write` says that the borrower
 * may store; unpin then marks the range dirty. Every pin ends with an unpin with the same
 * arguments before the VM can be quiesced: gmem_pins() is 0 then.
 */
void *gmem_pin(struct gmem *gm, gpa_t gpa, size_t n, bool write);
void gmem_unpin(struct gmem *gm, gpa_t gpa, size_t n, bool write);
unsigned int gmem_pins(const struct gmem *gm);
/* true when [gpa, gpa+n) is RAM. */
bool gmem_valid(const struct gmem *gm, gpa_t gpa, uint64_t n);

/*
 * Maps extents of a template's RAM file privately over RAM; all else stays anonymous zeroes.
 * The file must not change while any VM lives. Extents ascending, page-aligned, within RAM and
 * within the file (hostile: checked, -EINVAL). The fd stays the caller's and may be closed.
 */
int gmem_map_file(struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n, struct err *e);

/* In a fork's child: what it touches first is in small pages, and a plan (below) is not ours. */
void gmem_huge_child(struct gmem *gm);

/*
 * A seed's RAM, mapped from these extents of fd: begin a plan of making huge pages (2 MiB) of what
 * the file mostly fills, for the children to share. Each gmem_huge_step makes one block: 1, 0 when
 * there is none left, -errno when the host has no memory or no huge pages for it (RAM is whole in
 * any case, the plan has ended). At most 512 MiB. fd stays the caller's and open until then.
 */
int gmem_huge_begin(struct gmem *gm, int fd, const struct gmem_extent *ext, size_t n,
		    struct err *e);
int gmem_huge_step(struct gmem *gm, struct err *e);
void gmem_huge_end(struct gmem *gm);

/* Anonymous zeroes over this extent: of a template's file, or of what was written. */
int gmem_map_zero(struct gmem *gm, const struct gmem_extent *x, struct err *e);

/*
 * Which pages of [offset, offset + len) may be anything but zero: a byte a page, 0 for those that
 * were never touched. Faults nothing in. False when no page may be.
 */
bool gmem_resident(struct gmem *gm, uint64_t offset, uint64_t len, unsigned char *vec);
/* A whole page of zeroes? */
bool gmem_page_is_zero(const void *page);
/* Private copies of pages, made now instead of when they are first written to. Best effort. */
void gmem_populate(struct gmem *gm, uint64_t offset, uint64_t len);
/* Gives pages of a RAM that nobody will read again back to the host, whatever they held. */
void gmem_forget(struct gmem *gm, uint64_t offset, uint64_t len);

/* Reads by RAM offset, for the snapshot writer. */
int gmem_read_offset(struct gmem *gm, uint64_t offset, void *dst, size_t n);
/* Borrow by RAM offset; NULL when the range is out of RAM or crosses regions. No pin is counted:
 * for the snapshot writer while the VM is paused. */
const void *gmem_at_offset(struct gmem *gm, uint64_t offset, size_t n);
/* The same to write to, for filling RAM before the VM runs. */
void *gmem_fill(struct gmem *gm, uint64_t offset, size_t n);

/*
 * The VMM's own dirty bitmap (KVM's log sees vCPU writes only): off until started.
 * gmem_dirty_test reports and clears one page by RAM offset.
 */
int gmem_dirty_start(struct gmem *gm, struct err *e);
void gmem_dirty_stop(struct gmem *gm);
bool gmem_dirty_test(struct gmem *gm, uint64_t offset);
/* Adds all of it to pages (a bit a page of RAM), and clears it. */
void gmem_dirty_add(struct gmem *gm, uint64_t *pages);
/* Is it on? Then whoever writes into RAM past us (vhost) must not. */
bool gmem_dirty_tracked(const struct gmem *gm);

/* KSM may merge its pages with other processes', or may not any more: merged ones become copies of
 * our own again, which needs memory. -EOPNOTSUPP: this kernel has no KSM. Main. */
int gmem_merge(struct gmem *gm, bool on, struct err *e);

/*
 * Gives pages back: they read as zero (anonymous) or as the template's page again. No mapping is
 * split. Dirty from then on, because a base may hold what they held. -EFAULT: not whole pages of
 * RAM; -errno of madvise(2).
 */
int gmem_discard(struct gmem *gm, gpa_t gpa, uint64_t n);
/* The same with those of the range that will read as zero; others (a template's) keep what they
 * hold. *given: bytes given back, also on failure. */
int gmem_discard_zero(struct gmem *gm, gpa_t gpa, uint64_t n, uint64_t *given);

#endif
