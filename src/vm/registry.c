/* SPDX-License-Identifier: MIT */
/*
 * The one explicit list of devices. In-kernel chips come first, because vCPUs need them to exist;
 * vCPUs before everything that may interrupt them; kvmclock after the vCPUs, because it is set once
 * they are there.
 */
#include "vm/registry.h"

#include "base/util.h"
#include "device/kernel_devices.h"
#include "device/power.h"
#include "device/rtc.h"
#include "device/serial.h"
#include "device/vmgenid.h"
#include "pci/pci.h"
#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/net.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"

const struct device_class *const device_registry[] = {
	&dev_irqchip_class,    &dev_vcpu_class,	  &dev_clock_class,  &power_class,
	&serial_class,	       &rtc_class,	  &vmgenid_class,    &pci_host_class,
	&virtio_blk_class,     &virtio_net_class, &virtio_rng_class, &virtio_vsock_class,
	&virtio_balloon_class,
};
const size_t device_registry_len = ARRAY_SIZE(device_registry);
