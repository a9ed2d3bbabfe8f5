/* SPDX-License-Identifier: MIT */
/*
 * Rounds of free page hinting (virtio 1.2 section 5.5.6.5). Main, but for a driver's reset.
 *
 * The driver MAY take a page back and write to it before we have even seen its hint, and what it
 * wrote MUST be retained: a page may be changed only if the guest has not written to it since the
 * command id was issued. Linux does that: its shrinker frees hinted blocks, the newest first, and
 * hinting makes the very pressure that calls it. A device does not know what a running guest
 * writes. So nothing is done as hints come but to remember them, and when the driver says that it
 * is through, our owner, who knows what was written since before the id was there, takes what was
 * not, while the guest stands still (vm/hint.h). Then the driver is told DONE and frees its blocks.
 * A page that was written to is taken if it holds zeroes and will: nothing of it is lost. Many
 * kernels (Debian's) clear each page as they allocate it, also for this.
 *
 * What a page may become is the same as of reported ones (balloon_pages.c).
 *
 * A round does not outlive its machine: a fork's child, or a restored machine, tells the driver
 * that it is over when it goes on, and takes nothing.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/endian.h"
#include "base/util.h"
#include "virtio/balloon_int.h"

#define PAGE ((uint64_t)GMEM_PAGE)
#define BITS 64u

/* Pages of RAM by offset, from and on. */
static void set_pages(uint64_t *bits, uint64_t from, uint64_t n)
{
	for (uint64_t p = from, end = from + n; p < end;) {
		if (p % BITS || end - p < BITS) {
			bits[p / BITS] |= 1ull << p % BITS;
			p++;
		} else {
			bits[p / BITS] = ~0ull;
			p += BITS;
		}
	}
}

/* The whole pages of a segment, which is RAM. */
static void remember(struct balloon *b, const struct vq_seg *s)
{
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(b->v.dev.m->mem, r);
	gpa_t from = ROUND_UP(s->gpa, PAGE), end = ROUND_DOWN(s->gpa + s->len, PAGE);

	for (size_t i = 0; i < n && from < end; i++)
		if (from >= r[i].gpa && range_ok(from - r[i].gpa, end - from, r[i].size_bytes))
			set_pages(b->hinted, (r[i].offset + (from - r[i].gpa)) / PAGE,
				  (end - from) / PAGE);
}

/* ---- the driver's ---- */

static void on_id(struct balloon *b, uint32_t id)
{
	struct balloon_state *st = &b->state;

	if (!b->hinted || b->hint_through)
		return; /* of no round, or too late */
	b->hint_through = st->hint_open && id == VIRTIO_BALLOON_CMD_ID_STOP;
	st->hint_open = !b->hint_through && id == st->cmd_id;
	if (b->hint_through)
		balloon_changed(b);
}

/* Pages under an id that is not the current one are ignored. */
void balloon_hint_chain(struct balloon *b, const struct vq_chain *c)
{
	le32 id;

	if (c->nr_out) {
		if (c->out_bytes != sizeof(id) || vq_read(&b->v, c, 0, &id, sizeof(id)) < 4) {
			virtio_broken(&b->v, "command id of %u bytes", c->out_bytes);
			return;
		}
		on_id(b, le32_get(id));
	}
	if (!b->state.hint_open)
		return;
	b->hint_told += c->in_bytes;
	for (unsigned int i = c->nr_out; i < c->nr_out + c->nr_in; i++)
		remember(b, &c->seg[i]);
}

void balloon_hint_forget(struct balloon *b)
{
	b->hinted_bytes += b->hint_told;
	b->kept_bytes += b->hint_told - b->hint_given;
	b->hint_told = b->hint_given = b->hint_at = 0;
	b->hint_through = false;
	b->state.hint_open = 0;
	free(b->hinted);
	b->hinted = NULL;
}

/* ---- the owner's ---- */

int virtio_balloon_hint(struct device *d, struct err *e)
{
	struct balloon *b = (struct balloon *)d;
	struct balloon_state *st = &b->state;
	uint64_t pages = gmem_size(d->m->mem) / PAGE;

	if (!virtio_live(&b->v) || !virtio_has(&b->v, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return err_set(e, ENOTSUP, "balloon: no driver that hints is at work");
	if (virtio_balloon_hinting(d))
		return err_set(e, EBUSY, "balloon: the driver is still at round %u", st->cmd_id);
	b->hinted = calloc(2 * (pages / BITS + 1), sizeof(*b->hinted));
	if (!b->hinted)
		return err_set(e, ENOMEM, "balloon: out of memory");
	b->written = b->hinted + pages / BITS + 1;
	st->last_id = MAX(st->last_id + 1, VIRTIO_BALLOON_CMD_ID_DONE + 1u);
	st->cmd_id = st->last_id;
	st->hint_open = 0;
	virtio_config_changed(&b->v);
	return 0;
}

bool virtio_balloon_hinting(const struct device *d)
{
	return ((const struct balloon *)d)->state.cmd_id > VIRTIO_BALLOON_CMD_ID_DONE;
}

bool virtio_balloon_hint_through(const struct device *d)
{
	return ((const struct balloon *)d)->hint_through;
}

void virtio_balloon_hint_written(struct device *d, const uint64_t *pages)
{
	struct balloon *b = (struct balloon *)d;

	for (uint64_t i = 0; b->hinted && i < gmem_size(d->m->mem) / PAGE / BITS; i++)
		b->written[i] |= pages[i];
}

static bool is_written(const struct balloon *b, uint64_t page)
{
	return b->written[page / BITS] >> page % BITS & 1;
}

/* Of pages that were written to, those that hold zeroes and go on to. Bytes that were given. */
static uint64_t give_zeroes(struct balloon *b, gpa_t gpa, uint64_t offset, uint64_t len)
{
	struct gmem *gm = b->v.dev.m->mem;
	uint64_t given = 0, some = 0;

	for (uint64_t at = 0, n; at < len; at += n + PAGE) {
		for (n = 0; at + n < len; n += PAGE)
			if (!gmem_page_is_zero(gmem_at_offset(gm, offset + at + n, PAGE)))
				break;
		if (n)
			(void)gmem_discard_zero(gm, gpa + at, n, &some);
		given += n ? some : 0;
	}
	return given;
}

/* The next hinted pages before end, at most so many, and all written to or none: how many, from
 * hint_at on, which comes to end when there are none. */
static uint64_t next_run(struct balloon *b, uint64_t end, uint64_t most)
{
	const uint64_t *bits = b->hinted;
	uint64_t n = 0;

	while (b->hint_at < end) {
		uint64_t rest = bits[b->hint_at / BITS] >> b->hint_at % BITS;

		if (rest) {
			b->hint_at += (unsigned int)__builtin_ctzll(rest);
			break;
		}
		b->hint_at = ROUND_DOWN(b->hint_at + BITS, (uint64_t)BITS);
	}
	while (b->hint_at + n < end && n < most &&
	       bits[(b->hint_at + n) / BITS] >> (b->hint_at + n) % BITS & 1 &&
	       is_written(b, b->hint_at + n) == is_written(b, b->hint_at))
		n++;
	return n;
}

bool virtio_balloon_take_hinted(struct device *d, uint64_t max_bytes)
{
	struct balloon *b = (struct balloon *)d;
	struct gmem_region r[GMEM_MAX_REGIONS];
	size_t n = gmem_regions(d->m->mem, r);
	uint64_t left = max_bytes / PAGE;

	if (!b->hinted || !b->hint_through)
		return false;
	for (size_t i = 0; i < n; i++) {
		uint64_t first = r[i].offset / PAGE, end = first + r[i].size_bytes / PAGE, run;

		while ((run = next_run(b, end, left)) > 0) {
			gpa_t gpa = r[i].gpa + (b->hint_at - first) * PAGE;

			b->hint_given +=
				is_written(b, b->hint_at)
					? give_zeroes(b, gpa, b->hint_at * PAGE, run * PAGE)
					: balloon_give_free(b, gpa, run * PAGE);
			b->hint_at += run;
			left -= run;
		}
		if (!left)
			return true;
	}
	return false;
}

void virtio_balloon_hint_end(struct device *d)
{
	struct balloon *b = (struct balloon *)d;

	balloon_hint_forget(b);
	if (!virtio_balloon_hinting(d))
		return;
	/* the driver frees what it held for us */
	b->state.cmd_id = VIRTIO_BALLOON_CMD_ID_DONE;
	virtio_config_changed(&b->v);
}
