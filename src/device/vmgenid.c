/* SPDX-License-Identifier: MIT */
/*
 * VMGENID (Microsoft, "Virtual Machine Generation ID"): 16 bytes in a reserved page of guest RAM,
 * and an interrupt when they change. A kernel that knows it reseeds its random number generator
 * before user space can run.
 *
 * Fork and restore: renew. adopt() writes the identity's generation; the interrupt goes out when
 * the machine resumes, because the interrupt chip's state has been loaded by then.
 */
#include "device/vmgenid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"
#include "kvm/kvm.h"
#include "mem/gmem.h"
#include "x86/platform.h"

struct vmgenid_state {
	uint8_t notify_owed; /* the id changed and the guest has not been told */
};

struct vmgenid {
	struct device d; /* first */
	struct vmgenid_state state;
};

static const struct field vmgenid_fields[] = {
	F_U8(struct vmgenid_state, notify_owed),
};

static struct vmgenid *vmgenid_of(struct device *d)
{
	return container_of(d, struct vmgenid, d);
}

static void vmgenid_destroy(struct device *d)
{
	free(vmgenid_of(d));
}

static int vmgenid_create(struct machine *m, const char *id, const void *cfg, struct device **out,
			  struct err *e)
{
	struct vmgenid *g = calloc(1, sizeof(*g));

	(void)cfg;
	if (!g)
		return err_set(e, ENOMEM, "vmgenid: out of memory");
	g->d.cls = &vmgenid_class;
	g->d.m = m;
	g->d.state = &g->state;
	strncpy(g->d.id, id, sizeof(g->d.id) - 1);
	*out = &g->d;
	return 0;
}

static void vmgenid_reset(struct device *d)
{
	vmgenid_of(d)->state.notify_owed = 0;
}

static int vmgenid_check(const struct device *d, const void *state, struct err *e)
{
	const struct vmgenid_state *s = state;

	(void)d;
	if (s->notify_owed > 1)
		return err_set(e, EINVAL, "notify_owed: %u, 0 or 1", s->notify_owed);
	return 0;
}

static int vmgenid_adopt(struct device *d, const struct identity *id, struct err *e)
{
	if (gmem_write(d->m->mem, PLAT_VMGENID, id->generation, sizeof(id->generation)))
		return err_set(e, EFAULT, "vmgenid: its page is not in RAM");
	if (id->renew)
		vmgenid_of(d)->state.notify_owed = 1;
	return 0;
}

static void vmgenid_resume(struct device *d)
{
	struct vmgenid *g = vmgenid_of(d);

	if (!g->state.notify_owed)
		return;
	kvm_irq_line(d->m->kvm, PLAT_GED_VMGENID_GSI, true);
	kvm_irq_line(d->m->kvm, PLAT_GED_VMGENID_GSI, false);
	g->state.notify_owed = 0;
}

const struct device_class vmgenid_class = {
	.name = "vmgenid",
	.version = 1,
	.state = FIELD_TABLE(struct vmgenid_state, vmgenid_fields),
	.create = vmgenid_create,
	.destroy = vmgenid_destroy,
	.reset = vmgenid_reset,
	.quiesce = device_quiesce_nothing,
	.resume = vmgenid_resume,
	.check = vmgenid_check,
	.commit = device_commit_copy,
	.prepare = device_prepare_nothing,
	.adopt = vmgenid_adopt,
};
