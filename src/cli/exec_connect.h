/* SPDX-License-Identifier: MIT */
/*
 * The way to a guest's agent: its generation from the control socket, then a stream through the
 * VM's vsock socket. One thread.
 */
#ifndef CLONE_CLI_EXEC_CONNECT_H
#define CLONE_CLI_EXEC_CONNECT_H

#include <stdint.h>

#include "base/err.h"
#include "cli/state.h"
#include "guest/proto.h"

/*
 * Waits at most timeout_ms for a guest that has reconciled, fills in its generation, connects. The
 * stream, or -errno with what is the matter (not running, paused, no agent). signal_fd (-1: none)
 * interrupts.
 */
int exec_connect(const struct vmdir *d, uint64_t timeout_ms, int signal_fd, uint8_t gen[PROTO_GEN],
		 struct err *e);

#endif
