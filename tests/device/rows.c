/* SPDX-License-Identifier: MIT */
/*
 * Conformance rows of the small devices: host bridge, power, serial port, CMOS clock, VMGENID,
 * virtio-rng.
 */
#include <linux/pci_regs.h>
#include <string.h>
#include <sys/mman.h>

#include "base/util.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/vmgenid.h"
#include "event/grants.h"
#include "tests/device/conformance.h"
#include "virtio/rng.h"
#include "x86/platform.h"

/* ---- host bridge ---- */

static void host_progress(struct conf *c)
{
	/* the latch keeps what was written last, across everything but a reset */
	if (c->done)
		CONF(c, (fm_in(&c->fm, 0xcf8, 4) & 0xfc) == (c->done * 4 & 0xfc));
	c->done++;
	fm_out(&c->fm, 0xcf8, 4, 0x80000000u | (c->done * 4 & 0xfc));
	CONF(c, fm_read(&c->fm, fm_ecam(0, PCI_VENDOR_ID), 2) == 0x8086);
}

static void host_boot(struct conf *c)
{
	c->done = 0;
	CONF(c, !(fm_in(&c->fm, 0xcf8, 4) & 0x7f000000));
	fm_write(&c->fm, fm_ecam(0, PCI_INTERRUPT_LINE), 1, 7);
}

const struct conf_row conf_row_pci_host = {
	.cls = &pci_host_class,
	.id = "pci-host",
	.boot = host_boot,
	.progress = host_progress,
};

/* ---- power ---- */

static void power_progress(struct conf *c)
{
	unsigned int before = c->fm.events[VM_EVENT_POWEROFF];

	fm_out(&c->fm, PLAT_SLEEP_CONTROL_PORT, 1, PLAT_SLEEP_TYPE_S5 << 2);
	CONF(c, c->fm.events[VM_EVENT_POWEROFF] == before);
	fm_out(&c->fm, PLAT_SLEEP_CONTROL_PORT, 1, 0x20 | PLAT_SLEEP_TYPE_S5 << 2);
	CONF(c, c->fm.events[VM_EVENT_POWEROFF] == before + 1);
}

const struct conf_row conf_row_power = {
	.cls = &power_class,
	.id = "power",
	.progress = power_progress,
};

/* ---- serial port ---- */

#define COM(reg) (uint16_t)(PLAT_COM1_PORT + (reg))

/* The scratch register keeps, and a byte goes round in loopback. */
static void serial_progress(struct conf *c)
{
	if (c->done)
		CONF(c, fm_in(&c->fm, COM(7), 1) == (c->done & 0xff));
	c->done++;
	fm_out(&c->fm, COM(7), 1, c->done & 0xff);
	fm_out(&c->fm, COM(4), 1, 0x1b);
	fm_out(&c->fm, COM(0), 1, c->done & 0x7f);
	CONF(c, fm_in(&c->fm, COM(5), 1) & 1);
	CONF(c, fm_in(&c->fm, COM(0), 1) == (c->done & 0x7f));
	fm_out(&c->fm, COM(4), 1, 0x0b);
}

static void serial_boot(struct conf *c)
{
	c->done = 0;
	fm_out(&c->fm, COM(3), 1, 3);
	fm_out(&c->fm, COM(2), 1, 0xc7);
	fm_out(&c->fm, COM(1), 1, 0x05);
}

/* A console nobody reads. */
static void serial_load(struct conf *c)
{
	for (unsigned int i = 0; i < 300; i++)
		fm_out(&c->fm, COM(0), 1, 'a' + i % 26);
}

static void serial_give(struct conf *c, const char *prefix)
{
	char name[32];

	snprintf(name, sizeof(name), "%sconsole", prefix);
	BUG_ON(grants_put(c->fm.m.grants, name, conf_listener(), NULL));
	snprintf(name, sizeof(name), "%sconsole-log", prefix);
	BUG_ON(grants_put(c->fm.m.grants, name, memfd_create("log", MFD_CLOEXEC), NULL));
}

const struct conf_row conf_row_serial = {
	.cls = &serial_class,
	.id = "serial",
	.give = serial_give,
	.boot = serial_boot,
	.load = serial_load,
	.progress = serial_progress,
};

/* ---- CMOS clock ---- */

static void rtc_progress(struct conf *c)
{
	fm_out(&c->fm, PLAT_RTC_PORT, 1, 0x40);
	if (c->done)
		CONF(c, fm_in(&c->fm, PLAT_RTC_PORT + 1, 1) == (c->done & 0xff));
	c->done++;
	fm_out(&c->fm, PLAT_RTC_PORT + 1, 1, c->done & 0xff);
	fm_out(&c->fm, PLAT_RTC_PORT, 1, PLAT_RTC_CENTURY);
	CONF(c, fm_in(&c->fm, PLAT_RTC_PORT + 1, 1) == 0x20);
}

static void rtc_boot(struct conf *c)
{
	c->done = 0;
}

const struct conf_row conf_row_rtc = {
	.cls = &rtc_class,
	.id = "rtc",
	.reset_keeps = true,
	.boot = rtc_boot,
	.progress = rtc_progress,
};

/* ---- VMGENID ---- */

static void vmgenid_progress(struct conf *c)
{
	uint8_t id[16];

	/* same[] and other[] of conformance.c: a child has an id of its own */
	CONF(c, !gmem_read(c->fm.m.mem, PLAT_VMGENID, id, sizeof(id)));
	CONF(c, id[0] == (c->child ? 2 : 1));
}

const struct conf_row conf_row_vmgenid = {
	.cls = &vmgenid_class,
	.id = "vmgenid",
	.progress = vmgenid_progress,
};

/* ---- virtio-rng ---- */

static void rng_load(struct conf *c)
{
	for (uint32_t i = 0; i < 48; i++) {
		struct vd_buf b[2] = { { c->buf + 512 * i, 256, true },
				       { c->buf + 512 * i + 256, 200, true } };

		conf_submit(c, b, 1 + c->n % 2);
		if (i % 16 == 7)
			fm_spin(&c->fm);
		/* direct chains of two would overrun the table */
		if (i == 30)
			conf_drain(c);
	}
}

static void rng_progress(struct conf *c)
{
	struct vd_buf b = { c->buf, 32, true };
	uint8_t before[32], now[32];
	uint32_t len = 0;

	CONF(c, !gmem_read(c->fm.m.mem, c->buf, before, sizeof(before)));
	vd_submit(&c->d, 0, &b, 1, false);
	CONF(c, vd_wait_used(&c->d, 0, NULL, &len) && len == 32);
	CONF(c, !gmem_read(c->fm.m.mem, c->buf, now, sizeof(now)));
	CONF(c, memcmp(before, now, sizeof(now)));
}

static const struct virtio_rng_cfg rng_cfg = { .bytes_per_s = 0, .burst_bytes = 0 };

const struct conf_row conf_row_rng = {
	.cls = &virtio_rng_class,
	.id = "rng",
	.cfg = &rng_cfg,
	.virtio_id = 4,
	.load = rng_load,
	.drain = conf_drain,
	.progress = rng_progress,
};
