/* SPDX-License-Identifier: MIT */
/*
 * The built clone-agent on the build host, for tests: it runs in namespaces of its own (PID, mount,
 * UTS, network), without the rights to set the clock or to reboot, and listens on a unix socket in
 * a temporary directory, which is also the root of the files that IDENTITY touches. Needs root. The
 * calls here fail the test themselves when something takes longer than a minute.
 */
#ifndef CLONE_TESTS_GUEST_AGENT_H
#define CLONE_TESTS_GUEST_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "guest/proto.h"

struct guest {
	pid_t ns;  /* process 1 of the namespaces, the agent's parent */
	int asked; /* a pipe: the signals (one byte each) that told process 1 to shut down */
	char dir[64], sock[96], root[96];
};

/*
 * `shutdown`: the agent may shut down (its namespace). `poweroff`, if not NULL, is the script that
 * is then /sbin/poweroff. CLONE_AGENT names the binary, else build/guest/clone-agent.
 */
void guest_start(struct guest *g, bool shutdown, const char *poweroff);
/* The same; `prepare` is called in the namespaces, in the process that the agent is forked from. */
void guest_start_with(struct guest *g, bool shutdown, const char *poweroff, void (*prepare)(void));
/* Kills everything in the namespaces and removes the directory. */
void guest_stop(struct guest *g);
/* cmocka's, before and after: *state is one that may not shut down. */
int guest_setup(void **state);
int guest_teardown(void **state);
/* Waits until process 1 is told to shut down; returns the signal that said so. */
int guest_asked(struct guest *g);
/* Waits for the end of process 1; returns its wait status. guest_stop is still needed. */
int guest_wait(struct guest *g);

/* A file under g->root. Parent directories are made. */
void guest_write(struct guest *g, const char *path, const void *data, size_t n, mode_t mode);
/* Contents, NUL-terminated, to be freed; NULL if it is not there. */
char *guest_read(struct guest *g, const char *path);
/* Waits until the file is there. */
void guest_await(struct guest *g, const char *path);

/* One connection, and the frames that come back. */
struct link {
	int fd;
	uint8_t buf[2 * PROTO_MAX_FRAME];
	size_t len, used;
};

void link_open(struct link *l, struct guest *g);
void link_close(struct link *l);
void link_send(struct link *l, const void *p, size_t n);
/* The next frame, valid until the next call; false at end of file. */
bool link_next(struct link *l, struct proto_frame *f);

/* What an EXEC came to. */
struct outcome {
	bool started;
	uint32_t pid;
	char *out, *err; /* NUL-terminated */
	size_t nout, nerr;
	uint64_t acked; /* by STDIN_ACK */
	bool exited;
	uint32_t kind, value;
	uint32_t error, stage; /* of ERROR */
	char text[1024];
};

/* Sends EXEC for argv with what is set in `a` (argv excepted). */
void exec_send(struct link *l, const struct proto_exec_args *a, const char *const *argv);
/* Reads up to and including the last frame and the end of file. */
void exec_collect(struct link *l, struct outcome *o);
/* The same for `input`, all of which is sent meanwhile, then STDIN_EOF. */
void exec_feed(struct link *l, const void *input, size_t n, struct outcome *o);
/* All of it: a shell command with no input. */
void exec_shell(struct guest *g, const char *command, struct outcome *o);
void outcome_free(struct outcome *o);

/* Sends one frame, returns the type of the first answer; ERROR and ACK are decoded into `o`. */
uint8_t ask(struct guest *g, const void *frame, size_t n, struct outcome *o);

#endif
