/* SPDX-License-Identifier: MIT */
/*
 * The event loop of a VM process: a thin cover over libevent, so that its users need not know
 * what fork(2) does to an epoll set. A child never touches its parent's loop: it builds a new one
 * and every device registers again in adopt(); the parent's loop objects are simply forgotten
 * (copy-on-write memory that nobody writes), their descriptors closed by the fd table.
 *
 * All calls are main's, except loop_post. Callbacks run on main with the device lock held.
 */
#ifndef CLONE_EVENT_LOOP_H
#define CLONE_EVENT_LOOP_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct loop;
struct loop_io;
struct loop_timer;
struct event_base;

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

typedef void (*loop_io_fn)(void *arg, int fd, unsigned int events);
typedef void (*loop_fn)(void *arg);

/* `lock` is taken around every callback; it stays the caller's. */
int loop_create(pthread_mutex_t *lock, struct loop **out, struct err *e);
void loop_destroy(struct loop *l);
/* Runs until loop_stop. */
int loop_run(struct loop *l, struct err *e);
void loop_stop(struct loop *l);

/* Watches fd (stays the caller's) level-triggered for `events`; starts enabled. NULL: no memory.
 * (What loop_set_io and loop_set_timer need is so little that a process that cannot have it ends:
 * BUG.) */
struct loop_io *loop_add_io(struct loop *l, int fd, unsigned int events, loop_io_fn fn, void *arg);
/* Changes what is watched; 0 watches nothing. */
void loop_set_io(struct loop_io *io, unsigned int events);
void loop_del_io(struct loop_io *io); /* NULL is fine */

/* One-shot timers, unarmed at first; ns from now; 0 disarms. */
struct loop_timer *loop_add_timer(struct loop *l, loop_fn fn, void *arg);
void loop_set_timer(struct loop_timer *t, uint64_t ns);
void loop_del_timer(struct loop_timer *t);

/* Runs fn on main soon, once per call order: from any thread. A bounded queue, BUG when full
 * beyond 1024 (a vCPU that posts must post at most one of its kind). */
void loop_post(struct loop *l, loop_fn fn, void *arg);
/* Drops what was posted with this arg: before arg is freed. Main. */
void loop_unpost(struct loop *l, const void *arg);

/* For evhttp only. */
struct event_base *loop_base(struct loop *l);

#endif
