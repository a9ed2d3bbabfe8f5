/* SPDX-License-Identifier: MIT */
/*
 * The serial port COM1. No cfg. Its console is console.h.
 */
#ifndef CLONE_DEVICE_SERIAL_H
#define CLONE_DEVICE_SERIAL_H

#include "device/device.h"

extern const struct device_class serial_class;

/* Hands on at once what the console gathers (console.h): before the VM ends. Main. */
void serial_flush(struct device *d);
/* Was something typed that the guest is going to read (its driver is open) and has not? Main. */
bool serial_waits(const struct device *d);

#endif
