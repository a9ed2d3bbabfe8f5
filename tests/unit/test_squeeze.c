/* SPDX-License-Identifier: MIT */
/*
 * The balloon's policy, fed with the lives of guests: a small model of one (what it has used, what
 * its driver does) is asked as often as the policy wants, and its target is looked at. Long,
 * because all lives are of that one model.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/time.h"
#include "base/util.h"
#include "vm/squeeze.h"

#define RAM MIB(512)
#define FLOOR MIB(64)

struct sim {
	struct squeeze s;
	struct squeeze_cfg c;
	struct proto_report r;
	uint64_t now, ram, target, actual;
	uint64_t used;		 /* of RAM, besides the balloon */
	unsigned int cpu;	 /* percent */
	bool driver, lazy, mute; /* lazy: the driver does nothing; mute: nobody answers */
};

static int up(void **state)
{
	static struct sim m;

	m = (struct sim){ .c = squeeze_defaults,
			  .now = 1000 * NS_PER_SEC,
			  .ram = RAM,
			  .used = MIB(100),
			  .driver = true };
	m.c.floor_percent = 0; /* its floor is FLOOR */
	m.r = (struct proto_report){ .uptime_ms = 100000,
				     .mem_total_bytes = RAM,
				     .more = true,
				     .flags = PROTO_REPORT_PSI,
				     .last_exec_ms = UINT64_MAX };
	squeeze_init(&m.s, m.now);
	*state = &m;
	return 0;
}

static uint64_t available(const struct sim *m)
{
	return m->ram > m->used + m->actual ? m->ram - m->used - m->actual : 0;
}

static uint64_t ask(struct sim *m, bool urgent)
{
	struct squeeze_in in = { .now_ns = m->now,
				 .report = m->mute ? NULL : &m->r,
				 .urgent = urgent,
				 .driver = m->driver,
				 .ram_bytes = m->ram,
				 .target_bytes = m->target,
				 .actual_bytes = m->actual };

	m->r.mem_available_bytes = available(m);
	m->target = squeeze_tick(&m->s, &m->c, &in);
	assert_int_equal(m->target % 4096, 0);
	if (!m->lazy)
		m->actual = m->target;
	return m->target;
}

/* The guest lives on for ns, its kernel counts. */
static void pass(struct sim *m, uint64_t ns)
{
	uint64_t ms = ns / NS_PER_MS;

	m->now += ns;
	m->r.uptime_ms += ms;
	m->r.cpu_busy_ms += ms * m->cpu / 100;
	m->r.cpu_idle_ms += ms - ms * m->cpu / 100;
}

static uint64_t tick(struct sim *m)
{
	pass(m, squeeze_next_ms(&m->s, &m->c) * NS_PER_MS);
	return ask(m, false);
}

static void live(struct sim *m, unsigned int s)
{
	for (uint64_t end = m->now + s * NS_PER_SEC; m->now < end;)
		tick(m);
}

static void assert_why(const struct sim *m, const char *state, const char *why)
{
	assert_string_equal(squeeze_state_word(m->s.state), state);
	assert_string_equal(squeeze_why_word(m->s.last.why), why);
}

/* Idle until it rests. */
static void rest(struct sim *m)
{
	live(m, 300);
	assert_why(m, "floor", "floor");
	assert_true(available(m) >= FLOOR && available(m) < FLOOR + MIB(1));
}

static void test_squeeze__an_idle_guest_is_squeezed_in_steps_to_the_floor(void **state)
{
	struct sim *m = *state;
	uint64_t was;

	assert_int_equal(ask(m, false), 0);
	assert_why(m, "watching", "first-report");
	for (int i = 1; i < 6; i++) { /* 25 s */
		assert_int_equal(tick(m), 0);
		assert_why(m, "watching", "not-idle-for-long");
	}
	assert_int_equal(tick(m), ROUND_DOWN(MIB(412) / 10, 4096));
	assert_why(m, "squeezing", "idle");
	assert_true(m->s.moved.at_ns == m->now && m->s.moved.from_bytes == 0 &&
		    m->s.moved.to_bytes == m->target);
	do { /* a tenth of what is there then, each time */
		uint64_t want = ROUND_DOWN(m->target + available(m) / 10, 4096);

		was = m->target;
		if (want > RAM - m->used - FLOOR)
			break;
		assert_true(tick(m) >= want - 4096 && m->target <= want);
	} while (m->target > was);
	live(m, 60);
	assert_int_equal(m->target, RAM - m->used - FLOOR);
	assert_why(m, "floor", "floor");
	assert_int_equal(m->s.gave_back, 0);
}

static void test_squeeze__a_step_is_not_before_its_time(void **state)
{
	struct sim *m = *state;
	uint64_t was, steps;

	m->c.step_s = 12;
	live(m, 31);
	was = m->target;
	steps = m->s.steps;
	assert_int_equal(steps, 1);
	tick(m);
	tick(m);
	assert_int_equal(m->target, was); /* 10 s */
	tick(m);
	assert_true(m->target > was);
	assert_int_equal(m->s.steps, 2);
}

static void test_squeeze__a_guest_that_works_is_left_alone(void **state)
{
	struct sim *m = *state;

	m->cpu = 10;
	live(m, 600);
	assert_int_equal(m->target, 0);
	assert_why(m, "watching", "active");
	m->cpu = 9;
	live(m, 40);
	assert_true(m->target > 0);
}

static void test_squeeze__a_command_is_work(void **state)
{
	struct sim *m = *state;

	for (int i = 0; i < 50; i++) {
		m->r.exec_count++;
		live(m, 20);
	}
	assert_int_equal(m->target, 0);
}

static void test_squeeze__work_gets_its_cushion_back_at_once(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->cpu = 50;
	tick(m);
	assert_why(m, "watching", "active");
	assert_true(available(m) >= FLOOR * 3 / 2 && available(m) <= FLOOR * 3 / 2 + 4096);
	m->used += MIB(30); /* as it grows the cushion goes with it */
	tick(m);
	assert_true(available(m) >= FLOOR * 3 / 2 && available(m) <= FLOOR * 3 / 2 + 4096);
	m->used -= MIB(50); /* and what it frees is not taken while it works */
	assert_int_equal(tick(m), m->actual);
	assert_true(available(m) > FLOOR * 3 / 2 + MIB(40));
	m->cpu = 0;
	rest(m);
}

static void test_squeeze__between_floor_and_low_mark_nothing_moves(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	at = m->target;
	m->used += MIB(30); /* 34 MiB: the low mark is 32 */
	live(m, 300);
	assert_int_equal(m->target, at);
	m->used -= MIB(30) + FLOOR / 8 - MIB(1); /* less than an eighth beyond the floor */
	live(m, 300);
	assert_int_equal(m->target, at);
	m->used -= MIB(2);
	tick(m);
	assert_true(m->target > at);
}

static void test_squeeze__low_memory_gives_back_to_the_high_mark(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	at = m->target;
	m->used += MIB(34); /* 30 MiB left */
	tick(m);
	assert_why(m, "cooling", "low-memory");
	assert_true(available(m) >= FLOOR * 3 / 2 && available(m) <= FLOOR * 3 / 2 + 4096);
	assert_true(m->target < at);
	at = m->target;
	live(m, 55); /* nothing is taken for cool_s */
	assert_int_equal(m->target, at);
	assert_why(m, "cooling", "cooling");
	live(m, 10);
	assert_true(m->target > at);
	assert_int_equal(m->s.gave_back, 1);
}

static void test_squeeze__next_to_no_memory_gives_all_back(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->used += MIB(49); /* 15 MiB: less than half of the low mark */
	assert_int_equal(tick(m), 0);
	assert_why(m, "cooling", "severe-pressure");
}

static void test_squeeze__pressure_gives_more_each_time(void **state)
{
	struct sim *m = *state;
	uint64_t at, gave = 0;
	int n = 0;

	rest(m);
	m->used -= MIB(2); /* page cache: plenty is "available" */
	for (at = m->target; m->target; at = m->target, n++) {
		m->r.psi_some_us += squeeze_next_ms(&m->s, &m->c) * 1000 * 6 / 100;
		tick(m);
		assert_why(m, "cooling", "pressure");
		assert_true(at - m->target >= (n ? MIB(1) : at / 4));
		gave++;
	}
	assert_true(n > 1 && n <= 4);
	assert_int_equal(m->s.gave_back, gave);
}

static void press(struct sim *m)
{
	m->r.psi_some_us += squeeze_next_ms(&m->s, &m->c) * 1000 / 10;
	tick(m);
	assert_why(m, "cooling", "pressure");
}

static void test_squeeze__pressure_after_a_pause_is_the_first(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	m->used -= MIB(2);
	press(m);
	tick(m);
	assert_why(m, "cooling", "cooling");
	at = m->target;
	press(m);
	assert_true(m->target >= at - at / 4 - MIB(2));
}

static void test_squeeze__what_the_driver_will_take_is_counted_as_gone(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->used -= MIB(60); /* 124 MiB available, of which the driver is taking 100 */
	m->lazy = true;
	m->target += MIB(100);
	tick(m);
	assert_why(m, "cooling", "low-memory");
	assert_true(m->target < m->actual); /* and what it was to take it need not */
}

static void test_squeeze__what_the_driver_will_give_is_counted_as_there(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	m->lazy = true; /* it takes its time */
	m->cpu = 50;
	at = tick(m);
	assert_true(at < m->actual);
	assert_int_equal(tick(m), at); /* the same is not given twice */
	assert_int_equal(tick(m), at);
}

static void test_squeeze__pressure_is_not_what_was_counted_before_it_was_told(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	m->r.flags = 0;
	rest(m);
	at = m->target;
	m->r.flags = PROTO_REPORT_PSI;
	m->r.psi_some_us = m->r.psi_full_us = 1ull << 40;
	assert_int_equal(tick(m), at);
	assert_why(m, "floor", "floor");
}

static void test_squeeze__pressure_below_the_threshold_takes_and_gives_nothing(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	at = m->target;
	for (int i = 0; i < 20; i++) {
		m->r.psi_some_us += squeeze_next_ms(&m->s, &m->c) * 1000 * 4 / 100;
		assert_int_equal(tick(m), at);
	}
	assert_why(m, "floor", "floor");
}

static void test_squeeze__all_standing_still_gives_all_back(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->r.psi_some_us += squeeze_next_ms(&m->s, &m->c) * 1000 / 5;
	m->r.psi_full_us += squeeze_next_ms(&m->s, &m->c) * 1000 / 5;
	assert_int_equal(tick(m), 0);
	assert_why(m, "cooling", "severe-pressure");
}

static void test_squeeze__a_guest_that_speaks_up_is_heard_at_once(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	at = m->target;
	pass(m, 10 * NS_PER_MS);
	m->r.psi_some_us += 1; /* it is the first word of it, the account says next to nothing */
	ask(m, true);
	assert_why(m, "cooling", "pressure");
	assert_true(m->target <= at - at / 4);
}

/* avg10 is still high when it is over. */
static void test_squeeze__fading_pressure_neither_gives_nor_takes(void **state)
{
	struct sim *m = *state;

	m->r.psi_some_x100 = 500;
	live(m, 300);
	assert_int_equal(m->target, 0);
	assert_why(m, "watching", "pressure-fades");
	m->r.psi_some_x100 = 499;
	rest(m);
	m->r.psi_some_x100 = 500;
	m->used -= MIB(100);
	assert_int_equal(tick(m), RAM - MIB(100) - FLOOR); /* as it was */
}

/* The kernel drops page cache for the balloon, which it counts as standing still. */
static void test_squeeze__standing_still_for_the_balloon_itself_is_no_pressure(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	live(m, 31);
	at = m->target;
	assert_true(at > 0);
	m->s.actual_bytes = at - MIB(20); /* the report before came while it inflated */
	m->r.psi_some_us += 3 * 1000000;
	m->r.psi_full_us += 3 * 1000000;
	pass(m, NS_PER_SEC);
	ask(m, true);
	assert_true(m->target >= at);
	m->s.actual_bytes = m->actual - MIB(20); /* but not when more is gone than that */
	m->used = RAM - m->actual - MIB(50);
	pass(m, NS_PER_SEC);
	ask(m, true);
	assert_why(m, "cooling", "pressure");
	assert_true(m->target < at);
}

static void test_squeeze__a_guest_that_swaps_is_not_squeezed(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	live(m, 45);
	at = m->target;
	assert_true(at > 0);
	m->r.swap_used_bytes += MIB(2);
	tick(m);
	assert_why(m, "cooling", "swapping");
	assert_true(m->target < at);
	at = m->target;
	for (int i = 0; i < 5; i++) {
		m->r.swap_in_pages++;
		tick(m);
		assert_why(m, "cooling", "swapping");
		assert_true(m->target <= at);
		at = m->target;
	}
	m->r.swap_used_bytes += MIB(1); /* noise */
	tick(m);
	assert_why(m, "cooling", "cooling");
}

static void test_squeeze__an_oom_kill_gives_all_back_and_is_remembered(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->r.oom_kills++;
	assert_int_equal(tick(m), 0);
	assert_why(m, "cooling", "oom-kill");
	live(m, 55);
	assert_int_equal(m->target, 0);
}

static void test_squeeze__what_the_driver_took_before_the_oom_killer_is_not_fought_for(void **state)
{
	struct sim *m = *state;

	rest(m);
	m->lazy = true;
	m->actual -= MIB(5);
	assert_int_equal(tick(m), 0);
	assert_why(m, "cooling", "driver-took");
}

static void test_squeeze__a_driver_that_finds_no_more_is_not_asked_for_more(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	live(m, 31);
	at = m->target;
	assert_true(at > 0);
	m->lazy = true;
	m->actual = at - MIB(20);
	tick(m); /* it has come this far since the tick before */
	assert_why(m, "squeezing", "driver-busy");
	assert_int_equal(m->target, at);
	m->actual += MIB(2);
	assert_int_equal(tick(m), at);
	assert_int_equal(tick(m), at);
	assert_why(m, "squeezing", "driver-busy");
	tick(m);
	assert_why(m, "cooling", "driver-stuck");
	assert_int_equal(m->target, at - MIB(18));
}

static void test_squeeze__pressure_stops_a_driver_that_still_inflates(void **state)
{
	struct sim *m = *state;

	live(m, 60);
	m->lazy = true;
	m->target += MIB(200);
	pass(m, NS_PER_SEC);
	ask(m, true);
	assert_true(m->target < m->actual);
}

static void test_squeeze__silence_holds_then_releases(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	live(m, 60);
	at = m->target;
	assert_true(at > 0);
	m->mute = true;
	live(m, 55);
	assert_int_equal(m->target, at);
	assert_why(m, "blind", "silent");
	live(m, 5);
	assert_int_equal(m->target, 0);
	assert_why(m, "blind", "silent-too-long");
	m->mute = false;
	tick(m);
	assert_why(m, "watching", "first-report");
	live(m, 25);
	assert_int_equal(m->target, 0); /* it was not idle, it was not there */
}

static void test_squeeze__a_guest_without_agent_or_driver_is_not_squeezed(void **state)
{
	struct sim *m = *state;

	m->mute = true;
	live(m, 600);
	assert_int_equal(m->target, 0);
	assert_int_equal(m->s.steps, 0);
	m->mute = false;
	m->driver = false;
	live(m, 600);
	assert_int_equal(m->target, 0);
	assert_why(m, "waiting", "no-driver");
	m->driver = true;
	live(m, 30); /* the first report begins it */
	assert_int_equal(m->target, 0);
	live(m, 10);
	assert_true(m->target > 0);
}

static void test_squeeze__an_agent_of_version_3_is_enough(void **state)
{
	struct sim *m = *state;

	m->r.more = false;
	m->r.flags = 0;
	m->r.load1_x100 = 10;
	live(m, 300);
	assert_int_equal(m->target, 0);
	m->r.load1_x100 = 9;
	live(m, 300);
	assert_int_equal(m->target, RAM - m->used - FLOOR);
	assert_int_equal(squeeze_next_ms(&m->s, &m->c), 5000); /* it will not speak up */
	m->used += MIB(40);
	tick(m);
	assert_true(available(m) >= FLOOR * 3 / 2);
}

static void test_squeeze__a_kernel_without_psi_is_enough(void **state)
{
	struct sim *m = *state;

	m->r.flags = 0;
	m->r.psi_some_us = 1;
	live(m, 300);
	assert_int_equal(m->target, RAM - m->used - FLOOR);
	m->used += MIB(40);
	tick(m);
	assert_why(m, "cooling", "low-memory");
}

static void test_squeeze__at_the_floor_it_is_asked_seldom_if_it_speaks_up(void **state)
{
	struct sim *m = *state;

	assert_int_equal(squeeze_next_ms(&m->s, &m->c), 5000);
	rest(m);
	assert_int_equal(squeeze_next_ms(&m->s, &m->c), 20000);
}

static void test_squeeze__the_floor_is_the_larger_of_both(void **state)
{
	struct sim *m = *state;

	m->c.floor_percent = 50;
	live(m, 600);
	assert_int_equal(m->target, RAM / 2 - m->used);
	m->c.floor_mib = 1u << 20; /* beyond RAM: all of it */
	m->used += MIB(1);
	tick(m);
	assert_true(m->target == 0);
}

static void test_squeeze__counters_that_begin_anew_are_no_change(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	m->r.oom_kills = 5;
	m->r.psi_some_us = 1u << 30;
	m->r.cpu_busy_ms = 1u << 30;
	live(m, 60);
	at = m->target;
	assert_true(at > 0);
	m->r.oom_kills = 4;
	m->r.psi_some_us = m->r.psi_full_us = 0;
	m->r.cpu_busy_ms = 0;
	assert_int_equal(tick(m), at);
	assert_why(m, "watching", "first-report");
}

static void test_squeeze__any_counter_that_goes_back_is_another_boot(void **state)
{
	struct sim *m = *state;
	uint64_t *const counters[] = { &m->r.uptime_ms,	  &m->r.exec_count,  &m->r.swap_in_pages,
				       &m->r.oom_kills,	  &m->r.cpu_busy_ms, &m->r.cpu_idle_ms,
				       &m->r.psi_some_us, &m->r.psi_full_us };

	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		*counters[i] += 1u << 30;
	live(m, 60);
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		*counters[i] -= 1u << 20;
		tick(m);
		assert_why(m, "watching", "first-report");
		tick(m);
		assert_why(m, "watching", "not-idle-for-long");
	}
}

static void test_squeeze__a_fork_of_one_that_rests_goes_on_resting(void **state)
{
	struct sim *m = *state;
	uint64_t at;

	rest(m);
	at = m->target;
	squeeze_init(&m->s, m->now);
	live(m, 25);
	assert_int_equal(m->target, at);
	assert_why(m, "watching", "not-idle-for-long");
	live(m, 300);
	assert_why(m, "floor", "floor");
	assert_int_equal(m->target, at);
}

static void test_squeeze__reports_that_cannot_be_are_silence(void **state)
{
	struct sim *m = *state;

	live(m, 60);
	assert_true(m->target > 0);
	m->r.mem_total_bytes = 0;
	tick(m);
	assert_why(m, "blind", "silent");
	m->r.mem_total_bytes = MIB(1); /* less than is available */
	live(m, 60);
	assert_why(m, "blind", "silent-too-long");
	assert_int_equal(m->target, 0);
}

static uint64_t absurd(unsigned int *seed)
{
	static const uint64_t some[] = { 0, 1, UINT64_MAX, UINT64_MAX - 1, 1ull << 63, RAM };
	uint64_t r = (uint64_t)rand_r(seed);

	return r % 3 ? some[r % ARRAY_SIZE(some)] : r << (r % 40);
}

/* Whatever a guest says. */
static void test_squeeze__no_report_makes_a_target_beyond_ram_less_the_floor(void **state)
{
	struct sim *m = *state;
	unsigned int seed = 1;

	for (int i = 0; i < 300000; i++) {
		struct proto_report *r = &m->r;
		uint64_t *const words[] = { &r->uptime_ms,	 &r->exec_count,
					    &r->mem_total_bytes, &r->mem_available_bytes,
					    &r->swap_used_bytes, &r->swap_in_pages,
					    &r->oom_kills,	 &r->cpu_busy_ms,
					    &r->cpu_idle_ms,	 &r->psi_some_us,
					    &r->psi_full_us };
		struct squeeze_in in;

		/* half of the time all is well, so that there is something in it */
		if (i / 1000 % 2)
			*words[(size_t)rand_r(&seed) % ARRAY_SIZE(words)] = absurd(&seed);
		else
			r->mem_available_bytes = r->mem_total_bytes = UINT64_MAX;
		r->psi_some_x100 = i / 1000 % 2 ? (uint32_t)absurd(&seed) : 0;
		pass(m, 5 * NS_PER_SEC);
		in = (struct squeeze_in){ .now_ns = m->now,
					  .report = r,
					  .urgent = i % 97 == 0,
					  .driver = i % 1001 != 0,
					  .ram_bytes = RAM,
					  .target_bytes = m->target,
					  .actual_bytes =
						  i % 7 ? m->target : absurd(&seed) % (RAM + 1) };
		m->target = squeeze_tick(&m->s, &m->c, &in);
		assert_true(m->target <= RAM - FLOOR);
		assert_int_equal(m->target % 4096, 0);
	}
	assert_true(m->s.steps > 100 && m->s.gave_back > 100);
}

static void test_squeeze__the_defaults_are_within_their_limits(void **state)
{
	(void)state;
	for (size_t i = 0; i < SQUEEZE_LIMITS; i++) {
		const struct squeeze_limit *l = &squeeze_limits[i];
		uint32_t v;

		memcpy(&v, (const char *)&squeeze_defaults + l->offset, sizeof(v));
		assert_true(v >= l->min && v <= l->max);
		assert_int_equal(l->offset, i * sizeof(v)); /* each member once */
	}
	assert_int_equal(sizeof(struct squeeze_cfg), SQUEEZE_LIMITS * sizeof(uint32_t));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, up)
	const struct CMUnitTest tests[] = {
		T(test_squeeze__an_idle_guest_is_squeezed_in_steps_to_the_floor),
		T(test_squeeze__a_step_is_not_before_its_time),
		T(test_squeeze__a_guest_that_works_is_left_alone),
		T(test_squeeze__a_command_is_work),
		T(test_squeeze__work_gets_its_cushion_back_at_once),
		T(test_squeeze__between_floor_and_low_mark_nothing_moves),
		T(test_squeeze__low_memory_gives_back_to_the_high_mark),
		T(test_squeeze__next_to_no_memory_gives_all_back),
		T(test_squeeze__pressure_gives_more_each_time),
		T(test_squeeze__pressure_after_a_pause_is_the_first),
		T(test_squeeze__what_the_driver_will_take_is_counted_as_gone),
		T(test_squeeze__what_the_driver_will_give_is_counted_as_there),
		T(test_squeeze__pressure_is_not_what_was_counted_before_it_was_told),
		T(test_squeeze__pressure_below_the_threshold_takes_and_gives_nothing),
		T(test_squeeze__all_standing_still_gives_all_back),
		T(test_squeeze__a_guest_that_speaks_up_is_heard_at_once),
		T(test_squeeze__fading_pressure_neither_gives_nor_takes),
		T(test_squeeze__standing_still_for_the_balloon_itself_is_no_pressure),
		T(test_squeeze__a_guest_that_swaps_is_not_squeezed),
		T(test_squeeze__an_oom_kill_gives_all_back_and_is_remembered),
		T(test_squeeze__what_the_driver_took_before_the_oom_killer_is_not_fought_for),
		T(test_squeeze__a_driver_that_finds_no_more_is_not_asked_for_more),
		T(test_squeeze__pressure_stops_a_driver_that_still_inflates),
		T(test_squeeze__silence_holds_then_releases),
		T(test_squeeze__a_guest_without_agent_or_driver_is_not_squeezed),
		T(test_squeeze__an_agent_of_version_3_is_enough),
		T(test_squeeze__a_kernel_without_psi_is_enough),
		T(test_squeeze__at_the_floor_it_is_asked_seldom_if_it_speaks_up),
		T(test_squeeze__the_floor_is_the_larger_of_both),
		T(test_squeeze__counters_that_begin_anew_are_no_change),
		T(test_squeeze__any_counter_that_goes_back_is_another_boot),
		T(test_squeeze__a_fork_of_one_that_rests_goes_on_resting),
		T(test_squeeze__reports_that_cannot_be_are_silence),
		T(test_squeeze__no_report_makes_a_target_beyond_ram_less_the_floor),
		T(test_squeeze__the_defaults_are_within_their_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
