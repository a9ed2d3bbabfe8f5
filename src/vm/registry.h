/* SPDX-License-Identifier: MIT */
/*
 * The registry: every class of device there is, in the order in which everything happens to them.
 */
#ifndef CLONE_VM_REGISTRY_H
#define CLONE_VM_REGISTRY_H

#include <stddef.h>

#include "device/device.h"

extern const struct device_class *const device_registry[];
extern const size_t device_registry_len;

#endif
