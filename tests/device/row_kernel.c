/* SPDX-License-Identifier: MIT */
/*
 * Conformance rows of what the kernel emulates: vCPU, interrupt chips, kvmclock. They need the real
 * /dev/kvm; the vCPU runs a guest of three instructions, natively anywhere.
 */
#include <string.h>

#include "base/util.h"
#include "device/kernel_devices.h"
#include "tests/device/conformance.h"
#include "x86/boot.h"
#include "x86/cpuid.h"

#define PORT 0x80

static void must_ok(struct conf *c, int ret, const struct err *e)
{
	if (ret)
		fprintf(stderr, "%s: %s\n", c->row->id, e->msg);
	CONF(c, !ret);
}

/* ---- vCPU ---- */

/* loop: inc rax; out 0x80, al; jmp loop */
static const uint8_t counter[] = { 0x48, 0xff, 0xc0, 0xe6, PORT, 0xeb, 0xf9 };

/* The first 64 MiB, identity, in 2 MiB pages. */
static gpa_t page_tables(struct conf *c)
{
	gpa_t t = fm_alloc(&c->fm, 3 * 4096ull, 4096);
	uint64_t pml4 = (t + 4096) | 3, pdpt = (t + 8192) | 3;

	CONF(c, !gmem_write(c->fm.m.mem, t, &pml4, 8));
	CONF(c, !gmem_write(c->fm.m.mem, t + 4096, &pdpt, 8));
	for (uint64_t i = 0; i < CONF_MEM >> 21; i++) {
		uint64_t pde = i << 21 | 0x83;

		CONF(c, !gmem_write(c->fm.m.mem, t + 8192 + 8 * i, &pde, 8));
	}
	return t;
}

/* As vm_start: registers of a cold boot, between create and adopt. */
static void vcpu_give(struct conf *c, const char *prefix)
{
	struct boot_entry b = { .mode = BOOT_LONG64 };
	struct cpuid_table host;
	struct err e;

	if (prefix[0])
		return;
	b.cr3 = page_tables(c);
	b.rip = fm_alloc(&c->fm, 4096, 4096);
	CONF(c, !gmem_write(c->fm.m.mem, b.rip, counter, sizeof(counter)));
	must_ok(c, kvm_supported_cpuid(c->fm.m.kvm, &host, &e), &e);
	dev_vcpu_boot(c->dev, &host, &b);
}

static struct dev_vcpu *vcpu_of(struct conf *c)
{
	return container_of(c->dev, struct dev_vcpu, d);
}

/* Ten more turns, from where it was, in whatever life. */
static void vcpu_progress(struct conf *c)
{
	struct kvm_vcpu *v = vcpu_of(c)->kv;
	struct kvm_run *run = kvm_vcpu_runpage(v);

	for (int i = 0; i < 10; i++) {
		CONF(c, kvm_vcpu_run(v) == 0);
		CONF(c, run->exit_reason == KVM_EXIT_IO && run->io.port == PORT);
		c->done++;
		CONF(c, *((uint8_t *)run + run->io.data_offset) == (uint8_t)c->done);
	}
}

static void vcpu_park(struct conf *c)
{
	struct dev_vcpu *v = vcpu_of(c);
	struct err e;

	CONF(c, kvm_vcpu_settle(v->kv, &e) == 0);
	must_ok(c, kvm_vcpu_save(v->kv, &v->state, &e), &e);
}

static const struct vcpu_cfg vcpu_cfg = { .index = 0, .nr_vcpus = 1 };

const struct conf_row conf_row_vcpu = {
	.cls = &dev_vcpu_class,
	.id = "vcpu0",
	.cfg = &vcpu_cfg,
	.one_life = true,
	.give = vcpu_give,
	.progress = vcpu_progress,
	.park = vcpu_park,
};

/* ---- interrupt chips ---- */

/* The PIC's mask is what was put there last. */
static void irqchip_progress(struct conf *c)
{
	struct kvm *k = c->fm.m.kvm;
	struct chip_state s;
	struct err e;

	must_ok(c, kvm_chip_save(k, &s, &e), &e);
	if (c->done)
		CONF(c, s.pic[0].imr == (uint8_t)c->done);
	s.pic[0].imr = (uint8_t)++c->done;
	must_ok(c, kvm_chip_load(k, &s, &e), &e);
}

static const struct irqchip_cfg irqchip_cfg = { .pit = 1 };

const struct conf_row conf_row_irqchip = {
	.cls = &dev_irqchip_class,
	.id = "irqchip",
	.cfg = &irqchip_cfg,
	.one_life = true,
	.progress = irqchip_progress,
};

/* ---- kvmclock ---- */

/* Goes on from where it was, never back. */
static void clock_progress(struct conf *c)
{
	struct kvm_time t;
	struct err e;

	must_ok(c, kvm_time_get(c->fm.m.kvm, &t, &e), &e);
	CONF(c, t.clock_ns >= c->done);
	c->done = t.clock_ns;
}

const struct conf_row conf_row_clock = {
	.cls = &dev_clock_class,
	.id = "clock",
	.one_life = true,
	.progress = clock_progress,
};
