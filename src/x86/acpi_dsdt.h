/* SPDX-License-Identifier: MIT */
/*
 * The DSDT's AML, for acpi.c alone.
 */
#ifndef CLONE_X86_ACPI_DSDT_H
#define CLONE_X86_ACPI_DSDT_H

#include "base/buf.h"

void acpi_dsdt(struct wbuf *w);

#endif
