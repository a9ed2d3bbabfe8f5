/* SPDX-License-Identifier: MIT */
/*
 * The in-kernel interrupt chips (two PICs, IOAPIC) and the PIT as one device. LAPICs belong to
 * their vCPUs. Main thread.
 *
 * Identity: all kept. Interrupts that were pending at a fork are delivered in parent and child.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "device/kernel_devices.h"

static const struct field cfg_fields[] = {
	F_U32(struct irqchip_cfg, pit),
};

#define PIC(m) F_U8(struct kvm_pic_state, m)
static const struct field pic_fields[] = {
	PIC(last_irr),
	PIC(irr),
	PIC(imr),
	PIC(isr),
	PIC(priority_add),
	PIC(irq_base),
	PIC(read_reg_select),
	PIC(poll),
	PIC(special_mask),
	PIC(init_state),
	PIC(auto_eoi),
	PIC(rotate_on_auto_eoi),
	PIC(special_fully_nested_mode),
	PIC(init4),
	PIC(elcr),
	PIC(elcr_mask),
};

static const struct field ioapic_fields[] = {
	F_U64(struct kvm_ioapic_state, base_address),
	F_U32(struct kvm_ioapic_state, ioregsel),
	F_U32(struct kvm_ioapic_state, id),
	F_U32(struct kvm_ioapic_state, irr),
	F_ARRAY(struct kvm_ioapic_state, redirtbl, FK_U64),
};

/* Not count_load_time: it is in the host's clock, and KVM starts the count anew on load. */
#define PIT(m) F_U8(struct kvm_pit_channel_state, m)
static const struct field pit_channel_fields[] = {
	F_U32(struct kvm_pit_channel_state, count),
	F_U16(struct kvm_pit_channel_state, latched_count),
	PIT(count_latched),
	PIT(status_latched),
	PIT(status),
	PIT(read_state),
	PIT(write_state),
	PIT(write_latch),
	PIT(rw_mode),
	PIT(mode),
	PIT(bcd),
	PIT(gate),
};

static const struct field pit_fields[] = {
	F_STRUCTS(struct kvm_pit_state2, channels, pit_channel_fields),
	F_U32(struct kvm_pit_state2, flags),
};

static const struct field state_fields[] = {
	F_U32(struct chip_state, valid),
	F_U32(struct chip_state, has_pit),
	F_STRUCTS(struct chip_state, pic, pic_fields),
	F_STRUCT(struct chip_state, ioapic, ioapic_fields),
	F_STRUCT(struct chip_state, pit, pit_fields),
};

static struct dev_irqchip *dev_of(const struct device *d)
{
	return container_of(d, struct dev_irqchip, d);
}

static int irqchip_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			  struct err *e)
{
	const struct irqchip_cfg *c = cfg;
	struct dev_irqchip *dev;

	if (c->pit > 1)
		return err_set(e, EINVAL, "%u PITs: there may be 0 or 1", c->pit);
	dev = calloc(1, sizeof(*dev));
	if (!dev)
		return err_set(e, ENOMEM, "no memory for the interrupt chips");
	dev->cfg = *c;
	dev->d = (struct device){
		.cls = &dev_irqchip_class, .m = m, .cfg = &dev->cfg, .state = &dev->state
	};
	snprintf(dev->d.id, sizeof(dev->d.id), "%s", id);
	*out = &dev->d;
	return 0;
}

static void irqchip_destroy(struct device *d)
{
	if (d)
		free(dev_of(d));
}

static void irqchip_reset(struct device *d)
{
	memset(&dev_of(d)->state, 0, sizeof(struct chip_state));
}

static int irqchip_quiesce(struct device *d, struct err *e)
{
	return d->m->kvm ? kvm_chip_save(d->m->kvm, &dev_of(d)->state, e) : 0;
}

static int irqchip_check(const struct device *d, const void *state, struct err *e)
{
	const struct chip_state *s = state;

	if (s->valid != 1)
		return err_set(e, EINVAL, "interrupt chips were not saved");
	if (s->has_pit != dev_of(d)->cfg.pit)
		return err_set(e, EINVAL, "saved %s a PIT, here %s",
			       s->has_pit ? "with" : "without",
			       dev_of(d)->cfg.pit ? "with" : "without");
	return 0;
}

static int irqchip_prepare(struct device *d, struct err *e)
{
	struct dev_irqchip *dev = dev_of(d);
	int r = kvm_create_irqchip(d->m->kvm, dev->cfg.pit, e);

	if (r || !dev->state.valid)
		return r;
	return kvm_chip_load(d->m->kvm, &dev->state, e);
}

const struct device_class dev_irqchip_class = {
	.name = "irqchip",
	.version = 1,
	.cfg = FIELD_TABLE(struct irqchip_cfg, cfg_fields),
	.state = FIELD_TABLE(struct chip_state, state_fields),
	.create = irqchip_create,
	.destroy = irqchip_destroy,
	.reset = irqchip_reset,
	.quiesce = irqchip_quiesce,
	.resume = device_resume_nothing,
	.check = irqchip_check,
	.commit = device_commit_copy,
	.prepare = irqchip_prepare,
	.adopt = device_adopt_nothing,
};
