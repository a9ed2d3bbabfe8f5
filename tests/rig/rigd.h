/* SPDX-License-Identifier: MIT */
/* What the two halves of the rig's server share. */
#ifndef RIGD_H
#define RIGD_H

/*
 * Runs the one command that comes over sock if the request carries token, and exits when it has
 * ended or the client is gone, having killed it. Expects SIGCHLD blocked and SIGPIPE ignored.
 */
_Noreturn void rigd_serve(int sock, const char *token);

/*
 * Starts the process that holds what must not flip and feeds the watchdog; returns when all is
 * held. What fails is said on the console and does without.
 */
void rigd_keep(void);

#endif
