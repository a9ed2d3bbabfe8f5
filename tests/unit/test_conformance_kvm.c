/* SPDX-License-Identifier: MIT */
/*
 * The device conformance suite over the real /dev/kvm: every class of the registry has a row, and
 * every row holds with the kernel's own irqfds, ioeventfds and vCPUs. Skipped without /dev/kvm.
 */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/util.h"
#include "device/kernel_devices.h"
#include "tests/device/conformance.h"
#include "vm/registry.h"

static const struct conf_row *const rows[] = {
	&conf_row_irqchip, &conf_row_vcpu,  &conf_row_clock,   &conf_row_pci_host, &conf_row_power,
	&conf_row_serial,  &conf_row_rtc,   &conf_row_vmgenid, &conf_row_blk,	   &conf_row_blk_ro,
	&conf_row_rng,	   &conf_row_vsock, &conf_row_net,     &conf_row_balloon,
};

/* MSI-X and interrupt lines end in chips, which are a device too. */
static void prepare(struct conf *c)
{
	static const struct irqchip_cfg cfg = { .pit = 0 };

	if (c->row != &conf_row_irqchip)
		fm_add(&c->fm, &dev_irqchip_class, "chips", &cfg);
}

static bool has_row(const struct device_class *cls)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i]->cls == cls)
			return true;
	return false;
}

int main(void)
{
	struct conf_env env = { .sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC),
				.max_flips = 200, /* a VM each, 20 ms to close */
				.prepare = prepare };
	int failed = 0;

	for (size_t i = 0; i < device_registry_len; i++) {
		if (has_row(device_registry[i]))
			continue;
		printf("%s is registered but has no conformance row\n", device_registry[i]->name);
		failed++;
	}
	if (failed)
		return failed;
	if (env.sys_fd < 0) {
		printf("skipped: cannot open /dev/kvm\n");
		return 77;
	}
	return conf_run(&env, rows, ARRAY_SIZE(rows));
}
