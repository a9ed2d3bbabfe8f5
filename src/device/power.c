/* SPDX-License-Identifier: MIT */
/*
 * Power: the sleep and reset registers of hardware-reduced ACPI (ACPI 6.5 sections 4.8.3.7 and
 * 4.8.3.6), the keyboard controller's reset line, and the power button (section 4.8.2.2).
 *
 * Fork and restore: keep. A button press is an edge that the interrupt chip has taken already or
 * has not; nothing is pending here.
 *
 * Handlers run on vCPU threads with the device lock held.
 */
#include "device/power.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/bus.h"
#include "kvm/kvm.h"
#include "x86/platform.h"

#define SLEEP_EN 0x20u /* SLP_EN of the sleep control register */
#define SLEEP_TYPE(v) (((v) >> 2) & 7u)
#define KBD_RESET 0xfeu /* pulse the reset line */

struct power_state {
	uint8_t sleep_control; /* what the guest wrote last, without SLP_EN */
};

struct power {
	struct device d; /* first */
	struct power_state state;
};

static const struct field power_fields[] = {
	F_U8(struct power_state, sleep_control),
};

static struct power *power_of(struct device *d)
{
	return container_of(d, struct power, d);
}

static void power_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	struct power *p = arg;

	memset(data, 0, len);
	if (off == 0)
		bus_put(data, 1, p->state.sleep_control);
}

static void power_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct power *p = arg;
	uint8_t v = (uint8_t)bus_get(data, len);

	if (off == PLAT_SLEEP_CONTROL_PORT - PLAT_SLEEP_CONTROL_PORT) {
		p->state.sleep_control = (uint8_t)(v & ~SLEEP_EN);
		if ((v & SLEEP_EN) && SLEEP_TYPE(v) == PLAT_SLEEP_TYPE_S5)
			p->d.m->event(p->d.m, VM_EVENT_POWEROFF, "ACPI power-off");
	} else if (off == PLAT_RESET_PORT - PLAT_SLEEP_CONTROL_PORT && v == PLAT_RESET_VALUE) {
		p->d.m->event(p->d.m, VM_EVENT_RESET, "ACPI reset");
	}
}

static const struct bus_ops power_ops = { .read = power_read, .write = power_write };

static void kbd_read(void *arg, uint64_t off, void *data, unsigned int len)
{
	(void)arg;
	(void)off;
	memset(data, 0, len); /* never busy: the guest may send its reset command at once */
}

static void kbd_write(void *arg, uint64_t off, const void *data, unsigned int len)
{
	struct power *p = arg;

	(void)off;
	if (bus_get(data, len) == KBD_RESET)
		p->d.m->event(p->d.m, VM_EVENT_RESET, "keyboard controller reset");
}

static const struct bus_ops kbd_ops = { .read = kbd_read, .write = kbd_write };

static void power_destroy(struct device *d)
{
	bus_del(d->m->pio, PLAT_SLEEP_CONTROL_PORT);
	bus_del(d->m->pio, PLAT_KBD_PORT);
	free(power_of(d));
}

static int power_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			struct err *e)
{
	struct power *p = calloc(1, sizeof(*p));
	int ret;

	(void)cfg;
	if (!p)
		return err_set(e, ENOMEM, "power: out of memory");
	p->d.cls = &power_class;
	p->d.m = m;
	p->d.state = &p->state;
	strncpy(p->d.id, id, sizeof(p->d.id) - 1);
	ret = bus_add(m->pio, "power", PLAT_SLEEP_CONTROL_PORT, PLAT_POWER_PORTS, &power_ops, p, e);
	if (ret) {
		free(p);
		return ret;
	}
	ret = bus_add(m->pio, "keyboard reset", PLAT_KBD_PORT, 1, &kbd_ops, p, e);
	if (ret) {
		bus_del(m->pio, PLAT_SLEEP_CONTROL_PORT);
		free(p);
		return ret;
	}
	*out = &p->d;
	return 0;
}

static void power_reset(struct device *d)
{
	memset(&power_of(d)->state, 0, sizeof(struct power_state));
}

static int power_check(const struct device *d, const void *state, struct err *e)
{
	const struct power_state *s = state;

	(void)d;
	return s->sleep_control & SLEEP_EN ? err_set(e, EINVAL, "sleep_control: SLP_EN is set") : 0;
}

void power_button_press(struct device *d)
{
	kvm_irq_line(d->m->kvm, PLAT_GED_POWER_GSI, true);
	kvm_irq_line(d->m->kvm, PLAT_GED_POWER_GSI, false);
}

const struct device_class power_class = {
	.name = "power",
	.version = 1,
	.state = FIELD_TABLE(struct power_state, power_fields),
	.create = power_create,
	.destroy = power_destroy,
	.reset = power_reset,
	.quiesce = device_quiesce_nothing,
	.resume = device_resume_nothing,
	.check = power_check,
	.commit = device_commit_copy,
	.prepare = device_prepare_nothing,
	.adopt = device_adopt_nothing,
};
