/* SPDX-License-Identifier: MIT */
/*
 * A VM's counters in Prometheus' text format 0.0.4 (the exposition format: a HELP and a TYPE line,
 * then all samples of that family). Pure: api_metrics.c fills it in, tests make theirs up. Main
 * thread.
 */
#ifndef CLONE_CONTROL_METRICS_H
#define CLONE_CONTROL_METRICS_H

#include <stddef.h>
#include <stdint.h>

#include "block/blk.h"
#include "virtio/balloon.h"
#include "virtio/net.h"
#include "vm/vm.h"

#define METRICS_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct metrics_vcpu {
	char id[8];
	uint64_t cpu_ns; /* of its thread: in the guest and outside */
};

struct metrics_disk {
	const char *id;
	uint64_t bytes;
	struct blk_stats s;
};

struct metrics_nic {
	const char *id;
	struct virtio_net_view v;
	uint64_t link;
};

/* All borrowed. */
struct metrics {
	const char *name, *state;
	struct vm_stats stats;
	uint64_t vcpus, ram_bytes;
	uint64_t user_ns, system_ns; /* of the process */
	uint64_t peak_bytes;	     /* the most that was resident, with what is shared */
	uint64_t minor_faults, major_faults;
	const struct metrics_vcpu *vcpu;
	const struct metrics_disk *disk;
	const struct metrics_nic *nic;
	size_t nr_vcpus, nr_disks, nr_nics;
	const struct virtio_balloon_view *balloon; /* NULL: there is none */
};

/* The text, the caller's to free, and its length; NULL: no memory. */
char *metrics_text(const struct metrics *m, size_t *n);

#endif
