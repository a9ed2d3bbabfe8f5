/* SPDX-License-Identifier: MIT */
/*
 * The balloon's statistics (virtio 1.2 section 5.5.6.3). The driver leaves one buffer with us; to
 * give it back is to ask for the next. A buffer that was read is put back to the head of its ring
 * instead of being held: nothing is in flight when the machine stands still, and its copies find
 * the buffer where it was. Main.
 */
#include <errno.h>

#include "base/endian.h"
#include "base/time.h"
#include "base/util.h"
#include "virtio/balloon_int.h"

#define ENTRY_BYTES 10u
#define ENTRIES_MAX 64u /* that are looked at in one buffer; we know 16, Linux sends 10 to 16 */

struct entry {
	le16 tag;
	le64 val;
};

static void take(struct balloon *b, const struct vq_chain *c)
{
	struct entry raw[ENTRIES_MAX];
	size_t n = vq_read(&b->v, c, 0, raw, sizeof(raw)) / sizeof(raw[0]);

	_Static_assert(sizeof(struct entry) == ENTRY_BYTES, "statistics are packed");
	/* the first buffer may be empty (5.5.5): then nothing is known and nothing new */
	if (!n)
		return;
	b->stats_known = 0;
	for (size_t i = 0; i < n; i++) {
		unsigned int tag = le16_get(raw[i].tag);

		if (tag >= VIRTIO_BALLOON_STATS)
			continue;
		b->stat[tag] = le64_get(raw[i].val);
		b->stats_known |= 1u << tag;
	}
	b->stats_ns = time_mono_ns();
	balloon_changed(b);
}

void balloon_stats_kick(struct balloon *b, unsigned int q)
{
	struct vq_chain c;

	if (b->state.stats_held || vq_pop(&b->v, q, &c) <= 0)
		return;
	if (c.nr_in) {
		virtio_broken(&b->v, "statistics with %u writable segments", c.nr_in);
		vq_push(&b->v, q, c.head, 0);
		return;
	}
	take(b, &c);
	vq_unpop(&b->v, q);
	b->state.stats_held = 1;
}

void balloon_stats_ask(struct balloon *b)
{
	int q = balloon_queue_of(b, STATS);
	struct vq_chain c;

	/* not held: the driver is at it, or there is none */
	if (q < 0 || !virtio_live(&b->v) || !b->state.stats_held)
		return;
	b->state.stats_held = 0;
	if (vq_pop(&b->v, (unsigned int)q, &c) <= 0)
		return;
	vq_push(&b->v, (unsigned int)q, c.head, 0);
	vq_notify(&b->v, (unsigned int)q);
	/* asks for the kick that brings the answer; one that is there already is taken */
	if (!vq_empty(&b->v, (unsigned int)q))
		balloon_stats_kick(b, (unsigned int)q);
}

void balloon_stats_arm(struct balloon *b)
{
	loop_set_timer(b->poll, b->state.poll_ms * NS_PER_MS);
}

void balloon_stats_due(void *arg)
{
	struct balloon *b = arg;

	balloon_stats_ask(b);
	balloon_stats_arm(b);
}

int virtio_balloon_poll_stats(struct device *d, uint32_t period_ms, struct err *e)
{
	struct balloon *b = (struct balloon *)d;

	if (!b->cfg.stats)
		return err_set(e, ENOTSUP, "balloon: made without statistics");
	b->state.poll_ms = period_ms;
	if (!b->v.resumed) {
		b->ask = true;
		return 0;
	}
	balloon_stats_arm(b);
	balloon_stats_ask(b);
	return 0;
}
