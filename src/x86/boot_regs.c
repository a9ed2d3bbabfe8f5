/* SPDX-License-Identifier: MIT */
/*
 * The boot CPU's registers at a kernel's entry: what a boot loader would have left. See boot.h.
 */
#include "x86/boot.h"

#include "base/util.h"

#define CR0_PE (1ull << 0)
#define CR0_ET (1ull << 4)
#define CR0_PG (1ull << 31)
#define CR4_PAE (1ull << 5)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define APIC_BASE_DEFAULT 0xfee00000ull
#define APIC_BASE_BSP (1ull << 8)
#define APIC_BASE_ENABLE (1ull << 11)

#define SEL_CODE 0x10 /* __BOOT_CS of the Linux boot protocol */
#define SEL_DATA 0x18 /* __BOOT_DS */
#define SEL_TSS 0x20

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.s = 1,
		.g = 1,
		.l = long_mode,
		.db = !long_mode,
	};
}

void boot_regs(const struct boot_entry *b, struct kvm_regs *regs, struct kvm_sregs *sregs)
{
	bool l = b->mode == BOOT_LONG64;

	*regs = (struct kvm_regs){ .rip = b->rip, .rflags = 2 };
	if (l)
		regs->rsi = b->arg;
	else
		regs->rbx = b->arg;
	*sregs = (struct kvm_sregs){
		.cs = flat(SEL_CODE, 0xb, l),
		.ds = flat(SEL_DATA, 0x3, false),
		.gdt = { .base = b->gdt, .limit = b->gdt_limit },
		.cr0 = CR0_PE | CR0_ET,
		.apic_base = APIC_BASE_DEFAULT | APIC_BASE_BSP | APIC_BASE_ENABLE,
	};
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
	/* VMX wants a busy TSS and says so at the first entry; the LDT is unusable. */
	sregs->tr = (struct kvm_segment){
		.limit = 0x67, .selector = SEL_TSS, .type = 0xb, .present = 1
	};
	sregs->ldt = (struct kvm_segment){ .unusable = 1 };
	if (l) {
		sregs->cr0 |= CR0_PG;
		sregs->cr3 = b->cr3;
		sregs->cr4 = CR4_PAE;
		sregs->efer = EFER_LME | EFER_LMA;
	}
}
