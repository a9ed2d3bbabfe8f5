/* SPDX-License-Identifier: MIT */
/*
 * Power, CMOS clock and VMGENID as a guest meets them, with a model of the interrupt lines that
 * counts edges.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/util.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/vmgenid.h"
#include "tests/lib/fake_machine.h"
#include "tests/lib/kvm_model.h"
#include "x86/platform.h"

static struct fake_machine fm;

static struct device *start(const struct device_class *cls)
{
	struct device *d;

	fm_init(&fm, GMEM_MIN_BYTES, -1);
	d = fm_add(&fm, cls, cls->name, NULL);
	fm_start(&fm);
	return d;
}

static void test_power__off_needs_the_type_of_s5_and_the_enable_bit(void **st)
{
	(void)st;
	start(&power_class);
	for (unsigned int v = 0; v < 256; v++)
		if (v != (0x20 | PLAT_SLEEP_TYPE_S5 << 2) && (v & 0x3c) != (0x20 | 5 << 2))
			fm_out(&fm, PLAT_SLEEP_CONTROL_PORT, 1, v);
	assert_int_equal(fm.events[VM_EVENT_POWEROFF], 0);
	fm_out(&fm, PLAT_SLEEP_CONTROL_PORT, 1, 0x20 | PLAT_SLEEP_TYPE_S5 << 2);
	assert_int_equal(fm.events[VM_EVENT_POWEROFF], 1);
	/* The enable bit reads as zero, and there is nothing to wake from. */
	assert_int_equal(fm_in(&fm, PLAT_SLEEP_CONTROL_PORT, 1), PLAT_SLEEP_TYPE_S5 << 2);
	assert_int_equal(fm_in(&fm, PLAT_SLEEP_STATUS_PORT, 1), 0);
	fm_fini(&fm);
}

static void test_power__each_way_to_reset(void **st)
{
	(void)st;
	start(&power_class);
	fm_out(&fm, PLAT_RESET_PORT, 1, PLAT_RESET_VALUE + 1);
	fm_out(&fm, PLAT_KBD_PORT, 1, 0xd1);
	assert_int_equal(fm.events[VM_EVENT_RESET], 0);
	fm_out(&fm, PLAT_RESET_PORT, 1, PLAT_RESET_VALUE);
	assert_int_equal(fm.events[VM_EVENT_RESET], 1);
	/* Linux waits for the controller not to be busy before it says so. */
	assert_int_equal(fm_in(&fm, PLAT_KBD_PORT, 1) & 2, 0);
	fm_out(&fm, PLAT_KBD_PORT, 1, 0xfe);
	assert_int_equal(fm.events[VM_EVENT_RESET], 2);
	fm_out(&fm, 0xcf9, 1, 6);
	assert_int_equal(fm.events[VM_EVENT_RESET], 3);
	assert_int_equal(fm.events[VM_EVENT_POWEROFF], 0);
	fm_fini(&fm);
}

static void test_power__a_press_is_one_edge_of_its_own_pin(void **st)
{
	struct device *d = start(&power_class);

	(void)st;
	power_button_press(d);
	power_button_press(d);
	for (unsigned int pin = 0; pin < KVM_GSI_PINS; pin++) {
		assert_int_equal(fm.m.kvm->edges[pin], pin == PLAT_GED_POWER_GSI ? 2 : 0);
		assert_int_equal(fm.m.kvm->levels[pin], 0);
	}
	fm_fini(&fm);
}

static unsigned int rtc(unsigned int reg)
{
	unsigned int v;

	fm_out(&fm, PLAT_RTC_PORT, 1, reg | 0x80); /* Linux sets the NMI bit */
	v = (unsigned int)fm_in(&fm, PLAT_RTC_PORT + 1, 1);
	return v;
}

static int rtc_bcd(unsigned int reg)
{
	unsigned int v = rtc(reg);

	assert_true((v & 15) < 10 && v >> 4 < 10);
	return (int)(v >> 4) * 10 + (int)(v & 15);
}

/* As a guest reads it: again until the seconds did not change meanwhile. */
static void test_rtc__tells_the_hosts_time(void **st)
{
	time_t before, there;
	struct tm tm = { 0 };

	(void)st;
	start(&rtc_class);
	assert_int_equal(rtc(11) & 6, 2); /* BCD, 24 hours */
	assert_int_equal(rtc(10) & 0x80, 0);
	assert_int_equal(rtc(13), 0x80);
	before = time(NULL);
	do {
		tm.tm_sec = rtc_bcd(0);
		tm.tm_min = rtc_bcd(2);
		tm.tm_hour = rtc_bcd(4);
		tm.tm_mday = rtc_bcd(7);
		tm.tm_mon = rtc_bcd(8) - 1;
		tm.tm_year = rtc_bcd(9) + rtc_bcd(PLAT_RTC_CENTURY) * 100 - 1900;
	} while (tm.tm_sec != rtc_bcd(0));
	there = timegm(&tm);
	assert_true(there >= before && there <= time(NULL));
	assert_int_equal(rtc_bcd(6), tm.tm_wday + 1); /* timegm filled it in */
	fm_fini(&fm);
}

static void test_rtc__cannot_be_set_but_keeps_scratch_bytes(void **st)
{
	(void)st;
	start(&rtc_class);
	fm_out(&fm, PLAT_RTC_PORT, 1, 9);
	fm_out(&fm, PLAT_RTC_PORT + 1, 1, 0x01);
	assert_int_not_equal(rtc_bcd(9), 1);
	fm_out(&fm, PLAT_RTC_PORT, 1, 0x50);
	fm_out(&fm, PLAT_RTC_PORT + 1, 1, 0xa7);
	assert_int_equal(rtc(0x50), 0xa7);
	fm_fini(&fm);
}

static void assert_generation(const uint8_t want[16])
{
	uint8_t there[16];

	assert_int_equal(gmem_read(fm.m.mem, PLAT_VMGENID, there, sizeof(there)), 0);
	assert_memory_equal(there, want, sizeof(there));
}

static void test_vmgenid__renewed_and_announced_once_to_a_new_identity_alone(void **st)
{
	struct identity id = { .generation = "first generation" };
	struct device *d;

	(void)st;
	fm_init(&fm, GMEM_MIN_BYTES, -1);
	d = fm_add(&fm, &vmgenid_class, "vmgenid", NULL);
	fm_adopt(&fm, &id);
	fm_resume(&fm);
	assert_generation(id.generation);
	assert_int_equal(fm.m.kvm->edges[PLAT_GED_VMGENID_GSI], 0);
	fm_quiesce(&fm);
	memcpy(id.generation, "second generatio", 16);
	id.renew = true;
	assert_int_equal(d->cls->adopt(d, &id, NULL), 0);
	/* The page first; the interrupt when the machine goes on. */
	assert_generation(id.generation);
	assert_int_equal(fm.m.kvm->edges[PLAT_GED_VMGENID_GSI], 0);
	fm_resume(&fm);
	assert_int_equal(fm.m.kvm->edges[PLAT_GED_VMGENID_GSI], 1);
	fm_quiesce(&fm);
	fm_resume(&fm);
	assert_int_equal(fm.m.kvm->edges[PLAT_GED_VMGENID_GSI], 1);
	fm_fini(&fm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_power__off_needs_the_type_of_s5_and_the_enable_bit),
		cmocka_unit_test(test_power__each_way_to_reset),
		cmocka_unit_test(test_power__a_press_is_one_edge_of_its_own_pin),
		cmocka_unit_test(test_rtc__tells_the_hosts_time),
		cmocka_unit_test(test_rtc__cannot_be_set_but_keeps_scratch_bytes),
		cmocka_unit_test(test_vmgenid__renewed_and_announced_once_to_a_new_identity_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
