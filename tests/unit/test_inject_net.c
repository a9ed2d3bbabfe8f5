/* SPDX-License-Identifier: MIT */
/*
 * A NIC is made, adopted, driven and lent to a model of vhost, while one call of these after the
 * other fails: nothing leaks, and what fails after adopt costs packets or speed and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "device/kernel_devices.h"
#include "event/grants.h"
#include "tests/inject/sweep.h"
#include "tests/lib/vhost_model.h"

static int sys_fd;

static const struct identity self = { .name = "fake", .generation = { 1 } };

/* A machine whose NIC is yet to be made. */
static void net_setup(void *arg)
{
	static const struct irqchip_cfg chip = { .pit = 0 };
	struct vnic_rig *g = arg;

	memset(&world, 0, sizeof(world));
	world.features = ~0ull;
	world.fail_start = -1;
	memset(g, 0, sizeof(*g));
	g->pairs = 2;
	for (unsigned int i = 0; i < VNIC_PAIRS; i++)
		g->wire[i] = -1;
	fm_init(&g->fm, MIB(64), sys_fd);
	fm_add(&g->fm, &dev_irqchip_class, "irqchip", &chip);
	g->rx = fm_alloc(&g->fm, VNIC_SLOTS * VNIC_BUF, 4096);
	g->tx = fm_alloc(&g->fm, VNIC_SLOTS * VNIC_BUF, 4096);
	for (unsigned int i = 0; i < 2; i++)
		vnic_plug(g, "", i);
	BUG_ON(grants_put(g->fm.m.grants, "net/net0/vhost", eventfd(0, EFD_CLOEXEC), NULL));
	BUG_ON(grants_put(g->fm.m.grants, "net/net0/keep", eventfd(0, EFD_CLOEXEC), NULL));
	fm_adopt(&g->fm, &self);
	fm_resume(&g->fm);
}

static int net_run(void *arg, struct err *e)
{
	const struct virtio_net_cfg cfg = { .queue_pairs = 2, .mtu = 1500 };
	struct vnic_rig *g = arg;
	int ret = virtio_net_class.create(&g->fm.m, "net0", &cfg, &g->dev, e);

	if (ret)
		return ret;
	g->fm.dev[g->fm.nr_devs++] = g->dev;
	ret = virtio_net_class.adopt(g->dev, &self, e);
	if (ret)
		return ret;
	virtio_net_class.resume(g->dev);
	vnic_drive(g, 0);
	vnic_send(g, 0, 100, 1);
	vnic_offer(g, 0, 1000);
	vnic_settle(g);
	return 0;
}

static void net_after(void *arg, int ret)
{
	struct vnic_rig *g = arg;

	if (!ret) {
		if (vnic_broken(g))
			sweep_fail("the device is broken");
		if (vnic_of(g)->pair[0].now == VNET_NONE)
			vnic_settle(g);
		fm_quiesce(&g->fm);
		if (gmem_pins(g->fm.m.mem))
			sweep_fail("something is pinned");
	}
	vnic_end(g);
}

static void test_inject__a_nic_is_made_and_driven(void **state)
{
	static const struct sweep_op op = {
		.name = "nic", .setup = net_setup, .run = net_run, .after = net_after, .min = 15
	};
	static struct vnic_rig g;

	(void)state;
	sweep(&op, &g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_inject__a_nic_is_made_and_driven),
	};

	sys_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (sys_fd < 0) {
		printf("skipped: cannot open /dev/kvm\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
