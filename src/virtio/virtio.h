/* SPDX-License-Identifier: MIT */
/*
 * Virtio over PCI, modern only (virtio 1.2 section 4.1), MSI-X, kicks by ioeventfd; split
 * rings with indirect descriptors and EVENT_IDX. The transport owns the rings: devices get checked
 * copies of chains from vq_pop and never see a ring.
 *
 * Threads: config accesses on vCPU threads, everything else on main; the device lock is held in
 * both.
 */
#ifndef CLONE_VIRTIO_VIRTIO_H
#define CLONE_VIRTIO_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "device/device.h"
#include "mem/gmem.h"
#include "pci/pci.h"

#define VIRTIO_MAX_QUEUES 64
#define VIRTIO_MAX_QUEUE_SIZE 1024
#define VIRTIO_MAX_SEGS 128 /* segments in one chain that we accept */

struct virtio_dev;

struct vq_state {
	uint64_t desc, avail, used;    /* guest physical */
	uint16_t size, enable, vector; /* vector: MSI-X, 0xffff none */
	uint16_t last_avail, used_idx; /* ours */
	uint16_t signalled_used;       /* used index at the last interrupt, for EVENT_IDX */
	uint16_t signalled_valid;
};
#define VQ_STATE_NFIELDS 10
extern const struct field vq_state_fields[VQ_STATE_NFIELDS];

/* Part of the state of every virtio device: F_STRUCT(struct X_state, virtio, virtio_state_fields).
 */
struct virtio_state {
	uint64_t driver_features;
	uint32_t device_feature_select, driver_feature_select;
	uint16_t config_vector, queue_select;
	uint8_t status, config_generation, isr;
	uint32_t nr_queues; /* fixed at creation */
	struct vq_state vq[VIRTIO_MAX_QUEUES];
};
#define VIRTIO_STATE_NFIELDS 9
extern const struct field virtio_state_fields[VIRTIO_STATE_NFIELDS];

/* What makes a virtio device one of its type. No optional member. */
struct virtio_type {
	uint16_t device_id; /* virtio 1.2 section 5: 2 block, 4 entropy, 19 socket */
	uint8_t pci_class[3];
	/* Device features offered besides those of the transport (VERSION_1, INDIRECT, EVENT_IDX).
	 */
	uint64_t (*features)(struct virtio_dev *v);
	/* Device config space; off+len may exceed what exists: read zeroes, ignore writes. */
	void (*config_read)(struct virtio_dev *v, unsigned int off, void *buf, unsigned int len);
	void (*config_write)(struct virtio_dev *v, unsigned int off, const void *buf,
			     unsigned int len);
	/* The driver kicked queue q (main). Pop until empty. Also called for each live queue at
	 * resume, because EVENT_IDX suppression can strand a queue. */
	void (*kick)(struct virtio_dev *v, unsigned int q);
	/* DRIVER_OK was written (vCPU thread), or committed as such (before adopt): queues are
	 * live. */
	void (*started)(struct virtio_dev *v);
	/* The driver reset the device (vCPU thread or main, device lock held): forget every chain,
	 * after draining what is in flight. */
	void (*stopped)(struct virtio_dev *v);
};

struct vq_seg {
	gpa_t gpa;
	uint32_t len;
};

/* A checked copy of a descriptor chain: every segment is RAM, lengths do not overflow. */
struct vq_chain {
	uint16_t head;
	uint16_t nr_out, nr_in; /* device-readable segments first, then device-writable */
	uint32_t out_bytes, in_bytes;
	struct vq_seg seg[VIRTIO_MAX_SEGS];
};

/* The host side of one queue. */
struct vq_host {
	struct virtio_dev *v;
	unsigned int q;
	int kick_fd; /* eventfd of its ioeventfd; -1 before its first kick */
	struct loop_io *kick_io;
	uint64_t bound;	    /* KVM signals kick_fd for writes at this address; 0: not bound */
	uint16_t in_flight; /* chains popped and not pushed: 0 when quiesced */
	bool lent;	    /* served by the kernel: virtio_queue_lend */
};

struct virtio_dev {
	struct device dev; /* first */
	struct pci_dev pci;
	const struct virtio_type *type;
	struct virtio_state *st; /* inside the device's state */
	uint16_t queue_max[VIRTIO_MAX_QUEUES];
	struct log_limit log;
	bool started; /* type->started was called last, not stopped */
	/* host side */
	struct vq_host q[VIRTIO_MAX_QUEUES];
	bool resumed;	     /* between resume and quiesce: kicks are served */
	bool posted;	     /* main will look at slow_kicks soon */
	bool adopted;	     /* resume must tell the driver of interrupts that may have been lost */
	uint64_t slow_kicks; /* queues whose kick came to us and not to an ioeventfd */
	uint64_t notify_base; /* where the notify area is visible; 0: nowhere */
};

/*
 * For a device's create: sets up the PCI function with nr queues of at most queue_max[i] entries.
 * v->dev, v->type, v->st and v->pci.st are set before. For destroy: virtio_fini, which accepts a
 * zeroed struct. rng.c is the model of a whole device.
 */
int virtio_init(struct virtio_dev *v, unsigned int nr_queues, const uint16_t *queue_max,
		struct err *e);
void virtio_fini(struct virtio_dev *v);
/* Contract parts, for the device's own operations to call. */
void virtio_reset(struct virtio_dev *v);
int virtio_check(const struct virtio_dev *v, const struct virtio_state *st,
		 const struct pci_state *pci, struct err *e);
void virtio_commit(struct virtio_dev *v); /* after the state was copied */
void virtio_adopt(struct virtio_dev *v);
/* No kick reaches the device from here on. Before the device drains what it has in flight. */
void virtio_quiesce(struct virtio_dev *v);
/* Serves kicks again; kicks every live queue once. After the device's own host side is up. */
void virtio_resume(struct virtio_dev *v);

/*
 * The queue is served by somebody in the kernel (vhost) from now on: *kick_fd is signalled by the
 * driver's kicks and not looked at here, *call_fd interrupts the driver (-1: it has no vector).
 * Both stay ours. Until the return nobody may pop from it or push to it. Main, resumed.
 */
int virtio_queue_lend(struct virtio_dev *v, unsigned int q, int *kick_fd, int *call_fd,
		      struct err *e);
/* Ours again; last_avail is how far the other one came (what it used is read from the ring). Also
 * on a vCPU thread: the driver's reset. */
void virtio_queue_return(struct virtio_dev *v, unsigned int q, uint16_t last_avail);
/* Where a ring lies in this process, for the kernel, checked and pinned; -EFAULT. size: its state's
 * own, s->size. */
struct vq_mapped {
	void *desc, *avail, *used;
};
int vq_map(struct virtio_dev *v, unsigned int q, struct vq_mapped *out, struct err *e);
void vq_unmap(struct virtio_dev *v, unsigned int q);

bool virtio_has(const struct virtio_dev *v, unsigned int feature_bit); /* negotiated */
bool virtio_live(const struct virtio_dev *v); /* DRIVER_OK and not NEEDS_RESET */
/* The guest's fault: DEVICE_NEEDS_RESET, config interrupt, one rate-limited line. */
void virtio_broken(struct virtio_dev *v, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Config space changed: generation and interrupt. */
void virtio_config_changed(struct virtio_dev *v);

/*
 * Next chain of queue q: 1 and *c, 0 when there is none (kicks are enabled again) or the queue is
 * not live, -EPROTO when the ring is broken (virtio_broken was called). virtio 1.2 section 2.7.
 */
int vq_pop(struct virtio_dev *v, unsigned int q, struct vq_chain *c);
/* Puts the chain popped last back: it will be popped again. Not after a pop of another chain. */
void vq_unpop(struct virtio_dev *v, unsigned int q);
/* Completes a chain: `written` bytes were stored into its in-segments. Any order. A device that
 * broke or was reset meanwhile forgets it. */
void vq_push(struct virtio_dev *v, unsigned int q, uint16_t head, uint32_t written);
/* Interrupts the driver if it wants to know; once after a batch of pushes. */
void vq_notify(struct virtio_dev *v, unsigned int q);
/* Is there no chain to pop (kicks are enabled again then)? Does not consume. */
bool vq_empty(struct virtio_dev *v, unsigned int q);

/* Copies between a chain's readable (out) or writable (in) bytes and a buffer, from offset off
 * within that half; returns bytes copied (less than n at the end of the chain). */
size_t vq_read(struct virtio_dev *v, const struct vq_chain *c, size_t off, void *dst, size_t n);
size_t vq_write(struct virtio_dev *v, const struct vq_chain *c, size_t off, const void *src,
		size_t n);

#endif
