/* SPDX-License-Identifier: MIT */
/*
 * The DSDT: PCI root, what the motherboard decodes, serial port, clock, generation id, power
 * button and the device that reports events of the last two. See acpi.c.
 */
#include "x86/acpi_dsdt.h"

#include "x86/aml.h"
#include "x86/platform.h"

/* Interrupts of PCI devices are messages, so there is no _PRT. */
static void pci_root(struct wbuf *w)
{
	size_t dev = aml_device(w, "PCI0");
	struct aml_crs crs;

	aml_name_eisa(w, "_HID", "PNP0A08");
	aml_name_eisa(w, "_CID", "PNP0A03");
	aml_name_int(w, "_UID", 0);
	aml_name_int(w, "_SEG", 0);
	aml_name_int(w, "_BBN", 0);
	aml_name_int(w, "_CCA", 1);
	crs = aml_crs(w);
	aml_res_bus_window(w, 0, (PLAT_ECAM_SIZE >> 20) - 1);
	aml_res_io(w, 0xcf8, 8);
	aml_res_io_window(w, 0x0000, 0x0cf7);
	aml_res_io_window(w, 0x0d00, 0xffff);
	aml_res_memory_window(w, PLAT_PCI_MMIO_BASE, PLAT_PCI_MMIO_BASE + PLAT_PCI_MMIO_SIZE - 1);
	aml_crs_end(w, crs);
	aml_end(w, dev);
}

/* Linux believes in ECAM only when something claims its addresses. */
static void motherboard(struct wbuf *w)
{
	size_t dev = aml_device(w, "MBRD");
	struct aml_crs crs;

	aml_name_eisa(w, "_HID", "PNP0C02");
	aml_name_int(w, "_UID", 0);
	crs = aml_crs(w);
	aml_res_memory(w, PLAT_ECAM_BASE, PLAT_ECAM_SIZE);
	aml_res_io(w, PLAT_SLEEP_CONTROL_PORT, PLAT_POWER_PORTS);
	aml_crs_end(w, crs);
	aml_end(w, dev);
}

static void serial(struct wbuf *w)
{
	size_t dev = aml_device(w, "COM1");
	struct aml_crs crs;

	aml_name_eisa(w, "_HID", "PNP0501");
	aml_name_int(w, "_UID", 0);
	crs = aml_crs(w);
	aml_res_io(w, PLAT_COM1_PORT, 8);
	aml_res_irq_edge(w, PLAT_COM1_GSI);
	aml_crs_end(w, crs);
	aml_end(w, dev);
}

/* No interrupt: there are no alarms. */
static void rtc(struct wbuf *w)
{
	size_t dev = aml_device(w, "RTC");
	struct aml_crs crs;

	aml_name_eisa(w, "_HID", "PNP0B00");
	crs = aml_crs(w);
	aml_res_io(w, PLAT_RTC_PORT, 2);
	aml_crs_end(w, crs);
	aml_end(w, dev);
}

/* Microsoft's "Virtual Machine Generation ID" paper: ADDR is where the GUID is, low half first. */
static void generation(struct wbuf *w)
{
	size_t dev = aml_device(w, "VGEN"), pkg;

	aml_name_string(w, "_HID", "CLNV0001");
	aml_name_string(w, "_CID", "VM_Gen_Counter");
	aml_name_string(w, "_DDN", "VM_Gen_Counter");
	aml_name(w, "ADDR");
	pkg = aml_package(w, 2);
	aml_int(w, PLAT_VMGENID);
	aml_int(w, 0);
	aml_end(w, pkg);
	aml_end(w, dev);
}

static void power_button(struct wbuf *w)
{
	size_t dev = aml_device(w, "PWRB");

	aml_name_eisa(w, "_HID", "PNP0C0C");
	aml_end(w, dev);
}

/* 5.6.9: the guest calls _EVT with the GSI that fired. */
static void events(struct wbuf *w)
{
	size_t dev = aml_device(w, "GED"), method, cond;
	struct aml_crs crs;

	aml_name_string(w, "_HID", "ACPI0013");
	aml_name_int(w, "_UID", 0);
	crs = aml_crs(w);
	aml_res_irq_edge(w, PLAT_GED_POWER_GSI);
	aml_res_irq_edge(w, PLAT_GED_VMGENID_GSI);
	aml_crs_end(w, crs);
	method = aml_method(w, "_EVT", 1);
	cond = aml_if_arg0_is(w, PLAT_GED_POWER_GSI);
	aml_notify(w, "\\_SB_.PWRB", 0x80);
	aml_end(w, cond);
	cond = aml_if_arg0_is(w, PLAT_GED_VMGENID_GSI);
	aml_notify(w, "\\_SB_.VGEN", 0x80);
	aml_end(w, cond);
	aml_end(w, method);
	aml_end(w, dev);
}

void acpi_dsdt(struct wbuf *w)
{
	size_t scope = aml_scope(w, "\\_SB_"), pkg;

	pci_root(w);
	motherboard(w);
	serial(w);
	rtc(w);
	generation(w);
	power_button(w);
	events(w);
	aml_end(w, scope);

	aml_name(w, "\\_S5_");
	pkg = aml_package(w, 4);
	aml_int(w, PLAT_SLEEP_TYPE_S5);
	aml_int(w, PLAT_SLEEP_TYPE_S5);
	aml_int(w, 0);
	aml_int(w, 0);
	aml_end(w, pkg);
}
