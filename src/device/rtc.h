/* SPDX-License-Identifier: MIT */
/*
 * The CMOS clock: where a guest reads the date when it boots.
 */
#ifndef CLONE_DEVICE_RTC_H
#define CLONE_DEVICE_RTC_H

#include "device/device.h"

extern const struct device_class rtc_class;

#endif
