/* SPDX-License-Identifier: MIT */
/*
 * The device conformance suite over a model of KVM, in which the scripted drivers sleep until their
 * interrupt comes: a lost kick or interrupt is a hang, and a hang is a failure.
 */
#include <stddef.h>

#include "tests/device/conformance.h"
#include "tests/lib/kvm_model.h"

static void prepare(struct conf *c)
{
	c->fm.taken = kvm_model_taken;
	c->fm.interrupted = kvm_model_interrupted;
}

int main(void)
{
	static const struct conf_row *const rows[] = {
		&conf_row_pci_host, &conf_row_power, &conf_row_serial,	&conf_row_rtc,
		&conf_row_vmgenid,  &conf_row_blk,   &conf_row_blk_ro,	&conf_row_rng,
		&conf_row_vsock,    &conf_row_net,   &conf_row_balloon,
	};
	const struct conf_env env = { .sys_fd = -1, .max_flips = 2000, .prepare = prepare };

	return conf_run(&env, rows, ARRAY_SIZE(rows));
}
