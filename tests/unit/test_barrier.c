/* SPDX-License-Identifier: MIT */
/*
 * The pause barrier: nobody saves while another still runs, everybody saves once in each pause,
 * also who slept through the end of the last one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "base/util.h"
#include "event/barrier.h"

#define PARTIES 4
#define ROUNDS 300
#define PAUSE_MS 60000

struct world {
	struct barrier *b;
	unsigned int running; /* parties that may still do something to others */
	unsigned int sent;    /* what they did */
	bool quit;
	bool hold; /* who is `held` does not park meanwhile */
};

struct party {
	struct barrier_party p;
	struct world *w;
	pthread_t tid;
	unsigned int slow_us;
	bool held;
	unsigned int saves, seen, ran_while_saving;
};

static struct party *of(struct barrier_party *p)
{
	return container_of(p, struct party, p);
}

static void kick(struct barrier_party *p)
{
	(void)p;
}

static void parking(struct barrier_party *p)
{
	struct party *me = of(p);

	while (me->held && __atomic_load_n(&me->w->hold, __ATOMIC_ACQUIRE))
		usleep(1000);
	if (me->slow_us)
		usleep(me->slow_us);
	__atomic_add_fetch(&me->w->sent, 1, __ATOMIC_SEQ_CST); /* the last that it does */
	__atomic_sub_fetch(&me->w->running, 1, __ATOMIC_SEQ_CST);
}

static void saving(struct barrier_party *p)
{
	struct party *me = of(p);

	me->saves++;
	me->ran_while_saving += __atomic_load_n(&me->w->running, __ATOMIC_SEQ_CST) != 0;
	me->seen = __atomic_load_n(&me->w->sent, __ATOMIC_SEQ_CST);
}

static void *thread(void *arg)
{
	struct party *me = arg;

	while (!__atomic_load_n(&me->w->quit, __ATOMIC_ACQUIRE)) {
		if (barrier_wanted(me->w->b)) {
			barrier_check(me->w->b, &me->p);
			__atomic_add_fetch(&me->w->running, 1, __ATOMIC_SEQ_CST);
		}
		sched_yield();
	}
	barrier_leave(me->w->b, &me->p);
	return NULL;
}

static void start(struct world *w, struct party *v, size_t n)
{
	struct err e;

	assert_int_equal(barrier_create(&w->b, &e), 0);
	w->running = (unsigned int)n;
	for (size_t i = 0; i < n; i++) {
		v[i].w = w;
		v[i].p = (struct barrier_party){ .kick = kick,
						 .parking = parking,
						 .saving = saving };
		barrier_join(w->b, &v[i].p);
		assert_int_equal(pthread_create(&v[i].tid, NULL, thread, &v[i]), 0);
	}
}

static void stop(struct world *w, struct party *v, size_t n)
{
	__atomic_store_n(&w->quit, true, __ATOMIC_RELEASE);
	for (size_t i = 0; i < n; i++)
		pthread_join(v[i].tid, NULL);
	barrier_destroy(w->b);
}

static void test_barrier__nobody_saves_while_another_runs(void **state)
{
	struct party v[PARTIES] = { { .slow_us = 20000 }, { .slow_us = 0 }, { .slow_us = 3000 } };
	struct world w = { 0 };
	struct err e;

	(void)state;
	start(&w, v, PARTIES);
	for (unsigned int round = 1; round <= 10; round++) {
		assert_int_equal(barrier_pause(w.b, PAUSE_MS, &e), 0);
		for (size_t i = 0; i < PARTIES; i++) {
			assert_int_equal(v[i].saves, round);
			assert_int_equal(v[i].ran_while_saving, 0);
			assert_int_equal(v[i].seen, w.sent);
		}
		barrier_resume(w.b);
		/* all go on before the next pause, or one would not have to park again */
		while (__atomic_load_n(&w.running, __ATOMIC_SEQ_CST) < PARTIES)
			usleep(100);
	}
	stop(&w, v, PARTIES);
}

/* Between two pauses in quick succession main does something that each must save. */
static void test_barrier__who_sleeps_through_the_end_of_a_pause_saves_again(void **state)
{
	struct party v[PARTIES] = { { .slow_us = 0 } };
	struct world w = { 0 };
	struct err e;

	(void)state;
	start(&w, v, PARTIES);
	for (unsigned int round = 1; round <= ROUNDS; round++) {
		__atomic_add_fetch(&w.sent, 1, __ATOMIC_SEQ_CST);
		assert_int_equal(barrier_pause(w.b, PAUSE_MS, &e), 0);
		for (size_t i = 0; i < PARTIES; i++) {
			assert_int_equal(v[i].saves, round);
			assert_int_equal(v[i].seen, w.sent);
		}
		/* a nested pause is the same one */
		assert_int_equal(barrier_pause(w.b, PAUSE_MS, &e), 0);
		barrier_resume(w.b);
		for (size_t i = 0; i < PARTIES; i++)
			assert_int_equal(v[i].saves, round);
		barrier_resume(w.b);
	}
	stop(&w, v, PARTIES);
}

static void test_barrier__a_pause_that_failed_leaves_nothing_paused(void **state)
{
	struct party v[2] = { { .slow_us = 300000, .held = true }, { .slow_us = 0 } };
	struct world w = { .hold = true };
	struct err e;

	(void)state;
	start(&w, v, ARRAY_SIZE(v));
	assert_int_equal(barrier_pause(w.b, 20, &e), -ETIMEDOUT);
	assert_false(barrier_wanted(w.b));
	__atomic_store_n(&w.hold, false, __ATOMIC_RELEASE);
	assert_int_equal(barrier_pause(w.b, PAUSE_MS, &e), 0);
	assert_int_equal(v[0].saves, 1);
	assert_int_equal(v[1].ran_while_saving, 0);
	assert_int_equal(v[1].seen, w.sent);
	barrier_resume(w.b);
	stop(&w, v, ARRAY_SIZE(v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_barrier__nobody_saves_while_another_runs),
		cmocka_unit_test(test_barrier__who_sleeps_through_the_end_of_a_pause_saves_again),
		cmocka_unit_test(test_barrier__a_pause_that_failed_leaves_nothing_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
