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

#endif
