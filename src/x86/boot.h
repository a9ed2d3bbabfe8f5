/* SPDX-License-Identifier: MIT */
/*
 * Booting without a BIOS: puts a kernel, its initrd, its command line and the tables that firmware
 * would have left into guest RAM, and says how the boot CPU enters. Kernel files are hostile bytes.
 * Main thread, before any vCPU runs.
 */
#ifndef CLONE_X86_BOOT_H
#define CLONE_X86_BOOT_H

#include <linux/kvm.h>
#include <stdint.h>

#include "base/err.h"
#include "mem/gmem.h"

enum boot_mode {
	BOOT_LONG64, /* bzImage: 64-bit mode, identity-mapped, RSI = zero page (Linux boot.rst) */
	BOOT_PVH, /* ELF: 32-bit protected mode, no paging, EBX = hvm_start_info (Xen pvh.pandoc) */
};

/* How the boot CPU enters the kernel. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	gpa_t arg; /* RSI or EBX */
	gpa_t cr3; /* BOOT_LONG64: page tables */
	gpa_t gdt; /* a GDT with flat 0x10 code and 0x18 data */
	uint16_t gdt_limit;
};

struct boot_files {
	int kernel_fd;	     /* bzImage or ELF with a PVH note; borrowed, read with pread */
	int initrd_fd;	     /* -1: none; borrowed */
	const char *cmdline; /* NUL-terminated */
	gpa_t rsdp;	     /* from acpi_build, 0: none */
};

/*
 * Loads the kernel into mem. -EINVAL: not a kernel, or a broken one; -E2BIG: does not fit into
 * guest RAM, or the command line into the kernel's limit; else what pread said. Each with one line
 * that says what and how much.
 */
int boot_load(struct gmem *mem, const struct boot_files *f, struct boot_entry *out, struct err *e);

/* Registers of the boot CPU at the entry. apic_base and all else as after power-on. */
void boot_regs(const struct boot_entry *b, struct kvm_regs *regs, struct kvm_sregs *sregs);

#endif
