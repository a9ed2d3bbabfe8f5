/* SPDX-License-Identifier: MIT */
/* What the two halves of the rig's server share. */
#ifndef RIGD_H
#define RIGD_H

/*
 * Runs the one command that comes over sock if the request carries token, and exits when it has
 * ended or the client is gone, having killed it. Expects SIGCHLD blocked and SIGPIPE ignored.
 */
_Noreturn void rigd_serve(int sock, const char *token);

#endif
