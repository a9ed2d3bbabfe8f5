/* SPDX-License-Identifier: MIT */
/*
 * Where things are in the guest's address spaces, and which interrupt is whose: what the ACPI
 * tables tell the guest and the devices implement. Changing a value here breaks every snapshot.
 */
#ifndef CLONE_X86_PLATFORM_H
#define CLONE_X86_PLATFORM_H

#include <stdint.h>

/* RAM below 1 MiB. The kernel copies what boot left here before it uses the memory. */
#define PLAT_GDT 0x500u
#define PLAT_PVH_INFO 0x6000u	 /* hvm_start_info, memory map, module list: one page */
#define PLAT_ZERO_PAGE 0x7000u	 /* struct boot_params */
#define PLAT_PAGE_TABLES 0x9000u /* six pages: the first 4 GiB, identity */
#define PLAT_CMDLINE 0x20000u
#define PLAT_CMDLINE_MAX 0x10000u
#define PLAT_LOW_END 0x9f000u /* end of usable RAM below 1 MiB */
#define PLAT_VMGENID 0x9f000u /* a reserved page; the GUID is in its first 16 bytes */
#define PLAT_LOW_RESERVED_END 0xa0000u
#define PLAT_ACPI 0xe0000u	   /* tables, found there by address or by scanning for the RSDP */
#define PLAT_RESET_VECTOR 0xffff0u /* code: where a kernel jumps that wants the BIOS to reboot */
#define PLAT_ACPI_END 0x100000u
#define PLAT_HIGH 0x100000u /* kernels from here up */

/* The MMIO hole, from GMEM_HOLE_START. A test holds these equal to pci/pci.h. */
#define PLAT_PCI_MMIO_BASE 0xc0000000u
#define PLAT_PCI_MMIO_SIZE 0x20000000u
#define PLAT_ECAM_BASE 0xe0000000u
#define PLAT_ECAM_SIZE 0x100000u
#define PLAT_IOAPIC 0xfec00000u
#define PLAT_LAPIC 0xfee00000u

/* Ports. */
#define PLAT_KBD_PORT 0x64u /* only its reset command */
#define PLAT_RTC_PORT 0x70u
#define PLAT_RTC_CENTURY 0x32u /* its register */
#define PLAT_COM1_PORT 0x3f8u
#define PLAT_SLEEP_CONTROL_PORT 0x600u
#define PLAT_SLEEP_STATUS_PORT 0x601u
#define PLAT_RESET_PORT 0x602u
#define PLAT_POWER_PORTS 4u /* from PLAT_SLEEP_CONTROL_PORT; the last is unused */

#define PLAT_SLEEP_TYPE_S5 5u
#define PLAT_RESET_VALUE 1u

/* Interrupts: IOAPIC pins. PCI devices have none (MSI-X only). */
#define PLAT_COM1_GSI 4u
#define PLAT_GED_POWER_GSI 16u	 /* edge: somebody pressed the power button */
#define PLAT_GED_VMGENID_GSI 17u /* edge: the generation id changed */

#endif
