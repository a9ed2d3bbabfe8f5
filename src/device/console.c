/* SPDX-License-Identifier: MIT */
/*
 * Console: ring, clients, log. See console.h.
 *
 * Positions are counts of bytes since creation; a byte's place in the ring is its position modulo
 * the ring's size. The guest's bytes are collected here by vCPU threads and handed on by main,
 * which they wake at most once.
 */
#include "device/console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "base/util.h"
#include "event/fdtab.h"
#include "event/grants.h"
#include "event/loop.h"

/* A guest writes a byte an exit: main waits a little, rather than write each to file and sockets.
 */
#define GATHER_NS (2 * NS_PER_MS)
#define PUNCH_BYTES (1u << 20) /* the log is cut in steps of this */

struct client {
	struct console *c;
	int fd; /* -1: free */
	struct loop_io *io;
	uint64_t pos; /* of the next byte to send */
};

struct console {
	struct machine *m;
	void (*input)(void *arg);
	void *arg;

	int listen_fd, log_fd; /* -1: none */
	struct loop_io *listen_io;
	struct loop_timer *timer; /* until what is gathered is handed on */
	struct client clients[CONSOLE_CLIENTS_MAX];

	uint64_t put_pos;	     /* of the next byte from the guest */
	uint64_t log_pos;	     /* of the next byte to log */
	uint64_t log_start, log_end; /* offsets in the log file: punched up to, written up to */
	bool log_failed;
	bool posted; /* main was woken, or the timer runs, and nothing was flushed yet */

	uint32_t in_head, in_n; /* typed and not yet read by the guest */
	bool in_stopped;	/* clients are not read: input is full */
	uint8_t in[CONSOLE_INPUT_BYTES];
	uint8_t ring[CONSOLE_RING_BYTES];
};

/* The longest run of ring bytes from pos that lies in one piece. */
static const uint8_t *ring_at(const struct console *c, uint64_t pos, size_t *n)
{
	size_t at = (size_t)(pos % CONSOLE_RING_BYTES);

	*n = (size_t)MIN(c->put_pos - pos, (uint64_t)(CONSOLE_RING_BYTES - at));
	return c->ring + at;
}

static uint64_t ring_oldest(const struct console *c)
{
	return c->put_pos > CONSOLE_RING_BYTES ? c->put_pos - CONSOLE_RING_BYTES : 0;
}

static void log_trim(struct console *c)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

	if (c->log_end - c->log_start <= CONSOLE_LOG_BYTES)
		return;
	/* A step more than needed, so that this is done once a step. */
	c->log_start = ROUND_UP(c->log_end - CONSOLE_LOG_BYTES, PUNCH_BYTES);
	if (fallocate(c->log_fd, mode, 0, (off_t)c->log_start) == 0)
		return;
	/* No holes on this file system: begin again. */
	if (ftruncate(c->log_fd, 0) < 0)
		c->log_failed = true;
	c->log_start = c->log_end = 0;
}

static void log_flush(struct console *c)
{
	while (c->log_pos < c->put_pos && c->log_fd >= 0 && !c->log_failed) {
		size_t n;
		const uint8_t *p = ring_at(c, c->log_pos, &n);
		int r = fd_pwrite_full(c->log_fd, p, n, c->log_end);

		if (r) {
			log_warn("console log: %s; not logging any more", strerror(-r));
			c->log_failed = true;
			break;
		}
		c->log_pos += n;
		c->log_end += n;
		log_trim(c);
	}
	c->log_pos = c->put_pos;
}

static void client_close(struct client *k)
{
	loop_del_io(k->io);
	fdtab_del(k->c->m->fds, k->fd);
	close(k->fd);
	k->io = NULL;
	k->fd = -1;
}

static void client_watch(struct client *k)
{
	unsigned int events = k->c->in_stopped ? 0 : LOOP_READ;

	if (k->pos < k->c->put_pos)
		events |= LOOP_WRITE;
	loop_set_io(k->io, events);
}

static void client_send(struct client *k)
{
	struct console *c = k->c;

	k->pos = MAX(k->pos, ring_oldest(c));
	while (k->pos < c->put_pos) {
		size_t n;
		const uint8_t *p = ring_at(c, k->pos, &n);
		ssize_t r = send(k->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN)
			break;
		if (r < 0) {
			client_close(k);
			return;
		}
		k->pos += (uint64_t)r;
	}
	client_watch(k);
}

static void client_receive(struct client *k)
{
	struct console *c = k->c;
	uint8_t buf[CONSOLE_INPUT_BYTES];
	size_t room = sizeof(c->in) - c->in_n;
	ssize_t r = room ? recv(k->fd, buf, room, MSG_DONTWAIT) : -1;

	if (!room || (r < 0 && (errno == EINTR || errno == EAGAIN)))
		return;
	if (r <= 0) {
		client_close(k);
		return;
	}
	for (ssize_t i = 0; i < r; i++)
		c->in[(c->in_head + c->in_n++) % sizeof(c->in)] = buf[i];
	c->input(c->arg);
	if (c->in_n == sizeof(c->in)) {
		c->in_stopped = true;
		for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
			if (c->clients[i].fd >= 0)
				client_watch(&c->clients[i]);
	}
}

static void on_client(void *arg, int fd, unsigned int events)
{
	struct client *k = arg;

	(void)fd;
	if (events & LOOP_READ)
		client_receive(k);
	if ((events & LOOP_WRITE) && k->fd >= 0)
		client_send(k);
}

static void on_listen(void *arg, int lfd, unsigned int events)
{
	struct console *c = arg;
	struct client *k = NULL;
	int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	(void)events;
	if (fd < 0)
		return;
	for (size_t i = 0; i < CONSOLE_CLIENTS_MAX && !k; i++)
		if (c->clients[i].fd < 0)
			k = &c->clients[i];
	if (!k) {
		static const char full[] = "console: too many clients\r\n";

		(void)send(fd, full, sizeof(full) - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
		close(fd);
		return;
	}
	*k = (struct client){ .c = c, .fd = fd };
	fdtab_add(c->m->fds, fd, FD_CLOSE, "console client");
	k->io = loop_add_io(c->m->loop, fd, LOOP_READ, on_client, k);
	if (!k->io)
		client_close(k);
	else
		client_send(k);
}

void console_flush(struct console *c)
{
	log_flush(c);
	for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		if (c->clients[i].fd >= 0)
			client_send(&c->clients[i]);
}

static void on_gathered(void *arg)
{
	struct console *c = arg;

	c->posted = false;
	if (c->in_stopped && c->in_n < sizeof(c->in) / 2)
		c->in_stopped = false;
	console_flush(c);
}

static void on_post(void *arg)
{
	struct console *c = arg;

	loop_set_timer(c->timer, GATHER_NS);
}

static void wake(struct console *c)
{
	if (c->posted || !c->timer)
		return;
	c->posted = true;
	loop_post(c->m->loop, on_post, c);
}

void console_put(struct console *c, uint8_t byte)
{
	/* The log loses nothing: rather does the writer's thread wait for the file. */
	if (c->put_pos - c->log_pos == CONSOLE_RING_BYTES)
		log_flush(c);
	c->ring[c->put_pos++ % CONSOLE_RING_BYTES] = byte;
	wake(c);
}

bool console_typed(const struct console *c)
{
	return c->in_n > 0;
}

bool console_get(struct console *c, uint8_t *byte)
{
	if (!c->in_n)
		return false;
	*byte = c->in[c->in_head];
	c->in_head = (c->in_head + 1) % (uint32_t)sizeof(c->in);
	c->in_n--;
	if (c->in_stopped && c->in_n < sizeof(c->in) / 2)
		wake(c);
	return true;
}

int console_create(struct machine *m, void (*input)(void *arg), void *arg, struct console **out,
		   struct err *e)
{
	struct console *c = calloc(1, sizeof(*c));

	if (!c)
		return err_set(e, ENOMEM, "no memory for the console");
	c->m = m;
	c->input = input;
	c->arg = arg;
	c->listen_fd = c->log_fd = -1;
	for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		c->clients[i] = (struct client){ .c = c, .fd = -1 };
	*out = c;
	return 0;
}

static void close_fd(struct console *c, int *fd)
{
	if (*fd < 0)
		return;
	fdtab_del(c->m->fds, *fd);
	close(*fd);
	*fd = -1;
}

void console_destroy(struct console *c)
{
	if (!c)
		return;
	if (c->posted)
		loop_unpost(c->m->loop, c);
	loop_del_timer(c->timer);
	console_flush(c);
	for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		if (c->clients[i].fd >= 0)
			client_close(&c->clients[i]);
	loop_del_io(c->listen_io);
	close_fd(c, &c->listen_fd);
	close_fd(c, &c->log_fd);
	free(c);
}

static void forget(struct console *c, bool renew)
{
	c->listen_fd = c->log_fd = -1;
	c->listen_io = NULL;
	c->timer = NULL;
	c->posted = false;
	for (size_t i = 0; i < CONSOLE_CLIENTS_MAX; i++)
		c->clients[i] = (struct client){ .c = c, .fd = -1 };
	c->log_failed = false;
	c->log_start = c->log_end = 0;
	if (!renew)
		return;
	c->in_n = 0;
	c->in_stopped = false;
	c->put_pos = c->log_pos = 0;
}

int console_adopt(struct console *c, bool renew, struct err *e)
{
	struct stat st;

	forget(c, renew);
	c->timer = loop_add_timer(c->m->loop, on_gathered, c);
	if (!c->timer)
		return err_set(e, ENOMEM, "no memory for the console's timer");
	c->log_fd = grants_take(c->m->grants, "console-log", NULL);
	if (c->log_fd >= 0) {
		fdtab_set(c->m->fds, c->log_fd, FD_CLOSE);
		/* What an earlier life of this VM logged stays. */
		if (fstat(c->log_fd, &st) == 0)
			c->log_end = (uint64_t)st.st_size;
	}
	c->listen_fd = grants_take(c->m->grants, "console", NULL);
	if (c->listen_fd < 0) {
		c->listen_fd = -1;
		return 0;
	}
	fdtab_set(c->m->fds, c->listen_fd, FD_CLOSE);
	fd_set_nonblock(c->listen_fd, true);
	c->listen_io = loop_add_io(c->m->loop, c->listen_fd, LOOP_READ, on_listen, c);
	if (!c->listen_io)
		return err_set(e, ENOMEM, "no memory to watch the console socket");
	return 0;
}
