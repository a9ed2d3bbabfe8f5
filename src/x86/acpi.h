/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables of the machine that platform.h describes: RSDP, XSDT, FADT (hardware-reduced), MADT,
 * MCFG, DSDT. Main thread, before the first boot; part of guest RAM from then on.
 */
#ifndef CLONE_X86_ACPI_H
#define CLONE_X86_ACPI_H

#include "base/buf.h"
#include "base/err.h"
#include "mem/gmem.h"

/* The tables as one image whose first byte belongs at PLAT_ACPI and is the RSDP's. */
int acpi_tables(unsigned int nr_vcpus, struct wbuf *out, struct err *e);
/* Writes the image into guest RAM; *rsdp is for boot_load. */
int acpi_build(struct gmem *mem, unsigned int nr_vcpus, gpa_t *rsdp, struct err *e);

#endif
