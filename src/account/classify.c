/* SPDX-License-Identifier: MIT */
/*
 * Which pages are whose. Called by proc.c and by tests with made-up pages. Pure but for its source.
 *
 * Two walks over all processes: the first counts how many map each frame, the second knows for each
 * of a process's pages how many that are. To remember the frames instead of asking twice would cost
 * as much memory as page tables do. Between the walks guests go on: what that changes is the
 * difference between the frames counted and the sum of all shares, and is told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "account/account.h"
#include "account/pages.h"
#include "base/util.h"

#define BATCH 4096u
#define TRIES 4
#define HUGE_PAGES 512u
/* A share is in bytes << SHARE_SHIFT, so that a page among thousands loses next to nothing. */
#define SHARE_SHIFT 20
#define SHARE_PAGE ((uint64_t)ACCOUNT_PAGE << SHARE_SHIFT)

struct shares {
	uint64_t template, relatives, ksm, own;
};

struct walk {
	struct account *a;
	const struct account_source *s;
	struct pages *pages;
	uint64_t frames;  /* distinct, of guest memory and the VMM's anonymous */
	uint64_t anon;	  /* of these anonymous */
	uint64_t sum;	  /* of all shares */
	uint64_t *mapped; /* shares, by file */
	uint64_t words[BATCH];
};

typedef int page_fn(struct walk *w, struct account_proc *p, const struct account_range *r,
		    struct shares *sh, uint64_t word);

static bool is_zero(const struct account_source *s, uint64_t pfn)
{
	return (s->zero_pfn && pfn == s->zero_pfn) ||
	       (s->huge_zero_pfn && pfn >= s->huge_zero_pfn && pfn - s->huge_zero_pfn < HUGE_PAGES);
}

/* Pages that are counted: all of guest memory but the zero page, and what the VMM wrote. */
static bool counts(const struct walk *w, const struct account_range *r, uint64_t word)
{
	return word & ACCOUNT_PRESENT && !is_zero(w->s, word & ACCOUNT_PFN) &&
	       (r->ram || !(word & ACCOUNT_FILE));
}

static int count_page(struct walk *w, struct account_proc *p, const struct account_range *r,
		      struct shares *sh, uint64_t word)
{
	int n;

	(void)p;
	(void)sh;
	if (!counts(w, r, word))
		return 0;
	n = pages_see(w->pages, word & ACCOUNT_PFN);
	if (n == 1) {
		w->frames++;
		w->anon += !(word & ACCOUNT_FILE);
	}
	return MIN(n, 0);
}

static int classify_page(struct walk *w, struct account_proc *p, const struct account_range *r,
			 struct shares *sh, uint64_t word)
{
	uint64_t pfn = word & ACCOUNT_PFN, share;
	unsigned int n;

	if (r->ram && !(word & ACCOUNT_PRESENT)) {
		p->fig.swap += word & ACCOUNT_SWAPPED ? ACCOUNT_PAGE : 0;
		return 0;
	}
	if (!counts(w, r, word)) {
		p->fig.zero += r->ram ? ACCOUNT_PAGE : 0;
		return 0;
	}
	n = pages_seen(w->pages, pfn);
	share = SHARE_PAGE / MAX(n, 1); /* not counted: it is younger than the count */
	w->sum += share;
	if (!r->ram) {
		sh->own += share;
	} else if (word & ACCOUNT_FILE) {
		p->fig.template += ACCOUNT_PAGE;
		sh->template += share;
		if (r->file >= 0)
			w->mapped[r->file] += share;
	} else if (w->s->flags && n && pages_merged(w->pages, pfn, w->s->flags, w->s->arg)) {
		p->fig.ksm += ACCOUNT_PAGE;
		sh->ksm += share;
	} else if (n > 1) {
		p->fig.relatives += ACCOUNT_PAGE;
		sh->relatives += share;
	} else {
		p->fig.unique += ACCOUNT_PAGE;
	}
	return 0;
}

static int walk_proc(struct walk *w, unsigned int proc, page_fn *fn, struct shares *sh)
{
	struct account_proc *p = &w->a->procs[proc];

	for (size_t i = 0; i < p->nr_ranges; i++) {
		const struct account_range *r = &p->ranges[i];

		for (uint64_t at = 0; at < r->pages; at += BATCH) {
			size_t n = (size_t)MIN(BATCH, r->pages - at);
			int ret = w->s->read(w->s->arg, proc, r->first + at, w->words, n);

			for (size_t k = 0; !ret && k < n; k++)
				ret = fn(w, p, r, sh, w->words[k]);
			if (ret)
				return ret;
		}
	}
	return 0;
}

static uint64_t bytes(uint64_t share)
{
	return (share + (1ull << (SHARE_SHIFT - 1))) >> SHARE_SHIFT;
}

static void forget_pages(struct account_figures *f)
{
	f->unique = f->template = f->relatives = f->ksm = f->zero = f->swap = f->untouched = 0;
	f->shared = f->template_share = f->relatives_share = f->ksm_share = f->vmm_anon = 0;
}

static void conclude(struct account_proc *p, const struct shares *sh)
{
	struct account_figures *f = &p->fig;
	uint64_t mapped;

	f->template_share = bytes(sh->template);
	f->relatives_share = bytes(sh->relatives);
	f->ksm_share = bytes(sh->ksm);
	f->vmm_anon = bytes(sh->own) + p->not_walked;
	f->shared = f->template + f->relatives + f->ksm;
	mapped = f->unique + f->shared + f->zero + f->swap;
	f->untouched = f->ram - MIN(mapped, f->ram);
}

/* Both walks. -ESRCH: a process ended or cannot be read, is marked, and spoils the counts. */
static int walk_all(struct walk *w, bool last, struct err *e)
{
	bool spoilt = false;

	for (int pass = 0; pass < 2; pass++) {
		for (unsigned int i = 0; i < w->a->nr_procs; i++) {
			struct account_proc *p = &w->a->procs[i];
			struct shares sh = { 0 };
			struct err why;
			int r;

			if (p->why[0])
				continue;
			forget_pages(&p->fig);
			r = p->gone ? 0 : walk_proc(w, i, pass ? classify_page : count_page, &sh);
			if (r == -ESRCH) {
				p->gone = true;
				forget_pages(&p->fig);
				spoilt = true;
			} else if (r == -ENOMEM) {
				return err_sys(e, -r, "%s: reading its page tables", p->name);
			} else if (r) {
				err_sys(&why, -r, "reading its page tables");
				account_unread(p, why.msg);
				spoilt = true;
			} else if (!p->gone) {
				conclude(p, &sh);
			}
			if (spoilt && !last)
				return -ESRCH;
		}
	}
	return 0;
}

int account_classify(struct account *a, const struct account_source *s, struct err *e)
{
	cleanup_free struct walk *w = calloc(1, sizeof(*w));
	cleanup_free uint64_t *mapped = calloc(a->nr_files + 1, sizeof(*mapped));
	int r = -ESRCH;

	if (!w || !mapped)
		return err_set(e, ENOMEM, "accounting: out of memory");
	*w = (struct walk){ .a = a, .s = s, .mapped = mapped };
	for (int i = 0; i < TRIES && r == -ESRCH; i++) {
		pages_destroy(w->pages);
		w->pages = pages_create();
		w->frames = w->anon = w->sum = 0;
		memset(mapped, 0, a->nr_files * sizeof(*mapped));
		r = w->pages ? walk_all(w, i == TRIES - 1, e)
			     : err_set(e, ENOMEM, "accounting: out of memory");
	}
	pages_destroy(w->pages);
	if (r)
		return r;
	for (size_t i = 0; i < a->nr_files; i++)
		a->files[i].mapped =
			(bytes(mapped[i]) + ACCOUNT_PAGE / 2) / ACCOUNT_PAGE * ACCOUNT_PAGE;
	w->sum = bytes(w->sum);
	w->frames *= ACCOUNT_PAGE;
	a->anon = w->anon * ACCOUNT_PAGE;
	for (size_t i = 0; i < a->nr_procs; i++)
		a->anon += a->procs[i].gone ? 0 : a->procs[i].not_walked;
	a->moved = w->sum > w->frames ? w->sum - w->frames : w->frames - w->sum;
	return 0;
}
