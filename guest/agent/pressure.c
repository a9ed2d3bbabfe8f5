/* SPDX-License-Identifier: MIT */
/*
 * Tells the host when the guest is short of memory: it may have taken too much, and would hear of
 * it only when it asks next. The kernel watches (a PSI trigger, which costs nothing while nobody
 * stands still) and wakes us; a REPORT goes to where the host hears READY. Where the kernel does
 * not account pressure the host has only its questions. Event handlers of the agent's thread.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent.h"

#define STALL_US 100000u /* so long some task must stand still within the window ... */

struct pressure {
	struct agent *agent;
	struct watch psi, host;
};

/* Connected, or refused because nobody cares. */
static void on_connected(struct watch *w, uint32_t events)
{
	struct pressure *p = container_of(w, struct pressure, host);
	struct proto_report r = { 0 };
	uint8_t frame[PROTO_SMALL_FRAME];
	size_t n;

	if (!(events & (EPOLLERR | EPOLLHUP))) {
		activity_report(p->agent, &r);
		n = proto_put_report(frame, sizeof(frame), &r);
		/* it does not matter if it gets lost: there will be more, or none is needed */
		(void)!send(w->fd, frame, n, MSG_NOSIGNAL);
	}
	loop_close(&p->agent->loop, w);
	w->fd = -1;
}

/* The kernel says so at most once in a window. */
static void on_pressure(struct watch *w, uint32_t events)
{
	struct pressure *p = container_of(w, struct pressure, psi);

	if (events & EPOLLERR) { /* the kernel has given up the trigger */
		loop_close(&p->agent->loop, w);
		return;
	}
	if (p->host.fd >= 0)
		return;
	p->host.fd = listen_dial_host(p->agent);
	if (p->host.fd >= 0 && loop_watch(&p->agent->loop, &p->host, EPOLLOUT)) {
		close(p->host.fd);
		p->host.fd = -1;
	}
}

void pressure_open(struct agent *a)
{
	struct pressure *p = calloc(1, sizeof(*p)); /* lives as long as the agent */
	char trigger[64];
	int fd = open("/proc/pressure/memory", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	size_t n;

	n = (size_t)snprintf(trigger, sizeof(trigger), "some %u %u", STALL_US,
			     PROTO_PRESSURE_MS * 1000u);
	if (!p || fd < 0 || write(fd, trigger, n + 1) < 0) {
		if (fd >= 0)
			close(fd);
		free(p);
		return;
	}
	p->agent = a;
	p->psi = (struct watch){ .fd = fd, .fn = on_pressure };
	p->host = (struct watch){ .fd = -1, .fn = on_connected };
	if (loop_watch(&a->loop, &p->psi, EPOLLPRI)) {
		close(fd);
		free(p);
	}
}
