/* SPDX-License-Identifier: MIT */
/*
 * The host side of the serial port: a unix socket on which people watch and type, a ring with the
 * last output so that a newcomer sees where things stand, and a log file.
 *
 * Grants: "console", a listening stream socket, and "console-log", a file open for writing. Both
 * are optional. A client gets the ring's content, then output as it comes; what it types goes to
 * the guest. A client that reads too slowly loses the oldest output, never the guest its time.
 *
 * The log keeps at most CONSOLE_LOG_BYTES: what is older is punched out, so offsets stay and a
 * reader skips the hole (SEEK_DATA).
 */
#ifndef CLONE_DEVICE_CONSOLE_H
#define CLONE_DEVICE_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "device/device.h"

#define CONSOLE_RING_BYTES 65536u
#define CONSOLE_INPUT_BYTES 4096u
#define CONSOLE_CLIENTS_MAX 8
#define CONSOLE_LOG_BYTES (8u << 20)

struct console;

/* input(arg) on main when there is something for console_get. */
int console_create(struct machine *m, void (*input)(void *arg), void *arg, struct console **out,
		   struct err *e);
/* Closes what it opened; NULL is fine. */
void console_destroy(struct console *c);
/*
 * Takes the grants. In a fork's child (renew) everything inherited is forgotten: clients, typed
 * input and the ring, which holds the parent's words.
 */
int console_adopt(struct console *c, bool renew, struct err *e);
/* A byte from the guest. Any thread with the device lock held. */
void console_put(struct console *c, uint8_t byte);
/* The next typed byte; false when there is none. Any thread with the device lock held. */
bool console_get(struct console *c, uint8_t *byte);
/* Would console_get return true? */
bool console_typed(const struct console *c);
/* Hands on what console_put collected. Main. */
void console_flush(struct console *c);

#endif
