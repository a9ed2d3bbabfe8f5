/* SPDX-License-Identifier: MIT */
/*
 * ACTIVITY: how busy the guest is and how it does for memory, so that the host can tell an idle one
 * and what it can spare. Agent's thread.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"
#include "procfs.h"

static void report_memory(struct proto_report *p)
{
	uint64_t available = 0, free_kib = 0, cached = 0, swap = 0, swap_free = 0;
	const struct procfs_want mem[] = {
		{ "MemAvailable", &available }, { "MemFree", &free_kib },    { "Buffers", &cached },
		{ "Cached", &cached },		{ "SReclaimable", &cached }, { "SwapTotal", &swap },
		{ "SwapFree", &swap_free },
	};
	const struct procfs_want vm[] = {
		{ "pswpin", &p->swap_in_pages },
		{ "oom_kill", &p->oom_kills },
	};

	(void)procfs_numbers("/proc/meminfo", mem, sizeof(mem) / sizeof(mem[0]));
	(void)procfs_numbers("/proc/vmstat", vm, sizeof(vm) / sizeof(vm[0]));
	p->mem_available_bytes = available * 1024;
	p->mem_free_bytes = free_kib * 1024;
	p->mem_cached_bytes = cached * 1024;
	p->swap_total_bytes = swap * 1024;
	p->swap_used_bytes = (swap - swap_free) * 1024;
}

/* "some avg10=1.23 avg60=... avg300=... total=456", in microseconds */
static bool psi_line(const char *buf, const char *key, uint32_t *x100, uint64_t *us)
{
	const char *p = strstr(buf, key), *avg = p ? strstr(p, "avg10=") : NULL,
		   *total = p ? strstr(p, "total=") : NULL;
	char *end;

	if (!avg || !total)
		return false;
	*x100 = (uint32_t)strtoul(avg + 6, &end, 10) * 100;
	if (*end == '.')
		*x100 += (uint32_t)strtoul(end + 1, NULL, 10); /* always two digits */
	*us = strtoull(total + 6, NULL, 10);
	return true;
}

static void report_pressure(struct proto_report *p)
{
	char buf[512];

	if (procfs_read("/proc/pressure/memory", buf, sizeof(buf)) &&
	    psi_line(buf, "some ", &p->psi_some_x100, &p->psi_some_us) &&
	    psi_line(buf, "full ", &p->psi_full_x100, &p->psi_full_us))
		p->flags |= PROTO_REPORT_PSI;
}

static void report_cpu(struct proto_report *p)
{
	uint64_t total, idle, hz = (uint64_t)sysconf(_SC_CLK_TCK);

	if (!procfs_cpu(&total, &idle))
		return;
	p->cpu_idle_ms = idle * 1000 / hz;
	p->cpu_busy_ms = (total - idle) * 1000 / hz;
}

void activity_report(struct agent *a, struct proto_report *p)
{
	struct sysinfo si = { 0 };
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	sysinfo(&si);
	p->uptime_ms = (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
	p->load1_x100 = (uint32_t)(si.loads[0] * 100 / 65536);
	p->procs = si.procs;
	p->sessions = a->sessions;
	p->exec_count = a->exec_count;
	p->last_exec_ms = a->last_exec_ms ? loop_now_ms() - a->last_exec_ms : UINT64_MAX;
	p->mem_total_bytes = (uint64_t)si.totalram * si.mem_unit;
	p->more = true;
	report_memory(p);
	report_pressure(p);
	report_cpu(p);
}
