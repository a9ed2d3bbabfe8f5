/* SPDX-License-Identifier: MIT */
/*
 * Data goes straight to the command as long as it takes it; only what is left over is buffered.
 */
#include "input.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <termios.h>
#include <unistd.h>

#include "../proto.h"

/* The command has closed its stdin: what comes is accepted and dropped. */
static void broken(struct input *in)
{
	loop_close(in->loop, &in->watch);
	in->taken += in->len;
	in->len = in->at = 0;
}

/* Returns how much went, 0 if nothing goes now; on an error the input is broken and all went. */
static size_t push(struct input *in, const uint8_t *p, size_t n)
{
	size_t done = 0;

	while (in->watch.fd >= 0 && done < n) {
		ssize_t r = write(in->watch.fd, p + done, n - done);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0 && (r == 0 || errno == EAGAIN))
			break;
		if (r < 0) {
			broken(in);
			return n;
		}
		done += (size_t)r;
		in->mid_line = p[done - 1] != '\n';
	}
	return in->watch.fd < 0 ? n : done;
}

/*
 * A pipe is closed; a terminal is typed its end-of-file character, twice in the middle of a line,
 * where the first only ends the line. False if that has to wait.
 */
static bool finish(struct input *in)
{
	struct termios t;
	uint8_t eof[2];
	size_t n = in->mid_line ? 2 : 1;

	if (in->watch.fd < 0)
		return true;
	if (in->tty && !tcgetattr(in->watch.fd, &t)) {
		eof[0] = eof[1] = t.c_cc[VEOF];
		if (write(in->watch.fd, eof, n) < 0 && errno == EAGAIN)
			return false;
	}
	loop_close(in->loop, &in->watch);
	return true;
}

static void update(struct input *in)
{
	bool waiting = in->len;

	if (!in->len && in->ended)
		waiting = !finish(in);
	if (!in->len) {
		free(in->buf);
		in->buf = NULL;
	}
	/* A terminal's master says hang-up as long as no slave is open: look only when needed. */
	if (in->watch.fd >= 0 && waiting)
		loop_watch(in->loop, &in->watch, EPOLLOUT);
	else if (in->watch.fd >= 0 && !in->tty)
		loop_watch(in->loop, &in->watch, 0);
	else
		loop_unwatch(in->loop, &in->watch);
}

static void on_event(struct watch *w, uint32_t events)
{
	struct input *in = container_of(w, struct input, watch);
	size_t n;

	if (in->len) {
		n = push(in, in->buf + in->at, in->len);
		if (in->watch.fd >= 0) {
			in->at += n;
			in->len -= n;
			in->taken += n;
		}
	}
	if (in->watch.fd >= 0 && (events & (EPOLLERR | EPOLLHUP)))
		broken(in);
	update(in);
	in->fn(in);
}

void input_init(struct input *in, struct loop *loop, int fd, bool tty, void (*fn)(struct input *in))
{
	*in = (struct input){ .loop = loop, .tty = tty, .fn = fn };
	in->watch = (struct watch){ .fd = fd, .fn = on_event };
	update(in);
}

bool input_put(struct input *in, const void *data, size_t n)
{
	size_t done = 0;

	if (n > PROTO_STDIN_WINDOW - in->len)
		return false;
	if (!in->len)
		done = push(in, data, n);
	in->taken += done;
	if (done < n && !in->buf)
		in->buf = malloc(PROTO_STDIN_WINDOW);
	if (done < n && !in->buf) {
		/* Without memory the rest cannot be kept: better end of file than a hole. */
		in->taken += n - done;
		broken(in);
	} else if (done < n) {
		if (in->len)
			memmove(in->buf, in->buf + in->at, in->len);
		in->at = 0;
		memcpy(in->buf + in->len, (const uint8_t *)data + done, n - done);
		in->len += n - done;
	}
	update(in);
	return true;
}

void input_end(struct input *in)
{
	in->ended = true;
	update(in);
}

void input_close(struct input *in)
{
	loop_close(in->loop, &in->watch);
	in->len = in->at = 0;
}

void input_fini(struct input *in)
{
	free(in->buf);
}
