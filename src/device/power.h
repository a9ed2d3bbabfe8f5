/* SPDX-License-Identifier: MIT */
/*
 * Power: the guest's way to switch itself off or to reset, and our power button.
 */
#ifndef CLONE_DEVICE_POWER_H
#define CLONE_DEVICE_POWER_H

#include "device/device.h"

extern const struct device_class power_class;

/* Presses the ACPI power button: an interrupt that the guest's event device turns into a key. Main,
 * VM running. */
void power_button_press(struct device *d);

#endif
