/* SPDX-License-Identifier: MIT */
/*
 * The event loop over libevent. Every callback takes the device lock, so that device code runs the
 * same whether a vCPU's exit or the loop called it. See loop.h for what happens at a fork.
 */
#include "event/loop.h"

#include <errno.h>
#include <event2/event.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/util.h"

#define POST_MAX 1024

struct post {
	loop_fn fn;
	void *arg;
};

struct loop {
	struct event_base *base;
	pthread_mutex_t *lock;
	int wake_fd;
	struct event *wake;
	bool stop;
	pthread_mutex_t post_lock;
	struct post *posts; /* POST_MAX */
	unsigned int nr_posts;
};

struct loop_io {
	struct loop *loop;
	struct event *ev;
	int fd;
	unsigned int events; /* as loop_set_io was told last */
	loop_io_fn fn;
	void *arg;
};

struct loop_timer {
	struct loop *loop;
	struct event *ev;
	loop_fn fn;
	void *arg;
};

/* Takes the oldest post; false when there is none. */
static bool take_post(struct loop *l, struct post *out)
{
	bool any;

	pthread_mutex_lock(&l->post_lock);
	any = l->nr_posts;
	if (any) {
		*out = l->posts[0];
		l->nr_posts--;
		memmove(l->posts, l->posts + 1, l->nr_posts * sizeof(l->posts[0]));
	}
	pthread_mutex_unlock(&l->post_lock);
	return any;
}

/* Those that were there at the start, so that one that posts itself again does not keep main. */
static void run_posts(struct loop *l)
{
	struct post p;
	unsigned int n;

	pthread_mutex_lock(&l->post_lock);
	n = l->nr_posts;
	pthread_mutex_unlock(&l->post_lock);
	while (n-- && take_post(l, &p))
		p.fn(p.arg);
}

static void on_wake(evutil_socket_t fd, short what, void *arg)
{
	struct loop *l = arg;
	uint64_t v;
	ssize_t r = read(fd, &v, sizeof(v));

	(void)what;
	(void)r; /* only empties the counter */
	pthread_mutex_lock(l->lock);
	run_posts(l);
	pthread_mutex_unlock(l->lock);
}

int loop_create(pthread_mutex_t *lock, struct loop **out, struct err *e)
{
	struct event_config *cfg = event_config_new();
	struct loop *l = calloc(1, sizeof(*l));

	/* not cleared: what is never used costs a fork nothing */
	if (l)
		l->posts = malloc(POST_MAX * sizeof(*l->posts));
	if (!cfg || !l || !l->posts)
		goto nomem;
	event_config_set_flag(cfg, EVENT_BASE_FLAG_NOLOCK | EVENT_BASE_FLAG_PRECISE_TIMER |
					   EVENT_BASE_FLAG_IGNORE_ENV);
	l->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->wake_fd < 0) {
		int err = errno;

		event_config_free(cfg);
		free(l->posts);
		free(l);
		return err_sys(e, err, "event loop: eventfd");
	}
	l->lock = lock;
	pthread_mutex_init(&l->post_lock, NULL);
	l->base = event_base_new_with_config(cfg);
	if (l->base)
		l->wake = event_new(l->base, l->wake_fd, EV_READ | EV_PERSIST, on_wake, l);
	event_config_free(cfg);
	cfg = NULL;
	if (!l->wake || event_add(l->wake, NULL) < 0) {
		loop_destroy(l);
		return err_set(e, ENOMEM, "event loop: cannot be created");
	}
	*out = l;
	return 0;
nomem:
	if (cfg)
		event_config_free(cfg);
	if (l)
		free(l->posts);
	free(l);
	return err_set(e, ENOMEM, "event loop: out of memory");
}

void loop_destroy(struct loop *l)
{
	if (!l)
		return;
	if (l->wake)
		event_free(l->wake);
	if (l->base)
		event_base_free(l->base);
	close(l->wake_fd);
	pthread_mutex_destroy(&l->post_lock);
	free(l->posts);
	free(l);
}

int loop_run(struct loop *l, struct err *e)
{
	while (!l->stop) {
		if (event_base_loop(l->base, EVLOOP_ONCE) < 0)
			return err_set(e, EIO, "event loop: event_base_loop failed");
	}
	return 0;
}

void loop_stop(struct loop *l)
{
	l->stop = true;
	event_base_loopbreak(l->base);
}

static void on_io(evutil_socket_t fd, short what, void *arg)
{
	struct loop_io *io = arg;
	/* fn may delete io (and with it the last use of it): copy what is needed afterwards */
	pthread_mutex_t *lock = io->loop->lock;
	unsigned int ev = 0;

	if (what & EV_READ)
		ev |= LOOP_READ;
	if (what & EV_WRITE)
		ev |= LOOP_WRITE;
	pthread_mutex_lock(lock);
	io->fn(io->arg, fd, ev);
	pthread_mutex_unlock(lock);
}

/* 0, or -1 when there is no memory (here or in the kernel's epoll set). */
static int watch(struct loop_io *io, unsigned int events)
{
	short what = EV_PERSIST;

	if (events == io->events)
		return 0;
	io->events = events;
	if (events & LOOP_READ)
		what |= EV_READ;
	if (events & LOOP_WRITE)
		what |= EV_WRITE;
	event_del(io->ev);
	if (!events)
		return 0;
	event_assign(io->ev, io->loop->base, io->fd, what, on_io, io);
	return event_add(io->ev, NULL);
}

void loop_set_io(struct loop_io *io, unsigned int events)
{
	/* a few bytes of the kernel's: without them whoever waits for this would wait for ever */
	BUG_ON(watch(io, events));
}

struct loop_io *loop_add_io(struct loop *l, int fd, unsigned int events, loop_io_fn fn, void *arg)
{
	struct loop_io *io = calloc(1, sizeof(*io));

	if (!io)
		return NULL;
	*io = (struct loop_io){ .loop = l, .fd = fd, .fn = fn, .arg = arg };
	io->ev = event_new(l->base, fd, EV_READ | EV_PERSIST, on_io, io);
	if (!io->ev) {
		free(io);
		return NULL;
	}
	if (watch(io, events)) {
		loop_del_io(io);
		return NULL;
	}
	return io;
}

void loop_del_io(struct loop_io *io)
{
	if (!io)
		return;
	event_free(io->ev);
	free(io);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct loop_timer *t = arg;
	pthread_mutex_t *lock = t->loop->lock;

	(void)fd;
	(void)what;
	pthread_mutex_lock(lock);
	t->fn(t->arg);
	pthread_mutex_unlock(lock);
}

struct loop_timer *loop_add_timer(struct loop *l, loop_fn fn, void *arg)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	*t = (struct loop_timer){ .loop = l, .fn = fn, .arg = arg };
	t->ev = event_new(l->base, -1, 0, on_timer, t);
	if (!t->ev) {
		free(t);
		return NULL;
	}
	return t;
}

void loop_set_timer(struct loop_timer *t, uint64_t ns)
{
	struct timeval tv = { .tv_sec = (time_t)(ns / 1000000000u),
			      .tv_usec = (suseconds_t)(ns % 1000000000u / 1000u) };

	event_del(t->ev);
	/* a few bytes: a timer that silently never comes is worse than an end */
	BUG_ON(ns && event_add(t->ev, &tv));
}

void loop_del_timer(struct loop_timer *t)
{
	if (!t)
		return;
	event_free(t->ev);
	free(t);
}

void loop_post(struct loop *l, loop_fn fn, void *arg)
{
	uint64_t one = 1;
	ssize_t r;

	pthread_mutex_lock(&l->post_lock);
	BUG_ON(l->nr_posts == POST_MAX);
	l->posts[l->nr_posts++] = (struct post){ fn, arg };
	pthread_mutex_unlock(&l->post_lock);
	r = write(l->wake_fd, &one, sizeof(one));
	(void)r; /* EAGAIN means that a wake is pending already */
}

void loop_unpost(struct loop *l, const void *arg)
{
	unsigned int n = 0;

	pthread_mutex_lock(&l->post_lock);
	for (unsigned int i = 0; i < l->nr_posts; i++)
		if (l->posts[i].arg != arg)
			l->posts[n++] = l->posts[i];
	l->nr_posts = n;
	pthread_mutex_unlock(&l->post_lock);
}

struct event_base *loop_base(struct loop *l)
{
	return l->base;
}
