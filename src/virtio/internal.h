/* SPDX-License-Identifier: MIT */
/*
 * What the files of src/virtio/ share: the transport's life (virtio.c), its registers
 * (virtio_pci.c) and the rings (vq.c). Device lock held throughout.
 */
#ifndef CLONE_VIRTIO_INTERNAL_H
#define CLONE_VIRTIO_INTERNAL_H

#include "virtio/virtio.h"

#define NO_VECTOR 0xffffu
#define NOTIFY_STRIDE 4u /* bytes between two queues' notify addresses */
#define BIT64(n) (1ull << (n))

/* virtio_pci.c: BAR, capabilities, registers. */
int virtio_pci_init(struct virtio_dev *v, struct err *e);

/* virtio.c, on behalf of the registers and of kicks. */
bool virtio_queue_live(const struct virtio_dev *v, unsigned int q);
uint64_t virtio_offered(struct virtio_dev *v);
void virtio_set_status(struct virtio_dev *v, uint8_t val);
void virtio_enable_queue(struct virtio_dev *v, unsigned int q);

/* kick.c. Device lock held; main, but for the two that any thread may call. */
/* type->kick of each live queue in the mask, or what stands in its place. */
void virtio_kick_queues(struct virtio_dev *v, uint64_t mask);
/* Eventfds are bound to where the notify area is, and watched by the right one. */
void virtio_kicks_resume(struct virtio_dev *v);
void virtio_kicks_fini(struct virtio_dev *v);
/* Any thread: a notify write that reached us instead of an ioeventfd: main will call kick. */
void virtio_slow_kick(struct virtio_dev *v, unsigned int q);
/* Any thread: the notify area became visible at base, or (0) nowhere: main will bind the
 * ioeventfds. */
void virtio_notify_area(struct virtio_dev *v, uint64_t base);

/* vq.c */
/* May these registers be a live queue's? Alignment, size, and all three areas in RAM. */
int vq_ring_ok(const struct virtio_dev *v, const struct vq_state *s, struct err *e);
/* Does the driver want an interrupt for what lies in the used ring now? */
bool vq_unseen(struct virtio_dev *v, unsigned int q);

#endif
