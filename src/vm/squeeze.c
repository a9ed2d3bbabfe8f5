/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy: see squeeze.h. Called by squeeze_run.c with each answer of the guest, on
 * main.
 */
#include "vm/squeeze.h"

#include <stddef.h>

#include "base/time.h"
#include "base/util.h"

#define PAGE 4096u
#define SMALLEST_STEP MIB(1) /* less is not worth waking a guest for */
#define DRIVER_SLACK MIB(1)  /* a driver that is this near has done it */
#define SWAP_NOISE MIB(1)
#define STUCK_TICKS 2	/* without any progress */
#define FLOOR_PART 8	/* of the floor must be there beyond it before it is squeezed again */
#define SEVERE_PART 2	/* of the low mark: less available is severe */
#define PRESS_PARTS 4	/* a quarter of the balloon at the first pressure, then a half of it ... */
#define RESTING_TIMES 4 /* less often is it asked at the floor */

const struct squeeze_cfg squeeze_defaults = {
	.idle_s = 30,
	.step_percent = 10,
	.step_s = 5,
	.floor_mib = 64,
	.floor_percent = 10,
	.low_percent = 50,
	.high_percent = 150,
	.psi_some = 5,
	.psi_full = 20,
	.cpu_percent = 10,
	.cool_s = 60,
	.period_s = 5,
	.hold_s = 60,
};

#define LIMIT(member, lo, hi)                                                                      \
	{                                                                                          \
#member, offsetof(struct squeeze_cfg, member), lo, hi                              \
	}

const struct squeeze_limit squeeze_limits[SQUEEZE_LIMITS] = {
	LIMIT(idle_s, 1, 86400),	LIMIT(step_percent, 1, 100),  LIMIT(step_s, 1, 3600),
	LIMIT(floor_mib, 16, 1048576),	LIMIT(floor_percent, 0, 100), LIMIT(low_percent, 1, 100),
	LIMIT(high_percent, 100, 1000), LIMIT(psi_some, 1, 100),      LIMIT(psi_full, 1, 100),
	LIMIT(cpu_percent, 1, 100),	LIMIT(cool_s, 1, 86400),      LIMIT(period_s, 1, 3600),
	LIMIT(hold_s, 1, 86400),
};

const char *squeeze_state_word(enum squeeze_state s)
{
	static const char *const words[] = {
		[SQUEEZE_WAITING] = "waiting",	[SQUEEZE_WATCHING] = "watching",
		[SQUEEZE_TAKING] = "squeezing", [SQUEEZE_RESTING] = "floor",
		[SQUEEZE_COOLING] = "cooling",	[SQUEEZE_BLIND] = "blind",
	};

	return words[s];
}

const char *squeeze_why_word(enum squeeze_why w)
{
	static const char *const words[] = {
		[SQUEEZE_WHY_NONE] = "none",
		[SQUEEZE_WHY_NO_DRIVER] = "no-driver",
		[SQUEEZE_WHY_FIRST] = "first-report",
		[SQUEEZE_WHY_ACTIVE] = "active",
		[SQUEEZE_WHY_IDLE] = "not-idle-for-long",
		[SQUEEZE_WHY_STEP] = "idle",
		[SQUEEZE_WHY_SLOW] = "driver-busy",
		[SQUEEZE_WHY_FLOOR] = "floor",
		[SQUEEZE_WHY_COOLING] = "cooling",
		[SQUEEZE_WHY_FADING] = "pressure-fades",
		[SQUEEZE_WHY_STUCK] = "driver-stuck",
		[SQUEEZE_WHY_LOW] = "low-memory",
		[SQUEEZE_WHY_PRESSURE] = "pressure",
		[SQUEEZE_WHY_SWAP] = "swapping",
		[SQUEEZE_WHY_SEVERE] = "severe-pressure",
		[SQUEEZE_WHY_OOM] = "oom-kill",
		[SQUEEZE_WHY_TOOK] = "driver-took",
		[SQUEEZE_WHY_SILENT] = "silent",
		[SQUEEZE_WHY_RELEASED] = "silent-too-long",
	};

	return words[w];
}

void squeeze_init(struct squeeze *s, uint64_t now_ns)
{
	*s = (struct squeeze){ .heard_ns = now_ns, .idle_ns = now_ns };
}

static uint64_t minus(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* percent of n, without overflow */
static uint64_t percent_of(uint64_t n, uint32_t percent)
{
	return n / 100 * percent + n % 100 * percent / 100;
}

/* part of whole in percent, at most 100; nothing of nothing is none. */
static uint32_t share(uint64_t part, uint64_t whole)
{
	if (part >= whole)
		return part ? 100 : 0;
	return (uint32_t)(whole > UINT64_MAX / 100 ? part / (whole / 100) : part * 100 / whole);
}

static uint64_t seconds(uint32_t s)
{
	return s * NS_PER_SEC;
}

/* What became of the guest since the report before. */
struct change {
	bool first; /* there is none to compare with */
	bool active, oom, swap;
	bool fading;	     /* there was pressure in the last ten seconds */
	uint32_t some, full; /* percent of the time since then */
};

/* What only grows, while it is one boot of one guest. */
static bool goes_on(const struct proto_report *was, const struct proto_report *is)
{
	return is->more == was->more && is->uptime_ms >= was->uptime_ms &&
	       is->exec_count >= was->exec_count && is->swap_in_pages >= was->swap_in_pages &&
	       is->oom_kills >= was->oom_kills && is->cpu_busy_ms >= was->cpu_busy_ms &&
	       is->cpu_idle_ms >= was->cpu_idle_ms &&
	       (is->flags != was->flags ||
		(is->psi_some_us >= was->psi_some_us && is->psi_full_us >= was->psi_full_us));
}

static bool worked(const struct squeeze_cfg *c, const struct proto_report *was,
		   const struct proto_report *is)
{
	uint64_t busy = is->cpu_busy_ms - was->cpu_busy_ms,
		 idle = is->cpu_idle_ms - was->cpu_idle_ms, all;

	if (is->exec_count > was->exec_count)
		return true;
	/* an agent of version 3 knows no better */
	if (!is->more)
		return is->load1_x100 >= c->cpu_percent;
	return !add_u64(busy, idle, &all) || share(busy, all) >= c->cpu_percent;
}

static struct change compare(const struct squeeze *s, const struct squeeze_cfg *c,
			     const struct squeeze_in *in)
{
	const struct proto_report *was = &s->report, *is = in->report;
	uint64_t us = (in->now_ns - s->report_ns) / 1000;
	struct change d = { 0 };

	if (!s->known || !goes_on(was, is)) {
		d.first = true;
		return d;
	}
	d.active = worked(c, was, is);
	d.oom = is->oom_kills > was->oom_kills;
	d.swap = is->swap_in_pages > was->swap_in_pages ||
		 minus(is->swap_used_bytes, was->swap_used_bytes) > SWAP_NOISE;
	if (is->flags & was->flags & PROTO_REPORT_PSI) {
		d.some = share(is->psi_some_us - was->psi_some_us, us);
		d.full = share(is->psi_full_us - was->psi_full_us, us);
		d.fading = is->psi_some_x100 / 100 >= c->psi_some;
	}
	return d;
}

struct marks {
	uint64_t floor, low, high;
	uint64_t available; /* when the driver has done what it was asked for */
};

static struct marks marks_of(const struct squeeze_cfg *c, const struct squeeze_in *in)
{
	uint64_t ram = in->ram_bytes;
	struct marks m;

	m.floor = MIN(MAX(MIB(c->floor_mib), percent_of(ram, c->floor_percent)), ram);
	m.low = percent_of(m.floor, c->low_percent);
	m.high = MIN(percent_of(m.floor, c->high_percent), ram);
	m.available = MIN(in->report->mem_available_bytes, ram);
	m.available += MIN(minus(in->actual_bytes, in->target_bytes), ram);
	m.available = minus(m.available, minus(in->target_bytes, in->actual_bytes));
	return m;
}

/* Is it short of memory? SQUEEZE_WHY_NONE: no. */
static enum squeeze_why judge(const struct squeeze *s, const struct squeeze_cfg *c,
			      const struct squeeze_in *in, const struct marks *m,
			      const struct change *d)
{
	/* what it has now, not what it will have */
	uint64_t now = MIN(in->report->mem_available_bytes, in->ram_bytes);
	/* Its driver has just taken page cache: the kernel drops it and counts that as standing
	 * still. No need of the guest's, as long as as much is available as we had in mind. */
	bool ours = s->known && in->actual_bytes > s->actual_bytes &&
		    m->available + m->floor / FLOOR_PART >= m->floor;

	if (d->oom)
		return SQUEEZE_WHY_OOM;
	if (s->known && in->target_bytes >= s->actual_bytes &&
	    minus(s->actual_bytes, in->actual_bytes) >= DRIVER_SLACK)
		return SQUEEZE_WHY_TOOK;
	if (now < m->low / SEVERE_PART || (!ours && d->full >= c->psi_full))
		return SQUEEZE_WHY_SEVERE;
	if (!ours && (in->urgent || d->some >= c->psi_some))
		return SQUEEZE_WHY_PRESSURE;
	if (d->swap)
		return SQUEEZE_WHY_SWAP;
	return m->available < m->low ? SQUEEZE_WHY_LOW : SQUEEZE_WHY_NONE;
}

/* The balloon without `bytes`. Never more than it has: what its driver has not taken yet, it need
 * not take. */
static uint64_t give(const struct squeeze_in *in, uint64_t bytes)
{
	return minus(MIN(in->target_bytes, in->actual_bytes), bytes);
}

static uint64_t relieve(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in,
			const struct marks *m, enum squeeze_why why)
{
	uint64_t need = minus(m->high, m->available), held = give(in, 0);

	s->state = SQUEEZE_COOLING;
	s->cool_ns = in->now_ns + seconds(c->cool_s);
	s->idle_ns = in->now_ns;
	if (why == SQUEEZE_WHY_SEVERE || why == SQUEEZE_WHY_OOM || why == SQUEEZE_WHY_TOOK)
		return 0;
	if (s->presses < PRESS_PARTS)
		s->presses++;
	/* page cache counts as available, and may be just what it needs */
	if (why != SQUEEZE_WHY_LOW)
		need = MAX(need, held / PRESS_PARTS * s->presses + SMALLEST_STEP);
	return give(in, need);
}

/* An idle guest, whose driver has done what it was asked for. */
static uint64_t take(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in,
		     const struct marks *m, enum squeeze_why *why)
{
	uint64_t room = minus(m->available, m->floor), step, enough;

	enough = s->state == SQUEEZE_RESTING ? m->floor / FLOOR_PART : 0;
	room = MIN(room, minus(in->ram_bytes - m->floor, in->target_bytes));
	if (room < MAX(enough, SMALLEST_STEP)) {
		s->state = SQUEEZE_RESTING;
		*why = SQUEEZE_WHY_FLOOR;
		return in->target_bytes;
	}
	s->state = SQUEEZE_TAKING;
	if (s->step_ns && in->now_ns - s->step_ns < seconds(c->step_s)) {
		*why = SQUEEZE_WHY_STEP;
		return in->target_bytes;
	}
	step = MAX(percent_of(m->available, c->step_percent), SMALLEST_STEP);
	s->step_ns = in->now_ns;
	*why = SQUEEZE_WHY_STEP;
	return in->target_bytes + MIN(step, room);
}

/* One whose driver has not: no more is asked of it, and in the end not even that. */
static uint64_t wait_for_driver(struct squeeze *s, const struct squeeze_cfg *c,
				const struct squeeze_in *in, enum squeeze_why *why)
{
	s->stuck = in->actual_bytes > s->actual_bytes ? 0 : s->stuck + 1;
	s->state = SQUEEZE_TAKING;
	*why = SQUEEZE_WHY_SLOW;
	if (s->stuck < STUCK_TICKS)
		return in->target_bytes;
	s->stuck = 0;
	s->state = SQUEEZE_COOLING;
	s->cool_ns = in->now_ns + seconds(c->cool_s);
	*why = SQUEEZE_WHY_STUCK;
	return in->actual_bytes;
}

static uint64_t decide(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in,
		       enum squeeze_why *why)
{
	struct change d = compare(s, c, in);
	struct marks m = marks_of(c, in);

	*why = judge(s, c, in, &m, &d);
	if (*why != SQUEEZE_WHY_NONE)
		return relieve(s, c, in, &m, *why);
	s->presses = 0;
	if (d.first || d.active) {
		*why = d.first ? SQUEEZE_WHY_FIRST : SQUEEZE_WHY_ACTIVE;
		s->idle_ns = in->now_ns;
		s->state = in->now_ns < s->cool_ns ? SQUEEZE_COOLING : SQUEEZE_WATCHING;
		/* one that we see for the first time may be a fork of one that rests */
		return d.active && m.available < m.high ? give(in, m.high - m.available)
							: in->target_bytes;
	}
	if (in->now_ns < s->cool_ns) {
		*why = SQUEEZE_WHY_COOLING;
		s->state = SQUEEZE_COOLING;
		return in->target_bytes;
	}
	if (in->now_ns - s->idle_ns < seconds(c->idle_s)) {
		*why = SQUEEZE_WHY_IDLE;
		s->state = SQUEEZE_WATCHING;
		return in->target_bytes;
	}
	/* no reason to give, but none to take either */
	if (d.fading) {
		*why = SQUEEZE_WHY_FADING;
		return in->target_bytes;
	}
	if (minus(in->target_bytes, in->actual_bytes) > DRIVER_SLACK)
		return wait_for_driver(s, c, in, why);
	s->stuck = 0;
	return take(s, c, in, &m, why);
}

/* No report, or one that cannot be: what it has is left to it for a while. */
static uint64_t silent(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in,
		       enum squeeze_why *why)
{
	s->known = false;
	s->presses = s->stuck = 0;
	s->state = SQUEEZE_BLIND;
	*why = SQUEEZE_WHY_SILENT;
	if (in->now_ns - s->heard_ns < seconds(c->hold_s))
		return in->target_bytes;
	*why = SQUEEZE_WHY_RELEASED;
	return 0;
}

static bool makes_sense(const struct proto_report *p)
{
	return p && p->mem_total_bytes && p->mem_available_bytes <= p->mem_total_bytes;
}

uint64_t squeeze_tick(struct squeeze *s, const struct squeeze_cfg *c, const struct squeeze_in *in)
{
	enum squeeze_why why = SQUEEZE_WHY_NO_DRIVER;
	uint64_t to = in->target_bytes;

	if (!in->driver) {
		s->state = SQUEEZE_WAITING;
		s->known = false;
		s->heard_ns = in->now_ns;
	} else if (!makes_sense(in->report)) {
		to = silent(s, c, in, &why);
	} else {
		to = ROUND_DOWN(decide(s, c, in, &why), PAGE);
		s->known = true;
		s->report = *in->report;
		s->psi = in->report->flags & PROTO_REPORT_PSI;
		s->report_ns = s->heard_ns = in->now_ns;
		s->actual_bytes = in->actual_bytes;
	}
	s->last = (struct squeeze_decision){ in->now_ns, why, in->target_bytes, to };
	if (to == in->target_bytes)
		return to;
	s->moved = s->last;
	if (to > in->target_bytes)
		s->steps++;
	else
		s->gave_back++;
	return to;
}

uint64_t squeeze_next_ms(const struct squeeze *s, const struct squeeze_cfg *c)
{
	/* one that speaks up when it is short need not be woken so often */
	uint64_t times = s->state == SQUEEZE_RESTING && s->psi ? RESTING_TIMES : 1;

	return c->period_s * 1000ull * times;
}
