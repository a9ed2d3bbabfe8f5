/* SPDX-License-Identifier: MIT */
/*
 * ACTIVITY: how busy the guest is, so that the host can tell an idle one. Agent's thread.
 */
#include <sys/sysinfo.h>
#include <time.h>

#include "agent.h"
#include "procfs.h"

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
	p->mem_available_bytes = procfs_mem("MemAvailable");
}
