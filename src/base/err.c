/* SPDX-License-Identifier: MIT */
/*
 * The error story: fixed buffers, cut at the end when too long. Any thread.
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/util.h"

_Noreturn void bug_at(const char *file, int line, const char *what)
{
	fprintf(stderr, "clone: BUG at %s:%d: %s\n", file, line, what);
	abort();
}

int err_set(struct err *e, int errnum, const char *fmt, ...)
{
	va_list ap;

	if (e) {
		va_start(ap, fmt);
		vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
		va_end(ap);
	}
	return -errnum;
}

int err_sys(struct err *e, int errnum, const char *fmt, ...)
{
	size_t used;
	va_list ap;

	if (e) {
		va_start(ap, fmt);
		vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
		va_end(ap);
		used = strlen(e->msg);
		snprintf(e->msg + used, sizeof(e->msg) - used, ": %s", strerrordesc_np(errnum));
	}
	return -errnum;
}

int err_wrap(struct err *e, int ret, const char *fmt, ...)
{
	char old[ERR_MSG_MAX];
	size_t used;
	va_list ap;

	if (e) {
		memcpy(old, e->msg, sizeof(old));
		old[sizeof(old) - 1] = '\0';
		va_start(ap, fmt);
		vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
		va_end(ap);
		used = strlen(e->msg);
		snprintf(e->msg + used, sizeof(e->msg) - used, ": %s", old);
	}
	return ret;
}
