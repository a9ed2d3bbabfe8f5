/* SPDX-License-Identifier: MIT */
/*
 * The terminal: raw mode that is always undone, and a console session between it and a VM's
 * console socket. One thread.
 */
#ifndef CLONE_CLI_TERM_H
#define CLONE_CLI_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <termios.h>

#include "base/err.h"

struct term {
	int fd; /* -1: not raw */
	struct termios saved;
};

/* Puts fd into raw mode when it is a terminal; otherwise does nothing. */
void term_raw(struct term *t, int fd);
void term_restore(struct term *t);
/* Rows and columns; 24 and 80 when it is no terminal. */
void term_size(int fd, uint16_t *rows, uint16_t *cols);

enum console_end { CONSOLE_CLOSED, CONSOLE_DETACHED, CONSOLE_SIGNAL };

/*
 * Copies between stdin/stdout and the console socket (non-blocking from now on) until the VM closes
 * it, Ctrl-] is typed on a terminal, or signal_fd (-1: none) is readable. End of file on stdin only
 * ends that direction. -errno for a failure.
 */
int console_session(int sock, int signal_fd, struct err *e);

#endif
