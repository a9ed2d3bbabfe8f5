/* SPDX-License-Identifier: MIT */
/*
 * VMGENID: tells the guest's kernel that it has been forked or restored.
 */
#ifndef CLONE_DEVICE_VMGENID_H
#define CLONE_DEVICE_VMGENID_H

#include "device/device.h"

extern const struct device_class vmgenid_class;

#endif
