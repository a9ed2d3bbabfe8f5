/* SPDX-License-Identifier: MIT */
/*
 * ELF kernels (vmlinux) by their PVH entry point: 32-bit protected mode, EBX pointing to
 * hvm_start_info (Xen docs/misc/pvh.pandoc, include/public/arch-x86/hvm/start_info.h). The file is
 * hostile.
 */
#include <elf.h>
#include <errno.h>
#include <string.h>

#include "base/endian.h"
#include "base/fd.h"
#include "base/util.h"
#include "x86/boot_internal.h"
#include "x86/platform.h"

#define PHDR_BYTES 56
#define PHDRS_MAX 64
#define NOTES_MAX 65536
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_BYTES 56
#define MODLIST_BYTES 32
#define MEMMAP_BYTES 24

struct phdr {
	uint32_t type;
	uint64_t offset, paddr, filesz, memsz, align;
};

struct pvh {
	struct phdr ph[PHDRS_MAX];
	size_t n;
	uint64_t end; /* of the highest segment */
	uint64_t entry;
	bool has_entry;
};

static int read_phdrs(struct boot_job *j, struct pvh *k, struct err *e)
{
	struct rbuf r = boot_head_at(j, 0);
	uint8_t raw[PHDRS_MAX * PHDR_BYTES];
	uint32_t size, num, machine;
	uint64_t off;
	int x;

	rbuf_view(&r, 4);
	if (rbuf_u8(&r) != ELFCLASS64 || rbuf_u8(&r) != ELFDATA2LSB)
		return err_set(e, EINVAL, "kernel: ELF file is not 64-bit little-endian");
	rbuf_view(&r, 12); /* to e_machine */
	machine = rbuf_u16(&r);
	if (machine != EM_X86_64)
		return err_set(e, EINVAL, "kernel: ELF file for machine %u, not x86-64", machine);
	rbuf_view(&r, 12); /* e_version, e_entry: a virtual address, not used */
	off = rbuf_u64(&r);
	rbuf_view(&r, 14); /* e_shoff, e_flags, e_ehsize */
	size = rbuf_u16(&r);
	num = rbuf_u16(&r);
	if (size != PHDR_BYTES || !num || num > PHDRS_MAX)
		return err_set(e, EINVAL, "kernel: ELF file with %u program headers of %u bytes",
			       num, size);
	if (!range_ok(off, (uint64_t)num * PHDR_BYTES, j->file_bytes))
		return err_set(e, EINVAL, "kernel: ELF program headers lie outside the file");
	x = fd_pread_full(j->f->kernel_fd, raw, num * PHDR_BYTES, off);
	if (x)
		return err_sys(e, -x, "read kernel");
	rbuf_init(&r, raw, num * PHDR_BYTES);
	for (k->n = 0; k->n < num; k->n++) {
		struct phdr *p = &k->ph[k->n];

		p->type = rbuf_u32(&r);
		rbuf_view(&r, 4); /* p_flags */
		p->offset = rbuf_u64(&r);
		rbuf_view(&r, 8); /* p_vaddr */
		p->paddr = rbuf_u64(&r);
		p->filesz = rbuf_u64(&r);
		p->memsz = rbuf_u64(&r);
		p->align = rbuf_u64(&r);
	}
	return 0;
}

static int check_segment(const struct boot_job *j, const struct pvh *k, size_t i, struct err *e)
{
	const struct phdr *p = &k->ph[i];
	uint64_t end;

	if (!range_ok(p->offset, p->filesz, j->file_bytes))
		return err_set(e, EINVAL, "kernel: file is cut short: segment %zu ends beyond it",
			       i);
	if (p->filesz > p->memsz || !add_u64(p->paddr, p->memsz, &end))
		return err_set(e, EINVAL, "kernel: segment %zu has impossible sizes", i);
	if (p->paddr < PLAT_HIGH)
		return err_set(e, EINVAL, "kernel: segment %zu lies at %#llx, below 1 MiB", i,
			       (unsigned long long)p->paddr);
	if (end > j->low_end)
		return boot_too_small(j, end, e);
	for (size_t o = 0; o < i; o++) {
		const struct phdr *q = &k->ph[o];

		if (q->type == PT_LOAD && q->memsz && p->paddr < q->paddr + q->memsz &&
		    q->paddr < end)
			return err_set(e, EINVAL, "kernel: segments %zu and %zu overlap", o, i);
	}
	return 0;
}

/* One PT_NOTE segment: a list of (namesz, descsz, type, name, desc), parts padded to align. */
static int find_entry(struct boot_job *j, struct pvh *k, const struct phdr *p, struct err *e)
{
	uint32_t align = p->align == 8 ? 8 : 4;
	cleanup_free uint8_t *raw = NULL;
	struct rbuf r;
	int x;

	if (p->filesz > NOTES_MAX || !range_ok(p->offset, p->filesz, j->file_bytes))
		return err_set(e, EINVAL, "kernel: ELF notes of %llu bytes lie outside the file",
			       (unsigned long long)p->filesz);
	if (!p->filesz)
		return 0;
	raw = malloc((size_t)p->filesz);
	if (!raw)
		return err_set(e, ENOMEM, "no memory for ELF notes");
	x = fd_pread_full(j->f->kernel_fd, raw, (size_t)p->filesz, p->offset);
	if (x)
		return err_sys(e, -x, "read kernel");
	rbuf_init(&r, raw, (size_t)p->filesz);
	while (rbuf_left(&r) >= 12 && !r.bad) {
		uint32_t namesz = rbuf_u32(&r), descsz = rbuf_u32(&r), type = rbuf_u32(&r);
		const void *name = rbuf_view(&r, namesz);
		const void *desc;
		struct rbuf d;

		rbuf_view(&r, ROUND_UP(r.pos, align) - r.pos);
		desc = rbuf_view(&r, descsz);
		if (r.pos % align && rbuf_left(&r))
			rbuf_view(&r, MIN(ROUND_UP(r.pos, align) - r.pos, rbuf_left(&r)));
		if (r.bad)
			return err_set(e, EINVAL, "kernel: broken ELF notes");
		if (type != XEN_ELFNOTE_PHYS32_ENTRY || namesz != 4 || memcmp(name, "Xen", 4))
			continue;
		if (descsz != 4 && descsz != 8)
			return err_set(e, EINVAL, "kernel: PVH note of %u bytes", descsz);
		rbuf_init(&d, desc, descsz);
		k->entry = descsz == 4 ? rbuf_u32(&d) : rbuf_u64(&d);
		k->has_entry = true;
	}
	return 0;
}

static int check_entry(const struct pvh *k, struct err *e)
{
	if (!k->has_entry)
		return err_set(e, EINVAL,
			       "kernel: ELF file without a PVH entry point (needs CONFIG_PVH)");
	for (size_t i = 0; i < k->n; i++)
		if (k->ph[i].type == PT_LOAD && k->ph[i].memsz && k->entry >= k->ph[i].paddr &&
		    k->entry - k->ph[i].paddr < k->ph[i].filesz)
			return 0;
	return err_set(e, EINVAL, "kernel: PVH entry point %#llx is in no segment",
		       (unsigned long long)k->entry);
}

/* One page: the start info, then the module list, then the memory map. */
static int put_start_info(struct boot_job *j, struct err *e)
{
	const uint64_t modlist = PLAT_PVH_INFO + START_INFO_BYTES;
	const uint64_t memmap = modlist + MODLIST_BYTES;
	struct boot_range map[BOOT_MAP_MAX];
	size_t n = boot_memory_map(j, map);
	struct wbuf w;
	int r;

	wbuf_init(&w, 4096);
	wbuf_u32(&w, START_INFO_MAGIC);
	wbuf_u32(&w, 1); /* version: with a memory map */
	wbuf_u32(&w, 0); /* flags */
	wbuf_u32(&w, j->initrd_bytes ? 1 : 0);
	wbuf_u64(&w, j->initrd_bytes ? modlist : 0);
	wbuf_u64(&w, PLAT_CMDLINE);
	wbuf_u64(&w, j->f->rsdp);
	wbuf_u64(&w, memmap);
	wbuf_u32(&w, (uint32_t)n);
	wbuf_u32(&w, 0);
	wbuf_u64(&w, j->initrd_addr);
	wbuf_u64(&w, j->initrd_bytes);
	wbuf_u64(&w, 0); /* the module has no command line */
	wbuf_u64(&w, 0);
	for (size_t i = 0; i < n; i++) {
		wbuf_u64(&w, map[i].addr);
		wbuf_u64(&w, map[i].size);
		wbuf_u32(&w, map[i].type);
		wbuf_u32(&w, 0);
	}
	if (w.bad)
		r = err_set(e, ENOMEM, "no memory for the PVH start info");
	else
		r = boot_put(j, PLAT_PVH_INFO, w.data, w.len, "PVH start info", e);
	wbuf_fini(&w);
	return r;
}

int boot_pvh(struct boot_job *j, struct boot_entry *out, struct err *e)
{
	struct pvh k = { 0 };
	int r = read_phdrs(j, &k, e);

	for (size_t i = 0; i < k.n && !r; i++) {
		if (k.ph[i].type == PT_LOAD && k.ph[i].memsz) {
			r = check_segment(j, &k, i, e);
			k.end = MAX(k.end, k.ph[i].paddr + k.ph[i].memsz);
		} else if (k.ph[i].type == PT_NOTE) {
			r = find_entry(j, &k, &k.ph[i], e);
		}
	}
	if (!r)
		r = check_entry(&k, e);
	if (!r)
		r = boot_put_cmdline(j, PLAT_CMDLINE_MAX - 1, e);
	if (!r)
		r = boot_put_initrd(j, k.end, j->low_end, e);
	/* RAM is zero already where a segment is longer in memory than in the file. */
	for (size_t i = 0; i < k.n && !r; i++)
		if (k.ph[i].type == PT_LOAD && k.ph[i].memsz)
			r = boot_put_file(j, j->f->kernel_fd, k.ph[i].offset, k.ph[i].paddr,
					  k.ph[i].filesz, "kernel", e);
	if (!r)
		r = put_start_info(j, e);
	if (!r)
		*out = (struct boot_entry){ .mode = BOOT_PVH,
					    .rip = k.entry,
					    .arg = PLAT_PVH_INFO };
	return r;
}
