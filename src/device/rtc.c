/* SPDX-License-Identifier: MIT */
/*
 * The CMOS clock (MC146818A data sheet): date and time of the host's CLOCK_REALTIME in UTC, BCD, 24
 * hours. It cannot be set and has no alarm: a guest that wants another time keeps it to itself.
 *
 * Fork and restore: renew. The time is read from the host at each access; only the index register
 * and the guest's scratch bytes are state.
 *
 * Handlers run on vCPU threads with the device lock held.
 */
#include "device/rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"
#include "device/bus.h"
#include "x86/platform.h"

enum {
	RTC_SECONDS = 0,
	RTC_MINUTES = 2,
	RTC_HOURS = 4,
	RTC_WEEKDAY = 6,
	RTC_DAY = 7,
	RTC_MONTH = 8,
	RTC_YEAR = 9,
	RTC_REG_A = 10,	    /* update in progress (never), divider */
	RTC_REG_B = 11,	    /* format, interrupt enables */
	RTC_REG_C = 12,	    /* interrupt flags (never) */
	RTC_REG_D = 13,	    /* valid RAM and time */
	RTC_CENTURY = 0x32, /* the FADT says so */
	RTC_BYTES = 128,
};
#define RTC_A_DIVIDER 0x26u /* 32,768 Hz */
#define RTC_B_24H 0x02u
#define RTC_D_VALID 0x80u

struct rtc_state {
	uint8_t index;
	uint8_t ram[RTC_BYTES];
};

struct rtc {
	struct device d; /* first */
	struct rtc_state state;
};

static const struct field rtc_fields[] = {
	F_U8(struct rtc_state, index),
	F_BYTES(struct rtc_state, ram),
};

static uint8_t bcd(int v)
{
	return (uint8_t)(v / 10 << 4 | v % 10);
}

static uint8_t rtc_get(const struct rtc *r, uint8_t index)
{
	time_t now = time(NULL);
	struct tm tm;

	gmtime_r(&now, &tm);
	switch (index) {
	case RTC_SECONDS:
		return bcd(MIN(tm.tm_sec, 59));
	case RTC_MINUTES:
		return bcd(tm.tm_min);
	case RTC_HOURS:
		return bcd(tm.tm_hour);
	case RTC_WEEKDAY:
		return bcd(tm.tm_wday + 1);
	case RTC_DAY:
		return bcd(tm.tm_mday);
	case RTC_MONTH:
		return bcd(tm.tm_mon + 1);
	case RTC_YEAR:
		return bcd(tm.tm_year % 100);
	case RTC_CENTURY:
		return bcd((tm.tm_year + 1900) / 100);
	case RTC_REG_A:
		return RTC_A_DIVIDER;
	case RTC_REG_B:
		return RTC_B_24H;
	case RTC_REG_C:
		return 0;
	case RTC_REG_D:
		return RTC_D_VALID;
	default:
		return r->state.ram[index];
	}
}

static void rtc_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct rtc *r = arg;

	memset(data, 0xff, len);
	if (off == 1)
		bus_put(data, 1, rtc_get(r, r->state.index));
}

static void rtc_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	uint8_t v = (uint8_t)bus_get(data, len);
	struct rtc *r = arg;

	if (off == 0)
		r->state.index = v & (RTC_BYTES - 1); /* bit 7 masks NMI: there is none */
	else
		r->state.ram[r->state.index] = v;
}

static const struct bus_ops rtc_ops = { .read = rtc_read, .write = rtc_write };

static void rtc_destroy(struct device *d)
{
	bus_del(d->m->pio, PLAT_RTC_PORT);
	free(container_of(d, struct rtc, d));
}

static int rtc_create(struct machine *m, const char *id, const void *cfg, struct device **out,
		      struct err *e)
{
	struct rtc *r = calloc(1, sizeof(*r));
	int ret;

	(void)cfg;
	if (!r)
		return err_set(e, ENOMEM, "rtc: out of memory");
	r->d.cls = &rtc_class;
	r->d.m = m;
	r->d.state = &r->state;
	strncpy(r->d.id, id, sizeof(r->d.id) - 1);
	ret = bus_add(m->pio, "rtc", PLAT_RTC_PORT, 2, &rtc_ops, r, e);
	if (ret) {
		free(r);
		return ret;
	}
	*out = &r->d;
	return 0;
}

static void rtc_reset(struct device *d)
{
	container_of(d, struct rtc, d)->state.index = 0; /* the RAM has a battery */
}

static int rtc_check(const struct device *d, const void *state, struct err *e)
{
	const struct rtc_state *s = state;

	(void)d;
	if (s->index >= RTC_BYTES)
		return err_set(e, EINVAL, "index: %u, at most %d", s->index, RTC_BYTES - 1);
	return 0;
}

const struct device_class rtc_class = {
	.name = "rtc",
	.version = 1,
	.state = FIELD_TABLE(struct rtc_state, rtc_fields),
	.create = rtc_create,
	.destroy = rtc_destroy,
	.reset = rtc_reset,
	.quiesce = device_quiesce_nothing,
	.resume = device_resume_nothing,
	.check = rtc_check,
	.commit = device_commit_copy,
	.prepare = device_prepare_nothing,
	.adopt = device_adopt_nothing,
};
