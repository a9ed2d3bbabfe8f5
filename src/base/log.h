/* SPDX-License-Identifier: MIT */
/*
 * One-line diagnostics on stderr (the VM's log file in a VM process). Errors are logged once, by
 * whoever handles them; what a guest can trigger is rate-limited.
 */
#ifndef CLONE_BASE_LOG_H
#define CLONE_BASE_LOG_H

#include <stdint.h>

/* Prints "clone: ..." with a newline. Any thread. */
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A token per second, a burst of ten: zero-initialise one beside whatever can be provoked. Of all
 * that guests provoke, a process prints LOG_GUEST_BYTES: its log has no other bound. */
#define LOG_GUEST_BYTES (1u << 20)
struct log_limit {
	uint64_t last_ns;
	uint32_t tokens, dropped;
};
void log_guest(struct log_limit *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
