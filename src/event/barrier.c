/* SPDX-License-Identifier: MIT */
/*
 * The pause barrier: a mutex, two condition variables and counts. A party that sleeps through the
 * end of a pause and the beginning of the next saves again: others have run in between. See
 * barrier.h.
 */
#include "event/barrier.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/util.h"

struct barrier {
	pthread_mutex_t lock;
	pthread_cond_t all_parked; /* main waits */
	pthread_cond_t go_on;	   /* parties wait: to save, then for the end */
	struct barrier_party *parties;
	unsigned int members, parked;
	unsigned int paused; /* how many pauses nest; read without the lock by barrier_wanted */
	unsigned long pause; /* which one it is; nested ones are the same */
};

static void init_sync(struct barrier *b)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->all_parked, &attr);
	pthread_cond_init(&b->go_on, NULL);
	pthread_condattr_destroy(&attr);
}

int barrier_create(struct barrier **out, struct err *e)
{
	struct barrier *b = calloc(1, sizeof(*b));

	if (!b)
		return err_set(e, ENOMEM, "pause barrier: out of memory");
	init_sync(b);
	*out = b;
	return 0;
}

void barrier_destroy(struct barrier *b)
{
	if (!b)
		return;
	BUG_ON(b->members);
	pthread_mutex_destroy(&b->lock);
	pthread_cond_destroy(&b->all_parked);
	pthread_cond_destroy(&b->go_on);
	free(b);
}

/* Somebody has parked, saved or left. */
static void come_closer(struct barrier *b)
{
	if (b->parked < b->members)
		return;
	pthread_cond_broadcast(&b->go_on);
	pthread_cond_signal(&b->all_parked);
}

static unsigned int missing(const struct barrier *b)
{
	unsigned int n = 0;

	for (const struct barrier_party *p = b->parties; p; p = p->next)
		n += !p->parked || p->saved != b->pause;
	return n;
}

void barrier_join(struct barrier *b, struct barrier_party *p)
{
	pthread_mutex_lock(&b->lock);
	BUG_ON(p->member);
	p->member = true;
	p->parked = false;
	p->saved = 0;
	p->next = b->parties;
	b->parties = p;
	b->members++;
	pthread_mutex_unlock(&b->lock);
}

void barrier_leave(struct barrier *b, struct barrier_party *p)
{
	pthread_mutex_lock(&b->lock);
	BUG_ON(!p->member || p->parked);
	for (struct barrier_party **pp = &b->parties; *pp; pp = &(*pp)->next) {
		if (*pp == p) {
			*pp = p->next;
			break;
		}
	}
	p->member = false;
	b->members--;
	come_closer(b);
	pthread_mutex_unlock(&b->lock);
}

bool barrier_wanted(struct barrier *b)
{
	return __atomic_load_n(&b->paused, __ATOMIC_ACQUIRE) != 0;
}

void barrier_check(struct barrier *b, struct barrier_party *p)
{
	if (!barrier_wanted(b))
		return;
	p->parking(p);
	pthread_mutex_lock(&b->lock);
	if (b->paused) {
		p->parked = true;
		if (++b->parked == b->members)
			come_closer(b);
		while (b->paused) {
			unsigned long pause = b->pause;

			if (p->saved == pause || b->parked < b->members) {
				pthread_cond_wait(&b->go_on, &b->lock);
				continue;
			}
			pthread_mutex_unlock(&b->lock);
			p->saving(p);
			pthread_mutex_lock(&b->lock);
			p->saved = pause;
			if (!missing(b))
				pthread_cond_signal(&b->all_parked);
		}
		p->parked = false;
		b->parked--;
	}
	pthread_mutex_unlock(&b->lock);
}

int barrier_pause(struct barrier *b, int timeout_ms, struct err *e)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += timeout_ms / 1000;
	until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_nsec -= 1000000000;
		until.tv_sec++;
	}
	pthread_mutex_lock(&b->lock);
	if (!b->paused)
		b->pause++;
	__atomic_store_n(&b->paused, b->paused + 1, __ATOMIC_RELEASE);
	for (struct barrier_party *p = b->parties; p; p = p->next)
		if (!p->parked)
			p->kick(p);
	come_closer(b); /* those that have not noticed the last pause's end */
	while (missing(b) && !ret)
		ret = pthread_cond_timedwait(&b->all_parked, &b->lock, &until);
	if (!missing(b))
		ret = 0;
	if (ret) {
		ret = err_set(e, ETIMEDOUT, "pause: %u of %u threads did not stop within %d ms",
			      missing(b), b->members, timeout_ms);
		__atomic_store_n(&b->paused, b->paused - 1, __ATOMIC_RELEASE);
		pthread_cond_broadcast(&b->go_on);
	}
	pthread_mutex_unlock(&b->lock);
	return ret;
}

void barrier_resume(struct barrier *b)
{
	bool last;

	pthread_mutex_lock(&b->lock);
	BUG_ON(!b->paused);
	__atomic_store_n(&b->paused, b->paused - 1, __ATOMIC_RELEASE);
	last = !b->paused;
	pthread_mutex_unlock(&b->lock);
	if (last)
		pthread_cond_broadcast(&b->go_on); /* after: they need the lock as they wake */
}

void barrier_release(struct barrier *b)
{
	pthread_mutex_lock(&b->lock);
	__atomic_store_n(&b->paused, 0, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&b->go_on);
	pthread_mutex_unlock(&b->lock);
}

void barrier_child(struct barrier *b)
{
	init_sync(b);
	b->pause++;
	b->parties = NULL;
	b->members = 0;
	b->parked = 0;
	b->paused = 1;
}
