/* SPDX-License-Identifier: MIT */
/*
 * The host's memory as /proc/meminfo has it, taken apart so that every page that is not available
 * is named. See doc/accounting.md for the sum and its error. Called by the CLI and by tests.
 *
 * MemAvailable is not a count but an estimate of the kernel's (mm/show_mem.c,
 * Documentation/filesystems/proc.rst): free pages and page cache and slab that can be reclaimed,
 * less reserves. What it keeps back therefore follows from the others exactly.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "account/account.h"
#include "base/util.h"

/* Counters of meminfo that are kept per processor and folded now and then, in the sum below. */
#define COUNTERS 10u

struct meminfo {
	uint64_t total, free, available, buffers, cached, swap_cached;
	uint64_t active_file, inactive_file, anon, reclaimable, slab, slab_kept;
	uint64_t page_tables, kvm_tables, vmalloc, percpu, hugetlb, zswap;
};

static void parse_meminfo(struct meminfo *m, FILE *f)
{
	const struct {
		const char *key;
		uint64_t *to;
	} want[] = {
		{ "MemTotal", &m->total },
		{ "MemFree", &m->free },
		{ "MemAvailable", &m->available },
		{ "Buffers", &m->buffers },
		{ "Cached", &m->cached },
		{ "SwapCached", &m->swap_cached },
		{ "Active(file)", &m->active_file },
		{ "Inactive(file)", &m->inactive_file },
		{ "AnonPages", &m->anon },
		{ "KReclaimable", &m->reclaimable },
		{ "Slab", &m->slab },
		{ "SUnreclaim", &m->slab_kept },
		{ "PageTables", &m->page_tables },
		{ "SecPageTables", &m->kvm_tables },
		{ "VmallocUsed", &m->vmalloc },
		{ "Percpu", &m->percpu },
		{ "Hugetlb", &m->hugetlb },
		{ "Zswap", &m->zswap },
	};
	char line[256];

	*m = (struct meminfo){ 0 };
	while (fgets(line, sizeof(line), f))
		for (size_t i = 0; i < ARRAY_SIZE(want); i++)
			if (account_kb(line, want[i].key, want[i].to))
				break;
}

/* Pages in processors' own free lists, and by how much they let a counter be off. */
static void parse_zoneinfo(FILE *f, uint64_t *pages, uint64_t *drift)
{
	char line[256];

	*pages = *drift = 0;
	while (f && fgets(line, sizeof(line), f)) {
		uint64_t v;

		if (sscanf(line, " count: %" SCNu64, &v) == 1)
			*pages += v;
		else if (sscanf(line, " vm stats threshold: %" SCNu64, &v) == 1)
			*drift += v;
	}
}

int account_host_parse(struct account_host *h, FILE *meminfo, FILE *zoneinfo, struct err *e)
{
	uint64_t cache, lru, pages, drift;
	struct meminfo m;

	parse_meminfo(&m, meminfo);
	if (!m.total || !m.available)
		return err_set(e, EBADMSG, "/proc/meminfo has no MemTotal or no MemAvailable");
	parse_zoneinfo(zoneinfo, &pages, &drift);
	cache = m.cached + m.buffers + m.swap_cached;
	lru = m.active_file + m.inactive_file;
	*h = (struct account_host){
		.total = m.total,
		.free = m.free,
		.available = m.available,
		.held_back = m.free + lru + m.reclaimable -
			     MIN(m.available, m.free + lru + m.reclaimable),
		.per_cpu_free = pages * ACCOUNT_PAGE,
		.anon = m.anon,
		.pinned_cache = cache - MIN(lru, cache),
		.slab_kept = m.slab_kept,
		.page_tables = m.page_tables,
		.kvm_tables = m.kvm_tables,
		.vmalloc = m.vmalloc,
		.percpu = m.percpu,
		.hugetlb = m.hugetlb,
		.zswap = m.zswap,
		.error = drift * ACCOUNT_PAGE * COUNTERS,
		.slab = m.slab,
	};
	h->unaccounted = (int64_t)(h->total - h->available) -
			 (int64_t)(h->held_back + h->per_cpu_free + h->anon + h->pinned_cache +
				   h->slab_kept + h->page_tables + h->kvm_tables + h->vmalloc +
				   h->percpu + h->hugetlb + h->zswap);
	return 0;
}

static uint64_t number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	uint64_t v = 0;

	if (f && fscanf(f, "%" SCNu64, &v) != 1)
		v = 0;
	if (f)
		fclose(f);
	return v;
}

int account_host_read(struct account_host *h, struct err *e)
{
	FILE *meminfo = fopen("/proc/meminfo", "re");
	FILE *zoneinfo = fopen("/proc/zoneinfo", "re"); /* root's on some hosts */
	int r = meminfo ? account_host_parse(h, meminfo, zoneinfo, e)
			: err_sys(e, errno, "/proc/meminfo");

	if (meminfo)
		fclose(meminfo);
	if (zoneinfo)
		fclose(zoneinfo);
	if (r)
		return r;
	h->ksm_shared = number_in("/sys/kernel/mm/ksm/pages_shared") * ACCOUNT_PAGE;
	h->ksm_sharing = number_in("/sys/kernel/mm/ksm/pages_sharing") * ACCOUNT_PAGE;
	return 0;
}
