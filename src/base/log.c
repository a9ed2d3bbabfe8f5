/* SPDX-License-Identifier: MIT */
/*
 * Diagnostics on stderr: one write(2) a line, so lines of different threads never mix.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/time.h"
#include "base/util.h"

static size_t emit(const char *fmt, va_list ap)
{
	char line[640] = "clone: ";
	int n = vsnprintf(line + 7, sizeof(line) - 8, fmt, ap);
	size_t len = 7 + (n < 0 ? 0 : MIN((size_t)n, sizeof(line) - 9));
	ssize_t r;

	line[len++] = '\n';
	r = write(STDERR_FILENO, line, len);
	(void)r; /* nowhere left to say so */
	return len;
}

void log_warn(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
}

void log_info(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
}

void log_guest(struct log_limit *l, const char *fmt, ...)
{
	static size_t printed; /* by all limits and threads */
	uint64_t now = time_mono_ns();
	size_t before, n;
	va_list ap;

	if (!l->last_ns || now - l->last_ns >= 1000000000u) {
		uint64_t add = l->last_ns ? (now - l->last_ns) / 1000000000u : 10;

		l->tokens = (uint32_t)MIN(10u, l->tokens + add);
		l->last_ns = now;
	}
	if (!l->tokens || __atomic_load_n(&printed, __ATOMIC_RELAXED) >= LOG_GUEST_BYTES) {
		l->dropped++;
		return;
	}
	l->tokens--;
	va_start(ap, fmt);
	n = emit(fmt, ap);
	va_end(ap);
	before = __atomic_fetch_add(&printed, n, __ATOMIC_RELAXED);
	if (before + n >= LOG_GUEST_BYTES)
		log_warn("(what this guest provokes is not printed any more)");
	if (l->dropped) {
		log_warn("(%u more lines like this were dropped)", l->dropped);
		l->dropped = 0;
	}
}
