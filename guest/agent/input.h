/* SPDX-License-Identifier: MIT */
/*
 * The stdin of a command: a bounded buffer in front of a pipe or terminal that may be full. It
 * belongs to a session, on the agent's thread.
 */
#ifndef CLONE_AGENT_INPUT_H
#define CLONE_AGENT_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"

struct input {
	struct loop *loop;
	struct watch watch; /* fd -1: the command takes no more, data is dropped */
	uint8_t *buf;	    /* PROTO_STDIN_WINDOW bytes while needed, else NULL */
	size_t at, len;
	size_t taken; /* bytes gone since the owner last set this to 0 */
	bool tty, ended, mid_line;
	void (*fn)(struct input *in); /* room was made by the command */
};

/* Takes over `fd`: non-blocking, or -1. */
void input_init(struct input *in, struct loop *loop, int fd, bool tty,
		void (*fn)(struct input *in));
/* Takes all of the data, or returns false if the buffer has no room for it now. */
bool input_put(struct input *in, const void *data, size_t n);
/* End of file after what is buffered. */
void input_end(struct input *in);
/* Drops what is buffered and closes. */
void input_close(struct input *in);
/* Frees memory; after input_close. */
void input_fini(struct input *in);

#endif
