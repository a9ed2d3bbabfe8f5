/* SPDX-License-Identifier: MIT */
/*
 * The life of a virtio device: features, status, reset, breaking, the contract's parts. How a kick
 * comes to main is kick.c's.
 *
 * virtio 1.2 sections 2.1, 3.1 and 4.1.
 */
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"
#include "event/loop.h"
#include "virtio/internal.h"

#define STATUS_DRIVER_BITS                                                                         \
	(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |        \
	 VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)
#define ISR_QUEUE 1u
#define ISR_CONFIG 2u

const struct field vq_state_fields[VQ_STATE_NFIELDS] = {
	F_U64(struct vq_state, desc),		F_U64(struct vq_state, avail),
	F_U64(struct vq_state, used),		F_U16(struct vq_state, size),
	F_U16(struct vq_state, enable),		F_U16(struct vq_state, vector),
	F_U16(struct vq_state, last_avail),	F_U16(struct vq_state, used_idx),
	F_U16(struct vq_state, signalled_used), F_U16(struct vq_state, signalled_valid),
};

const struct field virtio_state_fields[VIRTIO_STATE_NFIELDS] = {
	F_U64(struct virtio_state, driver_features),
	F_U32(struct virtio_state, device_feature_select),
	F_U32(struct virtio_state, driver_feature_select),
	F_U16(struct virtio_state, config_vector),
	F_U16(struct virtio_state, queue_select),
	F_U8(struct virtio_state, status),
	F_U8(struct virtio_state, config_generation),
	F_U8(struct virtio_state, isr),
	F_STRUCTS_N(struct virtio_state, vq, nr_queues, vq_state_fields),
};

/* ---- features and status ---- */

uint64_t virtio_offered(struct virtio_dev *v)
{
	return v->type->features(v) | BIT64(VIRTIO_F_VERSION_1) |
	       BIT64(VIRTIO_RING_F_INDIRECT_DESC) | BIT64(VIRTIO_RING_F_EVENT_IDX);
}

bool virtio_has(const struct virtio_dev *v, unsigned int feature_bit)
{
	return (v->st->status & VIRTIO_CONFIG_S_FEATURES_OK) &&
	       (v->st->driver_features & BIT64(feature_bit));
}

bool virtio_live(const struct virtio_dev *v)
{
	return (v->st->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	       !(v->st->status & VIRTIO_CONFIG_S_NEEDS_RESET);
}

bool virtio_queue_live(const struct virtio_dev *v, unsigned int q)
{
	return virtio_live(v) && v->st->vq[q].enable;
}

static void config_interrupt(struct virtio_dev *v)
{
	if (!(v->st->status & VIRTIO_CONFIG_S_DRIVER_OK))
		return;
	v->st->isr |= ISR_CONFIG;
	pci_msix_notify(&v->pci, v->st->config_vector);
}

void virtio_broken(struct virtio_dev *v, const char *fmt, ...)
{
	char what[200];
	va_list ap;

	if (v->st->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	log_guest(&v->log, "%s: broken by its driver: %s", v->dev.id, what);
	v->st->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	config_interrupt(v);
}

void virtio_config_changed(struct virtio_dev *v)
{
	v->st->config_generation++;
	config_interrupt(v);
}

/* The state after power-on and after the driver's own reset. */
static void transport_reset(struct virtio_dev *v)
{
	struct virtio_state *st = v->st;
	uint32_t nr = st->nr_queues;

	if (v->started)
		v->type->stopped(v);
	v->started = false;
	memset(st, 0, sizeof(*st));
	st->nr_queues = nr;
	st->config_vector = NO_VECTOR;
	for (uint32_t q = 0; q < nr; q++) {
		st->vq[q].size = v->queue_max[q];
		st->vq[q].vector = NO_VECTOR;
		v->q[q].in_flight = 0;
	}
	v->slow_kicks = 0;
}

static bool features_ok(struct virtio_dev *v, uint64_t features)
{
	return !(features & ~virtio_offered(v)) && (features & BIT64(VIRTIO_F_VERSION_1));
}

void virtio_set_status(struct virtio_dev *v, uint8_t val)
{
	struct virtio_state *st = v->st;
	uint8_t news = (uint8_t)(val & STATUS_DRIVER_BITS & ~st->status);

	if (!val) {
		transport_reset(v);
		return;
	}
	if ((news & VIRTIO_CONFIG_S_FEATURES_OK) && !features_ok(v, st->driver_features)) {
		log_guest(&v->log, "%s: driver features %#llx refused", v->dev.id,
			  (unsigned long long)st->driver_features);
		news &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	}
	if ((news & VIRTIO_CONFIG_S_DRIVER_OK) &&
	    !((st->status | news) & VIRTIO_CONFIG_S_FEATURES_OK)) {
		news &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
		virtio_broken(v, "DRIVER_OK before FEATURES_OK");
	}
	st->status |= news;
	if (!(news & VIRTIO_CONFIG_S_DRIVER_OK) || !virtio_live(v))
		return;
	v->started = true;
	v->type->started(v);
}

void virtio_enable_queue(struct virtio_dev *v, unsigned int q)
{
	struct vq_state *s = &v->st->vq[q];
	struct err e;

	if (s->enable)
		return;
	if (!(v->st->status & VIRTIO_CONFIG_S_FEATURES_OK) ||
	    (v->st->status & VIRTIO_CONFIG_S_DRIVER_OK)) {
		virtio_broken(v, "queue %u enabled at status %#x", q, v->st->status);
		return;
	}
	if (vq_ring_ok(v, s, &e)) {
		virtio_broken(v, "queue %u: %s", q, e.msg);
		return;
	}
	s->enable = 1;
}

/* ---- contract parts ---- */

int virtio_init(struct virtio_dev *v, unsigned int nr_queues, const uint16_t *queue_max,
		struct err *e)
{
	BUG_ON(!nr_queues || nr_queues > VIRTIO_MAX_QUEUES);
	v->pci.dev = &v->dev;
	v->st->nr_queues = nr_queues;
	for (unsigned int q = 0; q < nr_queues; q++) {
		uint16_t max = queue_max[q];

		BUG_ON(!max || max > VIRTIO_MAX_QUEUE_SIZE || (max & (max - 1)));
		v->queue_max[q] = max;
		v->q[q] = (struct vq_host){ .v = v, .q = q, .kick_fd = -1 };
	}
	transport_reset(v);
	return virtio_pci_init(v, e);
}

void virtio_fini(struct virtio_dev *v)
{
	if (!v->q[0].v)
		return;
	v->resumed = false;
	pci_fini(&v->pci); /* no notify area any more */
	if (v->dev.m->loop)
		loop_unpost(v->dev.m->loop, v);
	virtio_kicks_fini(v);
}

void virtio_reset(struct virtio_dev *v)
{
	transport_reset(v);
	pci_reset(&v->pci);
}

static bool vector_ok(const struct virtio_dev *v, uint16_t vector)
{
	return vector == NO_VECTOR || vector < v->pci.nr_vectors;
}

static int check_queue(const struct virtio_dev *v, const struct virtio_state *st, unsigned int q,
		       struct err *e)
{
	const struct vq_state *s = &st->vq[q];

	if (!s->size || s->size > v->queue_max[q] || (s->size & (s->size - 1)))
		return err_set(e, EINVAL, "size %u, at most %u", s->size, v->queue_max[q]);
	if (s->enable > 1 || s->signalled_valid > 1 || !vector_ok(v, s->vector))
		return err_set(e, EINVAL, "enable %u, signalled %u, vector %u", s->enable,
			       s->signalled_valid, s->vector);
	if (!s->enable) {
		if (s->last_avail | s->used_idx | s->signalled_used | s->signalled_valid)
			return err_set(e, EINVAL, "not enabled but used");
		return 0;
	}
	if (!(st->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return err_set(e, EINVAL, "enabled at status %#x", st->status);
	return vq_ring_ok(v, s, e);
}

int virtio_check(const struct virtio_dev *v, const struct virtio_state *st,
		 const struct pci_state *pci, struct err *e)
{
	/* features() depends on cfg alone; it takes no const because devices' own structs embed v
	 */
	struct virtio_dev *self = (struct virtio_dev *)(uintptr_t)v;
	int ret = pci_check(&v->pci, pci, e);

	if (ret)
		return ret;
	if (st->nr_queues != v->st->nr_queues)
		return err_set(e, EINVAL, "saved %u queues, here %u", st->nr_queues,
			       v->st->nr_queues);
	if (st->status & ~(STATUS_DRIVER_BITS | VIRTIO_CONFIG_S_NEEDS_RESET) ||
	    ((st->status & VIRTIO_CONFIG_S_DRIVER_OK) &&
	     !(st->status & VIRTIO_CONFIG_S_FEATURES_OK)))
		return err_set(e, EINVAL, "status %#x", st->status);
	if ((st->status & VIRTIO_CONFIG_S_FEATURES_OK) && !features_ok(self, st->driver_features))
		return err_set(e, EINVAL, "driver features %#llx, offered %#llx",
			       (unsigned long long)st->driver_features,
			       (unsigned long long)virtio_offered(self));
	if (st->isr & ~(ISR_QUEUE | ISR_CONFIG))
		return err_set(e, EINVAL, "interrupt status %#x", st->isr);
	if (!vector_ok(v, st->config_vector))
		return err_set(e, EINVAL, "config vector %u", st->config_vector);
	for (unsigned int q = 0; q < st->nr_queues; q++) {
		ret = check_queue(v, st, q, e);
		if (ret)
			return err_wrap(e, ret, "queue %u", q);
	}
	return 0;
}

void virtio_commit(struct virtio_dev *v)
{
	pci_commit(&v->pci);
	v->started = virtio_live(v);
	if (v->started)
		v->type->started(v);
}

void virtio_adopt(struct virtio_dev *v)
{
	for (unsigned int q = 0; q < v->st->nr_queues; q++)
		v->q[q] = (struct vq_host){ .v = v, .q = q, .kick_fd = -1 };
	v->resumed = v->posted = false;
	v->slow_kicks = 0;
	v->adopted = true;
	pci_adopt(&v->pci);
}

void virtio_quiesce(struct virtio_dev *v)
{
	v->resumed = false;
}

/*
 * An interrupt that was on its way when the vCPUs' state was taken is in nobody's state. One too
 * many is harmless, one too few hangs a driver.
 */
static void interrupt_again(struct virtio_dev *v)
{
	if (v->st->isr & ISR_CONFIG)
		config_interrupt(v);
	for (unsigned int q = 0; q < v->st->nr_queues; q++)
		if (virtio_queue_live(v, q) && vq_unseen(v, q))
			pci_msix_notify(&v->pci, v->st->vq[q].vector);
}

void virtio_resume(struct virtio_dev *v)
{
	v->resumed = true;
	v->slow_kicks = 0;
	virtio_kicks_resume(v);
	if (v->adopted)
		interrupt_again(v);
	v->adopted = false;
	virtio_kick_queues(v, ~0ull);
}
