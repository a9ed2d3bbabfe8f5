/* SPDX-License-Identifier: MIT */
/*
 * The agent's event loop: file descriptors (epoll), timers and child processes (signalfd) of a
 * program with one thread. Objects embed a watch, a timer or a child and find themselves again with
 * container_of. Whatever embeds a watch is freed with loop_bury, because the batch of events being
 * worked on may still name it.
 */
#ifndef CLONE_AGENT_LOOP_H
#define CLONE_AGENT_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

struct watch {
	int fd; /* -1: none */
	bool on;
	uint32_t events;
	void (*fn)(struct watch *w, uint32_t events);
};

struct timer {
	uint64_t at_ms; /* 0: not set */
	void (*fn)(struct timer *t);
	struct timer *next, **link;
};

struct child {
	pid_t pid;				 /* 0: none */
	void (*ending)(struct child *c);	 /* has ended, pid still reserved; may be NULL */
	void (*fn)(struct child *c, int status); /* reaped; status as from waitpid */
	struct child *next, **link;
};

struct grave {
	void (*fn)(struct grave *g); /* NULL: free(3) of the grave itself */
	struct grave *next;
};

struct loop {
	int ep;
	struct watch signals;
	struct timer *timers;
	struct child *children;
	struct grave *graves;
	bool stop;
};

/* Monotonic milliseconds, never 0. */
uint64_t loop_now_ms(void);

/* Blocks SIGCHLD and SIGTERM for good (SIGTERM ends the loop). Returns 0 or -errno. */
int loop_init(struct loop *l);
/* Runs until `stop` is set. Returns 0 or -errno. */
int loop_run(struct loop *l);

/* Watches w->fd for `events`; 0 still reports errors and hang-ups. Returns 0 or -errno. */
int loop_watch(struct loop *l, struct watch *w, uint32_t events);
/* No event arrives any more. */
void loop_unwatch(struct loop *l, struct watch *w);
/* The same, and closes the descriptor, if there is one. */
void loop_close(struct loop *l, struct watch *w);

/* (Re)starts a timer whose fn is set; it fires once. */
void loop_timer(struct loop *l, struct timer *t, uint64_t delay_ms);
void loop_timer_off(struct timer *t);

/* Tells `c` (pid and fn set) when its process ends. */
void loop_child(struct loop *l, struct child *c);
/* Forgets it: the process will be reaped all the same. */
void loop_child_off(struct child *c);

/* Frees what `g` is the first member of, with g->fn, after this batch of events. */
void loop_bury(struct loop *l, struct grave *g);

#endif
