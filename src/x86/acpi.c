/* SPDX-License-Identifier: MIT */
/*
 * ACPI tables. See acpi.h; chapters are of ACPI 6.5 (section 5.2), MCFG of the PCI Firmware
 * Specification 3.3.
 *
 * The machine is "hardware-reduced": no PM timer, no GPE blocks, no SCI, no 8259 and PIT. Power-off
 * goes through the sleep control register, events through a Generic Event Device (ACPI0013) with
 * one interrupt for each of the two things that can happen.
 */
#include "x86/acpi.h"

#include <errno.h>
#include <string.h>

#include "base/util.h"
#include "x86/acpi_dsdt.h"
#include "x86/platform.h"

#define RSDP_BYTES 36

/* 5.2.9, flags */
enum {
	FADT_WBINVD = 1u << 0,
	FADT_NO_POWER_BUTTON = 1u << 4, /* not a fixed one: it is a device in the DSDT */
	FADT_NO_SLEEP_BUTTON = 1u << 5,
	FADT_RTC_NOT_FIXED = 1u << 6,
	FADT_RESET_REG = 1u << 10,
	FADT_HW_REDUCED = 1u << 20,
	FADT_BOOT_NO_VGA = 1u << 2,
};

static void checksum(struct wbuf *w, size_t start, size_t len, size_t at)
{
	uint8_t sum = 0;

	if (w->bad)
		return;
	w->data[at] = 0;
	for (size_t i = 0; i < len; i++)
		sum = (uint8_t)(sum + w->data[start + i]);
	w->data[at] = (uint8_t)-sum;
}

static uint64_t gpa_at(size_t off)
{
	return PLAT_ACPI + (uint64_t)off;
}

/* Begins a table, 16-byte aligned; returns its offset. */
static size_t table_begin(struct wbuf *w, const char *signature, uint8_t revision)
{
	size_t at;

	wbuf_reserve(w, ROUND_UP(w->len, 16) - w->len);
	at = w->len;
	wbuf_bytes(w, signature, 4);
	wbuf_u32(w, 0); /* length: table_end */
	wbuf_u8(w, revision);
	wbuf_u8(w, 0); /* checksum: table_end */
	wbuf_bytes(w, "CLONE ", 6);
	wbuf_bytes(w, "CLONEVM ", 8);
	wbuf_u32(w, 1);
	wbuf_bytes(w, "CLNE", 4);
	wbuf_u32(w, 1);
	return at;
}

static void table_end(struct wbuf *w, size_t at)
{
	wbuf_patch_u32(w, at + 4, (uint32_t)(w->len - at));
	checksum(w, at, w->len - at, at + 9);
}

/* 5.2.3.2: an 8-bit I/O port */
static void gas_port(struct wbuf *w, uint64_t port)
{
	wbuf_u8(w, 1);
	wbuf_u8(w, 8);
	wbuf_u8(w, 0);
	wbuf_u8(w, 1);
	wbuf_u64(w, port);
}

static size_t build_dsdt(struct wbuf *w)
{
	size_t at = table_begin(w, "DSDT", 2);

	acpi_dsdt(w);
	table_end(w, at);
	return at;
}

/* 5.2.9 */
static size_t build_fadt(struct wbuf *w, size_t dsdt)
{
	size_t at = table_begin(w, "FACP", 6);

	wbuf_u32(w, 0); /* FIRMWARE_CTRL: no FACS on hardware-reduced platforms */
	wbuf_u32(w, (uint32_t)gpa_at(dsdt));
	wbuf_reserve(w, 108 - 44); /* fixed hardware that we do not have */
	wbuf_u8(w, PLAT_RTC_CENTURY);
	wbuf_u16(w, FADT_BOOT_NO_VGA); /* and by bits not set: no 8042, there is a CMOS RTC */
	wbuf_u8(w, 0);
	wbuf_u32(w, FADT_WBINVD | FADT_NO_POWER_BUTTON | FADT_NO_SLEEP_BUTTON | FADT_RTC_NOT_FIXED |
			    FADT_RESET_REG | FADT_HW_REDUCED);
	gas_port(w, PLAT_RESET_PORT);
	wbuf_u8(w, PLAT_RESET_VALUE);
	wbuf_u16(w, 0); /* ARM */
	wbuf_u8(w, 5);	/* minor version */
	wbuf_u64(w, 0); /* X_FIRMWARE_CTRL */
	wbuf_u64(w, gpa_at(dsdt));
	wbuf_reserve(w, 244 - 148); /* extended addresses of the same absent hardware */
	gas_port(w, PLAT_SLEEP_CONTROL_PORT);
	gas_port(w, PLAT_SLEEP_STATUS_PORT);
	wbuf_bytes(w, "CLONE\0\0\0", 8); /* hypervisor vendor */
	table_end(w, at);
	return at;
}

/* 5.2.12. Pins are GSIs one to one, so no interrupt source overrides. */
static size_t build_madt(struct wbuf *w, unsigned int nr_vcpus)
{
	size_t at = table_begin(w, "APIC", 5);

	wbuf_u32(w, PLAT_LAPIC);
	wbuf_u32(w, 0); /* no 8259 */
	for (unsigned int i = 0; i < nr_vcpus; i++) {
		wbuf_u8(w, 0);
		wbuf_u8(w, 8);
		wbuf_u8(w, (uint8_t)i); /* UID */
		wbuf_u8(w, (uint8_t)i); /* APIC id */
		wbuf_u32(w, 1);		/* enabled */
	}
	wbuf_u8(w, 1);
	wbuf_u8(w, 12);
	wbuf_u8(w, 0); /* id */
	wbuf_u8(w, 0);
	wbuf_u32(w, PLAT_IOAPIC);
	wbuf_u32(w, 0); /* first GSI */
	wbuf_u8(w, 4);
	wbuf_u8(w, 6);
	wbuf_u8(w, 0xff); /* of all processors */
	wbuf_u16(w, 0);
	wbuf_u8(w, 1); /* LINT1 is NMI */
	table_end(w, at);
	return at;
}

static size_t build_mcfg(struct wbuf *w)
{
	size_t at = table_begin(w, "MCFG", 1);

	wbuf_u64(w, 0);
	wbuf_u64(w, PLAT_ECAM_BASE);
	wbuf_u16(w, 0);				/* segment */
	wbuf_u8(w, 0);				/* bus 0 */
	wbuf_u8(w, (PLAT_ECAM_SIZE >> 20) - 1); /* to bus 0 */
	wbuf_u32(w, 0);
	table_end(w, at);
	return at;
}

static size_t build_xsdt(struct wbuf *w, const size_t *tables, size_t n)
{
	size_t at = table_begin(w, "XSDT", 1);

	for (size_t i = 0; i < n; i++)
		wbuf_u64(w, gpa_at(tables[i]));
	table_end(w, at);
	return at;
}

/* 5.2.5.3, into the place kept for it at the front */
static void put_rsdp(struct wbuf *w, size_t xsdt)
{
	struct wbuf r;

	wbuf_init(&r, RSDP_BYTES);
	wbuf_bytes(&r, "RSD PTR ", 8);
	wbuf_u8(&r, 0); /* checksum of the first 20 */
	wbuf_bytes(&r, "CLONE ", 6);
	wbuf_u8(&r, 2);	 /* revision */
	wbuf_u32(&r, 0); /* no RSDT */
	wbuf_u32(&r, RSDP_BYTES);
	wbuf_u64(&r, gpa_at(xsdt));
	wbuf_u32(&r, 0); /* extended checksum, reserved */
	checksum(&r, 0, 20, 8);
	checksum(&r, 0, RSDP_BYTES, 32);
	if (r.bad)
		w->bad = true;
	if (!w->bad)
		memcpy(w->data, r.data, RSDP_BYTES);
	wbuf_fini(&r);
}

int acpi_tables(unsigned int nr_vcpus, struct wbuf *out, struct err *e)
{
	size_t dsdt, tables[3], xsdt;

	wbuf_init(out, PLAT_RESET_VECTOR - PLAT_ACPI);
	wbuf_reserve(out, RSDP_BYTES);
	dsdt = build_dsdt(out);
	tables[0] = build_fadt(out, dsdt);
	tables[1] = build_madt(out, nr_vcpus);
	tables[2] = build_mcfg(out);
	xsdt = build_xsdt(out, tables, ARRAY_SIZE(tables));
	put_rsdp(out, xsdt);
	if (out->bad)
		return err_set(e, ENOMEM, "no memory for ACPI tables");
	return 0;
}

int acpi_build(struct gmem *mem, unsigned int nr_vcpus, gpa_t *rsdp, struct err *e)
{
	struct wbuf w;
	int r = acpi_tables(nr_vcpus, &w, e);

	if (!r && gmem_write(mem, PLAT_ACPI, w.data, w.len))
		r = err_set(e, EFAULT, "ACPI tables at %#x: not RAM", PLAT_ACPI);
	wbuf_fini(&w);
	if (!r)
		*rsdp = PLAT_ACPI;
	return r;
}
