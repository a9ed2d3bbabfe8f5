/* SPDX-License-Identifier: MIT */
/*
 * Pages that the driver gives: inflating, deflating, reporting. Each goes by gmem_discard:
 * it falls to its template's page or to zero, without a copy and without a change to any mapping.
 * Main.
 *
 * What may happen to a page's contents (virtio 1.2):
 *
 * Inflated (5.5.6): anything, until the buffer is used; we are done with it before that.
 *
 * Reported (5.5.6.7): without PAGE_POISON the driver MUST treat reported pages as uninitialized, so
 * a template's old page is as good as zeroes (and tells a guest nothing: it is its own ancestor's).
 * With PAGE_POISON the device MUST NOT change a page to anything but poison_val, and the page holds
 * poison_val when it is reported. Linux negotiates it when it initializes pages as it frees them
 * (poison_val 0, init_on_free) or poisons them (0xaa), and reports nothing if it cannot. So: with 0
 * what falls to zero is discarded, and what would fall to a template's page is kept; with another
 * value all is kept. It is counted.
 *
 * Hinted (5.5.6.5): the same as reported, but not now: balloon_hint.c says when, and which.
 *
 * A page may be borrowed by another device at this moment (gmem_pins). A driver that gives away
 * what it has lent loses those data, and only its own: a borrow is an address in memory that stays
 * mapped, and a page that the kernel writes to is the kernel's until it is done.
 *
 * Bounds on a hostile driver: WORK in one turn of main, whatever lengths and numbers it says.
 */
#include <errno.h>

#include "base/endian.h"
#include "base/util.h"
#include "virtio/balloon_int.h"

#define SOON_NS 50000u /* when a turn is done and more is waiting */
/* A turn's work, in units of about a microsecond or less. */
#define WORK 4096
#define WORK_CHAIN 8   /* to take a chain */
#define WORK_DISCARD 8 /* a call, and other processors' translations thrown away */
#define PAGES_A_UNIT 4 /* given back in one call */
#define PFNS 256       /* looked at at once; Linux sends 256 in a buffer */
#define PAGE ((uint64_t)GMEM_PAGE)

/* Adjacent pages, collected. */
struct run {
	gpa_t gpa;
	uint64_t len;
};

static void discard(struct balloon *b, struct run *r, int *work)
{
	if (r->len && gmem_discard(b->v.dev.m->mem, r->gpa, r->len))
		b->kept_bytes += r->len;
	*work -= WORK_DISCARD + (int)(r->len / PAGE / PAGES_A_UNIT);
	r->len = 0;
}

/* ---- inflating ---- */

static void add_page(struct balloon *b, struct run *r, gpa_t gpa, int *work)
{
	b->inflated_bytes += PAGE;
	if (!gmem_valid(b->v.dev.m->mem, gpa, PAGE)) {
		b->kept_bytes += PAGE; /* in the hole, or beyond RAM */
		return;
	}
	if (r->len && gpa - r->gpa < r->len)
		return; /* said twice */
	if (r->len && gpa + PAGE == r->gpa) {
		r->gpa = gpa;
		r->len += PAGE;
	} else if (r->len && gpa == r->gpa + r->len) {
		r->len += PAGE;
	} else {
		if (r->len)
			discard(b, r, work);
		*r = (struct run){ gpa, PAGE };
	}
}

/* true when the chain is done. */
static bool inflate(struct balloon *b, const struct vq_chain *c, uint64_t *at, int *work)
{
	struct run r = { 0 };
	le32 pfn[PFNS];

	while (*work > 0) {
		size_t n = vq_read(&b->v, c, *at, pfn, sizeof(pfn)) / sizeof(pfn[0]);

		for (size_t i = 0; i < n; i++)
			add_page(b, &r, (uint64_t)le32_get(pfn[i]) * PAGE, work);
		*work -= (int)n;
		*at += n * sizeof(pfn[0]);
		if (n < PFNS) {
			discard(b, &r, work);
			return true;
		}
	}
	discard(b, &r, work);
	return false;
}

/* ---- reporting ---- */

uint64_t balloon_give_free(struct balloon *b, gpa_t gpa, uint64_t len)
{
	uint64_t given = 0;

	if (!virtio_has(&b->v, VIRTIO_BALLOON_F_PAGE_POISON))
		return gmem_discard(b->v.dev.m->mem, gpa, len) ? 0 : len;
	if (!b->state.poison_val)
		(void)gmem_discard_zero(b->v.dev.m->mem, gpa, len, &given);
	return given;
}

/* With poison it may be a call for every other page (gmem_discard_zero), and which is known only
 * when it is too late: each page counts as one. */
static bool by_page(const struct balloon *b)
{
	return virtio_has(&b->v, VIRTIO_BALLOON_F_PAGE_POISON);
}

/* The pages of a report that so much work, more than 0, is enough for. */
static uint64_t pages_for(const struct balloon *b, int work)
{
	return by_page(b) ? (uint64_t)work / WORK_DISCARD + 1 : (uint64_t)work * PAGES_A_UNIT;
}

static void report_run(struct balloon *b, const struct run *r, int *work)
{
	int pages = (int)(r->len / PAGE);

	b->reported_bytes += r->len;
	b->kept_bytes += r->len - balloon_give_free(b, r->gpa, r->len);
	*work -= WORK_DISCARD + (by_page(b) ? pages * WORK_DISCARD : pages / PAGES_A_UNIT);
}

/* The whole pages of a chain's writable segments, as far as the work of this turn goes. */
static bool report(struct balloon *b, const struct vq_chain *c, uint64_t *at, int *work)
{
	uint64_t before = 0;

	for (unsigned int i = c->nr_out; i < c->nr_out + c->nr_in; i++) {
		gpa_t from = ROUND_UP(c->seg[i].gpa, PAGE);
		gpa_t end = ROUND_DOWN(c->seg[i].gpa + c->seg[i].len, PAGE);

		if (*at > before)
			from = MAX(from, ROUND_DOWN(c->seg[i].gpa + (*at - before), PAGE));
		while (from<end && * work> 0) {
			struct run r = { from, MIN(end - from, pages_for(b, *work) * PAGE) };

			from += r.len;
			report_run(b, &r, work);
		}
		if (from < end) {
			*at = before + (from - c->seg[i].gpa);
			return false;
		}
		before += c->seg[i].len;
		*at = MAX(*at, before);
	}
	return true;
}

/* ---- kicks ---- */

static bool form_ok(struct balloon *b, enum balloon_queue role, const struct vq_chain *c)
{
	bool ok = role == HINT || (role == REPORT ? !c->nr_out : !c->nr_in);

	if (!ok)
		virtio_broken(&b->v, "%s with %u readable, %u writable segments",
			      role == REPORT ? "report" : "array of pages", c->nr_out, c->nr_in);
	return ok;
}

/* true when the chain is done, or the device broken. */
static bool serve(struct balloon *b, enum balloon_queue role, const struct vq_chain *c, int *work)
{
	*work -= WORK_CHAIN;
	if (!form_ok(b, role, c))
		return true;
	switch (role) {
	case INFLATE:
		return inflate(b, c, &b->at[role], work);
	case REPORT:
		return report(b, c, &b->at[role], work);
	case HINT:
		balloon_hint_chain(b, c);
		return true;
	default:
		return true; /* deflated: a page comes back by being touched */
	}
}

void balloon_pages_kick(struct balloon *b, unsigned int q, enum balloon_queue role)
{
	struct vq_chain c;
	int work = WORK;

	while (!vq_empty(&b->v, q)) {
		if (work <= 0) {
			loop_set_timer(b->again, SOON_NS);
			break;
		}
		if (vq_pop(&b->v, q, &c) <= 0)
			break;
		if (!serve(b, role, &c, &work)) {
			vq_unpop(&b->v, q);
			continue;
		}
		b->at[role] = 0;
		vq_push(&b->v, q, c.head, 0);
	}
	vq_notify(&b->v, q);
}
