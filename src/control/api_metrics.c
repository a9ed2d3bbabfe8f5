/* SPDX-License-Identifier: MIT */
/*
 * GET /metrics: what the VM process knows of itself, for Prometheus. How its memory is shared it
 * cannot see from inside its jail: that is `clone stats`. Main thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "base/time.h"
#include "base/util.h"
#include "control/api.h"
#include "control/metrics.h"
#include "vm/vm.h"

#define VCPUS_MAX 64

struct parts {
	struct metrics_vcpu vcpu[VCPUS_MAX];
	struct metrics_disk disk[VM_MAX_DISKS];
	struct metrics_nic nic[NICS_MAX];
	struct virtio_balloon_view balloon;
};

static uint64_t timeval_ns(const struct timeval *tv)
{
	return (uint64_t)tv->tv_sec * NS_PER_SEC + (uint64_t)tv->tv_usec * 1000;
}

static void take_process(struct metrics *m)
{
	struct rusage u;

	if (getrusage(RUSAGE_SELF, &u))
		return;
	m->user_ns = timeval_ns(&u.ru_utime);
	m->system_ns = timeval_ns(&u.ru_stime);
	m->peak_bytes = KIB(u.ru_maxrss);
	m->minor_faults = (uint64_t)u.ru_minflt;
	m->major_faults = (uint64_t)u.ru_majflt;
}

static void take_parts(struct vm *vm, struct metrics *m, struct parts *p)
{
	struct err no_balloon;
	bool hinting;

	for (unsigned int i = 0; i < VCPUS_MAX && vm_vcpu_time(vm, i, &p->vcpu[i].cpu_ns); i++) {
		snprintf(p->vcpu[i].id, sizeof(p->vcpu[i].id), "%u", i);
		m->nr_vcpus++;
	}
	for (unsigned int i = 0; i < VM_MAX_DISKS; i++) {
		struct metrics_disk *d = &p->disk[i];
		struct vm_disk_view v;

		if (!vm_disk_stats(vm, i, &v, &d->s))
			break;
		d->id = v.id;
		d->bytes = v.bytes;
		m->nr_disks++;
	}
	for (unsigned int i = 0; i < NICS_MAX; i++) {
		struct metrics_nic *n = &p->nic[i];

		if (!vm_nic_view(vm, i, &n->id, &n->v))
			break;
		n->link = n->v.link;
		m->nr_nics++;
	}
	if (!vm_balloon_view(vm, &p->balloon, &hinting, &no_balloon))
		m->balloon = &p->balloon;
	m->vcpu = p->vcpu;
	m->disk = p->disk;
	m->nic = p->nic;
}

int api_get_metrics(struct api_call *call, json_t **reply, struct err *e)
{
	cleanup_free struct parts *p = calloc(1, sizeof(*p));
	cleanup_free char *text = NULL;
	struct metrics m = { .name = vm_identity(call->vm)->name,
			     .state = api_state_text(call->vm),
			     .vcpus = vm_vcpus(call->vm),
			     .ram_bytes = vm_mem_bytes(call->vm) };
	size_t n = 0;

	(void)reply;
	if (p) {
		vm_stats(call->vm, &m.stats);
		take_process(&m);
		take_parts(call->vm, &m, p);
		text = metrics_text(&m, &n);
	}
	if (!text)
		return err_set(e, ENOMEM, "out of memory");
	http_reply_text(call->rq, METRICS_TYPE, text, n);
	return API_LATER;
}
