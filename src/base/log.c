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

static void emit(const char *fmt, va_list ap)
{
	char line[640] = "clone: ";
	int n = vsnprintf(line + 7, sizeof(line) - 8, fmt, ap);
	size_t len = 7 + (n < 0 ? 0 : MIN((size_t)n, sizeof(line) - 9));
	ssize_t r;

	line[len++] = '\n';
	r = write(STDERR_FILENO, line, len);
	(void)r; /* nowhere left to say so */
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
	uint64_t now = time_mono_ns();
	va_list ap;

	if (!l->last_ns || now - l->last_ns >= 1000000000u) {
		uint64_t add = l->last_ns ? (now - l->last_ns) / 1000000000u : 10;

		l->tokens = (uint32_t)MIN(10u, l->tokens + add);
		l->last_ns = now;
	}
	if (!l->tokens) {
		l->dropped++;
		return;
	}
	l->tokens--;
	va_start(ap, fmt);
	emit(fmt, ap);
	va_end(ap);
	if (l->dropped) {
		log_warn("(%u more lines like this were dropped)", l->dropped);
		l->dropped = 0;
	}
}
