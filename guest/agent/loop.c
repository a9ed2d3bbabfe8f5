/* SPDX-License-Identifier: MIT */
/*
 * The agent's event loop. Timers are a plain list that is searched on each turn: there are a few
 * per connection, and connections are few.
 */
#include "loop.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t loop_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000 + 1;
}

int loop_watch(struct loop *l, struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (w->on && w->events == events)
		return 0;
	if (epoll_ctl(l->ep, w->on ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, w->fd, &ev))
		return -errno;
	w->on = true;
	w->events = events;
	return 0;
}

void loop_unwatch(struct loop *l, struct watch *w)
{
	struct epoll_event ev = { 0 };

	if (w->on)
		epoll_ctl(l->ep, EPOLL_CTL_DEL, w->fd, &ev);
	w->on = false;
}

void loop_close(struct loop *l, struct watch *w)
{
	loop_unwatch(l, w);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = -1;
}

void loop_timer_off(struct timer *t)
{
	if (!t->at_ms)
		return;
	*t->link = t->next;
	if (t->next)
		t->next->link = t->link;
	t->at_ms = 0;
}

void loop_timer(struct loop *l, struct timer *t, uint64_t delay_ms)
{
	uint64_t now = loop_now_ms();

	loop_timer_off(t);
	t->at_ms = delay_ms > UINT64_MAX - now ? UINT64_MAX : now + delay_ms;
	t->next = l->timers;
	t->link = &l->timers;
	if (t->next)
		t->next->link = &t->next;
	l->timers = t;
}

void loop_child_off(struct child *c)
{
	if (!c->pid)
		return;
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	c->pid = 0;
}

void loop_child(struct loop *l, struct child *c)
{
	c->next = l->children;
	c->link = &l->children;
	if (c->next)
		c->next->link = &c->next;
	l->children = c;
}

void loop_bury(struct loop *l, struct grave *g)
{
	g->next = l->graves;
	l->graves = g;
}

static struct child *child_find(struct loop *l, pid_t pid)
{
	struct child *c = l->children;

	while (c && c->pid != pid)
		c = c->next;
	return c;
}

/*
 * First WNOWAIT: as long as the process is not reaped its number, and that of its process group,
 * cannot be anybody else's, so that `ending` may still signal the group.
 */
static void reap(struct loop *l)
{
	for (;;) {
		siginfo_t si = { 0 };
		struct child *c;
		int status = 0;

		if (waitid(P_ALL, 0, &si, WEXITED | WNOHANG | WNOWAIT) || !si.si_pid)
			return;
		c = child_find(l, si.si_pid);
		if (c && c->ending)
			c->ending(c);
		waitpid(si.si_pid, &status, 0);
		c = child_find(l, si.si_pid);
		if (!c)
			continue;
		loop_child_off(c);
		c->fn(c, status);
	}
}

static void on_signal(struct watch *w, uint32_t events)
{
	struct loop *l = container_of(w, struct loop, signals);
	struct signalfd_siginfo si;

	(void)events;
	while (read(w->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_signo == SIGTERM)
			l->stop = true;
	}
	reap(l);
}

int loop_init(struct loop *l)
{
	sigset_t set;

	*l = (struct loop){ .ep = epoll_create1(EPOLL_CLOEXEC), .signals = { .fd = -1 } };
	if (l->ep < 0)
		return -errno;
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	l->signals.fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (l->signals.fd < 0)
		return -errno;
	l->signals.fn = on_signal;
	return loop_watch(l, &l->signals, EPOLLIN);
}

/* Runs what is due; returns the time to the next one for epoll_wait. */
static int timers_run(struct loop *l)
{
	for (;;) {
		uint64_t now = loop_now_ms();
		struct timer *first = NULL;

		for (struct timer *t = l->timers; t; t = t->next)
			if (!first || t->at_ms < first->at_ms)
				first = t;
		if (!first)
			return -1;
		if (first->at_ms > now)
			return first->at_ms - now > INT_MAX ? INT_MAX : (int)(first->at_ms - now);
		loop_timer_off(first);
		first->fn(first);
	}
}

static void bury_all(struct loop *l)
{
	while (l->graves) {
		struct grave *g = l->graves;

		l->graves = g->next;
		if (g->fn)
			g->fn(g);
		else
			free(g);
	}
}

int loop_run(struct loop *l)
{
	struct epoll_event ev[64];

	while (!l->stop) {
		int wait_ms = timers_run(l), n;

		bury_all(l);
		n = epoll_wait(l->ep, ev, sizeof(ev) / sizeof(ev[0]), wait_ms);
		if (n < 0 && errno != EINTR)
			return -errno;
		for (int i = 0; i < n; i++) {
			struct watch *w = ev[i].data.ptr;

			if (w->on)
				w->fn(w, ev[i].events);
		}
		bury_all(l);
	}
	return 0;
}
