/* SPDX-License-Identifier: MIT */
/*
 * Counters as tables of families, and the writing of them. See metrics.h. Main thread.
 */
#include "control/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/time.h"
#include "base/util.h"

enum unit { COUNT, SECONDS }; /* SECONDS: kept in ns */

/* One number a thing: the machine, a vCPU, a disk, ... */
struct family {
	const char *name, *type, *help;
	enum unit unit;
	size_t offset;
};

#define ROW(type, member, name, kind, unit, help)                                                  \
	{                                                                                          \
		"clone_" name, kind, help, unit, offsetof(struct type, member)                     \
	}

static const struct family machine[] = {
	ROW(metrics, stats.uptime_ns, "vm_uptime_seconds", "gauge", SECONDS,
	    "Since start, load or fork."),
	ROW(metrics, vcpus, "vm_vcpus", "gauge", COUNT, "Processors of the guest."),
	ROW(metrics, ram_bytes, "vm_ram_bytes", "gauge", COUNT, "Memory of the guest."),
	ROW(metrics, stats.exits_total, "vm_exits_total", "counter", COUNT,
	    "Exits of vCPUs to this process."),
	ROW(metrics, stats.exits_mmio, "vm_exits_mmio_total", "counter", COUNT,
	    "Of these for memory-mapped devices."),
	ROW(metrics, stats.exits_pio, "vm_exits_pio_total", "counter", COUNT,
	    "Of these for ports."),
	ROW(metrics, stats.forks, "vm_forks_total", "counter", COUNT, "Fork requests served."),
	ROW(metrics, stats.fork_depth, "vm_fork_depth", "gauge", COUNT, "Forks since a boot."),
	ROW(metrics, stats.last_pause_ns, "vm_last_pause_seconds", "gauge", SECONDS,
	    "How long the last fork stopped the VM."),
	ROW(metrics, stats.parked_bytes, "vm_parked_bytes", "gauge", COUNT,
	    "Of its memory, in a file while it is parked."),
	ROW(metrics, user_ns, "process_user_seconds_total", "counter", SECONDS,
	    "Processor time in user space; in the guest as well."),
	ROW(metrics, system_ns, "process_system_seconds_total", "counter", SECONDS,
	    "Processor time in the host's kernel."),
	ROW(metrics, peak_bytes, "process_resident_peak_bytes", "gauge", COUNT,
	    "The most that was ever resident, with what is shared."),
	ROW(metrics, minor_faults, "process_minor_faults_total", "counter", COUNT,
	    "Page faults without I/O: first touches, copies of what was shared."),
	ROW(metrics, major_faults, "process_major_faults_total", "counter", COUNT,
	    "Page faults that read from a disk."),
};

static const struct family vcpu[] = {
	ROW(metrics_vcpu, cpu_ns, "vcpu_seconds_total", "counter", SECONDS,
	    "Processor time of a vCPU's thread."),
};

static const struct family disk[] = {
	ROW(metrics_disk, bytes, "disk_size_bytes", "gauge", COUNT, "Size; 0: an empty bay."),
	ROW(metrics_disk, s.reads, "disk_reads_total", "counter", COUNT, "Read requests."),
	ROW(metrics_disk, s.writes, "disk_writes_total", "counter", COUNT, "Write requests."),
	ROW(metrics_disk, s.flushes, "disk_flushes_total", "counter", COUNT, "Flushes."),
	ROW(metrics_disk, s.read_bytes, "disk_read_bytes_total", "counter", COUNT, "Bytes read."),
	ROW(metrics_disk, s.written_bytes, "disk_written_bytes_total", "counter", COUNT,
	    "Bytes written."),
	ROW(metrics_disk, s.own_bytes, "disk_own_bytes", "gauge", COUNT,
	    "In the current data file, which is this VM's alone."),
	ROW(metrics_disk, s.overlay_bytes, "disk_overlay_bytes", "gauge", COUNT,
	    "What the overlay holds."),
	ROW(metrics_disk, s.layers, "disk_layers", "gauge", COUNT, "Older data files in use."),
	ROW(metrics_disk, s.errors, "disk_errors_total", "counter", COUNT, "Requests that failed."),
	ROW(metrics_disk, s.no_space, "disk_no_space_total", "counter", COUNT,
	    "Of these for want of space."),
};

static const struct family nic[] = {
	ROW(metrics_nic, link, "net_link_up", "gauge", COUNT, "1: the link is up."),
	ROW(metrics_nic, v.rx_packets, "net_receive_packets_total", "counter", COUNT,
	    "Packets to the guest that this process moved; vhost's are the TAP's."),
	ROW(metrics_nic, v.tx_packets, "net_transmit_packets_total", "counter", COUNT,
	    "Packets from the guest that this process moved."),
	ROW(metrics_nic, v.dropped, "net_dropped_total", "counter", COUNT, "Packets dropped."),
};

static const struct family balloon[] = {
	ROW(virtio_balloon_view, target_bytes, "balloon_target_bytes", "gauge", COUNT,
	    "Asked of the guest."),
	ROW(virtio_balloon_view, actual_bytes, "balloon_actual_bytes", "gauge", COUNT,
	    "In the balloon, as the driver says."),
	ROW(virtio_balloon_view, inflated_bytes, "balloon_inflated_bytes_total", "counter", COUNT,
	    "Given back by inflating."),
	ROW(virtio_balloon_view, reported_bytes, "balloon_reported_bytes_total", "counter", COUNT,
	    "Given back by free page reporting."),
	ROW(virtio_balloon_view, hinted_bytes, "balloon_hinted_bytes_total", "counter", COUNT,
	    "Given back by hinting."),
	ROW(virtio_balloon_view, kept_bytes, "balloon_kept_bytes_total", "counter", COUNT,
	    "Of these what could not be given back."),
};

/* Things of one kind: each has its families' numbers in a struct, and a label's value or none. */
struct things {
	const struct family *families;
	size_t nr_families;
	const void *first;
	size_t n, size;
	const char *label; /* NULL: the one thing has none */
	const char *(*value)(const void *thing);
};

static void put_label(FILE *f, const char *name, const char *value)
{
	fprintf(f, "%s=\"", name);
	for (const char *p = value; *p; p++) {
		if (*p == '\n')
			fputs("\\n", f);
		else if (*p == '"' || *p == '\\')
			fprintf(f, "\\%c", *p);
		else
			fputc(*p, f);
	}
	fputc('"', f);
}

static void put_head(FILE *f, const char *name, const char *type, const char *help)
{
	fprintf(f, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_number(FILE *f, enum unit unit, uint64_t v)
{
	if (unit == SECONDS)
		fprintf(f, " %" PRIu64 ".%09" PRIu64 "\n", v / (uint64_t)NS_PER_SEC,
			v % (uint64_t)NS_PER_SEC);
	else
		fprintf(f, " %" PRIu64 "\n", v);
}

static void put_things(FILE *f, const struct things *t)
{
	for (size_t i = 0; i < t->nr_families && t->n; i++) {
		const struct family *fam = &t->families[i];

		put_head(f, fam->name, fam->type, fam->help);
		for (size_t k = 0; k < t->n; k++) {
			const char *thing = (const char *)t->first + k * t->size;
			uint64_t v;

			memcpy(&v, thing + fam->offset, sizeof(v));
			fputs(fam->name, f);
			if (t->label) {
				fputc('{', f);
				put_label(f, t->label, t->value(thing));
				fputc('}', f);
			}
			put_number(f, fam->unit, v);
		}
	}
}

static void put_info(FILE *f, const struct metrics *m)
{
	put_head(f, "clone_vm_info", "gauge", "Who this is; always 1.");
	fputs("clone_vm_info{", f);
	put_label(f, "name", m->name);
	fputc(',', f);
	put_label(f, "state", m->state);
	fputc(',', f);
	put_label(f, "version", CLONE_VERSION);
	fputs("} 1\n", f);
	for (size_t i = 0; i < m->nr_nics; i++) {
		if (!i)
			put_head(f, "clone_net_info", "gauge",
				 "Who moves a NIC's packets; always 1.");
		fputs("clone_net_info{", f);
		put_label(f, "nic", m->nic[i].id);
		fputc(',', f);
		put_label(f, "backend", m->nic[i].v.backend);
		fputs("} 1\n", f);
	}
}

static const char *vcpu_id(const void *thing)
{
	return ((const struct metrics_vcpu *)thing)->id;
}

static const char *disk_id(const void *thing)
{
	return ((const struct metrics_disk *)thing)->id;
}

static const char *nic_id(const void *thing)
{
	return ((const struct metrics_nic *)thing)->id;
}

char *metrics_text(const struct metrics *m, size_t *n)
{
	const struct things all[] = {
		{ machine, ARRAY_SIZE(machine), m, 1, sizeof(*m), NULL, NULL },
		{ vcpu, ARRAY_SIZE(vcpu), m->vcpu, m->nr_vcpus, sizeof(*m->vcpu), "vcpu", vcpu_id },
		{ disk, ARRAY_SIZE(disk), m->disk, m->nr_disks, sizeof(*m->disk), "disk", disk_id },
		{ nic, ARRAY_SIZE(nic), m->nic, m->nr_nics, sizeof(*m->nic), "nic", nic_id },
		{ balloon, ARRAY_SIZE(balloon), m->balloon, m->balloon != NULL, sizeof(*m->balloon),
		  NULL, NULL },
	};
	char *text = NULL;
	FILE *f = open_memstream(&text, n);
	int bad;

	if (!f)
		return NULL;
	put_info(f, m);
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		put_things(f, &all[i]);
	bad = ferror(f);
	if (fclose(f) || bad) {
		free(text);
		return NULL;
	}
	return text;
}
