/* SPDX-License-Identifier: MIT */
/*
 * The pause barrier: every thread but main parks at a known point, holding nothing. Only then may
 * main fork(2), save or change what those threads use.
 *
 * A party must not hold the device lock when it parks, and main must not hold it in
 * barrier_pause.
 */
#ifndef CLONE_EVENT_BARRIER_H
#define CLONE_EVENT_BARRIER_H

#include <pthread.h>
#include <stdbool.h>

#include "base/err.h"

struct barrier;

struct barrier_party {
	/* Makes the thread come to barrier_check soon, even out of a blocking call. Main thread. */
	void (*kick)(struct barrier_party *p);
	/* On the party's own thread just before it parks: finish what is half done. */
	void (*parking)(struct barrier_party *p);
	/* On the party's own thread, once in each pause, when all have parked: save what only this
	 * thread may read. Earlier another party could still change it (a vCPU that runs sends
	 * interrupts to one that does not). */
	void (*saving)(struct barrier_party *p);
	struct barrier_party *next; /* the barrier's */
	bool parked, member;
	unsigned long saved; /* in which pause */
};

int barrier_create(struct barrier **out, struct err *e);
void barrier_destroy(struct barrier *b);
/* A new thread joins (on its own thread or before it starts) and leaves before it ends. */
void barrier_join(struct barrier *b, struct barrier_party *p);
void barrier_leave(struct barrier *b, struct barrier_party *p);
/* true when a pause is asked for: a cheap check for the party's hot path. */
bool barrier_wanted(struct barrier *b);
/* On the party's thread: parks while a pause lasts. */
void barrier_check(struct barrier *b, struct barrier_party *p);
/* Main: stops all parties and returns when each is parked and has saved. -ETIMEDOUT (nothing stays
 * paused) names how many did not come. Nests: a second pause counts. */
int barrier_pause(struct barrier *b, int timeout_ms, struct err *e);
void barrier_resume(struct barrier *b);
/* Ends all pauses. */
void barrier_release(struct barrier *b);
/* In a fork's child: there are no parties any more and the locks are fresh; still paused, once. */
void barrier_child(struct barrier *b);

#endif
