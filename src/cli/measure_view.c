/* SPDX-License-Identifier: MIT */
/*
 * A measurement as JSON and as a table. See measure.h.
 */
#include <inttypes.h>
#include <string.h>

#include "base/util.h"
#include "cli/cli.h"
#include "cli/measure.h"

static const char *const kinds[] = { "vm", "seed", "helper" };

/* Sums in which each page is counted once. */
struct totals {
	struct account_figures fig;
	uint64_t cost;
	size_t machines;
};

static uint64_t known(uint64_t v)
{
	return v == ACCOUNT_UNKNOWN ? 0 : v;
}

static void add_up(const struct measure *m, struct totals *t)
{
	const struct account *a = &m->account;
	struct account_figures *s = &t->fig;

	*t = (struct totals){ .fig.kernel = ACCOUNT_UNKNOWN };
	for (size_t i = 0; i < a->nr_procs; i++) {
		const struct account_figures *f = &a->procs[i].fig;

		if (a->procs[i].gone)
			continue;
		t->machines += a->procs[i].kind == ACCOUNT_VM;
		if (a->procs[i].why[0])
			continue;
		t->cost += measure_cost(m, &a->procs[i]);
		s->ram += f->ram;
		s->unique += f->unique;
		s->template += known(f->template_share);
		s->relatives += known(f->relatives_share);
		s->ksm += known(f->ksm_share);
		s->zero += known(f->zero);
		s->untouched += f->untouched;
		s->swap += f->swap;
		s->huge += f->huge;
		s->pss += f->pss;
		s->vmm += f->vmm;
		s->page_tables += known(f->page_tables);
		if (f->kernel != ACCOUNT_UNKNOWN)
			s->kernel = known(s->kernel) + f->kernel;
	}
	s->shared =
		a->frames ? s->template + s->relatives + s->ksm : s->pss - MIN(s->unique, s->pss);
	if (!a->frames)
		s->template = s->relatives = s->ksm = s->zero = ACCOUNT_UNKNOWN;
	s->template_share = s->template;
	s->relatives_share = s->relatives;
	s->ksm_share = s->ksm;
}

static void set(json_t *o, const char *key, uint64_t v)
{
	json_object_set_new(o, key,
			    v == ACCOUNT_UNKNOWN ? json_null() : json_integer((json_int_t)v));
}

static void set_figures(json_t *o, const struct account_figures *f)
{
	set(o, "ram_bytes", f->ram);
	set(o, "unique_bytes", f->unique);
	set(o, "shared_bytes", f->shared);
	set(o, "template_bytes", f->template);
	set(o, "relatives_bytes", f->relatives);
	set(o, "ksm_bytes", f->ksm);
	set(o, "zero_bytes", f->zero);
	set(o, "untouched_bytes", f->untouched);
	set(o, "swap_bytes", f->swap);
	set(o, "huge_bytes", f->huge);
	set(o, "pss_bytes", f->pss);
	set(o, "vmm_bytes", f->vmm);
	set(o, "page_table_bytes", f->page_tables);
	set(o, "kernel_bytes", f->kernel);
}

static json_t *proc_json(const struct measure *m, const struct account_proc *p)
{
	json_t *o = json_object();

	json_object_set_new(o, "name", json_string(p->name));
	json_object_set_new(o, "kind", json_string(kinds[p->kind]));
	json_object_set_new(o, "pid", json_integer(p->pid));
	set(o, "memory_bytes", measure_cost(m, p));
	set_figures(o, &p->fig);
	set(o, "template_share_bytes", p->fig.template_share);
	set(o, "relatives_share_bytes", p->fig.relatives_share);
	set(o, "ksm_share_bytes", p->fig.ksm_share);
	if (p->why[0])
		json_object_set_new(o, "warning", json_string(p->why));
	return o;
}

static json_t *total_json(const struct measure *m)
{
	json_t *o = json_object();
	struct totals t;

	add_up(m, &t);
	json_object_set_new(o, "vms", json_integer((json_int_t)t.machines));
	set(o, "memory_bytes", t.cost);
	set_figures(o, &t.fig);
	set(o, "anonymous_bytes", m->account.anon);
	return o;
}

static json_t *files_json(const struct account *a)
{
	json_t *list = json_array();

	for (size_t i = 0; i < a->nr_files; i++) {
		const struct account_file *f = &a->files[i];
		char path[sizeof(f->path)];
		json_t *o = json_object();

		cli_clean(f->path, path, sizeof(path));
		/* bytes of a name that are no text are not shown */
		if (json_object_set_new(o, "path", json_string(path)))
			json_object_set_new(o, "path", json_null());
		set(o, "cached_bytes", f->cached);
		set(o, "mapped_bytes", f->mapped);
		json_object_set_new(o, "processes", json_integer(f->users));
		json_array_append_new(list, o);
	}
	return list;
}

static json_t *host_json(const struct measure *m)
{
	const struct account_host *h = &m->host;
	uint64_t anon = m->account.anon;
	json_t *o = json_object();

	set(o, "total_bytes", h->total);
	set(o, "available_bytes", h->available);
	set(o, "free_bytes", h->free);
	set(o, "vms_anonymous_bytes", anon);
	set(o, "others_anonymous_bytes",
	    anon == ACCOUNT_UNKNOWN ? ACCOUNT_UNKNOWN : h->anon - MIN(anon, h->anon));
	set(o, "anonymous_bytes", h->anon);
	set(o, "pinned_cache_bytes", h->pinned_cache);
	set(o, "slab_bytes", h->slab);
	set(o, "slab_unreclaimable_bytes", h->slab_kept);
	set(o, "page_tables_bytes", h->page_tables);
	set(o, "secondary_page_tables_bytes", h->kvm_tables);
	set(o, "vmalloc_bytes", h->vmalloc);
	set(o, "percpu_bytes", h->percpu);
	set(o, "hugetlb_bytes", h->hugetlb);
	set(o, "zswap_bytes", h->zswap);
	set(o, "held_back_bytes", h->held_back);
	set(o, "per_cpu_free_bytes", h->per_cpu_free);
	set(o, "ksm_shared_bytes", h->ksm_shared);
	set(o, "ksm_sharing_bytes", h->ksm_sharing);
	json_object_set_new(o, "unaccounted_bytes", json_integer(h->unaccounted));
	set(o, "error_bytes", h->error);
	return o;
}

json_t *measure_json(const struct measure *m, char *const *names, size_t n)
{
	const struct account *a = &m->account;
	json_t *o = json_object(), *list = json_array();

	for (size_t i = 0; i < a->nr_procs; i++)
		if (measure_wanted(&a->procs[i], names, n))
			json_array_append_new(list, proc_json(m, &a->procs[i]));
	json_object_set_new(o, "vms", list);
	if (!n) {
		json_object_set_new(o, "total", total_json(m));
		json_object_set_new(o, "templates", files_json(a));
		json_object_set_new(o, "host", host_json(m));
	}
	json_object_set_new(o, "method", json_string(a->frames ? "pagemap" : "smaps"));
	set(o, "moved_bytes", a->moved);
	json_object_set_new(o, "measured_ms", json_real((double)m->spent_ns / 1e6));
	return o;
}

static void cell(FILE *f, uint64_t v)
{
	if (v == ACCOUNT_UNKNOWN)
		fprintf(f, " %9s", "-");
	else
		fprintf(f, " %9.1f", (double)v / 1048576.0);
}

static void row(FILE *f, const char *name, const char *kind, uint64_t cost,
		const struct account_figures *v, bool frames)
{
	fprintf(f, "%-24s %-6s", name, kind);
	cell(f, cost);
	cell(f, v->unique);
	if (frames) {
		cell(f, v->template);
		cell(f, v->relatives);
		cell(f, v->ksm);
	} else {
		cell(f, v->shared);
	}
	cell(f, v->untouched == ACCOUNT_UNKNOWN ? v->untouched : known(v->zero) + v->untouched);
	cell(f, v->page_tables);
	cell(f, v->vmm);
	cell(f, v->kernel);
	fputc('\n', f);
}

static void print_host(FILE *f, const struct measure *m)
{
	const struct account_host *h = &m->host;
	uint64_t anon = m->account.anon;
	char vms[32] = "-", others[32] = "-";
	double mib = 1048576.0;

	if (anon != ACCOUNT_UNKNOWN) {
		snprintf(vms, sizeof(vms), "%.1f", (double)anon / mib);
		snprintf(others, sizeof(others), "%.1f",
			 (double)(h->anon - MIN(anon, h->anon)) / mib);
	}
	fprintf(f,
		"\nhost: %.1f MiB, available %.1f. Not available: VMs' anonymous %s, others' "
		"%s, "
		"cache that stays %.1f,\n"
		"slab %.1f, page tables %.1f, of KVM %.1f, kernel %.1f, held back %.1f, "
		"unaccounted %.1f +- %.1f\n",
		(double)h->total / mib, (double)h->available / mib, vms, others,
		(double)h->pinned_cache / mib, (double)h->slab_kept / mib,
		(double)h->page_tables / mib, (double)h->kvm_tables / mib,
		(double)(h->vmalloc + h->percpu + h->hugetlb + h->zswap) / mib,
		(double)(h->held_back + h->per_cpu_free) / mib, (double)h->unaccounted / mib,
		(double)h->error / mib);
	if (h->ksm_shared)
		fprintf(f, "merged: %.1f MiB stand for %.1f more\n", (double)h->ksm_shared / mib,
			(double)h->ksm_sharing / mib);
}

static void print_files(FILE *f, const struct account *a)
{
	for (size_t i = 0; i < a->nr_files; i++) {
		char path[sizeof(a->files[i].path)];

		cli_clean(a->files[i].path, path, sizeof(path));
		fprintf(f, "%s%-58s", i ? "" : "\nTEMPLATE MEMORY: CACHED, MAPPED, PROCESSES\n",
			path);
		cell(f, a->files[i].cached);
		cell(f, a->files[i].mapped);
		fprintf(f, " %6u\n", a->files[i].users);
	}
}

/* What others have with it seems to be theirs alone. */
static void print_warnings(FILE *f, const struct account *a, char *const *names, size_t n)
{
	for (size_t i = 0; i < a->nr_procs; i++) {
		const struct account_proc *p = &a->procs[i];
		char why[sizeof(p->why)];

		if (!p->why[0] || !measure_wanted(p, names, n))
			continue;
		cli_clean(p->why, why, sizeof(why));
		fprintf(f, "warning: %s: %s\n", p->name, why);
	}
}

void measure_print(FILE *f, const struct measure *m, char *const *names, size_t n, const char *head,
		   const char *foot)
{
	const struct account *a = &m->account;
	struct totals t;

	fprintf(f, "%s%-24s %-6s %9s %9s %s %9s %9s %9s %9s%s\n", head, "NAME (MiB)", "KIND",
		"MEMORY", "UNIQUE", a->frames ? " TEMPLATE RELATIVES       KSM" : "   SHARED",
		"ZERO", "TABLES", "VMM", "KERNEL", foot);
	for (size_t i = 0; i < a->nr_procs; i++)
		if (measure_wanted(&a->procs[i], names, n))
			row(f, a->procs[i].name, kinds[a->procs[i].kind],
			    measure_cost(m, &a->procs[i]), &a->procs[i].fig, a->frames);
	if (!n) {
		add_up(m, &t);
		row(f, "TOTAL, each page once", "", t.cost, &t.fig, a->frames);
		print_files(f, a);
		print_host(f, m);
	}
	print_warnings(f, a, names, n);
	fprintf(f, "method %s%s, moved %.1f MiB meanwhile, measured in %.0f ms\n",
		a->frames ? "pagemap" : "smaps",
		a->frames ? "" : " (frame numbers are root's: shared is not split)",
		(double)a->moved / 1048576.0, (double)m->spent_ns / 1e6);
}
