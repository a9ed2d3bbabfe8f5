/* SPDX-License-Identifier: MIT */
/*
 * Outputs nobody listens to any more: those of a command whose client has gone, and those that a
 * process left behind by a command keeps open. They are read to the end and dropped, because a
 * writer must neither block for ever nor die of SIGPIPE. Called by sessions on the agent's thread.
 */
#include "agent.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

struct drain {
	struct grave grave;
	struct agent *agent;
	struct watch watch;
};

static void on_output(struct watch *w, uint32_t events)
{
	struct drain *d = container_of(w, struct drain, watch);
	ssize_t n = read(w->fd, d->agent->scratch, sizeof(d->agent->scratch));

	(void)events;
	if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
		return;
	loop_close(&d->agent->loop, w);
	d->agent->drains--;
	loop_bury(&d->agent->loop, &d->grave);
}

void drain_open(struct agent *a, int fd)
{
	struct drain *d = a->drains < AGENT_MAX_DRAINS ? calloc(1, sizeof(*d)) : NULL;

	if (!d) {
		close(fd);
		return;
	}
	d->agent = a;
	d->watch = (struct watch){ .fd = fd, .fn = on_output };
	if (loop_watch(&a->loop, &d->watch, EPOLLIN)) {
		close(fd);
		free(d);
		return;
	}
	a->drains++;
}
